#!/usr/bin/env bash
# Builds the environment of MindSpore: install.sh PREFIX.
set -euo pipefail
python3.11 -m venv "$1"
"$1/bin/pip" install --quiet mindspore==2.10.0 numpy==2.4.6
