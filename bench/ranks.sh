#!/usr/bin/env bash
# Creates per second in private directories: two workers on rank 0, and one on each of two ranks (ceph.dir.pin),
# alternating rounds in one run. Only the ratio means something; on two cores there is nothing to win.
#
#   bench/ranks.sh [OUT]        (root; OUT defaults to /var/tmp/capstan-ranks; ROUNDS, FILES; CAPSTAN: the binary)
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-/var/tmp/capstan-ranks}
mkdir -p "$out/m"
capstan=${CAPSTAN:-$out/capstan}
[ -n "${CAPSTAN:-}" ] || go build -C "$top" -o "$capstan" ./cmd/capstan
go build -C "$top" -o "$out/ranks" ./bench/ranks
end() {
	"$capstan" umount "$out/m" 2>/dev/null || true
	"$capstan" dev down --dir "$out/cluster" >/dev/null 2>&1 || true
}
trap end EXIT
rm -rf "$out/cluster"
"$capstan" dev up --dir "$out/cluster" --ranks 2 >/dev/null
"$capstan" mount -f --conf "$out/cluster/capstan.conf" "$out/m" &
until mountpoint -q "$out/m"; do sleep 0.1; done
for d in a b c d; do mkdir "$out/m/$d"; done
until setfattr -n ceph.dir.pin -v 1 "$out/m/d" 2>/dev/null; do sleep 0.2; done # the second rank may still be coming
"$out/ranks" -rounds "${ROUNDS:-5}" -files "${FILES:-1000}" "one-rank=$out/m/a,$out/m/b" "two-ranks=$out/m/c,$out/m/d"
