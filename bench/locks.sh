#!/usr/bin/env bash
# Measures file locks over 1, 2 and 4 mounts of Capstan, and of CephFS beside it, in one run.
#
#   bench/locks.sh [OUT]        (root, ctdb's ping_pong; OUT defaults to /var/tmp/capstan-locks)
#
# PEERS (default "capstan") may name "ceph" too, which needs CEPH_BENCH, a directory with ceph-up.sh and
# ceph-down.sh. SECS is how long each ping_pong runs, WAITERS how many threads queue for one flock, ROUNDS
# how many hand-overs. CPU is that of client, servers and the tool, all in one control group.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-/var/tmp/capstan-locks}
peers=${PEERS:-capstan} secs=${SECS:-10} waiters=${WAITERS:-10000} rounds=${ROUNDS:-3000}
mkdir -p "$out"
go build -C "$top" -o "$out/capstan" ./cmd/capstan
go build -C "$top" -o "$out/locks" ./bench/locks

cg() { # cg NAME CMD...: run in the control group NAME
	local g=/sys/fs/cgroup/cpuacct/capstan-locks-$1
	shift
	mkdir -p "$g"
	(echo $BASHPID >"$g/cgroup.procs" && exec "$@")
}
used() { cat "/sys/fs/cgroup/cpuacct/capstan-locks-$1/cpuacct.usage"; } # nanoseconds

pingpong() { # pingpong NAME DIR...: locks per second of all processes, one on each mount
	local name=$1 k=0 pids=() sum=0 d
	shift
	local before; before=$(used "$name")
	for d in "$@"; do
		cg "$name" timeout "$secs" stdbuf -o0 ping_pong "$d/ring.$#" $(($# + 1)) >"$out/pp.$k" 2>&1 &
		pids+=($!) k=$((k + 1))
	done
	wait "${pids[@]}" || true
	for ((k = 0; k < $#; k++)); do
		# The first second's figure is low, the last one is cut off: the middle of what was printed counts.
		sum=$((sum + $(tr '\r' '\n' <"$out/pp.$k" | grep -oE '^ *[0-9]+ locks/sec' | awk '{print $1}' | sort -n | awk '{v[NR]=$1} END {print NR ? v[int((NR+1)/2)] : 0}')))
	done
	awk -v n=$# -v r=$sum -v s="$secs" -v ns=$(($(used "$name") - before)) -v who="$name" \
		'BEGIN {printf "%s: ping_pong on %d mounts: %d locks/s, %.0f us of CPU per lock\n", who, n, r, r ? ns/1000/(r*s) : 0}'
}

measure() { # measure NAME DIR DIR DIR DIR
	local name=$1 d hold before
	shift
	for d in "$@"; do touch "$d/here"; done
	cg "$name" true
	pingpong "$name" "$1"
	pingpong "$name" "$1" "$2"
	pingpong "$name" "$@"
	for hold in 0 1ms; do
		echo "$name: hold $hold: $(GODEBUG=asyncpreemptoff=1 timeout 120 "$out/locks" -n "$rounds" -hold $hold -waiters 2 "$1" "$2" | head -1)"
	done
	before=$(used "$name")
	GODEBUG=asyncpreemptoff=1 cg "$name" timeout 300 "$out/locks" -n 10 -waiters "$waiters" -gap 2ms "$@" | sed -n "2s/^/$name: /p" || echo "$name: $waiters waiters: not served within 300 s"
	awk -v who="$name" -v n="$waiters" -v ns=$(($(used "$name") - before)) 'BEGIN {printf "%s: %.0f us of CPU per waiter, with its open and close\n", who, ns/1000/n}'
	[ "$name" = capstan ] || return 0
	GODEBUG=asyncpreemptoff=1 timeout 300 "$out/locks" -n 10 -waiters "$waiters" -list "$out/capstan locks --conf $out/cluster/capstan.conf --json \"\$1\"" "$@" | sed -n "2s/^/$name: /p"
}

end() { # what still runs when we are stopped in the middle
	[ -n "${up:-}" ] || return 0
	for m in a b c d; do "$out/capstan" umount "$out/mnt-$m" >/dev/null 2>&1 || true; done
	"$out/capstan" dev down --dir "$up" >/dev/null 2>&1 || true
}
trap end EXIT
trap 'exit 1' INT TERM

run_capstan() {
	local d=$out/cluster mnts=()
	rm -rf "$d"
	up=$d
	cg capstan "$out/capstan" dev up --dir "$d" >/dev/null
	for m in a b c d; do
		mkdir -p "$out/mnt-$m"
		cg capstan "$out/capstan" mount --conf "$d/capstan.conf" "$out/mnt-$m"
		mnts+=("$out/mnt-$m")
	done
	measure capstan "${mnts[@]}" || echo "capstan: failed" >&2
	for m in a b c d; do "$out/capstan" umount "$out/mnt-$m"; done
	"$out/capstan" dev down --dir "$d" >/dev/null
	up=
}

run_ceph() {
	local d=/var/tmp/cephbench m
	cg ceph env SIZE=3 "${CEPH_BENCH:?}/ceph-up.sh" "$d" >"$out/ceph.log" 2>&1
	for m in c d; do
		mkdir -p "$d/mnt-$m"
		cg ceph setsid ceph-fuse -c "$d/ceph.conf" -f --client_mountpoint=/ "$d/mnt-$m" >>"$out/ceph.log" 2>&1 </dev/null &
		until mountpoint -q "$d/mnt-$m"; do sleep 0.1; done
	done
	measure ceph "$d/mnt-a" "$d/mnt-b" "$d/mnt-c" "$d/mnt-d" || echo "ceph: failed" >&2
	for m in c d; do umount "$d/mnt-$m" || umount -l "$d/mnt-$m"; done
	"$CEPH_BENCH/ceph-down.sh" "$d" >>"$out/ceph.log" 2>&1
}

for p in $peers; do "run_$p"; done
