// Package fuse translates the kernel's requests into calls of client/ and nothing else;
// errno appears here and nowhere above.
//
//	kernel ── /dev/fuse ──▶ go-fuse ──▶ fs.go ──▶ client.Client
//	kernel ◀─ INVAL_INODE, PRUNE ───── notify.go ◀─ client.Notifier
//	kernel ◀─ INVAL_ENTRY ──────────── names.go ◀── client.Namer
//
// A node id is an inode number, and for a directory that other hosts have moved a count
// besides (places.go).
//
// What the kernel does, and the rules B1–B12 that follow from it, are in
// reference/fuse.md. RELEASE, FORGET and FLUSH are answered without an RPC; only SETLKW may
// answer EINTR, everything else looks for a pending SIGKILL first (B9, kill.go).
package fuse
