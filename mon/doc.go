// Package mon is the core of a monitor: how the cluster's maps change, and who decides.
//
//	beacons, reports, requests ──▶ ┌────────┐ ── proposed change ──▶ raft (mon/server)
//	ticks ───────────────────────▶ │ Leader │                          │ on every monitor
//	              replies ◀─────── └────────┘ ◀── committed ── State.Apply(change)
//
// State.Apply is a pure function from maps and a change to the next maps, and the only place
// that judges whether a change is safe: the rules M1–M6 of reference/osd-replication.md and
// LS of locks-and-caps.md are there. Leader only judges when to propose one; what it knows
// of who is alive is in its memory and dies with its leadership. Neither reads a clock: time
// comes in with events, in nanoseconds.
//
// Words: change (a typed record that raft carries), refused (the maps forbid it; nothing
// happens), cold (this leader has not heard of every OSD yet, rule M5).
//
// Start at state.go, then change_pg.go; leader.go is the other half.
package mon
