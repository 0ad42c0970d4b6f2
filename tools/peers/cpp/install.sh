#!/usr/bin/env bash
# Builds the drivers of the C++ frameworks with Debian 12's packages: install.sh PREFIX.
set -euo pipefail
folder="$(dirname "$0")"
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
apt-get install --quiet=2 --no-install-recommends darknet libdlib-dev nlohmann-json3-dev >/dev/null

version() { echo "\"$(dpkg-query --show --showformat='${Version}' "$1")\""; }

mkdir -p "$1/bin"
g++ -std=c++17 -O1 "$folder/dlib_sgd.cpp" -o "$1/bin/dlib_sgd" -DVERSION="$(version libdlib-dev)" -ldlib -lpthread
g++ -std=c++17 -O1 "$folder/darknet_connected.cpp" -o "$1/bin/darknet_connected" -DVERSION="$(version darknet)" \
    -I/usr/lib/darknet/include -L/usr/lib/darknet -Wl,-rpath,/usr/lib/darknet -ldarknet
