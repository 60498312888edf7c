#!/bin/sh
# Edits every picture of a folder: NAME.png (or .jpg, .jpeg, .webp) is described by
# NAME.txt, and the words FROM in it become TO in the target prompt.
#
#     examples/batch.sh FOLDER FROM TO OUT [flags of icd edit, such as --model shapes]
#
# Results that exist are skipped, so that the same command continues after an
# interruption. Pictures that fail are listed at the end; the exit code is then 1.
set -u

[ $# -ge 4 ] && [ -n "$2" ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$1 from=$2 to=$3 out=$4
shift 4
mkdir -p "$out" || exit 1

# Replaces FROM by TO where it stands as whole words; fails where it does not.
replaced() {
    FROM=$from TO=$to awk '
        BEGIN { from = ENVIRON["FROM"]; to = ENVIRON["TO"] }
        {
            done = ""; rest = $0
            while (at = index(rest, from)) {
                done = done substr(rest, 1, at - 1)
                rest = substr(rest, at + length(from))
                whole = done !~ /[[:alnum:]]$/ && rest !~ /^[[:alnum:]]/
                done = done (whole ? to : from)
                found += whole
            }
            print done rest
        }
        END { exit !found }'
}

# fail PICTURE REASON: notes a picture that was not edited.
fail() {
    echo "$1: $2" >&2
    failed="$failed
  $1"
}

failed='' seen=0
for picture in "$folder"/*.png "$folder"/*.jpg "$folder"/*.jpeg "$folder"/*.webp; do
    [ -e "$picture" ] || continue
    seen=$((seen + 1))
    name=$(basename "$picture")
    name=${name%.*}
    result=$out/$name.png
    [ -e "$result" ] && continue
    description=$(cat "$folder/$name.txt") || { fail "$picture" "no description"; continue; }
    target=$(printf '%s\n' "$description" | replaced) ||
        { fail "$picture" "its description has no \"$from\""; continue; }
    icd edit --image "$picture" --src-prompt "$description" --tgt-prompt "$target" \
        --cache "$out/inversions" --quiet "$@" -o "$result" || fail "$picture" "icd edit failed"
done
[ "$seen" -gt 0 ] || { echo "$folder: no pictures" >&2; exit 1; }
[ -z "$failed" ] || { echo "not edited:$failed" >&2; exit 1; }
