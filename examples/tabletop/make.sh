#!/bin/sh
# Makes the model `tabletop` from nothing:
#
#     examples/tabletop/make.sh DIR [anew]
#
# trains autoencoder, text encoder and UNet, distils guidance, then the two adapters, and
# writes DIR/bundle. Stages whose weights lie in examples/tabletop/weights are taken from there,
# unless all is made anew. Stopped at any moment, the same command goes on where it was.
set -eu

here=$(dirname "$0")
out=${1:?name the folder of the stages}

mkdir -p "$out/weights"
if [ "${2:-}" != anew ]; then
    for file in "$here"/weights/*.safetensors; do
        kept="$out/weights/$(basename "$file")"
        [ -e "$kept" ] || [ ! -e "$file" ] || cp "$file" "$kept"
    done
fi
cargo build --release --bin icd --example tabletop
built=${CARGO_TARGET_DIR:-target}/release

# Each part of a step is learnt on a thread of its own; candle's own threads would only be in
# the way.
export CANDLE_NUM_THREADS=1

"$built/examples/tabletop" --out "$out"
[ -e "$out/pictures/metadata.jsonl" ] || "$built/examples/tabletop" --out "$out" --task pictures

# distil STAGE [line of the run's file] ..
distil() {
    stage=$1
    shift
    mkdir -p "$out/$stage"
    latents="$out/$stage/latents.safetensors"
    [ "$stage" = guidance ] || [ -e "$latents" ] || {
        cp "$out/guidance/latents.safetensors" "$latents.part"
        mv "$latents.part" "$latents"
    }
    { cat "$here/$stage.toml"; echo "out = \"$stage\""; printf '%s\n' "$@"; } > "$out/run.toml"
    "$built/icd" distill "$stage" "$out/run.toml" --resume
}

distil guidance 'steps = 800'
distil consistency 'steps = 300'
"$built/examples/tabletop" --out "$out" --task bundle
