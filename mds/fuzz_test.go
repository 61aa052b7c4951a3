package mds

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// Clients that say anything at all, in well-formed messages: names, numbers, masks, sizes and
// sequence numbers at random, answers nobody asked for, sessions that close and come back,
// ranks that die. The rank must not panic, its invariants hold after every step (Config.Check),
// and an honest client beside them is served.
func TestClientsThatSayAnything(t *testing.T) {
	seeds, steps := int64(12), 1500
	if testing.Short() {
		seeds = 8
	}
	for seed := int64(1); seed <= seeds; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { sayAnything(t, seed, steps) })
	}
}

type babble struct {
	*rand.Rand
	w    *capWorld
	inos []wire.Ino
}

func (b *babble) oneOf(v ...uint64) uint64 { return v[b.Intn(len(v))] }

func (b *babble) ino() wire.Ino {
	if b.Intn(8) == 0 {
		return wire.Ino(b.oneOf(0, 2, 3, uint64(wire.StrayDir(0, b.Intn(wire.SystemShards))), uint64(wire.LinksDir(0, b.Intn(wire.SystemShards))), 1<<40+b.Uint64()%99, ^uint64(0), 1<<63))
	}
	return b.inos[b.Intn(len(b.inos))]
}

func (b *babble) name() string {
	if b.Intn(12) == 0 {
		return []string{"", ".", "..", "a/b", "x\x00y", strings.Repeat("n", 255), strings.Repeat("n", 256), "\xff\xfe", "stray0", "root"}[b.Intn(10)]
	}
	return fmt.Sprint("n", b.Intn(6))
}

func (b *babble) size() uint64 {
	return b.oneOf(0, 1, 4095, 4096, 9<<20, 30<<20, wire.MaxFileBytes-1, wire.MaxFileBytes, wire.MaxFileBytes+1, 1<<62, 1<<63, ^uint64(0))
}

// little is a size whose objects a test can count.
func (b *babble) little() uint64 {
	return b.oneOf(0, 1, 4096, 9<<20, 30<<20, wire.MaxFileBytes+1, 1<<63)
}

func (b *babble) bits() caps.Bits {
	switch b.Intn(4) {
	case 0:
		return caps.Bits(b.Uint32())
	case 1:
		return wW
	case 2:
		return wA
	}
	return wR
}

func (b *babble) set() wire.SetMask {
	m := wire.SetMask(b.Uint32())
	return m
}

func (b *babble) time() wire.Time { return wire.Time{Sec: int64(b.Uint64()), Nsec: b.Uint32()} }

func (b *babble) attr() wire.SetAttr {
	return wire.SetAttr{Mode: b.Uint32(), UID: b.Uint32(), GID: b.Uint32(), Size: b.little(), Atime: b.time(), Mtime: b.time(), Ctime: b.time()}
}

func (b *babble) bytes() []byte {
	p := make([]byte, b.oneOf(0, 1, 4, 28, 36, 300, wire.MaxXattrValue, wire.MaxXattrValue+1))
	b.Read(p)
	if len(p) >= 28 && b.Intn(2) == 0 {
		copy(p, acl{{aclUserObj, 6, 0}, {aclGroupObj, 4, 0}, {aclOther, 0, 0}}.encode())
	}
	return p
}

func (b *babble) lock() wire.FileLock {
	return wire.FileLock{Type: wire.LockType(b.oneOf(0, 1, 2, 2, 3, 255)), Flock: b.Intn(2) == 0, Owner: b.Uint64() % 3, PID: 1,
		Start: b.oneOf(0, 5, 1<<63, ^uint64(0)), End: b.oneOf(0, 9, EOFLock, 1<<63, ^uint64(0)), Wait: b.Intn(2) == 0, Ticket: b.Uint64() % 50}
}

// EOFLock is a lock's end that means the end of the file.
const EOFLock = 1<<63 - 1

func (b *babble) seq(k *clientCap) uint32 {
	if k == nil || b.Intn(4) == 0 {
		return uint32(b.oneOf(0, 1, 2, 3, 1<<31, 1<<32-1))
	}
	return k.seq - uint32(b.Intn(3))
}

