package mds

import "github.com/capstan-fs/capstan/wire"

// Admission: what would bring more into a cache that is over its bound, with nothing left to
// trim, waits until clients have given up caps (4.8), but not for ever: recall is a hint.

const admitWait = int64(1e9) // the longest that a request is held back

// admit parks q while the cache is too full. It waits once at most.
func (r *Rank) admit(q *request) errno {
	if q.admitted || q.replay || r.mem.used <= r.cfg.CacheBytes+r.cfg.CacheBytes/32 || !r.mem.starved {
		return ok
	}
	q.admitted = true
	if len(r.mem.crowded) == 0 {
		r.mem.crowdedAt = r.now
	}
	r.mem.crowded = append(r.mem.crowded, r.waker(q))
	r.counts.Crowded++
	return r.parkFree(q, "the cache is full: clients were asked to give up caps")
}

// letIn wakes who waits for room, when there is some or has been none for too long.
func (r *Rank) letIn() {
	m := &r.mem
	if len(m.crowded) == 0 || m.used > r.cfg.CacheBytes && r.now < m.crowdedAt+admitWait {
		return
	}
	for _, wake := range m.crowded {
		wake()
	}
	clear(m.crowded)
	m.crowded = m.crowded[:0]
	r.settle()
}

// listMax is how many inodes one part of a listing may bring in: a small part of the cache.
func (r *Rank) listMax(asked uint32) int {
	n := int(min(max(r.cfg.CacheBytes/32/capBytes(), 16), readdirMax))
	if asked > 0 {
		n = min(n, int(asked))
	}
	return n
}

// loadWindow reads the inodes that a part of a listing shows and that are not cached, in one
// operation: a walk of a directory larger than the cache does not read them one by one.
func (r *Rank) loadWindow(q *request, d *dir) errno {
	if q.windowed {
		return ok
	}
	q.windowed = true
	var bare []*dentry
	n, most := 0, r.listMax(q.Max)
	r.seek.hash = q.Cookie + 1
	d.order.AscendGreaterOrEqual(r.seek, func(dn *dentry) bool {
		if dn.kind == dnHome && dn.in == nil && dn.more == nil {
			bare = append(bare, dn)
		}
		n++
		return n < most
	})
	if len(bare) == 0 {
		return ok
	}
	keys := make([]string, len(bare))
	for i, dn := range bare {
		dn.pins++
		dn.more = &dentryMore{}
		keys[i] = dn.name + headSuffix
	}
	wake := r.waker(q)
	r.object(0, r.dirObject(d.in.ino()), []wire.ObjOp{{Kind: wire.ObjOmapGet, Keys: keys}}, func(e uint32, res []wire.ObjResult) {
		got := map[string][]byte{}
		if e == 0 && len(res) == 1 {
			for _, kv := range res[0].Pairs {
				got[kv.Key] = kv.Val
			}
		}
		for i, dn := range bare {
			if !r.loadedInode(dn, e, got[keys[i]]) {
				return
			}
		}
		wake()
	})
	return r.parkFree(q, "inodes are being read")
}
