// Package journal is the one log format of Capstan: a local file holds it (the WAL of an
// object store) or a sequence of objects does (the journal of a rank). The package is pure:
// it makes bytes to be written and reads bytes that somebody else fetched.
//
//	          expire            start of this writer   durable        end
//	            │                       │                 │            │
//	────────────▼───────────────────────▼─────────────────▼────────────▼───────────
//	  trimmed   │ frame │ frame │ frame │ frame │ frame   │ run 1 │ run 2 │  zeros or old
//	────────────────────────────────────────────────────────────────────────────────
//	                                                       at most two writes under way
//
// Words. A position (Pos) is a byte count since the log was born; it never goes back, also
// when the place on disk is used again. A frame is one record with its header. A run is what
// one write carries: whole frames. A Mark is a point between two frames. The Header is the
// little record that says where to begin; its owner keeps it somewhere atomic (an object, a
// row of a database). An incarnation is one life of one writer; they are ordered.
//
// What a reader may believe. Replay accepts frames as long as each one is intact, lies at
// the position that it claims, has the next sequence number, and is of no older incarnation
// than its predecessor. What ends there is the log: a torn frame, the hole that a second
// write leaves when the first was lost, and what a dead writer left behind all look alike
// and were never acknowledged.
//
// What is corruption instead. Every frame carries the durable position that its writer had
// when the frame was made, and the header carries one as well. A log that ends before a
// position which an intact frame behind its end (within Limits.Window), or the header,
// calls durable has lost acknowledged bytes: Replay returns a *HoleError. What cannot be
// detected is the loss of the very last acknowledged frames when nothing written after
// their acknowledgement survives either: nobody was ever told that they were durable.
//
// A new writer, in this order: replay; make what was replayed durable (a process that died
// may have left it in the page cache); wipe [End, End+Window) durably; store a Header with
// its own incarnation, higher than any before, and Start = End; only then append. The wipe
// is enough because bytes are only ever written within Window of the durable position. A
// late write of a fenced writer must be kept away by the fence (blocklist, file lock); if
// it comes through all the same, Start and the durable marks make the damage loud.
//
// Start reading at frame.go, then writer.go, replay.go.
package journal
