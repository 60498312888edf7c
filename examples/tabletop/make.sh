#!/bin/sh
# Makes the model `tabletop` from nothing:
#
#     examples/tabletop/make.sh DIR [ablations]
#
# trains autoencoder, text encoder and UNet, distils guidance, then the two adapters, and
# writes DIR/bundle. With `ablations` it also distils the adapter pairs that the tables compare,
# into DIR/ablations. Stopped at any moment, the same command goes on where it was.
set -eu

here=$(dirname "$0")
out=${1:?name the folder of the stages}
wanted=${2:-}

mkdir -p "$out"
cargo build --release --bin icd --example tabletop
built=${CARGO_TARGET_DIR:-target}/release

# Each part of a step is learnt on a thread of its own; candle's own threads would only be in
# the way.
export CANDLE_NUM_THREADS=1

"$built/examples/tabletop" --out "$out"
[ -e "$out/pictures/metadata.jsonl" ] || "$built/examples/tabletop" --out "$out" --task pictures

# distil STAGE FOLDER [line of the run's file] ..
distil() {
    stage=$1 folder=$2
    shift 2
    mkdir -p "$out/$folder"
    latents="$out/$folder/latents.safetensors"
    [ "$stage" = guidance ] || [ -e "$latents" ] || {
        cp "$out/guidance/latents.safetensors" "$latents.part"
        mv "$latents.part" "$latents"
    }
    { cat "$here/$stage.toml"; echo "out = \"$folder\""; printf '%s\n' "$@"; } > "$out/run.toml"
    "$built/icd" distill "$stage" "$out/run.toml" --resume
}

distil guidance guidance 'steps = 800'
distil consistency consistency 'steps = 300'
"$built/examples/tabletop" --out "$out" --task bundle

# ablation NAME TIMESTEPS FORWARD REVERSE: a pair with these weights of the preservation losses,
# trained for half as long
ablation() {
    distil consistency "ablations/$1" 'steps = 150' "$2" "forward_preservation = $3" "reverse_preservation = $4"
}

if [ "$wanted" = ablations ]; then
    four='forward_timesteps = [19, 259, 519, 779, 999]
reverse_timesteps = [999, 779, 519, 259, 0]'
    three='forward_timesteps = [19, 339, 699, 999]
reverse_timesteps = [999, 699, 339, 0]'
    two='forward_timesteps = [19, 499, 999]
reverse_timesteps = [999, 499, 0]'
    ablation 1_consistency_alone "$two" 0.0 0.0
    ablation 2_with_forward_preservation "$two" 1.5 0.0
    ablation 3_with_both_preservations "$two" 1.5 1.5
    ablation 4_with_both_preservations,_the_reverse_one_at_0.5 "$two" 1.5 0.5
    ablation 5_consistency_alone "$three" 0.0 0.0
    ablation 6_consistency_alone "$four" 0.0 0.0
    ablation 7_with_forward_preservation "$four" 1.5 0.0
    ablation 8_with_both_preservations "$four" 1.5 1.5
    ablation 9_with_both_preservations,_the_reverse_one_at_0.5 "$four" 1.5 0.5
fi
