#!/usr/bin/env bash
# How long a directory with FILES inodes below it stands still while it is handed from rank to rank
# (ceph.dir.pin), with a mount that holds caps of all of them and works in it.
#
#   bench/freeze.sh [OUT]       (root; OUT defaults to /var/tmp/capstan-freeze; FILES, ROUNDS; CAPSTAN: the binary)
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-/var/tmp/capstan-freeze}
mkdir -p "$out/m"
capstan=${CAPSTAN:-$out/capstan}
[ -n "${CAPSTAN:-}" ] || go build -C "$top" -o "$capstan" ./cmd/capstan
go build -C "$top" -o "$out/freeze" ./bench/freeze
end() {
	"$capstan" umount "$out/m" 2>/dev/null || true
	"$capstan" dev down --dir "$out/cluster" >/dev/null 2>&1 || true
}
trap end EXIT
rm -rf "$out/cluster"
"$capstan" dev up --dir "$out/cluster" --ranks 2 >/dev/null
"$capstan" mount -f --conf "$out/cluster/capstan.conf" "$out/m" &
until mountpoint -q "$out/m"; do sleep 0.1; done
mkdir "$out/m/probe"
until setfattr -n ceph.dir.pin -v 1 "$out/m/probe" 2>/dev/null; do sleep 0.2; done # the second rank may still be coming
"$out/freeze" -files "${FILES:-10000}" -rounds "${ROUNDS:-5}" "$out/m"
