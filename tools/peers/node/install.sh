#!/usr/bin/env bash
# Builds the environment of the JavaScript frameworks (Node.js 18 or newer is there): install.sh PREFIX.
set -euo pipefail
npm install --silent --no-audit --no-fund --no-save --prefix "$1" \
    @tensorflow/tfjs-core@4.22.0 @tensorflow/tfjs-backend-cpu@4.22.0 convnetjs@0.3.0
