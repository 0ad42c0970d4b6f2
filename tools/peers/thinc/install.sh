#!/usr/bin/env bash
# Builds the environment of Thinc: install.sh PREFIX.
set -euo pipefail
python3.11 -m venv "$1"
"$1/bin/pip" install --quiet thinc==9.1.1 numpy==2.4.6
