#!/usr/bin/env bash
# Measures object I/O through the client library, at replication 1 and 3, beside one local file (O_DIRECT) on
# the same disk, and CephFS's OSDs by rados bench beside them.
#
#   bench/osds.sh [OUT]        (root; OUT defaults to /var/tmp/capstan-osds)
#
# PEERS (default "capstan") may name "ceph" too, which needs CEPH_BENCH, a directory with ceph-up.sh and
# ceph-down.sh. MIB is the size of a large row, SPAN the seconds of a small one, ROUNDS how often. CPU is that
# of client and servers, all in one control group.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-/var/tmp/capstan-osds}
peers=${PEERS:-capstan} mib=${MIB:-512} span=${SPAN:-3} rounds=${ROUNDS:-3}
mkdir -p "$out"
go build -C "$top" -o "$out/capstan" ./cmd/capstan
go build -C "$top" -o "$out/osds" ./bench/osds

cg() { # cg NAME CMD...: run in the control group NAME
	local g=/sys/fs/cgroup/cpuacct/capstan-osds-$1
	shift
	mkdir -p "$g"
	(echo $BASHPID >"$g/cgroup.procs" && exec "$@")
}

end() { # what still runs when we are stopped in the middle
	[ -z "${up:-}" ] || "$out/capstan" dev down --dir "$up" >/dev/null 2>&1 || true
	[ -z "${ceph:-}" ] || "$CEPH_BENCH/ceph-down.sh" "$ceph" >>"$out/ceph.log" 2>&1 || true
}
trap end EXIT

run_capstan() {
	local d=$out/cluster
	rm -rf "$d"
	up=$d
	cg capstan "$out/capstan" dev up --dir "$d" --osd-size 8GiB >/dev/null
	"$out/capstan" pool create r1 size=1 min_size=1 pg_num=16 --conf "$d/capstan.conf" >/dev/null
	"$out/capstan" pool create r3 size=3 pg_num=16 --conf "$d/capstan.conf" >/dev/null
	cg capstan "$out/osds" -conf "$d/capstan.conf" -pools r1,r3 -dir "$out" -mib "$mib" -span "${span}s" -rounds "$rounds" \
		-cpuacct /sys/fs/cgroup/cpuacct/capstan-osds-capstan/cpuacct.usage || true
	"$out/capstan" dev down --dir "$d" >/dev/null
	up=
	rm -rf "$d"
}

bench_ceph() { # bench_ceph POOL SECONDS write|seq ARGS...: one row of rados bench
	local pool=$1 secs=$2 how=$3 before u=/sys/fs/cgroup/cpuacct/capstan-osds-ceph/cpuacct.usage
	shift 3
	before=$(cat $u)
	cg ceph rados -c "$conf" -p "$pool" bench "$secs" "$how" "$@" >"$out/rados.log" 2>&1 || { tail -3 "$out/rados.log" >&2; return 0; }
	awk -v row="ceph pool $pool: $how $*" -v ns=$(($(cat $u) - before)) '
		/^Total (writes|reads) made/ {n = $NF} /^Bandwidth \(MB\/sec\)/ {mb = $NF} /^Average IOPS/ {iops = $NF}
		END {printf "%-70s %8.1f MiB/s %8.0f ops/s %8.0f us of CPU/op\n", row, mb, iops, n ? ns / 1000 / n : 0}' "$out/rados.log"
}

run_ceph() {
	local d=/var/tmp/cephbench conf=/var/tmp/cephbench/ceph.conf p
	ceph=$d
	cg ceph env SIZE=3 "${CEPH_BENCH:?}/ceph-up.sh" "$d" >"$out/ceph.log" 2>&1
	for p in r1 r3; do ceph -c "$conf" osd pool create $p 16 16 >>"$out/ceph.log" 2>&1; done
	ceph -c "$conf" osd pool set r1 size 1 --yes-i-really-mean-it >>"$out/ceph.log" 2>&1
	for p in r1 r3; do
		bench_ceph $p "$((span * 3))" write -b 4M -t 16 --no-cleanup
		sync; echo 1 >/proc/sys/vm/drop_caches
		bench_ceph $p "$((span * 3))" seq -t 16
		bench_ceph $p "$((span * 3))" seq -t 16
		bench_ceph $p "$span" write -b 4K -O 4M -t 1
		bench_ceph $p "$span" write -b 4K -O 4M -t 16
	done
	"$CEPH_BENCH/ceph-down.sh" "$d" >>"$out/ceph.log" 2>&1
	ceph=
}

for p in $peers; do "run_$p"; done
