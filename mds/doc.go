// Package mds is the core of a metadata rank: the cache of inodes, dentries and directory
// fragments, the operations on them, their journal, and what clients may cache of them.
//
//	session message ─▶ ┌──────────────────────────────────────────┐ ─▶ replies, cap messages
//	journal written ─▶ │ Step: request ─▶ locks ─▶ apply ─▶ entry │ ─▶ journal writes
//	object read     ─▶ │       settle: locks moved, caps revoked  │ ─▶ object reads and writes
//	tick            ─▶ └──────────────────────────────────────────┘ ─▶ blocklist requests, next tick
//
// One value exists, the newest. An update takes its locks, changes the cache, submits one
// journal entry with whole new records and drops its locks, all in one step. What leaves
// the rank carries a stamp, the journal position it rests on, and waits in its session's
// FIFO until the journal is durable that far (rules ES, ES1–ES7 in output.go).
//
// The core opens nothing, reads no clock and starts no goroutine; time comes with events.
//
// Words: entry (one journal record), stamp (a journal position), dir (the one fragment of a
// directory), home dentry (the dentry that embeds the inode), null dentry (a name known to
// be absent), base directory (where root, links and stray directories have their dentries).
//
// Start at rank.go, then request.go and op_lookup.go, entry.go, output.go, replay.go.
package mds
