#!/usr/bin/env bash
# Warm stat, open+close and open+read+close through a Capstan mount beside go-fuse's loopback example over
# tmpfs, which has the same timeouts (1 s): alternating rounds in one run, by CPU time of tool and mount process.
#
#   bench/warm.sh [OUT]        (root; OUT defaults to /var/tmp/capstan-warm; ROUNDS, FILES; OPTIONS of the mount, name_cache)
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-/var/tmp/capstan-warm}
mkdir -p "$out"/{a,mnt,back}
go build -C "$top" -o "$out/capstan" ./cmd/capstan
go build -C "$top" -o "$out/warm" ./bench/warm
GOFLAGS=-mod=mod go build -C "$top" -o "$out/loopback" github.com/hanwen/go-fuse/v2/example/loopback
loop=
end() {
	umount "$out/mnt" 2>/dev/null || true
	umount "$out/back" 2>/dev/null || true
	"$out/capstan" umount "$out/a" 2>/dev/null || true
	"$out/capstan" dev down --dir "$out/cluster" >/dev/null 2>&1 || true
	[ -z "$loop" ] || kill "$loop" 2>/dev/null || true
}
trap end EXIT
rm -rf "$out/cluster"
"$out/capstan" dev up --dir "$out/cluster" >/dev/null
"$out/capstan" mount -f -o "${OPTIONS:-name_cache}" --conf "$out/cluster/capstan.conf" "$out/a" &
cap=$!
mount -t tmpfs tmpfs "$out/back"
"$out/loopback" -q "$out/mnt" "$out/back" &
loop=$!
until mountpoint -q "$out/mnt" && mountpoint -q "$out/a"; do sleep 0.1; done
"$out/warm" -rounds "${ROUNDS:-5}" -files "${FILES:-200}" "loopback=$out/mnt=$loop" "capstan=$out/a=$cap"
