#!/usr/bin/env bash
# Sets up `--features cuda` builds on Linux without a CUDA toolkit or a GPU:
#
#     . .github/cuda.sh DIR
#     cargo build --release --features cuda
#
# Installs NVIDIA's compiler from its PyPI wheels into DIR (a download of 100 MB,
# 270 MB unpacked), with stub libraries: all functions exist and report that there
# is no GPU. They suffice to link, and to run what needs no GPU:
#
#     LD_LIBRARY_PATH=$CUDA_HOME/lib64/stubs cargo test --features cuda
#
# Later runs reuse the compiler. Needs bash, a C and C++ compiler, cargo, and Python
# with pip.
#
# CUDA_COMPUTE_CAP is the oldest GPU to build for; the default is 80. Running on a GPU
# needs the real libraries: those of an installed toolkit 13, or the folders of the
# wheels nvidia-cuda-runtime, nvidia-cublas, nvidia-curand and nvidia-cuda-nvrtc in
# LD_LIBRARY_PATH; libcuda is part of the driver.

# When sourced: sets up DIR in a subprocess that stops at errors, then exports its paths.
if [ "${BASH_SOURCE[0]}" != "$0" ]; then
    bash "${BASH_SOURCE[0]}" "$@" || return
    CUDA_HOME=$(cd "$1/nvidia/cu13" && pwd) || return
    export CUDA_HOME
    export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
    export LIBRARY_PATH=$CUDA_HOME/lib64/stubs${LIBRARY_PATH:+:$LIBRARY_PATH}
    export PATH=$CUDA_HOME/bin:$PATH
    nvcc --version
    return
fi

set -euo pipefail
[ $# = 1 ] || { echo "usage: . .github/cuda.sh DIR" >&2; exit 2; }
crate=$(dirname "$0")/..
home=$1/nvidia/cu13

# Pinned: a CUDA 13.0 driver cannot load PTX from a later compiler.
wheels=(
    nvidia-cuda-nvcc==13.0.88
    nvidia-nvvm==13.0.88
    nvidia-cuda-crt==13.0.88
    nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85
)

# All wheels unpack into the same tree, DIR/nvidia/cu13.
if [ ! -e "$1/unpacked" ]; then
    mkdir -p "$1"
    python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$1/wheels" "${wheels[@]}"
    for wheel in "$1"/wheels/*.whl; do
        python3 -m zipfile -e "$wheel" "$1"
    done
    # zipfile does not preserve executable bits.
    chmod +x "$home"/bin/* "$home"/nvvm/bin/*
    rm -r "$1/wheels"
    touch "$1/unpacked"
fi

# The sources of cudarc, at the version in Cargo.lock.
cudarc=$(
    cargo metadata --locked --format-version 1 --features cuda --manifest-path "$crate/Cargo.toml" |
        python3 -c '
import json, pathlib, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "cudarc":
        print(pathlib.Path(package["manifest_path"]).parent)'
)

# stub MODULE LIBRARY NAME: builds a stub LIBRARY with the functions that a cudarc module
# declares, and its soname NAME that the program loads. Each function returns 100,
# CUDA_ERROR_NO_DEVICE.
stub() {
    grep -oE '\bfn (cu|nvrtc)[A-Za-z0-9_]+' "$cudarc/src/$1/sys/mod.rs" | sort -u |
        sed 's/fn \(.*\)/int \1(void) { return 100; }/' |
        cc -shared -fPIC -w -Wl,-soname,"$3" -x c - -o "$home/lib64/stubs/$2"
    [ "$2" = "$3" ] || ln -sf "$2" "$home/lib64/stubs/$3"
}

mkdir -p "$home/lib64/stubs"
stub driver libcuda.so libcuda.so.1
stub cublas libcublas.so libcublas.so.13
stub cublaslt libcublasLt.so libcublasLt.so.13
stub curand libcurand.so libcurand.so.10
stub nvrtc libnvrtc.so libnvrtc.so.13
# The real libcudart is small and included in a wheel.
for name in libcudart.so libcudart.so.13; do
    ln -sf ../../lib/libcudart.so.13 "$home/lib64/stubs/$name"
done