func (b *babble) update(c *capClient) *wire.CapUpdate {
	ino := b.ino()
	k := c.caps[ino]
	u := &wire.CapUpdate{Ino: ino, Seq: b.seq(k), Retained: b.bits(), Wanted: b.bits(), Oldest: wire.Tid(b.Uint64() % 4), TruncSeq: uint32(b.Intn(3))}
	if k != nil && b.Intn(8) > 0 {
		u.CapID = k.id
	} else {
		u.CapID = b.Uint64() % 9
	}
	if b.Intn(3) == 0 {
		u.WantMax = b.size()
		if u.WantMax > 64<<20 && u.WantMax <= wire.MaxFileBytes {
			u.WantMax = 64 << 20 // it would be allowed, and a recovery takes that many looks
		}
	}
	if b.Intn(2) == 0 {
		c.tid++
		u.Dirty, u.FlushTid, u.Set, u.Attr = b.bits(), c.tid-wire.Tid(b.Intn(3)), b.set(), b.attr()
		u.Attr.Size = b.size()
	}
	u.Replay = b.Intn(10) == 0
	return u
}

func (b *babble) request(c *capClient) *wire.Request {
	q := &wire.Request{Op: wire.Op(b.Intn(23)), Flags: wire.ReqFlags(b.oneOf(0, 0, 0, 0, 1, 2, 3, 255)), Ino: b.ino(), Name: b.name(), NewDir: b.ino(), NewName: b.name(), Other: b.ino(),
		GivenIno: b.ino(), UID: b.Uint32(), GID: b.Uint32(), Mode: b.Uint32(), Umask: b.Uint32(), Rdev: b.Uint32(), Target: b.name(), RenameFlags: uint32(b.oneOf(0, 0, 0, 1, 2, 3, 4)),
		OpenFlags: uint32(b.oneOf(0, oEXCL, 1, 2, 3, 1<<32-1)), Want: b.bits(), Mask: wire.AttrMask(b.Intn(256)), Set: b.set(), Attr: b.attr(),
		Xname: []string{"user.a", "user.", "trusted.x", "security.y", "system.posix_acl_access", "system.posix_acl_default", "", "nonsense", strings.Repeat("x", 256)}[b.Intn(9)],
		Xval:  b.bytes(), Cookie: b.oneOf(0, 3, b.Uint64(), ^uint64(0)), Max: uint32(b.oneOf(0, 1, 5, 1<<32-1)), Lock: b.lock(), Oldest: wire.Tid(b.oneOf(0, 1, uint64(c.tid), 1<<62, ^uint64(0)))}
	if b.Intn(12) == 0 {
		q.Target = strings.Repeat("t", wire.MaxSymlink+b.Intn(2))
	}
	for range b.Intn(3) {
		q.Release = append(q.Release, *b.update(c))
	}
	if q.Op.Mutates() {
		c.tid++
		q.Tid = c.tid - wire.Tid(b.oneOf(0, 0, 0, 0, 1))
	} else {
		c.read++
		q.Tid = c.read | wire.ReadTid
	}
	return q
}

func (b *babble) message(c *capClient) wire.Message {
	switch b.Intn(24) {
	case 0, 1, 2, 3, 4:
		return b.update(c)
	case 5:
		ino := b.ino()
		k := c.caps[ino]
		rel := wire.ReleasedCap{Ino: ino, CapID: b.Uint64() % 9, IssueSeq: b.seq(k)}
		if k != nil {
			rel.CapID = k.id
		}
		return &wire.CapRelease{Caps: []wire.ReleasedCap{rel, rel}}
	case 6:
		return &wire.CapBusy{Ino: b.ino(), PG: wire.PGID{Pool: b.Uint32() % 4}}
	case 7:
		return &wire.LeaseAck{Dir: b.ino(), Name: b.name(), Seq: b.Uint32() % 99}
	case 8, 9:
		return &wire.LockCancel{Tid: wire.ReadTid | (c.read - wire.Tid(b.Intn(4))), Ino: b.ino(), Lock: b.lock()}
	case 10:
		return &wire.Renew{Seq: b.Uint64()}
	case 11:
		if b.Intn(12) == 0 {
			return &wire.SessionClose{}
		}
		return &wire.SessionOpen{Instance: c.inst}
	case 12:
		if b.Intn(12) == 0 {
			return b.reconnect(c)
		}
		return &wire.Safe{Tid: 1} // not a client's to say
	}
	return b.request(c)
}

