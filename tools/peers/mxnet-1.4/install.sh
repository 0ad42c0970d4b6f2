#!/usr/bin/env bash
# Builds the environment of MXNet 1.4.1: install.sh PREFIX.
set -euo pipefail
python3.11 -m venv "$1"
"$1/bin/pip" install --quiet "numpy==1.23.5" requests==2.34.2 graphviz==0.21
"$1/bin/pip" install --quiet --no-deps mxnet==1.4.1
