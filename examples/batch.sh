#!/bin/sh
# Edits every picture of a folder: NAME.png is described by NAME.txt, and FROM is
# replaced by TO in the target prompt.
#
#     examples/batch.sh FOLDER FROM TO OUT [flags of icd edit, such as --model shapes]
#
# Results that exist are skipped, so that the same command continues after an
# interruption; the exit code is 1 if an edit failed.
set -u

[ $# -ge 4 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
folder=$1 from=$2 to=$3 out=$4
shift 4
mkdir -p "$out" inversions
failed=0
for picture in "$folder"/*.png; do
    name=$(basename "$picture" .png)
    result=$out/$name.png
    [ -e "$result" ] && continue
    description=$(cat "$folder/$name.txt") || { failed=1; continue; }
    target=$(printf %s "$description" | sed "s/$from/$to/g")
    icd edit --image "$picture" --src-prompt "$description" --tgt-prompt "$target" \
        --cache inversions --quiet "$@" -o "$result" || failed=1
done
exit $failed
