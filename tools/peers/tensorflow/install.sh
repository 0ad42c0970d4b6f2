#!/usr/bin/env bash
# Builds the environment of TensorFlow and tf-keras: install.sh PREFIX.
set -euo pipefail
python3 -m venv "$1"
"$1/bin/pip" install --quiet tensorflow-cpu==2.21.0
"$1/bin/pip" install --quiet --no-deps tf-keras==2.21.0
