#!/usr/bin/env bash
# Builds the environment of Chainer and MXNet 1.9: install.sh PREFIX.
set -euo pipefail
python3.11 -m venv "$1"
pip=("$1/bin/pip" install --quiet)
"${pip[@]}" "numpy==1.23.5" "setuptools==69.5.1" "wheel==0.45.1" "protobuf==3.20.3" six==1.17.0 filelock==4.2.11 \
    typing_extensions==4.16.0 requests==2.34.2 graphviz==0.21
"${pip[@]}" --no-build-isolation --no-deps chainer==7.8.1
"${pip[@]}" --no-deps mxnet==1.9.1
