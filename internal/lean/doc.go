// Package lean fits Go's scheduler and collector to a daemon that mostly waits.
//
// A daemon of ours does a few microseconds of work per message under one lock and then waits:
// for the network or the disk. With a processor to spare, Go answers every message by waking
// a second thread to look for more work, which finds none; that wake costs more than the work.
// So a daemon begins with one processor and gets another when it is busy, up to a maximum,
// and loses it again when it is not. A thread in a system call does not need a processor.
//
// Measured on 4 KiB writes through a mount: a sixth of all CPU per operation, and shorter
// latency (docs/performance.md).
//
// The settings of the environment (GOMAXPROCS, GOGC) win. Only mains call this: it changes the
// whole process.
package lean
