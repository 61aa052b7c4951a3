// Package fuse translates the kernel's requests into calls of client/ and nothing else;
// errno appears here and nowhere above.
//
//	kernel ── /dev/fuse ──▶ device.go ──▶ go-fuse ──▶ fs.go ──▶ client.Client
//	kernel ◀─ INVAL_INODE, PRUNE ───── notify.go ◀─ client.Notifier
//	kernel ◀─ INVAL_ENTRY ──────────── names.go ◀── client.Namer
//
// device.go reads requests without blocking, in Go's network poller, and writes the answers; go-fuse
// parses the ones and builds the others. Whoever has read a request works it off while another goroutine
// reads on. INTERRUPT is the device's own: it finds its request by number, also the one just read.
//
// A node id is an inode number, and for a directory that other hosts have moved a count
// besides (places.go).
//
// What the kernel does, and the rules B1–B12 that follow from it, are in
// reference/fuse.md. RELEASE, FORGET and FLUSH are answered without an RPC; only SETLKW may
// answer EINTR, everything else looks for a pending SIGKILL first (B9, kill.go).
package fuse
