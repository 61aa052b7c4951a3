package client

import (
	"time"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// The client's duty on REVOKE (4.5). The order is forced by what the kernel locks: pages are
// invalidated only when w, b or x goes, and then while WRITEs are still admitted, because
// the invalidation waits for a folio that a partial WRITE owns (F1, B1). An answer is sent
// from the completion of the steps, never from their start.

// revoke begins to give up implemented &^ pending. The lock is held.
func (c *Client) revoke(in *Inode) {
	r := &in.cap
	leaving := r.implemented &^ r.pending
	if c.wrong.Has(wrong.StaleRead) && leaving&writeBits == 0 && r.pending != 0 && !in.isDir() {
		c.finishRevoke(in)
		r.issued |= leaving // what was answered as given up is used on
		return
	}
	c.keepNames(in, leaving)
	c.lose(in, leaving)
	long := !in.isDir() && leaving&writeBits != 0
	drain := long && in.nwr > 0 || in.nrd > 0 && leaving&caps.FileRd != 0
	flush := leaving&caps.FileBuffer != 0 && in.buf != nil
	kernel := c.notifier != nil && (in.attrUntil > c.now() || in.known && (long && in.mayBeMapped() ||
		leaving&caps.FileShared != 0 && c.bareNames(in)))
	if !drain && !flush && !kernel {
		c.finishRevoke(in) // neither we nor the kernel hold anything on the strength of these bits
		return
	}
	r.issued &= r.pending | leaving&writeBits
	r.job, in.jobAt = true, time.Now()
	c.ref(in)
	go c.runRevoke(in)
}

// lose ends the trust that rests on bits: attributes, names, pages.
func (c *Client) lose(in *Inode, leaving caps.Bits) {
	for _, g := range groups {
		if leaving&(g.shared|g.excl) != 0 {
			in.fresh &^= g.mask
		}
	}
	if leaving&caps.FileShared != 0 && in.dir != nil {
		in.dir.gen++
		in.dir.listing, in.dir.complete = nil, false
		in.dir.told.taken = in.c.now()
	}
	if leaving&caps.FileCache != 0 && in.pages {
		in.oldPages = true
	}
}

// finishRevoke is step 5: the answer, with the dirty fields in the same message.
func (c *Client) finishRevoke(in *Inode) {
	r := &in.cap
	if r.pending == 0 {
		// Not even p: a new rank could not place what we declared. It knows of no cap, so that
		// nothing may be asked of it by this one; dirty fields wait for another.
		in.at.releases = append(in.at.releases, wire.ReleasedCap{Ino: in.ino, CapID: r.id, Mseq: r.mseq, IssueSeq: r.seq})
		in.at.sendReleases()
		in.noCap()
		in.late = wire.Time{}
		in.changed.wake()
		return
	}
	nlinkUnsure := r.implemented&^r.pending&caps.LinkShared != 0
	r.issued, r.implemented = r.pending, r.pending
	r.applied = r.seq
	r.owed = false
	c.lateTimes(in)
	if nlinkUnsure && in.refs == 0 && in != c.root {
		// Somebody links or unlinks it, perhaps for the last time. Nobody here has it open:
		// let it go, so that its space does not wait for us.
		if in.nlookup == 0 && !in.dirty && in.buf == nil && in.flushing == 0 {
			c.drop(in) // the RELEASE is the answer
			in.at.sendReleases()
			return
		}
		if !in.isDir() {
			c.prune(in.ino)
		}
	} else if nlinkUnsure {
		in.unlinked = true // perhaps, and somebody has it open
	}
	c.update(in, 0)
}

// runRevoke works a revoke off; further narrowing ones that come meanwhile are taken along.
func (c *Client) runRevoke(in *Inode) {
	r := &in.cap
	c.mu.Lock()
	for {
		target := r.pending
		leaving := r.implemented &^ target
		c.lose(in, leaving)
		long := !in.isDir() && leaving&writeBits != 0
		r.issued &= target | leaving&writeBits
		n := c.notifier
		switch {
		case n == nil:
		case in.known && long && in.mayBeMapped():
			c.invalidatePages(in, n)
		case in.attrUntil > c.now():
			in.attrUntil = 0
			c.voidAttrs(in)
		}
		if leaving&caps.FileShared != 0 && c.bareNames(in) {
			c.expire(in, c.unleased(in))
		}
		r.issued &= target // step 2: no new use
		for r.pending == target {
			flush := long && in.nwr == 0 && leaving&caps.FileBuffer != 0 && in.buf != nil
			if flush {
				c.flushData(in) // step 4: nobody adds to it any more
			} else if !(long && in.nwr > 0 || leaving&caps.FileRd != 0 && in.nrd > 0) {
				break
			}
			ch := in.changed.wait()
			c.unlockFlush()
			select {
			case <-ch:
			case <-c.closed:
				return
			}
			c.mu.Lock()
		}
		if r.pending == target {
			break
		}
	}
	r.job = false
	c.finishRevoke(in)
	in.changed.wake()
	c.unref(in)
	c.unlockFlush()
}

// mayBeMapped: a mapping may hold dirty pages. Without pages there are none, and then nothing
// is invalidated: a notification, even one that finds no page, makes the kernel ignore the
// attributes in the answer to a GETATTR under way, and it is our own GETATTR that most often
// takes w from us (lseek(SEEK_END) beside another host's writer went by the old size for ever).
func (in *Inode) mayBeMapped() bool { return in.opens.rw > 0 && in.pages }

// invalidatePages is step 1: dirty mmap pages come back as WRITE_CACHE, which is served. It
// is not waited for while a request of this inode that may own a folio waits for the rank:
// our own SETATTR(size) (B12), or a WRITE whose bits are not there. Reads stay right either
// way: without s and c the next one asks for attributes first (F9) and finds oldPages.
func (c *Client) invalidatePages(in *Inode, n Notifier) {
	in.attrUntil = 0
	if in.pages {
		in.oldPages = true
	}
	done := make(chan struct{})
	ino, paged := in.ino, in.paged
	go func() {
		n.Pages(ino)
		close(done)
	}()
	// A page READ waits for nobody and a WRITE is admitted; the bound is against a kernel
	// that locks more than we know of.
	limit := time.NewTimer(3 * time.Second)
	defer limit.Stop()
	for in.cutting == 0 && in.parked == 0 {
		ch := in.changed.wait()
		c.unlockFlush()
		select {
		case <-done:
			c.mu.Lock()
			if in.paged == paged {
				in.pages, in.oldPages = false, false
			}
			return
		case <-ch:
			c.mu.Lock()
		case <-limit.C:
			c.mu.Lock()
			c.log.Warn().Stringer("ino", ino).Msg("page invalidation is stuck in the kernel; the revoke goes on without it")
			return
		case <-c.closed:
			c.mu.Lock()
			return
		}
	}
	c.unlockFlush()
	n.Attrs(ino)
	c.mu.Lock()
}

// onLeaseRevoke gives up one name, after the kernel has: the ack is sent from the completion
// of that.
func (c *Client) onLeaseRevoke(s *session, m *wire.LeaseRevoke) {
	ack := &wire.LeaseAck{Dir: m.Dir, Name: m.Name, Seq: m.Seq}
	in := c.inodes[m.Dir]
	if in == nil || in.dir == nil {
		s.send(0, ack)
		return
	}
	in.dir.told.taken = c.now()
	in.dir.unlease(m.Name)
	if t := &in.dir.told; c.namer == nil || t.until[m.Name] == 0 && t.leaving[m.Name] == 0 {
		s.send(0, ack)
		return
	}
	gen := s.linkGen
	c.ref(in)
	go func() {
		c.mu.Lock()
		c.expire(in, func(name string) bool { return name == m.Name })
		// A REVOKE of Fs that came meanwhile kept the name under this very lease (keepNames): the rank
		// gives no other before it has the ack.
		in.dir.unlease(m.Name)
		c.unref(in)
		if gen == s.linkGen { // another rank has not asked
			s.send(0, ack)
		}
		c.unlockFlush()
	}()
}

// unleased are the names that no lease covers.
func (c *Client) unleased(dir *Inode) func(string) bool {
	now := c.now()
	return func(name string) bool {
		e := dir.dir.names[name]
		return e == nil || e.lease <= now
	}
}
