#!/usr/bin/env bash
# Checks that a Linux binary of icd needs no shared libraries but the named ones, and if it
# needs none, that it edits a picture where nothing else is installed:
#
#     .github/starts-anywhere.sh BINARY [LIBRARY..]
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 BINARY [LIBRARY..]" >&2; exit 2; }
binary=$1
shift
needed=$(readelf --dynamic "$binary" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
for library in $needed; do
    case " $* " in
        *" $library "*) ;;
        *) echo "$binary needs $library" >&2; exit 1 ;;
    esac
done
[ -z "$needed" ] || exit 0

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
cp "$binary" "$root/icd"
cp "$(dirname "$0")/../examples/still-life.png" "$root"
chroot=$(PATH=$PATH:/usr/sbin:/sbin command -v chroot)
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
"${as_root[@]}" env -i "$chroot" "$root" /icd edit --model tabletop --image still-life.png \
    --src-prompt "a blue mug" --tgt-prompt "a green mug" -o edited.png
[ -s "$root/edited.png" ]
