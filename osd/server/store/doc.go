// Package store keeps the objects, logs and named values of one OSD in a directory. It
// implements osd.Store.
//
//	Submit ─┬─ whole blocks, if many ─────────────────────────▶ block   (fresh blocks)
//	        ├─ the rest ──▶ newest state in memory                ▲
//	        │                 │         ▲                         │ 2 small writes, to
//	        │                 │         └── reads                 │   fresh blocks
//	        └─ record ──▶ log │ (two commits under way)           │
//	                       │  └────────── checkpoint ─────────────┤
//	                     done               │ 3 when the log      │
//	                                        ▼   is durable        │
//	                                     meta.db (bbolt): records, pairs, logs, values
//	                                        │
//	                                        └─ 4 the log before the checkpoint is room again,
//	                                             blocks freed before it are free
//
//	DIR/store.json   what this is: format, uuid, cluster, owner; made last
//	DIR/block        header block, then blocks of 4 KiB
//	DIR/wal          header block, then a ring that holds the log (package journal)
//	DIR/meta.db      what the last checkpoint stored, and where the log begins
//
// Words. A ref leads to a durable block and carries its crc32c; a buffer is a block's newer
// content in memory, put there by a small write. A direct write goes to fresh blocks before
// its record is logged. A checkpoint brings meta.db up to the end that the log had when it
// began (its mark).
//
// What holds.
//   - A transaction is durable when its record is. Bytes of a direct write are synced before
//     the record that leads to them is written; meta.db is never ahead of the durable log.
//   - No block that the last checkpoint or a record behind it leads to is ever overwritten: new
//     content goes to fresh blocks, and a freed block is free only after the next checkpoint.
//     So replay always starts from what the checkpoint saw, and a torn write damages nothing
//     that anybody knows of. A record may be applied to that state only, in order, once.
//   - Every block that comes from the disk is compared with its checksum, also when it is the
//     base of a partial overwrite. A bad one is a *BadBlock, named and counted; what is written
//     over a part of it does not make it good (base.go).
//   - Space is promised at Submit: a buffer has its block reserved, so a checkpoint or a replay
//     never runs out of it. Some blocks are kept for transactions that give space back.
//   - When Submit returns nothing refers to the data of the transaction's steps: it is in the
//     block file, the log or a buffer. Log entries and named values are kept as they are.
//   - After an error nothing later succeeds (osd.Store's contract). The store on disk is
//     whole; opening it again is the way on.
//
// Locks: mu, and pins beside it (pin.go). mu is held for memory work, for reading meta.db when an object is
// not in memory, and for reading the base of a small partial write; never for a sync.
//
// bbolt cannot run on the simulated disk of the crash tests. There meta.db is a cellDB, whose
// update is atomic and durable at return by definition. What bbolt makes of a crash in the
// middle of an update is thus its own authors' promise and not tested here.
//
// Start at submit.go, then apply.go, commit.go, checkpoint.go, recover.go.
package store
