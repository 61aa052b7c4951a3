// Package crashdisk is the file system as a store sees it: a handful of files in one
// directory. There are two of them. OS is the real one. Disk is a simulation that forgets:
// what was not synced when the power fails is lost, torn at 512-byte sectors and reordered,
// as a seed decides.
//
//	for n := 1; ; n++ {
//		d := crashdisk.New(seed)
//		d.CrashAt(n)             // the n-th I/O fails, and every one after it
//		run(d)                   // until ErrCrashed
//		if !d.Crashed() { break } // the whole run fits in n I/Os
//		d.Recover()              // the machine is up again, with what is left
//		check(d)
//	}
//
// The model. A write is a set of sectors; each sector that was written since the last Sync
// of its file holds, after a crash, any one of the contents it had since then, independently
// of its neighbours. A change of size or of the directory may be lost; directory changes are
// lost from the end only (as a journaling file system does it), unless SyncDir came after.
// Sync makes a file's bytes and size durable, not its name. A crash during Sync leaves any
// mixture. Kill ends the process only: handles die, the page cache stays.
//
// Cell is a value that is replaced atomically and durably: it stands in for a database
// (bbolt) that cannot run on a simulated disk. It promises what bbolt promises at the return
// of a commit and nothing about how bbolt keeps it.
package crashdisk
