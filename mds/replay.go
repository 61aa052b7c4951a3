package mds

import (
	"fmt"
	"sort"
	"strconv"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// Start of a rank: replay → reconnect → clientreplay → active (section 6).
//
// The journal is read piece by piece and applied as it comes, so that neither memory nor a step
// grows with it, by record versions to a cache that knows nothing else. What lies past its end is wiped, a header with this
// incarnation is written, and only then is anything appended. No dirfrag is read by the
// replay itself: directories it mentions stay incomplete, their inodes stubs, until asked for.

// Rank states that the core itself tells apart.
const (
	stateReplay       = clustermap.RankReplay
	stateReconnect    = clustermap.RankReconnect
	stateClientReplay = clustermap.RankClientReplay
	stateActive       = clustermap.RankActive
	stateStopped      = clustermap.RankStopped
)

// replayState is alive until the rank is active.
type replayState struct {
	header    journal.Header
	found     bool // a header existed
	reader    journalReader
	end       journal.End
	held      []heldMsg // requests that came before the rank was active
	running   bool
	waits     bool // the request whose turn it is has parked
	afterCuts func()
}

type heldMsg struct {
	s *session
	m *wire.Request
}

func (r *Rank) setState(s clustermap.RankState) {
	if s != r.state {
		r.logf(LogInfo, "rank %d: state %d", r.cfg.Rank, s)
		r.state = s
	}
}

func (r *Rank) start() {
	must.Holdf(r.replay == nil && r.jw == nil, "rank started twice")
	r.setState(stateReplay)
	r.replay = &replayState{}
	r.makeBase()
	r.object(0, r.journalHead(), []wire.ObjOp{{Kind: wire.ObjRead, Len: journal.EncodedHeader}}, func(e uint32, res []wire.ObjResult) {
		rp := r.replay
		switch {
		case errno(e) == eNOENT && r.cfg.Create:
			r.replayed(journal.End{})
			return
		case e != 0 || len(res) != 1:
			r.damaged(fmt.Errorf("mds: read journal header: errno %d", e))
			return
		}
		h, err := journal.DecodeHeader(res[0].Data)
		if err != nil {
			r.damaged(fmt.Errorf("mds: rank %d: %w", r.cfg.Rank, err))
			return
		}
		rp.header, rp.found = h, true
		r.readJournal(h)
	})
}

// recallPurged finds the inodes whose purge the journal ends: the index may have their lines
// still, since these go only with the flush of the stray directory.
func (r *Rank) recallPurged() {
	for i := range wire.SystemShards {
		in := r.inodes[wire.StrayDir(r.cfg.Rank, i)]
		if in == nil || in.dir == nil {
			continue
		}
		for _, dn := range in.dir.sortedNames() {
			ino, err := strconv.ParseUint(dn.name, 16, 64)
			if dn.kind == dnNull && err == nil && r.inodes[wire.Ino(ino)] == nil {
				in.dir.purged = append(in.dir.purged, wire.Ino(ino))
			}
		}
	}
}

// applyEntry brings the cache to what it was after the entry (ES5).
func (r *Rank) applyEntry(e *entryRec, at journal.Mark, end journal.Pos) error {
	if t := e.Tables; t != nil {
		r.segs = append(r.segs, segment{at: journal.Mark{Pos: at.Pos, Seq: at.Seq, Inc: at.Inc}})
		if len(r.segs) == 1 {
			for i := range t.Sessions {
				r.replaySession(&t.Sessions[i])
			}
			r.inos.max = t.InoMax
			r.nest.seek = t.Owing
			for i := range t.Moves {
				r.replayMove(&t.Moves[i])
			}
		}
		r.inos.end = max(r.inos.end, t.InoEnd)
	}
	for i := range e.Opened {
		r.replaySession(&e.Opened[i])
	}
	for _, k := range e.Closed {
		if s := r.sessions[k]; s != nil {
			r.removeSession(s)
			s.state = sessDead
		}
	}
	r.inos.end = max(r.inos.end, e.InoEnd)
	if s := r.sessions[e.Session]; s != nil && e.Tid != 0 {
		s.announce(e.Oldest)
		s.done = append(s.done, doneReq{Tid: e.Tid, Ino: e.Ino})
	}
	var homeless []*inode
	type bindRec struct {
		dn  *dentry
		rec dentryRec
	}
	var binds []bindRec
	for i := range e.Dentries {
		x := &e.Dentries[i]
		var rec dentryRec
		if err := wire.Unmarshal(x.Rec, &rec); err != nil {
			return err
		}
		d := r.stubDir(x.Dir)
		dn := r.dentry(d, x.Name)
		if dn.version >= rec.Version {
			continue
		}
		if dn.kind != dnNull {
			if dn.kind == dnHome {
				homeless = append(homeless, dn.in)
			}
			r.unbind(dn)
		}
		dn.version, dn.hash = rec.Version, rec.Hash
		r.markDirty(dn)
		r.markDirDirty(d, at.Pos, end)
		binds = append(binds, bindRec{dn, rec})
	}
	for i := range binds {
		dn, rec := binds[i].dn, &binds[i].rec
		switch rec.Kind {
		case dnNull:
		case dnRemote:
			r.attachRemote(dn, rec)
		case dnHome:
			if rec.Inode == nil || rec.Inode.Ino != rec.Ino {
				return fmt.Errorf("%v: home without its inode", dn)
			}
			in := r.inodes[rec.Ino]
			if in == nil {
				in = r.newInode(rec.Inode.memory())
			} else {
				if in.home != nil {
					return fmt.Errorf("%v: %v is at home in %v", dn, in, in.home)
				}
				in.rec, in.stub = rec.Inode.memory(), false
				r.account(in)
			}
			r.attach(dn, dnHome, in)
		default:
			return fmt.Errorf("%v: kind %d", dn, rec.Kind)
		}
	}
	for _, in := range homeless {
		if in.home == nil && !in.dead {
			r.forget(in)
		}
	}
	for i := range e.Headers {
		x := &e.Headers[i]
		var h headerRec
		if err := wire.Unmarshal(x.Rec, &h); err != nil {
			return err
		}
		d := r.stubDir(x.Dir)
		if !d.loaded || h.Version > d.hdr.Version {
			d.hdr, d.loaded = h, true
			r.markDirDirty(d, at.Pos, end)
		}
	}
	for i := range e.Moves {
		r.replayMove(&e.Moves[i])
	}
	return nil
}

func (r *Rank) replaySession(v *sessionRec) {
	key := SessionKey(v.Instance.Nonce)
	if r.sessions[key] != nil {
		return
	}
	r.sessionSeq++
	s := &session{key: key, seq: r.sessionSeq, instance: v.Instance, host: v.Host, oldest: v.Oldest, done: v.Done, state: sessReconnect}
	r.addSession(s)
}

// stubInode is the cached inode of a directory, a stub when its home was not read yet.
func (r *Rank) stubInode(ino wire.Ino) *inode {
	in := r.inodes[ino]
	if in == nil {
		in = r.newInode(inodeRec{Ino: ino, Mode: modeDir, Nlink: 1})
		in.stub = true
	}
	return in
}

func (r *Rank) stubDir(ino wire.Ino) *dir { return r.dirOf(r.stubInode(ino)) }

// replayed: the journal is in the cache. Wipe what lies past its end, write a header of this
// incarnation, then begin to append.
func (r *Rank) replayed(end journal.End) {
	rp := r.replay
	rp.end = end
	off, n := journal.Wipe(end.Pos, journal.DefaultLimits)
	left := 1
	step := func(e uint32, _ []wire.ObjResult) {
		if e != 0 && errno(e) != eNOENT {
			r.damaged(fmt.Errorf("mds: wipe journal at %d: errno %d", off, e))
			return
		}
		if left--; left == 0 {
			r.writeFirstHeader()
		}
	}
	if rp.found {
		for _, p := range journal.Pieces(off, n) {
			obj := wire.ObjectID{Pool: r.cfg.MetaPool, Name: journal.ObjectName(r.journalPrefix(), p.Index)}
			op := wire.ObjOp{Kind: wire.ObjRemove}
			if p.Off > 0 {
				op = wire.ObjOp{Kind: wire.ObjTruncate, Off: uint64(p.Off)}
			}
			left++
			r.object(0, obj, []wire.ObjOp{op}, step)
		}
	}
	step(0, nil)
}

func (r *Rank) writeFirstHeader() {
	rp := r.replay
	inc := max(r.cfg.Incarnation, rp.header.Inc+1, rp.end.Inc+1)
	h := journal.Header{Expire: rp.header.Expire, Inc: inc, Start: rp.end.Pos, Durable: rp.end.Pos}
	b := h.Encode()
	r.object(0, r.journalHead(), []wire.ObjOp{{Kind: wire.ObjWriteFull, Data: b, DataLen: uint32(len(b))}}, func(e uint32, _ []wire.ObjResult) {
		if e != 0 {
			r.damaged(fmt.Errorf("mds: write journal header: errno %d", e))
			return
		}
		r.jw = journal.NewWriter(rp.end.Mark, inc, journal.DefaultLimits)
		r.durablePos = rp.end.Pos
		r.replayEnd = rp.end.Pos
		r.expire.oldest = h.Expire.Pos
		r.burn()
		r.newSegment()
		if r.cfg.FlushOnly {
			r.flushOnly()
			return
		}
		if !r.baseDir().complete && rp.end.Records == 0 {
			r.makeTree()
			return
		}
		r.loadSystem()
	})
}

// burn gives up every number that was journaled before this life (4.15).
func (r *Rank) burn() {
	t := &r.inos
	if t.max == 0 {
		lo := wire.FirstFreeIno
		if len(r.cfg.InoRanges) > 0 {
			lo = wire.Ino(r.cfg.InoRanges[0] << 40)
		}
		t.end, t.max = lo, lo+1<<40
	}
	t.next, t.durableEnd, t.burned = t.end, t.end, t.end
}

func (r *Rank) baseDir() *dir { return r.dirOf(r.base) }

// makeBase makes up the base directory's inode.
func (r *Rank) makeBase() {
	r.base = r.newInode(inodeRec{Ino: wire.BaseDir(r.cfg.Rank), Mode: modeDir | 0o700, Nlink: 1})
}

// makeTree makes an empty file system, or what a further rank of one has of its own: one entry.
func (r *Rank) makeTree() {
	b := r.baseDir()
	b.loaded, b.complete = true, true
	ent := r.newEntry()
	add := func(name string, ino wire.Ino, mode uint32) {
		in := r.newInode(inodeRec{Ino: ino, Mode: modeDir | mode, Nlink: 1, Atime: r.wall, Mtime: r.wall, Ctime: r.wall, Btime: r.wall, Change: 1})
		dn := r.dentry(b, name)
		r.bind(dn, dnHome, in)
		b.hdr.Entries++
		b.hdr.Subdirs++
		r.bornEmpty(in)
		ent.dentry(dn)
		ent.header(in.dir)
	}
	if r.cfg.Rank == 0 {
		add(rootName, wire.RootIno, 0o755)
	}
	for i := 0; i < wire.SystemShards; i++ {
		add(strayDirName(i), wire.StrayDir(r.cfg.Rank, i), 0o700)
		add(linksDirName(i), wire.LinksDir(r.cfg.Rank, i), 0o700)
	}
	pos := r.submit(ent)
	r.extendInos()
	r.whenDurable(pos, r.systemLoaded)
}

// loadSystem reads the base directory, then the stray directories: what is in them must be
// purged, and a client may name it by number.
func (r *Rank) loadSystem() {
	r.whenComplete(r.baseDir(), func() {
		left := wire.SystemShards
		for i := 0; i < wire.SystemShards; i++ {
			r.whenComplete(r.systemDir(wire.StrayDir(r.cfg.Rank, i)), func() {
				if left--; left == 0 {
					r.extendInos()
					r.systemLoaded()
				}
			})
		}
	})
}

func (r *Rank) whenComplete(d *dir, fn func()) {
	if d.complete {
		fn()
		return
	}
	// Asked again: a header that was being read wakes those who wait for the names, too.
	d.waiters = append(d.waiters, func() { r.whenComplete(d, fn) })
	r.fetch(d)
}

func (r *Rank) systemLoaded() {
	r.root = r.inodes[wire.RootIno]
	if r.root == nil && r.cfg.Rank == 0 {
		r.damaged(fmt.Errorf("mds: the base directory has no root"))
		return
	}
	for i := 0; i < wire.SystemShards; i++ {
		r.strayDir(wire.Ino(i)).order.Ascend(func(dn *dentry) bool {
			if dn.in != nil {
				r.noteStray(dn.in)
			}
			return true
		})
	}
	r.redoCuts(func() {
		r.setState(stateReconnect)
		r.askEnds()
		r.startReconnect()
	})
}

// reconnectDone: every session of before has told what it holds, or is gone. Unsafe requests
// and flushes run now, one after the other, before anything new.
func (r *Rank) reconnectDone() {
	must.Holdf(r.state == stateReconnect, "reconnect ended in state %d", r.state)
	r.setState(stateClientReplay)
	for _, s := range r.order {
		sort.SliceStable(s.replay, func(i, j int) bool { return s.replay[i].tid < s.replay[j].tid })
	}
	r.replayNext()
}

// replayNext runs the next resent item; in session order, by tid within one.
func (r *Rank) replayNext() {
	if r.state != stateClientReplay || r.replay.running || r.replay.waits {
		return
	}
	r.replay.running = true
	defer func() {
		if r.replay != nil {
			r.replay.running = false
		}
	}()
	for _, s := range r.order {
		for len(s.replay) > 0 {
			it := s.replay[0]
			s.replay = s.replay[1:]
			if it.flush != nil {
				r.replayFlush(s, it.flush)
				continue
			}
			if ino, done := s.isDone(it.tid); done {
				r.answerDone(s, it.req, ino)
				continue
			}
			q := r.execute(s, it.req, true)
			if q.alive && q.Tid == it.tid && q.sess == s {
				r.replay.waits = true
				return // parked: its end comes back here
			}
		}
	}
	r.goActive()
}

func (r *Rank) goActive() {
	held := r.replay.held
	r.replay = nil
	r.setState(stateActive)
	r.expire.due = true
	if r.fsmap != nil && r.fsmap.MaxRanks > 1 {
		r.awaitGuests() // of what was handed over just before the life before ended
	}
	r.dropUnplaced()
	r.seekMore()
	r.reissueAll()
	r.reclaimLocks()
	for _, h := range held {
		if h.s.alive() {
			r.request(h.s, h.m)
		}
	}
	r.replayOpens()
}

// hold keeps a request that came before the rank was active. Replayed ones join their
// session's list when they come in time.
func (r *Rank) hold(s *session, m *wire.Request) {
	if r.replay == nil {
		return // stopping
	}
	if m.Flags&wire.ReqReplay != 0 && r.state == stateReconnect && m.Op.Mutates() {
		s.replay = append(s.replay, replayItem{tid: m.Tid, req: m})
		return
	}
	r.replay.held = append(r.replay.held, heldMsg{s, m})
}

// openByHint finds an inode that a client names with the dentry it was reached by. A hint may
// be wrong (a rename that was not durable); then the index knows.
func (r *Rank) openByHint(ino, parent wire.Ino, name string, done func(place)) {
	p := r.inodes[parent]
	if in := r.inodes[ino]; in != nil && !in.stub || p == nil || p.stub || !p.isDir() {
		r.locate(ino, 0, done)
		return
	}
	r.openIn(r.dirOf(p), ino, name, func() { r.locate(ino, 0, done) })
}

// openIn makes sure that d is read, and the inode if its home may be there under name.
func (r *Rank) openIn(d *dir, ino wire.Ino, name string, then func()) {
	r.whenComplete(d, func() {
		dn := d.names[name]
		switch {
		case dn == nil || dn.ino != ino || dn.in != nil:
			then()
		case dn.kind == dnHome:
			r.loadInode(dn, then)
		case d == r.linksDir(ino):
			then()
		default:
			r.openIn(r.linksDir(ino), ino, strayName(ino), then)
		}
	})
}
