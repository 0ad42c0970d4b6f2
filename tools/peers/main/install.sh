#!/usr/bin/env bash
# Builds the environment of most Python frameworks: install.sh PREFIX.
set -euo pipefail
python3 -m venv "$1"
"$1/bin/pip" install --quiet \
    numpy==2.4.6 \
    torch==2.13.0 \
    keras==3.15.1 \
    optax==0.2.8 \
    jax==0.10.2 \
    jaxlib==0.10.2 \
    flax==0.12.8 \
    tinygrad==0.14.0 \
    scikit-learn==1.9.1 \
    mlx==0.32.4 \
    mlx-cpu==0.32.4 \
    paddlepaddle==3.3.1 \
    onnx==1.23.2 \
    autograd==1.9.1
