#!/usr/bin/env bash
# Builds the environment of Caffe2, which the wheel of PyTorch 1.10 holds: install.sh PREFIX.
# It needs CPython 3.9, the last that 1.10 has wheels for; where pyenv keeps it, the variable selects it.
set -euo pipefail
PYENV_VERSION="${PYENV_VERSION:-3.9}" python3.9 -m venv "$1"
"$1/bin/pip" install --quiet numpy==1.23.5 protobuf==3.20.3 future==1.0.0 six==1.17.0 typing_extensions==4.12.2
"$1/bin/pip" install --quiet --no-deps torch==1.10.2
