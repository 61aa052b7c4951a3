#!/usr/bin/env bash
# Measures Capstan next to other file systems in one run, with one tool, from outside.
#
#   FSBENCH=/path/to/fsbench bench/side-by-side.sh [OUT]        (root; OUT defaults to /var/tmp/capstan-bench)
#
# fsbench is any program with fsbench's flags (-a -b -cold -n -cap -only -json -cpuacct, table).
# PEERS names what is measured (default "loopback capstan"); "ceph" needs CEPH_BENCH, a directory
# with ceph-up.sh, ceph-mount.sh and ceph-down.sh. Each peer runs in a cpuacct control group of its
# own that holds fsbench, the client and the servers, so its CPU is charged and nobody else's.
# N (files per worker), CAP (time cap per workload) and ONLY (workloads) are passed on.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-/var/tmp/capstan-bench}
: "${FSBENCH:?set FSBENCH to the fsbench program}"
peers=${PEERS:-loopback capstan}
n=${N:-1000} cap=${CAP:-10s} only=${ONLY:-}
mkdir -p "$out"
go build -C "$top" -o "$out/capstan" ./cmd/capstan

cg() { # cg NAME CMD...: run in the control group NAME
	local g=/sys/fs/cgroup/cpuacct/capstan-bench-$1
	shift
	mkdir -p "$g"
	(echo $BASHPID >"$g/cgroup.procs" && exec "$@")
}

bench() { # bench NAME A B COLD
	local name=$1 a=$2 b=$3 cold=$4
	mkdir -p "$a/x"
	cg "$name" "$FSBENCH" -a "$a/x" -b "$b/x" ${cold:+-cold "$cold"} -n "$n" -cap "$cap" -big "${BIG:-256}" ${only:+-only "$only"} \
		-cpuacct "/sys/fs/cgroup/cpuacct/capstan-bench-$name/cpuacct.usage" -json "$out/$name.json"
}

run_loopback() { # go-fuse's loopback example over tmpfs: the floor of what a FUSE file system costs
	local d=$out/loopback
	mkdir -p "$d/back" "$d/mnt"
	mount -t tmpfs tmpfs "$d/back"
	GOFLAGS=-mod=mod go build -C "$top" -o "$out/loopback.bin" github.com/hanwen/go-fuse/v2/example/loopback
	cg loopback setsid "$out/loopback.bin" -q "$d/mnt" "$d/back" >"$d/log" 2>&1 &
	local pid=$!
	until mountpoint -q "$d/mnt"; do sleep 0.1; done
	bench loopback "$d/mnt" "$d/mnt" "" || echo "loopback: fsbench failed" >&2
	umount "$d/mnt"; umount "$d/back"
	wait $pid 2>/dev/null || true
}

run_capstan() {
	local d=$out/cluster
	rm -rf "$d"
	mkdir -p "$out/mnt-a" "$out/mnt-b"
	cat >"$out/cold.sh" <<-E
		#!/bin/sh
		for m in $out/mnt-a $out/mnt-b; do $out/capstan umount \$m; done
		for m in $out/mnt-a $out/mnt-b; do $out/capstan mount --conf $d/capstan.conf \$m; done
	E
	chmod +x "$out/cold.sh"
	cg capstan "$out/capstan" dev up --dir "$d" ${OSD_SIZE:+--osd-size "$OSD_SIZE"}
	for m in a b; do cg capstan "$out/capstan" mount --conf "$d/capstan.conf" "$out/mnt-$m"; done
	bench capstan "$out/mnt-a" "$out/mnt-b" "$out/cold.sh" || echo "capstan: fsbench failed" >&2
	local p
	for p in $(cat /sys/fs/cgroup/cpuacct/capstan-bench-capstan/cgroup.procs); do # who used it
		printf '%s cpu ticks: %s\n' "$(tr '\0' ' ' <"/proc/$p/cmdline" | cut -d' ' -f2-4)" "$(awk '{print $14+$15}' "/proc/$p/stat")"
	done >"$out/capstan.split"
	for m in a b; do "$out/capstan" umount "$out/mnt-$m"; done
	"$out/capstan" dev down --dir "$d"
}

run_ceph() {
	local d=/var/tmp/cephbench
	cg ceph env SIZE=3 "$CEPH_BENCH/ceph-up.sh" "$d" >"$out/ceph.log" 2>&1
	bench ceph "$d/mnt-a" "$d/mnt-b" "$CEPH_BENCH/ceph-mount.sh $d" || echo "ceph: fsbench failed" >&2
	"$CEPH_BENCH/ceph-down.sh" "$d"
}

args=()
for p in $peers; do
	"run_$p"
	[ -f "$out/$p.json" ] && args+=("$p=$out/$p.json")
done
"$FSBENCH" table "${args[@]}" | tee "$out/table.md"
