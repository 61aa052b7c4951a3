package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/capstan-fs/capstan/wire"
)

// Write-back: buffered bytes go to the store
//
//   - when the oldest is half of dirty_expire old, so that all is durable, size included, when
//     it is over (B7);
//   - an object at a time, when it has been written to its end;
//   - all of them, when more than half of dirty_max is held back;
//   - before b is given up (step 4 of 4.5), before a truncate, at fsync and at `capstan sync`.
//
// A size that the rank is told covers bytes that are in the store, except where it asks for
// the size itself: so the size of a file whose writer died is never behind zeros that nobody
// wrote, but for what R1 finds in the range.

// flight is one vector of writes to one object.
type flight struct {
	in      *Inode
	ob      *objBuf
	gen     uint64
	objects Objects
	barrier wire.Epoch
	obj     wire.ObjectID
	ops     []wire.ObjOp
}

// flushData sends what is buffered of in; what is written later is not meant.
func (c *Client) flushData(in *Inode) {
	b := in.buf
	if b == nil {
		return
	}
	b.goal, b.since = c.wb.seq, 0
	for _, ob := range b.objs {
		c.launch(in, ob)
	}
}

// launch puts the next flight of ob into the outbox, unless one is under way: the unlock that
// follows sends it.
func (c *Client) launch(in *Inode, ob *objBuf) {
	if ob.fly != nil || len(ob.dirty) == 0 {
		return
	}
	if in.unborn() {
		in.buf.kept = true
		return
	}
	ob.fly, ob.dirty = ob.dirty.take(ob.from)
	n := ob.fly.bytes()
	ob.bytes -= n
	c.wb.flying += int64(n)
	ob.from = ob.fly[len(ob.fly)-1].end()
	fl := &flight{in: in, ob: ob, gen: c.gen, objects: c.objects, barrier: c.barrier,
		obj: wire.DataObject(in.pool, in.ino, ob.idx), ops: make([]wire.ObjOp, len(ob.fly))}
	for i, e := range ob.fly {
		fl.ops[i] = wire.ObjOp{Kind: wire.ObjWrite, Off: e.off, Len: uint64(len(e.data)), DataLen: uint32(len(e.data)), Data: e.data}
	}
	c.wb.outbox = append(c.wb.outbox, fl)
	c.wb.flights++
}

func (fl *flight) leave(c *Client) {
	fl.objects.Submit(fl.obj, fl.ops, fl.barrier, func(errno uint32, _ []wire.ObjResult, err error) {
		land := func() {
			c.mu.Lock()
			c.landed(fl, objErr(fl.obj, errno, err))
			c.unlockFlush()
		}
		if err == nil {
			land()
			return
		}
		// Whoever ends an operation without an answer, such as the map that shows our fence, may hold
		// a lock that Cluster.Objects takes, and that is called under ours (startAnew).
		go land()
	})
}

// landed takes in the end of a flight.
func (c *Client) landed(fl *flight, err error) {
	in, ob := fl.in, fl.ob
	if fl.gen != c.gen || in.buf == nil {
		return // of a life that is over: its buffers were dropped
	}
	n := int64(ob.fly.bytes())
	ob.fly = nil
	c.wb.held -= n
	c.wb.flying -= n
	if err != nil {
		c.dataLost(in, uint64(n), err)
		if err == syscall.ENOSPC {
			c.wb.full = true
		}
	}
	if ob.dirty.oldest() <= in.buf.goal {
		c.launch(in, ob)
	}
	c.bufferShrank(in)
}

// bufferShrank ends a buffer that has become empty, and hands size and times in behind the
// data, if they are due.
func (c *Client) bufferShrank(in *Inode) {
	b := in.buf
	n := 0
	for _, ob := range b.objs {
		if len(ob.dirty) > 0 || ob.fly != nil {
			b.objs[n] = ob
			n++
		}
	}
	clear(b.objs[n:])
	b.objs = b.objs[:n]
	c.wb.room.wake()
	in.changed.wake()
	if n > 0 {
		return
	}
	in.buf = nil
	delete(c.wb.bufs, in)
	c.maybeIdle(in)
	switch {
	case c.inodes[in.ino] != in: // unlinked
	case in.at.state != sessOpen || in.cap.job || in.cap.id == 0:
	case in.opens.wr == 0:
		c.partWithWriter(in)
	case in.dirty && c.now()-in.dirtyAt >= int64(c.cfg.DirtyExpire)/2:
		in.at.sendSoon(c.makeUpdate(in, 0))
	}
}

