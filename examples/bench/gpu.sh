#!/usr/bin/env bash
# GPU validation in a few minutes: reference cases, speed compared with PyTorch, a profile.
#
#   gpu.sh pack TARGET PACK [CASES]   here: gathers the CUDA build under TARGET and reference cases
#                                     (a folder with bird.jpg and families) in the folder PACK
#   gpu.sh run PACK OUT               on the machine with the GPU, from the root of the repository:
#                                     logs into OUT, tables on stdout
#
# To build for packing, without a GPU (.github/cuda.sh sets up the shell):
#
#   cargo build --release --features cuda --target-dir TARGET --bin icd --example bench
#   cargo test --release --features cuda --target-dir TARGET --test it --no-run
#
# `run` needs a driver, CUDA's libraries, and a python3 with PyTorch, transformers and peft;
# diffusers is installed from a wheel in PACK/wheels if the machine has none.
set -uo pipefail

usage() { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2; }

pack() {
    local target=$1 pack=$2 cases=${3:-}
    mkdir -p "$pack/bin/deps"
    cp "$target/release/icd" "$target/release/examples/bench" "$pack/bin"
    cp "$(find "$target/release/deps" -name 'it-*' -executable -type f -printf '%T@ %p\n' |
        sort -n | tail -1 | cut -d' ' -f2)" "$pack/bin/deps/it"
    strip "$pack/bin/icd" "$pack/bin/bench" "$pack/bin/deps/it"
    [ -z "$cases" ] || cp -rL "$cases" "$pack/cases"
    # The binaries contain the same kernels: a dictionary that spans them halves the pack.
    tar -C "$pack" -c --exclude pack.tar.xz --exclude wheels . | xz --lzma2=preset=4,dict=256MiB > "$pack/pack.tar.xz"
    chmod -R u+w "$pack"
    rm -rf "$pack/bin" "$pack/cases"
    ls -l "$pack"
}

# The folders of the CUDA libraries: from a toolkit, else from Python wheels.
libraries() {
    find / -xdev \( -name 'libcublas.so.13' -o -name 'libcublasLt.so.13' -o -name 'libcurand.so.10' \
        -o -name 'libnvrtc.so.13' -o -name 'libcudart.so.13' -o -name 'libcuda.so.1' \) -printf '%h\n' 2>/dev/null |
        sort -u | paste -sd:
}

# section NAME SECONDS COMMAND..: runs it with a timeout, keeps its log, prints the log's tail.
section() {
    local name=$1 limit=$2 start=$SECONDS code
    shift 2
    echo "== $name"
    timeout "$limit" "$@" > "$out/$name.log" 2>&1
    code=$?
    tail -n "${LINES_SHOWN:-12}" "$out/$name.log"
    echo "-- $name: exit $code, $((SECONDS - start)) s"
}

run() {
    local pack=$1
    out=$2 work=$(mktemp -d)
    mkdir -p "$out"
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
    xz -dc "$pack/pack.tar.xz" | tar -C "$work" -x
    if [ -d "$pack/wheels" ]; then
        python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" "$pack"/wheels/*.whl
        export PYTHONPATH=$work/site
    fi
    LD_LIBRARY_PATH=$(libraries)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export LD_LIBRARY_PATH
    export ICD_DEVICE=cuda ICD_CASES=$work/cases CARGO_BIN_EXE_icd=$work/bin/icd

    local scene="on the left a large blue star and on the right a large orange heart on a grey striped background"
    local compare=(python3 examples/bench/compare.py --icd "$work/bin/bench" --device cuda --threads 16 --runs 20 --rounds 1)

    section first 30 "$work/bin/icd" edit --model shapes --image examples/scene.png \
        --src-prompt "$scene" --tgt-prompt "${scene/blue/red}" -v -o "$out/first.png"
    for dtype in f32 f16 bf16; do
        ICD_DTYPE=$dtype LINES_SHOWN=60 section "cases-$dtype" 60 "$work/bin/deps/it" --nocapture --test-threads 4 cases::
    done
    ICD_DTYPE=f32 LINES_SHOWN=30 section program 90 "$work/bin/deps/it" --test-threads 8 walks:: adapters:: cli:: shapes::
    LINES_SHOWN=9 section sd15-f16 120 "${compare[@]}" --dtype f16 --cases "unet:1 unet:2 vae-encode:1 vae-decode:1 clip:2" --channels-last unet,vae-encode,vae-decode
    LINES_SHOWN=5 section sdxl-f16 120 "${compare[@]}" --dtype f16 --family sdxl --size 1024 --cases "unet:1 unet:2" --channels-last unet
    LINES_SHOWN=5 section sd15-f32 60 "${compare[@]}" --dtype f32 --cases "unet:1"
    section profile 100 ncu --metrics gpu__time_duration.sum --csv --log-file "$out/profile.csv" \
        "$work/bin/bench" --what unet --rows 1 --dtype f16 --device cuda --runs 1
    section kernels 20 python3 examples/bench/kernels.py "$out/profile.csv"
    section compiled 150 python3 examples/bench/torch_side.py --what unet --rows 1,2 --dtype f16 --device cuda --runs 20 \
        --channels-last --compile default
}

case "${1:-}" in
    pack) [ $# -ge 3 ] || usage; pack "${@:2}" ;;
    run) [ $# = 3 ] || usage; run "${@:2}" ;;
    *) usage ;;
esac
