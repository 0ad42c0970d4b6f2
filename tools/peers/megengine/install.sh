#!/usr/bin/env bash
# Builds the environment of MegEngine, whose newest wheel is for CPython 3.10, which must be there: install.sh PREFIX.
set -euo pipefail
PYENV_VERSION=3.10 python3.10 -m venv "$1"
"$1/bin/pip" install --quiet "setuptools==69.5.1" wheel==0.45.1
"$1/bin/pip" install --quiet --no-build-isolation megengine==1.13.0 numpy==1.23.5
