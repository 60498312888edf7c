#!/bin/sh
# Edits of the bundled world by each method, measured by `icd eval editing`, as a table in Markdown:
#
#     examples/tables/methods.sh DIR [N [FEW]]
#
# The results are kept in DIR, N pairs of each method (all 300 where it is not said), FEW of
# null-text inversion (50 where it is not said), which takes half a minute or more each. Stopped at any moment,
# the same command goes on where it was.
set -eu

out=${1:?name the folder of the results}
pairs=${2:-300}
icd=${ICD:-target/release/icd}
mkdir -p "$out"

echo "| method | pairs | edit is right | unchanged pixels, dB | evaluations | seconds |"
echo "|---|---:|---:|---:|---:|---:|"

# measure NAME PAIRS TITLE [FLAG] ..
measure() {
    name=$1 count=$2 title=$3
    shift 3
    "$icd" eval editing tabletop --out "$out/$name" --limit "$count" --shown 20 "$@" \
        > /dev/null 2> "$out/$name.log"
    awk -v title="$title" '
        $1 == "edit_right:" { right = $2; gsub(/[^0-9]/, "", $5); count = $5 }
        $1 == "psnr_unchanged_pixels:" { kept = $2 }
        $1 == "network" { evaluations = $3 + 0; seconds = $5 + 0 }
        END {
            printf "| %s | %d | %.1f %% | %.2f | %g | %.2f |\n",
                title, count, 100 * right, kept, evaluations, seconds
        }' "$out/$name.log"
}

few=${3:-$(( pairs < 50 ? pairs : 50 ))}
measure icd "$pairs" "icd (the defaults: prompt-to-prompt, blended by difference, the photo's pixels kept)"
measure icd-decoded "$pairs" "the same, pixels as decoded" --keep-pixels off
measure icd-words "$pairs" "icd, blended by the words that differ" --blend auto
measure icd-whole "$pairs" "icd, prompt-to-prompt, no blend" --blend none
measure icd-free "$pairs" "icd, no control, no blend" --blend none --control none
measure icd-masactrl "$pairs" "icd, MasaCtrl, no blend" --blend none --control masactrl
measure ddim "$pairs" "DDIM, prompt-to-prompt, guidance 7.5" --method ddim
# As strong as the model's own guidance of 3, of which 0 is unguided.
measure ddim-4 "$pairs" "the same, guidance 4" --method ddim --guidance 4
measure ddim-4-blend "$pairs" "the same, blended by difference" \
    --method ddim --guidance 4 --blend difference
measure npi-4 "$pairs" "negative-prompt inversion, prompt-to-prompt, guidance 4" \
    --method npi --guidance 4
measure npi-4-blend "$pairs" "the same, blended by difference" \
    --method npi --guidance 4 --blend difference
measure icd-few "$few" "icd (the defaults)"
measure nti-4 "$few" "null-text inversion, prompt-to-prompt, guidance 4" \
    --method nti --guidance 4
measure nti-4-blend "$few" "the same, blended by difference" \
    --method nti --guidance 4 --blend difference
