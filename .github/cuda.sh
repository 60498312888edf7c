#!/usr/bin/env bash
# Makes `--features cuda` build on a Linux without a CUDA toolkit and without a GPU:
#
#     . .github/cuda.sh DIR
#     cargo build --release --features cuda
#
# DIR takes NVIDIA's compiler out of its PyPI wheels (a download of 100 MB, 270 MB
# unpacked), and stubs of the libraries: the names of all functions, which say that
# there is no GPU. They are enough to link, and to run what needs none:
#
#     LD_LIBRARY_PATH=$CUDA_HOME/lib64/stubs cargo test --features cuda
#
# The second time the compiler is there already. Needs bash, a C and C++ compiler, cargo,
# and Python with pip.
#
# CUDA_COMPUTE_CAP is the oldest GPU to build for; 80 unless it is set before. To run
# the program takes the real libraries: those of an installed toolkit 13, or the
# folders of the wheels nvidia-cuda-runtime, nvidia-cublas, nvidia-curand and
# nvidia-cuda-nvrtc in LD_LIBRARY_PATH; libcuda comes with the driver.

# Sourced: makes DIR in a shell of its own, where an error ends it, then points to it.
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

# No newer ones: a driver of CUDA 13.0 takes no PTX of a later compiler.
wheels=(
    nvidia-cuda-nvcc==13.0.88
    nvidia-nvvm==13.0.88
    nvidia-cuda-crt==13.0.88
    nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85
)

# The wheels share one tree, DIR/nvidia/cu13.
if [ ! -e "$1/unpacked" ]; then
    mkdir -p "$1"
    python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$1/wheels" "${wheels[@]}"
    for wheel in "$1"/wheels/*.whl; do
        python3 -m zipfile -e "$wheel" "$1"
    done
    # Unpacked so, nothing may be executed.
    chmod +x "$home"/bin/* "$home"/nvvm/bin/*
    rm -r "$1/wheels"
    touch "$1/unpacked"
fi

# The sources of cudarc, in the version of Cargo.lock.
cudarc=$(
    cargo metadata --locked --format-version 1 --features cuda --manifest-path "$crate/Cargo.toml" |
        python3 -c '
import json, pathlib, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "cudarc":
        print(pathlib.Path(package["manifest_path"]).parent)'
)

# stub MODULE LIBRARY NAME: a library of the functions that a module of cudarc lists,
# and the name under which the program asks for it when it starts. Each answers 100,
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
# This one is small, and a wheel has it.
for name in libcudart.so libcudart.so.13; do
    ln -sf ../../lib/libcudart.so.13 "$home/lib64/stubs/$name"
done