// partWithWriter hands in what the last writer leaves, and gives up what only a writer needs,
// so that the next open elsewhere finds a file that may be cached and no REVOKE has to ask.
func (c *Client) partWithWriter(in *Inode) {
	if in.opens.wr == 0 && in.nwr == 0 && in.parked == 0 && in.cutting == 0 && in.buf == nil {
		in.giveUp(writeBits)
	}
	c.updateSoon(in)
}

// settleData waits until what is buffered of in now is in the store, or lost. The lock is
// dropped meanwhile.
func (c *Client) settleData(k *Caller, in *Inode) error {
	upTo, size := c.wb.seq, in.attr.Size
	for in.buf != nil && in.buf.oldest() <= upTo {
		if in.buf.goal < upTo {
			c.flushData(in)
		}
		k.why = in.stored()
		if err := c.await(k, in.changed.wait()); err != nil {
			return err
		}
	}
	if b := in.buf; b != nil {
		b.sure, b.insist = max(b.sure, size), true
	}
	return nil
}

// Sync flushes everything this client has and waits until it is durable. What could not be
// written is an error here and on the files.
func (c *Client) Sync(ctx context.Context) error {
	k := &Caller{Cancel: ctx.Done(), Killed: func(uint32) bool { return true }}
	c.mu.Lock()
	defer c.unlockFlush()
	lost := c.wb.losses
	for in := range c.wb.bufs {
		c.flushData(in)
	}
	for _, in := range slices.Collect(maps.Keys(c.wb.bufs)) {
		if err := c.settleData(k, in); err != nil {
			return err
		}
	}
	for in := range c.dirty {
		if in.dirty {
			c.update(in, 0)
		}
	}
	upTo := map[*session]wire.Tid{}
	for _, s := range c.sessions {
		upTo[s] = s.unsafeTid()
	}
	for _, s := range slices.Clone(c.sessions) {
		if err := s.waitSafe(k, upTo[s]); err != nil {
			return err
		}
	}
	if c.wb.losses > lost {
		return fmt.Errorf("client: sync: some writes are lost: %w", c.wb.lossWhat)
	}
	return nil
}

// dataLost notes that bytes of in will never reach the store.
func (c *Client) dataLost(in *Inode, n uint64, why error) {
	c.wb.losses++
	c.wb.lossWhat = why
	in.lose(why)
	c.log.Error().Err(why).Stringer("ino", in.ino).Str("file", c.pathHint(in)).Uint64("bytes", n).
		Msg("buffered writes are lost: fsync and close say so")
}

// dropBuffer forgets what is buffered of in, flights included, and returns how much that was.
func (c *Client) dropBuffer(in *Inode) (n int64) {
	if in.buf == nil {
		return 0
	}
	for _, ob := range in.buf.objs {
		f := int64(ob.fly.bytes())
		c.wb.flying -= f
		n += f + int64(ob.bytes)
	}
	c.wb.held -= n
	in.buf = nil
	delete(c.wb.bufs, in)
	c.wb.room.wake()
	in.changed.wake()
	return n
}

// discardUnlinked drops what nobody can read any more: the last name is gone, and nobody has
// the file open. It reports whether nothing is on its way either.
func (c *Client) discardUnlinked(in *Inode) bool {
	if in.buf != nil {
		if in.buf.flying() {
			return false // the rank cuts the objects when it hears that we let go: no write may come behind that
		}
		c.dropBuffer(in)
	}
	in.dirty, in.dirtySet, in.late = false, 0, wire.Time{}
	delete(c.dirty, in)
	return true
}

// tickData begins the flushes that are due.
func (c *Client) tickData(now int64) {
	for in := range c.wb.bufs {
		if s := in.buf.since; s != 0 && now-s >= int64(c.cfg.DirtyExpire)/2 {
			c.flushData(in)
		}
	}
}

// tickPeriod is how often that is looked at.
func (c *Client) tickPeriod() time.Duration {
	return min(250*time.Millisecond, max(c.cfg.DirtyExpire/4, 5*time.Millisecond))
}

// pathHint is where in was seen last, for people.
func (c *Client) pathHint(in *Inode) string {
	var parts []string
	for n := 0; in != nil && in.ino != wire.RootIno && n < 64; n++ {
		if in.name == "" {
			return fmt.Sprintf("?/%s (%v)", strings.Join(parts, "/"), in.ino)
		}
		parts = append([]string{in.name}, parts...)
		in = c.inodes[in.parent]
	}
	return "/" + strings.Join(parts, "/")
}
