package mds

import (
	"fmt"

	"github.com/capstan-fs/capstan/wire"
)

// Import: the other side of an export. Between the entry that says that a directory may be ours and
// the exporter's word it is served to nobody (XP4); a replay that finds that entry asks (XP5).

// onExport journals that the directory may be ours, and says so when that is durable.
func (r *Rank) onExport(from wire.Rank, m *wire.Export) {
	t := r.moves[m.Ino]
	if t != nil && t.Rank == from && t.Attempt >= m.Attempt && t.State != moveGiven {
		if t.State == movePending && t.Attempt == m.Attempt {
			r.tellPeer(from, r.jw.End(), &wire.Imported{Ino: m.Ino, Attempt: m.Attempt})
		}
		return // said again, or of a life before
	}
	if t != nil && t.State == moveGiven && !t.Named && t.Rank == from && !m.Back {
		// We gave it back, and were not told that it arrived; it did, or it would not be offered again.
		// But an offer may be of a life before: our line goes by the proper answer only.
		r.tellPeer(from, r.jw.End(), &wire.ExportEnd{Ino: t.Ino, Attempt: t.Attempt, Won: true})
		t.waiters = append(t.waiters, func() { r.onExport(from, m) })
		return
	}
	if e := r.refuses(from, t, m); e != ok {
		r.tellPeer(from, r.jw.End(), &wire.Imported{Ino: m.Ino, Attempt: m.Attempt, Errno: uint32(e)})
		return
	}
	line := moveRec{Ino: m.Ino, State: movePending, Rank: from, Attempt: m.Attempt, Named: m.Back, Parent: m.Parent, Name: m.Name, Path: m.Path,
		Pin: m.Pin, Dentry: m.Dentry, Header: m.Header}
	ent := r.newEntry()
	n := r.setMove(ent, line)
	if t != nil {
		n.waiters = t.waiters
	}
	pos := r.submit(ent)
	r.tellPeer(from, pos, &wire.Imported{Ino: m.Ino, Attempt: m.Attempt})
}

// refuses says why a directory is not taken.
func (r *Rank) refuses(from wire.Rank, t *move, m *wire.Export) errno {
	_, _, err := decodeMoved(m.Ino, m.Dentry, m.Header)
	switch {
	case err != nil:
		r.logf(LogError, "mds.%d offers a directory that cannot be read: %v", from, err)
		return eIO
	case m.Back && (t == nil || t.State == moveTaken || t.Rank != from || !t.Named):
		return eSTALE // its name is not ours
	case !m.Back && t != nil && (t.State != movePending || t.Rank != from):
		return eBUSY
	case !m.Back && r.retiring:
		return eBUSY // there should be fewer ranks
	case !m.Back && r.inodes[m.Ino] != nil:
		return eBUSY
	}
	return ok
}

func decodeMoved(ino wire.Ino, dentry, header []byte) (rec dentryRec, hdr headerRec, err error) {
	if err = wire.Unmarshal(dentry, &rec); err == nil {
		err = wire.Unmarshal(header, &hdr)
	}
	if err == nil && (rec.Kind != dnHome || rec.Inode == nil || rec.Ino != ino || rec.Inode.Ino != ino || rec.Inode.Mode&modeType != modeDir || ino < wire.FirstFreeIno) {
		err = fmt.Errorf("the record of %v is not a directory's", ino)
	}
	return rec, hdr, err
}

// onExportEnd: the exporter has decided.
func (r *Rank) onExportEnd(from wire.Rank, m *wire.ExportEnd) {
	t := r.moves[m.Ino]
	switch {
	case t == nil || t.Rank != from || t.Attempt != m.Attempt:
		if m.Won {
			// We had it and gave it on, or back: whoever asks for it is told by the table. Or it is home
			// again: then the index must say so before its other rank forgets.
			end := func() { r.tellPeer(from, r.jw.End(), &wire.ImportEnded{Ino: m.Ino, Attempt: m.Attempt}) }
			if in := r.inodes[m.Ino]; t == nil && in != nil && in.home != nil {
				r.whenIndexed(in.home, end)
			} else {
				end()
			}
		}
	case t.State == moveTaken:
		r.tellPeer(from, r.jw.End(), &wire.ImportEnded{Ino: m.Ino, Attempt: m.Attempt})
	case t.State != movePending || t.ending:
	case !m.Won:
		r.abandonImport(t)
	default:
		t.ending = true
		r.finishImport(t)
	}
}

// abandonImport: the exporter kept it.
func (r *Rank) abandonImport(t *move) {
	ent := r.newEntry()
	line := moveRec{Ino: t.Ino}
	if t.Named {
		line = moveRec{Ino: t.Ino, State: moveGiven, Rank: t.Rank, Named: true, Parent: t.Parent, Name: t.Name, Path: t.Path}
	}
	n := r.setMove(ent, line)
	n.settled = true
	r.submit(ent)
	t.wake()
}

// finishImport installs the directory: under its name if that is ours, else in links/.
func (r *Rank) finishImport(t *move) {
	if !t.Named {
		r.whenComplete(r.linksDir(t.Ino), func() { r.install(t, r.linksDir(t.Ino), strayName(t.Ino)) })
		return
	}
	r.openByIno(t.Parent, func(up *inode) {
		if up == nil || !up.isDir() {
			r.damaged(fmt.Errorf("mds: directory %v, which has the name %q of %v, is nowhere", t.Parent, t.Name, t.Ino))
			return
		}
		up.pins++
		r.whenComplete(r.dirOf(up), func() {
			r.unpinInode(up)
			r.install(t, up.dir, t.Name)
		})
	})
}

