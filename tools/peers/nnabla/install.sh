#!/usr/bin/env bash
# Builds the environment of NNabla, whose newest wheel is for CPython 3.10, which must be there: install.sh PREFIX.
set -euo pipefail
PYENV_VERSION=3.10 python3.10 -m venv "$1"
"$1/bin/pip" install --quiet nnabla==1.39.0 numpy==1.26.4
