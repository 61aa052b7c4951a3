package mds

import (
	"fmt"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// An entry is one journal record: whole new records of everything an update touched (ES5),
// and the tid of who asked for it. It is encoded when it is submitted, after the update was
// applied to the cache, so it takes no copy of anything.

// entry collects what an update touched.
type entry struct {
	busy    bool
	dns     []*dentry
	dirs    []*dir // whose header goes in
	sess    *session
	tid     wire.Tid
	ino     wire.Ino
	rest    journal.Pos // stamp of the early reply
	opened  []*session
	closed  []SessionKey
	tables  bool // head of a segment
	inoEnd  wire.Ino
	fsyncIt bool
	moves   []*move // whose record goes in
	sums    bool    // it only brings sums up the tree: nothing that a client is shown of the objects changes
}

// entryRec is an entry as the decoder sees it.
type entryRec struct {
	_msgpack struct{} `msgpack:",as_array"`
	Session  SessionKey
	Tid      wire.Tid
	Ino      wire.Ino
	Oldest   wire.Tid
	Dentries []entryDentry
	Headers  []entryHeader
	Opened   []sessionRec
	Closed   []SessionKey
	InoEnd   wire.Ino // not 0: numbers below may have been shown
	Tables   *tablesRec
	Moves    []moveRec // directories that change hands (moves.go)
}

type entryDentry struct {
	_msgpack struct{} `msgpack:",as_array"`
	Dir      wire.Ino
	Name     string
	Rec      []byte // dentryRec with its version byte: the same bytes as in the dirfrag object
}

type entryHeader struct {
	_msgpack struct{} `msgpack:",as_array"`
	Dir      wire.Ino
	Rec      []byte // headerRec with its version byte
}

// sessionRec is the durable part of a session.
type sessionRec struct {
	_msgpack struct{} `msgpack:",as_array"`
	Instance wire.Instance
	Host     string
	Oldest   wire.Tid
	Done     []doneReq
}

// tablesRec opens a segment: everything that is not in dirfrags, so that replay may start here.
type tablesRec struct {
	_msgpack struct{} `msgpack:",as_array"`
	Sessions []sessionRec
	InoEnd   wire.Ino
	InoMax   wire.Ino
	Owing    []wire.Ino // inodes of which the directory above may not count yet what they are (nest.go)
	Moves    []moveRec  // directories of other ranks, or from them (rule XP6)
}

// WireVersion is 3 since directories move between ranks.
func (*entryRec) WireVersion() byte { return 3 }

// newEntry starts the entry of an update. One at a time: it is submitted in the same step.
func (r *Rank) newEntry() *entry {
	e := &r.ent
	must.Holdf(!e.busy, "an entry is open already")
	*e = entry{busy: true, dns: e.dns[:0], dirs: e.dirs[:0], opened: e.opened[:0], closed: e.closed[:0], moves: e.moves[:0]}
	return e
}

// by says whose request or flush this is: its tid joins the completed set in the same entry
// and counts for the watermark. rest is the stamp of the early reply.
func (e *entry) by(s *session, tid wire.Tid, ino wire.Ino, rest journal.Pos) {
	e.sess, e.tid, e.ino, e.rest = s, tid, ino, rest
}

// dentry: the name's new record goes in, with the inode when it is at home here.
func (e *entry) dentry(dn *dentry) {
	for _, x := range e.dns {
		if x == dn {
			return
		}
	}
	e.dns = append(e.dns, dn)
	e.header(dn.dir)
}

// inode: the record of in goes in, with its home dentry.
func (e *entry) inode(in *inode) {
	must.Holdf(in.home != nil, "%v has no home", in)
	in.rec.Change++
	e.dentry(in.home)
}

// header: the directory's counts and times go in.
func (e *entry) header(d *dir) {
	for _, x := range e.dirs {
		if x == d {
			return
		}
	}
	e.dirs = append(e.dirs, d)
}

// submit journals e and stamps what it touched; the position is what effects of the update
// wait for.
func (r *Rank) submit(e *entry) journal.Pos {
	must.Holdf(e.busy && r.jw != nil, "no entry to submit, or no journal")
	start := r.jw.End()
	for _, dn := range e.dns {
		if dn.kind == dnHome && !e.sums {
			r.noteChange(dn)
		}
		dn.dir.hdr.Version++
		dn.version = dn.dir.hdr.Version
	}
	for _, d := range e.dirs {
		d.hdr.Version++
	}
	pos := r.jw.Commit(e.put(r, r.jw.Begin()))
	r.counts.Entries++
	var by SessionKey
	if e.sess != nil {
		by = e.sess.key
	}
	if e.sums {
		r.submitted(e, start, pos)
		return pos
	}
	for _, dn := range e.dns {
		r.markDirty(dn)
		dn.stamp.update(pos, by, e.rest)
		if dn.kind == dnHome {
			dn.in.rest.update(pos, by, e.rest)
			r.account(dn.in)
		}
	}
	for _, d := range e.dirs {
		d.in.contents.update(pos, by, e.rest)
		r.markDirDirty(d, start, pos)
	}
	if e.sess != nil && e.tid != 0 {
		e.sess.done = append(e.sess.done, doneReq{Tid: e.tid, Ino: e.ino})
		r.noteUnsafe(e.sess, e.tid, pos)
	}
	e.busy = false
	r.urgentBefore, r.urgent = r.urgent, pos
	return pos
}

// submitted ends the submission of sums. Nothing is stamped: no answer shows what is new here
// but that to a question for sums, which rests on nestState.pos; others need not wait for it.
func (r *Rank) submitted(e *entry, start, pos journal.Pos) {
	for _, dn := range e.dns {
		r.markDirty(dn)
		if dn.kind == dnHome {
			r.account(dn.in)
		}
	}
	for _, d := range e.dirs {
		r.markDirDirty(d, start, pos)
	}
	e.busy = false
}

func (e *entry) put(r *Rank, b []byte) []byte {
	b = append(b, entryVersion)
	b = putArray(b, 11)
	if e.sess != nil {
		b = putUint(b, uint64(e.sess.key))
		b = putUint(b, uint64(e.tid))
		b = putUint(b, uint64(e.ino))
		b = putUint(b, uint64(e.sess.oldest))
	} else {
		b = append(b, 0, 0, 0, 0)
	}
	b = putArray(b, len(e.dns))
	for _, dn := range e.dns {
		b = putString(putUint(putArray(b, 3), uint64(dn.dir.in.rec.Ino)), dn.name)
		b = putNested(b, func(b []byte) []byte { return putDentry(b, dn) })
	}
	b = putArray(b, len(e.dirs))
	for _, d := range e.dirs {
		b = putUint(putArray(b, 2), uint64(d.in.rec.Ino))
		b = putNested(b, d.hdr.put)
	}
	b = putArray(b, len(e.opened))
	for _, s := range e.opened {
		b = s.put(b)
	}
	b = putArray(b, len(e.closed))
	for _, k := range e.closed {
		b = putUint(b, uint64(k))
	}
	b = putUint(b, uint64(e.inoEnd))
	if !e.tables {
		return putMoves(append(b, 0xc0), e.moves)
	}
	b = putArray(b, 5)
	n := len(r.ghosts) // their close comes when they are laid
	for _, s := range r.order {
		if s.durableSession() {
			n++
		}
	}
	b = putArray(b, n)
	for _, s := range r.order {
		if s.durableSession() {
			b = s.put(b)
		}
	}
	for _, s := range r.ghosts {
		b = s.put(b)
	}
	b = putUint(b, uint64(r.inos.end))
	b = putUint(b, uint64(r.inos.max))
	b = r.nest.put(b)
	return putMoves(putMoves(b, r.sortedMoves()), e.moves)
}

// putNested appends what put makes as one msgpack bin. Its length goes before it, in the
// four byte form, so that nothing is copied.
func putNested(b []byte, put func([]byte) []byte) []byte {
	at := len(b)
	b = put(append(b, 0xc6, 0, 0, 0, 0))
	n := len(b) - at - 5
	b[at+1], b[at+2], b[at+3], b[at+4] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	return b
}

func (s *session) put(b []byte) []byte {
	b = putArray(b, 4)
	b = putArray(b, 3)
	b = putUint(b, uint64(s.instance.Kind))
	b = putUint(b, uint64(s.instance.Num))
	b = putUint(b, s.instance.Nonce)
	b = putString(b, s.host)
	b = putUint(b, uint64(s.oldest))
	b = putArray(b, len(s.done))
	for _, d := range s.done {
		b = putUint(putUint(putArray(b, 2), uint64(d.Tid)), uint64(d.Ino))
	}
	return b
}

// durableSession: the session's open was submitted and its close was not.
func (s *session) durableSession() bool {
	return s.state != sessDead && s.state != sessClosing
}

func decodeEntry(b []byte) (*entryRec, error) {
	e := &entryRec{}
	if err := wire.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("mds: journal entry: %w", err)
	}
	return e, nil
}