// install is the end of an import: one entry with the inode's home, its contents' header and the
// table's line. The flush of what that entry makes dirty writes the directory's object.
func (r *Rank) install(t *move, at *dir, name string) {
	rec, hdr, err := decodeMoved(t.Ino, t.Dentry, t.Header)
	dn := r.dentry(at, name)
	if err == nil && (t.Named != dn.far() || t.Named && dn.ino != t.Ino || !t.Named && !dn.isNull()) {
		err = fmt.Errorf("%v leads to %v", dn, dn.ino)
	}
	if err != nil {
		r.damaged(fmt.Errorf("mds: import of %v: %w", t.Ino, err))
		return
	}
	if stub := r.inodes[t.Ino]; stub != nil {
		r.forget(stub) // a client that reconnected named it
	}
	in := r.newInode(rec.Inode.memory())
	in.dropNest()
	ent := r.newEntry()
	line := moveRec{Ino: t.Ino, State: moveTaken, Rank: t.Rank, Attempt: t.Attempt, Parent: t.Parent, Name: t.Name, Path: t.Path}
	r.setPin(in, t.Pin)
	if t.Named {
		line = moveRec{Ino: t.Ino}
		nest := dn.farNest()
		r.count(dn, -1)
		hash := dn.hash
		r.unbind(dn)
		dn.hash = hash
		r.setNest(in, nest)
		in.rec.Backs = nil
	} else {
		in.rec.Backs = []backRec{{Dir: t.Parent, Name: t.Name}}
	}
	r.bind(dn, dnHome, in)
	r.count(dn, +1)
	d := r.newDir(in)
	d.loaded, d.complete, d.hdr = true, hdr.Entries == 0, hdr
	if !d.complete {
		r.awaitGuests()
	}
	r.owes(in)
	ent.dentry(dn)
	ent.header(d)
	r.setMove(ent, line)
	pos := r.submit(ent)
	r.whenIndexed(dn, func() { r.tellPeer(t.Rank, pos, &wire.ImportEnded{Ino: t.Ino, Attempt: t.Attempt}) })
	r.used(in)
	t.wake()
}

// ---- sums ----------------------------------------------------------------------------------

// tellSums tells the rank that has in's name what lies below; in owes until that rank has it.
func (r *Rank) tellSums(in *inode) {
	in.owes = true
	t := r.moves[in.ino()]
	if t == nil || t.State != moveTaken {
		r.logf(LogError, "%v is at home in %v, and no rank has its name", in, in.home)
		return
	}
	if t.told != nil {
		return // the answer looks again
	}
	h := &in.dir.hdr.nestRec
	t.told = &wire.Sums{Ino: in.ino(), Bytes: h.RBytes, Files: h.RFiles, Subdirs: h.RSubdirs, Ctime: h.RCtime}
	r.nest.told = append(r.nest.told, in.ino())
	r.tellPeer(t.Rank, r.jw.End(), t.told)
}

// forgetTold forgets that an answer is waited for.
func (r *Rank) forgetTold(t *move) {
	t.told = nil
	keep := r.nest.told[:0]
	for _, ino := range r.nest.told {
		if ino != t.Ino {
			keep = append(keep, ino)
		}
	}
	r.nest.told = keep
}

func sumsOf(m *wire.Sums) nestRec {
	return nestRec{RBytes: m.Bytes, RFiles: m.Files, RSubdirs: m.Subdirs, RCtime: m.Ctime}
}

// onSums counts what another rank says at the directory's name.
func (r *Rank) onSums(from wire.Rank, m *wire.Sums) {
	t := r.moves[m.Ino]
	if t == nil || t.State != moveGiven || t.Rank != from || !t.Named {
		return // on its way back: what it holds comes with it
	}
	r.openByIno(t.Parent, func(up *inode) {
		if up == nil || !up.isDir() {
			r.logf(LogError, "directory %v, which has the name %q of %v, is nowhere", t.Parent, t.Name, m.Ino)
			return
		}
		up.pins++
		r.whenComplete(r.dirOf(up), func() {
			r.unpinInode(up)
			dn := up.dir.names[t.Name]
			if dn == nil || !dn.far() || dn.ino != m.Ino {
				return
			}
			pos := r.jw.End()
			if want := sumsOf(m); dn.farNest() != want {
				dn.dir.hdr.take(dn.counted())
				dn.more = &dentryMore{nest: want}
				dn.dir.hdr.add(dn.counted())
				r.owes(up)
				ent := r.newEntry()
				ent.sums = true
				ent.dentry(dn)
				pos = r.submit(ent)
				r.nest.pos = pos
			}
			r.tellPeer(from, pos, &wire.SumsTaken{Sums: *m})
		})
	})
}

// onSumsTaken: the name counts it.
func (r *Rank) onSumsTaken(m *wire.SumsTaken) {
	t := r.moves[m.Sums.Ino]
	if t == nil || t.told == nil || *t.told != m.Sums {
		return
	}
	r.forgetTold(t)
	in := r.inodes[m.Sums.Ino]
	if in == nil || in.stub || in.home == nil {
		r.seekNest(m.Sums.Ino)
		return
	}
	r.setNest(in, sumsOf(&m.Sums))
	ent := r.newEntry()
	ent.sums = true
	ent.dentry(in.home)
	r.nest.pos = r.submit(ent)
	in.owes = false
	r.owesIfDifferent(in)
}
