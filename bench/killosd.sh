#!/usr/bin/env bash
# Kills one of four OSDs under 16 writers at default settings, and lets it come back with an empty disk: seconds
# without service, lost writes (0), recovery rate, the writers' latency before and meanwhile.
#
#   bench/killosd.sh [OUT]     (root; OUT defaults to /var/tmp/capstan-killosd; FILL in MiB, default 512)
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-/var/tmp/capstan-killosd}
rm -rf "$out/cluster"
mkdir -p "$out/mnt"
go build -C "$top" -o "$out/capstan" ./cmd/capstan
go build -C "$top" -o "$out/killosd" ./bench/killosd
d=$out/cluster
end() {
	"$out/capstan" umount "$out/mnt" >/dev/null 2>&1 || true
	"$out/capstan" dev down --dir "$d" >/dev/null 2>&1 || true
}
trap end EXIT
"$out/capstan" dev up --dir "$d" --osds 4 --osd-size 8GiB >/dev/null
"$out/capstan" mount --conf "$d/capstan.conf" "$out/mnt"
for osd in ${OSDS:-2}; do
	"$out/killosd" -capstan "$out/capstan" -dir "$d" -mnt "$out/mnt" -osd "$osd" -fill "${FILL:-512}"
done
