#!/usr/bin/env bash
# GPU validation in a few minutes: kernels, reference cases, speed beside PyTorch, a profile.
#
#   gpu.sh pack TARGET PACK [CASES]   here: gathers the CUDA build under TARGET and reference cases
#                                     (a folder with bird.jpg and families) in the folder PACK
#   gpu.sh run PACK OUT               on the machine with the GPU, from the root of the repository:
#                                     log.txt, first.png and profile.csv in OUT, the log's tails on stdout
#
# To build for packing, without a GPU (.github/cuda.sh sets up the shell):
#
#   cargo build --release --features cuda --target-dir TARGET --bin icd --example bench
#   cargo test --release --features cuda --target-dir TARGET --lib --test it --no-run
#
# `run` needs a driver, CUDA's libraries, and a python3 with PyTorch, transformers and peft;
# diffusers is installed from a wheel in PACK/wheels if the machine has none. It stops after
# SECONDS_IN_ALL seconds, 330 by default; what is least needed comes last.
set -uo pipefail

usage() { sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 2; }

# newest NAME WORD: the last test binary NAME-* that contains a word.
newest() {
    find "$target/release/deps" -name "$1-*" -executable -type f -printf '%T@ %p\n' | sort -rn | cut -d' ' -f2 |
        xargs grep -lF "$2" | head -1
}

pack() {
    local target=$1 pack=$2 cases=${3:-}
    mkdir -p "$pack/bin"
    cp "$target/release/icd" "$target/release/examples/bench" "$pack/bin"
    cp "$(newest it cases::)" "$pack/bin/it"
    cp "$(newest icd nn::ops::conformance::)" "$pack/bin/lib"
    strip "$pack"/bin/*
    # Without pictures, which are expected of f32 on a CPU: the latents before them are compared.
    [ -z "$cases" ] || { cp -rL "$cases" "$pack/cases"; chmod -R u+w "$pack/cases"; find "$pack/cases" -name '*.png' -delete; }
    # The binaries contain the same kernels: a dictionary that spans them halves the pack.
    tar -C "$pack" -c --exclude pack.tar.xz --exclude wheels . | xz --lzma2=preset=4,dict=384MiB > "$pack/pack.tar.xz"
    rm -rf "$pack/bin" "$pack/cases"
    ls -l "$pack"
}

# The folders of the CUDA libraries: from a toolkit, else from Python wheels.
libraries() {
    find / -xdev \( -name 'libcublas.so.13' -o -name 'libcublasLt.so.13' -o -name 'libcurand.so.10' \
        -o -name 'libnvrtc.so.13' -o -name 'libcudart.so.13' -o -name 'libcuda.so.1' \) -printf '%h\n' 2>/dev/null |
        sort -u | paste -sd:
}

# section NAME SECONDS COMMAND..: runs it with a timeout, logs its output and prints the end of it.
section() {
    local name=$1 limit=$2 start=$SECONDS left=$((${SECONDS_IN_ALL:-330} - SECONDS)) code
    shift 2
    [ "$left" -gt 5 ] || { echo "== $name: no time left" | tee -a "$out/log.txt"; return; }
    echo "== $name" | tee -a "$out/log.txt"
    timeout "$((limit < left ? limit : left))" "$@" > "$work/section" 2>&1
    code=$?
    cat "$work/section" >> "$out/log.txt"
    grep -vE "^(test .* ok|)$" "$work/section" | tail -n "${LINES_SHOWN:-12}" | cut -c 1-200
    echo "-- $name: exit $code, $((SECONDS - start)) s" | tee -a "$out/log.txt"
}

# An edit with a Stable Diffusion 1.5 of full size and random weights, twice: with its stages' times.
whole_edit() {
    local model=$1/sd15 scene=$2
    python3 tests/oracle/full_size.py sd15 "$model" --dtype f16 --tokenizer tests/data/sd/tokenizer || return
    for _ in 1 2; do
        "$1/bin/icd" edit --model "$model" --image examples/still-life.png --size 512 --dtype f16 --residency all \
            --src-prompt "$scene" --tgt-prompt "${scene/blue/green}" -v -o "$1/whole.png" --force || return
    done
}
export -f whole_edit

run() {
    local pack=$1
    out=$2 work=$(mktemp -d)
    mkdir -p "$out"
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee "$out/log.txt"
    xz -dc "$pack/pack.tar.xz" | tar -C "$work" -x
    if [ -d "$pack/wheels" ]; then
        python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" "$pack"/wheels/*.whl
        export PYTHONPATH=$work/site
    fi
    LD_LIBRARY_PATH=$(libraries)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export LD_LIBRARY_PATH PATH=$PATH:/usr/local/cuda/bin RUST_BACKTRACE=0
    export ICD_DEVICE=cuda ICD_CASES=$work/cases CARGO_BIN_EXE_icd=$work/bin/icd

    local scene="at the back left a large blue mug and at the front right a small red ball on a wooden table before a cream wall in warm light"
    local gpu=(--device cuda --dtype f16 --threads 16 --runs 20)
    local icd=("$work/bin/bench" "${gpu[@]}") torch=(python3 examples/bench/torch_side.py "${gpu[@]}" --channels-last)
    local sdxl=(--family sdxl --size 1024 --what unet --rows "1,2")

    LINES_SHOWN=40 section conformance 90 "$work/bin/lib" conformance kernel::cuda --test-threads 8
    section first 30 "$work/bin/icd" edit --model tabletop --image examples/still-life.png \
        --src-prompt "$scene" --tgt-prompt "${scene/blue/green}" -v -o "$out/first.png"
    for dtype in f32 f16 bf16; do
        ICD_DTYPE=$dtype LINES_SHOWN=25 section "cases-$dtype" 45 "$work/bin/it" --nocapture --test-threads 4 cases::
    done
    section sd15 40 "${icd[@]}" --what unet,vae-encode,vae-decode,clip --rows 1,2
    section sd15-composed 30 "${icd[@]}" --what unet --rows 1,2 --backend composed
    section sd15-torch 60 "${torch[@]}" --what unet,vae-encode,vae-decode,clip --rows 1,2
    section sdxl 60 "${icd[@]}" "${sdxl[@]}"
    section profile 60 ncu --metrics gpu__time_duration.sum --csv --log-file "$out/profile.csv" \
        "$work/bin/bench" "${gpu[@]}" --what unet --rows 1 --runs 1
    LINES_SHOWN=30 section kernels 20 python3 examples/bench/kernels.py "$out/profile.csv"
    LINES_SHOWN=45 section layers 20 python3 examples/bench/kernels.py "$out/profile.csv" grids
    section sdxl-torch 60 "${torch[@]}" "${sdxl[@]}"
    section whole 90 bash -c 'whole_edit "$@"' - "$work" "$scene"
    for tool in memcheck racecheck synccheck; do
        LINES_SHOWN=20 section "$tool" 60 compute-sanitizer --tool "$tool" "$work/bin/lib" conformance --test-threads 1
    done
    section compiled 120 "${torch[@]}" --what unet --rows 1,2 --compile default
}

case "${1:-}" in
    pack) [ $# -ge 3 ] || usage; pack "${@:2}" ;;
    run) [ $# = 3 ] || usage; run "${@:2}" ;;
    *) usage ;;
esac
