// Package client is a mount's view of the file system: a session with the rank, a cache
// that is true because caps and leases stand behind it, and blocking calls for fuse/.
//
//	fuse/ ── Lookup, Open, Read … ──▶ ┌────────┐ ── Request ─▶ rank
//	kernel ◀─ Notifier ────────────── │ Client │ ◀─ Reply, CapGrant, Safe ─
//	                                  └────────┘ ── object ops ─▶ OSDs
//
// Words: issued are the caps under which something new may start; implemented are those
// that something in progress still uses, so they are given up only when it ends. Fresh are
// the attribute groups whose value came with, or after, the bit that lets us trust them.
//
// There is one lock, Client.mu, held for short stretches and never across a wait, an I/O or
// a notification to the kernel. Messages to the rank are queued under it, so their order is
// the order of what they say. Who waits drops it and waits on a channel that is closed at
// the next change (Inode.changed, Client.sess).
//
// trust.go is the one place that says whether the cache may answer, and by which cap.
// revoke.go is the client's duty of reference 4.5. Start with request.go, then caps.go.
package client
