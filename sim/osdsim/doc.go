// Package osdsim runs many OSD cores, the monitors' core and clients on one thread under
// virtual time, with faults drawn from a seed: crash, restart, disk loss, freeze, loss and
// reordering of messages, one-way partitions, false suspicion, changes of the monitors'
// leader, changed placement, clocks that differ in rate.
//
//	seed ──▶ plan ──▶ chaos ──▶ ┌───────────┐ ──▶ histories ──▶ linearize (I4)
//	                 clients ─▶ │ osd.OSD   │ ──▶ versions, barriers (I5, I6)
//	                            │ mon.State │ ──▶ configurations (I7, M3–M5)
//	                            └───────────┘ ──▶ logs, objects (I1, L1)
//
// osd.OSD, mon.State and mon.Leader are what the daemons run; raft, the network, the disks and
// the clocks are models. The checkers know nothing of the code: histories must be
// linearizable per object, no tid may have two versions, nothing may be committed behind a
// fence, what was committed must be in every later S, and when the faults end everything
// must be answered and replicated.
//
// A failing run prints the line that repeats it. Start at world.go, then plan.go (what a run
// draws), chaos.go, check.go.
package osdsim
