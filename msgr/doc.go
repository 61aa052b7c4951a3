// Package msgr carries wire messages between processes as frames over TCP or, within one
// process, over memory.
//
//	shell ── Send ──▶ ┌───────────┐ ── one writev ──▶ stream ──▶ reader ── up to 64 frames ──▶ Handler.Frames
//	      ── Flush ─▶ │   Conn    │                                        then Flush of what it sent
//	                  └───────────┘ ◀── ack, resume ── (sessions only)
//
// A frame is a header of fixed size, a msgpack front and a raw data segment that goes from
// the sender's slices into the stream and from the stream into a pooled buffer. Both sides
// of a connection are equal: each may send requests, replies and pushes.
//
// There is one goroutine per connection, its reader. It hands the frames that are already in
// its buffer to the Handler as one batch, and when the Handler returns it writes whatever
// was queued on this connection with one non-blocking writev. What the socket does not take
// is left to a writer goroutine, which exists until the queue is empty. A reader therefore
// never waits for its peer to read, and two peers that flood each other do not lock up.
//
// A session (DialSession) is a Conn whose stream may be replaced: frames are numbered, kept
// until acknowledged and sent again after a break. It has the same surface. A peer that no
// longer knows the session says so, and Handler.Closed gets ErrUnknownSession.
//
// Words: stream (a net.Conn), link (one stream of a Conn with its buffers), front, data, batch.
//
// Locks: Conn.mu guards the output queue and the session; it is never held during a system
// call or while a Handler runs. Start at frame.go, then conn.go, reader.go and session.go.
package msgr
