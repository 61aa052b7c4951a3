// Package osdsim runs many OSD cores, a model of the monitors' rules and clients on one thread
// under virtual time, with faults drawn from a seed: crash, restart, disk loss, pause, loss and
// reordering of messages, one-way partitions, false suspicion, clocks that differ in rate.
//
// The checkers know nothing of the code: clients' histories must be linearizable per object, no
// token may appear twice or vanish (I1, I5), configurations must obey I7, logs I2, fencing I6,
// and after the faults everything must be answered and replicated (L1).
//
// A failing run prints the line that repeats it. Start at world.go; mon.go is M1–M4 in a page.
package osdsim
