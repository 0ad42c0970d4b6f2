#!/usr/bin/env bash
# Builds the environment of Lasagne and PyBrain: install.sh PREFIX.
set -euo pipefail
python3.11 -m venv "$1"
pip=("$1/bin/pip" install --quiet)
"${pip[@]}" "numpy==1.23.5" "scipy==1.10.1" "setuptools==69.5.1" "wheel==0.45.1" six==1.17.0
"${pip[@]}" --no-build-isolation --no-deps Theano==1.0.5 Lasagne==0.1 PyBrain==0.3
