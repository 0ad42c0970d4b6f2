#!/usr/bin/env bash
# Builds the environment of optimizers for PyTorch, on its CPU build: install.sh PREFIX.
# timm and Composer come without what their packages need as a whole, and fairseq, which does not
# build for this Python, is only unpacked: the drivers import the optimizers alone.
set -euo pipefail
python3 -m venv "$1"
"$1/bin/pip" install --quiet numpy torch==2.13.0 packaging
"$1/bin/pip" install --quiet --no-deps timm==1.0.31 torch-optimi==0.3.3 schedulefree==1.4.1 \
    pytorch-optimizer==4.1.0 mosaicml==0.32.1 bitsandbytes==0.50.2 qhoptim==1.1.0
"$1/bin/pip" download --quiet --no-deps --no-binary fairseq --dest "$1/sources" fairseq==0.12.2
tar --extract --file "$1/sources/fairseq-0.12.2.tar.gz" --strip-components 1 \
    --directory "$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    fairseq-0.12.2/fairseq fairseq-0.12.2/fairseq.egg-info
