#!/usr/bin/env bash
# Builds the environment of Jittor, which compiles itself with g++ when it is first imported: install.sh PREFIX.
set -euo pipefail
python3.11 -m venv "$1"
"$1/bin/pip" install --quiet "setuptools==69.5.1" wheel==0.45.1
"$1/bin/pip" install --quiet --no-build-isolation jittor==1.3.11.0 numpy==1.26.4 astunparse==1.6.3 pillow==13.0.0 tqdm==4.70.1
JITTOR_HOME="$(realpath "$1")" use_mkl=0 nvcc_path="" log_silent=1 "$1/bin/python" -c "import jittor" >/dev/null