func (b *babble) reconnect(c *capClient) *wire.Reconnect {
	m := &wire.Reconnect{Instance: c.inst, Last: b.Intn(3) > 0, Oldest: wire.Tid(b.Uint64() % 3)}
	for range b.Intn(6) {
		m.Caps = append(m.Caps, wire.ReconnectCap{Ino: b.ino(), Parent: b.ino(), Name: b.name(), Issued: b.bits(), Wanted: b.bits()})
	}
	for range b.Intn(4) {
		m.Locks = append(m.Locks, wire.ReconnectLock{Ino: b.ino(), Lock: b.lock(), Waiting: b.Intn(2) == 0, Tid: wire.ReadTid | c.read, WaitedUs: b.Uint64() >> b.Intn(64)})
	}
	return m
}

func sayAnything(t *testing.T, seed int64, steps int) {
	w := newCapWorld(t)
	b := &babble{Rand: rand.New(rand.NewSource(seed)), w: w}
	honest := w.client("honest")
	home := honest.must(wire.Request{Op: wire.OpMkdir, Ino: wire.RootIno, Name: "home", Mode: 0o755}).Target.Ino
	var mad []*capClient
	for i := range 3 {
		mad = append(mad, w.client(fmt.Sprint("mad", i)))
		mad[i].loose = true
	}
	b.inos = []wire.Ino{wire.RootIno, home}
	epoch := wire.Epoch(6)
	w.hold = true
	learn := func() {
		for ino, in := range w.r.inodes { // order does not matter: it is sorted before use
			if !in.isSystem() && len(b.inos) < 40 && !has(b.inos, ino) {
				b.inos = append(b.inos, ino)
			}
		}
		sortInos(b.inos)
	}
	for n := range steps {
		c := mad[b.Intn(len(mad))]
		c.quiet = true
		if c.gone != "" { // it comes back as somebody else
			c.key += 1000
			c.inst.Nonce = uint64(c.key)
			w.clients[c.key] = c
			c.gone, c.open, c.caps = "", nil, map[wire.Ino]*clientCap{}
			c.send(0, &wire.SessionOpen{Instance: c.inst})
		}
		m := b.message(c)
		tid := wire.Tid(b.Uint64() % 9)
		if q, ok := m.(*wire.Request); ok {
			tid = q.Tid
		}
		c.send(tid, m)
		for k := b.Intn(8); k > 0; k-- {
			w.one(b.Intn)
		}
		late := false // time passes for an honest client only when it was heard
		for i := range w.pending {
			late = late || w.pending[i].lane == "from honest"
		}
		if b.Intn(20) == 0 && !late {
			w.now += int64(b.oneOf(1e6, 1e8, 3e9))
			w.step(Event{Kind: Tick})
		}
		if n%50 == 0 {
			learn()
			honest.quiet = true
			honest.send(0, &wire.Renew{Seq: uint64(n)})
		}
		if b.Intn(400) == 0 {
			epoch++
			w.boot(false, epoch)
			w.hold = true
			for _, c := range append(mad, honest) {
				if c == honest {
					for n := 0; w.r.state < stateReconnect && n < 10000; n++ {
						w.one(b.Intn)
					}
					c.send(0, &wire.Reconnect{Instance: c.inst, Last: true})
					continue
				}
				for range b.Intn(4) {
					q := b.request(c)
					q.Flags = wire.ReqReplay
					c.send(q.Tid, q)
				}
				c.send(0, b.reconnect(c))
			}
		}
	}
	// The mad ones fall silent; the honest one is served.
	for _, c := range mad {
		c.mute, c.deaf = true, true
	}
	w.hold = false
	w.run()
	for range 120 {
		w.pass(1e9)
	}
	if honest.gone != "" || w.r.state != stateActive {
		t.Fatalf("honest: %q, rank in state %v", honest.gone, w.r.state)
	}
	q := wire.Request{Op: wire.OpCreate, Ino: home, Name: "mine", Mode: 0o644, Want: wW}
	rep := honest.reply[honest.request(q)]
	for range 60 {
		if rep != nil {
			break
		}
		w.pass(1e9)
		rep = honest.reply[honest.tid]
	}
	if rep == nil {
		t.Fatalf("honest waits: %+v", w.r.Why())
	}
}

func has(l []wire.Ino, i wire.Ino) bool {
	for _, x := range l {
		if x == i {
			return true
		}
	}
	return false
}

func sortInos(l []wire.Ino) {
	for i := 1; i < len(l); i++ {
		for j := i; j > 0 && l[j] < l[j-1]; j-- {
			l[j], l[j-1] = l[j-1], l[j]
		}
	}
}
