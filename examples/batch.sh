#!/bin/sh
# Edits every picture of a folder: NAME.png (or .jpg, .jpeg, .webp, in any case) is
# described by NAME.txt, and the words FROM in it become TO in the target prompt.
#
#     examples/batch.sh FOLDER FROM TO OUT [flags of icd edit, such as --model shapes]
#
# Results that exist are skipped, so that the same command continues after an
# interruption. Pictures that fail are listed at the end; the exit code is then 1.
set -u

[ $# -ge 4 ] && [ -n "$2" ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$1 from=$2 to=$3 out=$4
shift 4
mkdir -p -- "$out" || exit 1

# described FILE: the text of a description, without the marks and line ends of Windows.
described() {
    LC_ALL=C awk '{ if (NR == 1) sub(/^\357\273\277/, ""); sub(/\r$/, ""); print }' <"$1"
}

# Replaces FROM by TO where it stands as whole words; fails where it does not.
replaced() {
    FROM=$from TO=$to LC_ALL=C awk '
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

# edit PICTURE NAME: edits a picture, unless its result exists.
edit() {
    picture=$1 name=$2
    shift 2
    result=$out/$name.png
    case $names in
        */"$name"/*) fail "$picture" "another picture is called $name, too"; return ;;
    esac
    names=$names$name/
    [ -e "$result" ] && return
    description=$(described "$folder/$name.txt") ||
        { fail "$picture" "no description"; return; }
    target=$(printf '%s\n' "$description" | replaced) ||
        { fail "$picture" "its description has no \"$from\""; return; }
    [ -n "$target" ] || { fail "$picture" "nothing is left of its description"; return; }
    icd edit --image="$picture" --src-prompt="$description" --tgt-prompt="$target" \
        --cache="$out/inversions" --quiet "$@" --output="$result" ||
        fail "$picture" "icd edit failed"
}

failed='' seen=0 names=/
for picture in "$folder"/*.[Pp][Nn][Gg] "$folder"/*.[Jj][Pp][Gg] \
    "$folder"/*.[Jj][Pp][Ee][Gg] "$folder"/*.[Ww][Ee][Bb][Pp]; do
    [ -e "$picture" ] || continue
    seen=$((seen + 1))
    name=${picture##*/}
    edit "$picture" "${name%.*}" "$@"
done
[ "$seen" -gt 0 ] || { echo "$folder: no pictures" >&2; exit 1; }
[ -z "$failed" ] || { echo "not edited:$failed" >&2; exit 1; }
