package client

import (
	"slices"
	"time"

	"github.com/capstan-fs/capstan/caps"
)

// What an inode holds back under Fb: bytes that write() has returned for and the store does
// not have. Nobody else may read or write the file meanwhile (C1), so it is the truth, and
// every read of this mount looks at it first. It goes to the store in flights (writeback.go).

// buffer is the unflushed data of one inode; it exists only while there is some.
type buffer struct {
	objs  []*objBuf // by index
	since int64     // the oldest write that no flush was begun for; 0: none
	goal  uint64    // what was written up to this count is to go out without being asked for again
	sure  uint64    // all that a file of this size had when it had it is in the store
	// insist: the next UPDATE hands dirty fields in although newer data is buffered.
	insist bool
	kept   bool // a flight was held back: the journal does not hold the file yet
}

// objBuf is the part of one object. One flight of it at most is under way, so that two writes
// of one byte can never overtake each other.
type objBuf struct {
	idx   uint64
	dirty extents
	fly   extents // in flight: these bytes do not change
	bytes int     // of dirty
	from  uint64  // where the next flight begins: all get their turn
}

// writeback is the state of the whole mount; guarded by Client.mu.
type writeback struct {
	seq    uint64 // counts buffered writes
	held   int64  // bytes dirty or in flight
	flying int64  // … of these in flight
	bufs   map[*Inode]struct{}
	room   event // held became less
	outbox []*flight
	kicked int64 // when all buffers were flushed for want of room
	// full: the store refused bytes for want of space. Writes go through, so that write() says
	// so itself, until one of them succeeds.
	full     bool
	losses   uint64 // flights that failed, of any file
	lossWhat error
	// counters
	buffered, through, flights uint64
}

// Stats of a mount, for people and tests.
type Stats struct {
	Buffered       int64  `json:"buffered_bytes"`  // that the store does not have
	Flying         int64  `json:"flying_bytes"`    // … on their way there
	Files          int    `json:"buffered_files"`  // that have some
	WritesBuffered uint64 `json:"writes_buffered"` // since the start
	WritesThrough  uint64 `json:"writes_through"`  // … that went to the store before write() returned
	Flights        uint64 `json:"flights"`         // … that carried buffered bytes
	Losses         uint64 `json:"flights_lost"`
}

// Stats looks at what is held back.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &c.wb
	return Stats{w.held, w.flying, len(w.bufs), w.buffered, w.through, w.flights, w.losses}
}

// mayBuffer: under Fb. While a REVOKE is at work it stays issued until step 2.
func (c *Client) mayBuffer(in *Inode) bool {
	return in.cap.issued.Has(caps.FileBuffer|caps.FileWr) && in.usable() && !c.wb.full && c.cfg.DirtyMax > 0
}

// hasRoom reports whether n more bytes may be held back; if not, everything is on its way out.
func (c *Client) hasRoom(n int) bool {
	left := c.wb.held + int64(n)
	if now := c.now(); left-c.wb.flying > c.cfg.DirtyMax/2 && now-c.wb.kicked > int64(5*time.Millisecond) {
		c.wb.kicked = now
		for in := range c.wb.bufs {
			c.flushData(in)
		}
	}
	return left <= c.cfg.DirtyMax || c.wb.held == 0
}

// hold buffers data of a write that was admitted.
func (c *Client) hold(in *Inode, data []byte, off uint64) {
	b := in.buf
	if b == nil {
		b = &buffer{}
		in.buf = b
		c.wb.bufs[in] = struct{}{}
	}
	if b.since == 0 {
		b.since = c.now()
	}
	c.wb.seq++
	c.wb.buffered++
	for len(data) > 0 {
		idx, at := off/in.osize, off%in.osize
		n := min(in.osize-at, uint64(len(data)))
		ob := b.obj(idx)
		var grew int
		ob.dirty, grew = ob.dirty.put(at, data[:n], c.wb.seq)
		ob.bytes += grew
		c.wb.held += int64(grew)
		// An object that is written to its end, or all over, will hardly be written again soon.
		if full := uint64(ob.bytes) >= in.osize; full || at+n == in.osize && ob.bytes >= joinMax || ob.bytes >= maxFlight {
			c.launch(in, ob)
		}
		data, off = data[n:], off+n
	}
}

func (b *buffer) at(idx uint64) (int, bool) {
	if n := len(b.objs); n > 0 && b.objs[n-1].idx < idx {
		return n, false
	}
	return slices.BinarySearchFunc(b.objs, idx, func(o *objBuf, i uint64) int {
		switch {
		case o.idx < i:
			return -1
		case o.idx > i:
			return 1
		}
		return 0
	})
}

func (b *buffer) obj(idx uint64) *objBuf {
	i, ok := b.at(idx)
	if !ok {
		b.objs = slices.Insert(b.objs, i, &objBuf{idx: idx})
	}
	return b.objs[i]
}

// oldest is the count of the oldest write that is not in the store.
func (b *buffer) oldest() uint64 {
	o := ^uint64(0)
	for _, ob := range b.objs {
		o = min(o, ob.dirty.oldest(), ob.fly.oldest())
	}
	return o
}

func (b *buffer) flying() bool {
	return slices.ContainsFunc(b.objs, func(ob *objBuf) bool { return ob.fly != nil })
}

// lowest is the first byte of the file that the store does not have.
func (in *Inode) lowest() uint64 {
	low := ^uint64(0)
	for _, ob := range in.buf.objs {
		for _, x := range []extents{ob.dirty, ob.fly} {
			if len(x) > 0 {
				low = min(low, ob.idx*in.osize+x[0].off)
			}
		}
	}
	return low
}

// holds reports whether some byte of [off, end) is buffered.
func (in *Inode) holds(off, end uint64) bool {
	if in.buf == nil {
		return false
	}
	for _, s := range in.spans(off, end-off) {
		if i, ok := in.buf.at((off + s.at) / in.osize); ok {
			ob := in.buf.objs[i]
			if ob.dirty.within(s.off, s.off+s.len) || ob.fly.within(s.off, s.off+s.len) {
				return true
			}
		}
	}
	return false
}

// pieces are the buffered bytes of [off, off+n), with offsets in that range; later ones are
// newer. A reader notes them before it asks the store: when the answer comes, a flight may
// have landed that the store's read did not see.
func (in *Inode) pieces(off, n uint64) (out extents, all bool) {
	if in.buf == nil {
		return nil, false
	}
	all = true
	for at := uint64(0); at < n; {
		o := (off + at) % in.osize
		l := min(in.osize-o, n-at)
		if i, ok := in.buf.at((off + at) / in.osize); ok {
			ob := in.buf.objs[i]
			for _, x := range []extents{ob.fly, ob.dirty} {
				for j := x.find(o); j < len(x) && x[j].off < o+l; j++ {
					from, to := max(x[j].off, o), min(x[j].end(), o+l)
					out = append(out, extent{off: at + from - o, data: x[j].data[from-x[j].off : to-x[j].off]})
				}
			}
			all = all && covered(o, o+l, ob.dirty, ob.fly)
		} else {
			all = false
		}
		at += l
	}
	return out, all
}

// lay copies pieces over dst; they may overlap, so in their order.
func lay(dst []byte, pieces extents) {
	for _, p := range pieces {
		if p.off < uint64(len(dst)) {
			copy(dst[p.off:], p.data)
		}
	}
}
