#!/bin/sh
# Makes the model `shapes` from nothing:
#
#     examples/shapes/make.sh DIR
#
# pretrains autoencoder, text encoder and UNet, distils guidance, then the two
# adapters. It takes about five hours on two cores. Stopped at any moment, the
# same command goes on where it was.
set -eu

here=$(dirname "$0")
out=${1:?name the folder of the stages}

mkdir -p "$out"
cp "$here/guidance.toml" "$here/consistency.toml" "$out/"
cargo build --release --bin icd --example shapes --example scenes
built=${CARGO_TARGET_DIR:-target}/release

# Each part of a step is learnt on a thread of its own; candle's own threads
# would only be in the way.
export CANDLE_NUM_THREADS=1

"$built/examples/shapes" --out "$out"
if [ ! -e "$out/pictures" ]; then
    "$built/examples/scenes" --seed 1 --count 10000 --out "$out/pictures.part"
    mv "$out/pictures.part" "$out/pictures"
fi
for stage in guidance consistency; do
    "$built/icd" distill "$stage" "$out/$stage.toml" --resume
done
