// Package locker decides which request may read or change each part of an inode or dentry,
// and which caps each client may keep meanwhile.
//
//	request ── LockSet ───▶ ┌────────┐ ──▶ Host.Wake: it is yours
//	client  ── Changed ───▶ │ Engine │ ──▶ Host.Reissue: send GRANT and REVOKE
//	peer    ── Receive ───▶ └────────┘ ──▶ Host.Tell: lock message to a rank
//
// Every part of an object has a [Lock] of one of four classes (Local, Simple, Scatter, File).
// A class is a text table in tables.go: permissions and moves of every state. The engine
// follows the table and has no switch on state. Where a steady lock should go is a second
// text table, in policy.go. Nothing here blocks, allocates a goroutine, reads a clock or
// lets a map order decide.
//
// # Words
//
// A state is steady (sync, lock, mix, excl, xsyn, tsyn) or in transit (sync>lock). A lock in
// transit gathers: it waits until every hold and every cap that its goal does not allow is
// gone. A hold is rd, wr or x, owned by one request of one client ([Owner]). The loner is the
// one client whose interest lets it keep exclusive caps; the object's owner chooses it (4.6),
// the engine says when it may change (SO1).
//
// # Lock order (O1)
//
// Quiesce first, then dentries before inodes, then by object, then by [Type]. A [LockSet]
// sorts by itself.
//
// # Use by a request
//
//	q.set.Owner = locker.Owner{Client: session, Req: q.id} // once
//	q.set.User = q                                         // what Host.Wake needs
//
//	// each time the request runs, from its top:
//	q.set.Begin()             // forgets what was wanted, keeps what is held
//	q.set.X(dn.Lock())        // the same lock twice: the stronger mode counts (O3)
//	q.set.Wr(locker.Find(dir.Locks(), locker.IFile))
//	if !q.set.Acquire(e) {
//		return // parked: Host.Wake(&q.set) comes when the awaited lock is ours; run again
//	}
//	... change the cache, submit the entry ...
//	q.set.Release(e)          // also when the request dies while it waits
//
//	// at the end of every Step of the core:
//	e.Settle()                // calls Host.Wake, Reissue, Tell; then run what was woken, repeat
//
// Binding may change while a request is parked, so it looks its dentries up again before
// Begin; holds it does not name again are released by Acquire (O5).
//
// # Use by the cap code
//
//	e.Changed(inode)                       // issued, wanted, leases, traits or ideal loner changed
//	now := locker.Allowed(inode, client)   // what this client may hold of the inode, by the present rows
//	end := locker.AllowedAtGoal(inode, c)  // and when what is in transit has settled
//	locker.Readable(l, client)             // may a reply show the newest value (get)?
//	if e.Force(l, client) { apply flush; e.Unforce(l, client) } // rule FW
//
// Host.Reissue(obj) must send REVOKE to every client whose pending set is not within
// Allowed, and may send GRANT up to Allowed. It is called once per object and Settle, after
// the rows came to rest; it may shrink issued sets at once (a dead session) and call Changed.
//
// Start reading at tables.go, then Settle in engine.go.
//
//go:generate go test -run TestLocksPageIsFresh -rewrite
package locker
