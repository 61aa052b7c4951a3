#!/bin/sh
# Scores ctdb's ping_pong: capstan dev score -- docs/score-ping_pong.sh
# ping_pong never fails by itself: what it prints is judged here. One process on each mount goes
# round a ring of locks, adding one to each counter. Locks must be passed on; and once all are
# there, every process finds each counter higher by as many as there are processes, and says so
# once ("data increment = N" is printed when N changes).
n=$# t=$(mktemp -d) i=0 pids=
trap 'kill $pids 2>/dev/null; rm -rf "$t"' EXIT
for m in "$@"; do
	i=$((i + 1))
	stdbuf -o0 ping_pong -rw "$m/ring" $((n + 1)) >"$t/$i" 2>&1 &
	pids="$pids $!"
done
increments() { tr '\r' '\n' <"$1" | sed -n 's/data increment = //p'; }
sleep 2
for o in "$t"/?; do increments "$o" >"$o.before"; done
sleep 3
for o in "$t"/?; do increments "$o" >"$o.after"; cp "$o" "$o.out"; done
for o in "$t"/?; do
	[ "$(tail -n 1 "$o.before")" = "$n" ] && cmp -s "$o.before" "$o.after" || exit 1
	[ "$(tr '\r' '\n' <"$o.out" | sed -n 's/ *\([0-9]*\) locks.sec.*/\1/p' | tail -n 1)" -gt 0 ] || exit 1
done
