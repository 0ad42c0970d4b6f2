#!/usr/bin/env bash
# Builds the environment of the optimizers to audit, on PyTorch's CPU build: install.sh PREFIX.
# timm and Composer want torchvision, which has no build for it; for their optimizers a stand-in does.
# sgdm itself is not in it: put src on PYTHONPATH, or install a wheel.
set -euo pipefail
python3 -m venv "$1"
"$1/bin/pip" install --quiet \
    torch==2.13.0 \
    numpy==2.4.6 \
    typer==0.29.2 \
    keras==3.15.1 \
    optax==0.2.8 \
    jax==0.10.2 \
    jaxlib==0.10.2 \
    huggingface_hub==2.4.0 \
    safetensors==0.8.0 \
    coolname==5.0.0 \
    importlib_metadata==8.5.0 \
    mosaicml-cli==0.8.3 \
    pillow==13.0.0 \
    psutil==7.2.2 \
    py-cpuinfo==9.0.0 \
    requests==2.34.2 \
    tabulate==0.10.0 \
    torchmetrics==1.9.0 \
    tqdm==4.70.1
"$1/bin/pip" install --quiet --no-deps \
    bitsandbytes==0.50.2 \
    flashoptim==0.1.4 \
    heavyball==3.2.1 \
    mosaicml==0.32.1 \
    pytorch-optimizer==4.1.0 \
    pytorch-ranger==0.1.1 \
    qhoptim==1.1.0 \
    schedulefree==1.4.1 \
    timm==1.0.31 \
    torch-optimi==0.3.3 \
    torch-optimizer==0.3.0 \
    triton==3.7.0
cp "$(dirname "$0")/torchvision.py" "$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
