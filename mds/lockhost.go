package mds

import (
	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/locker"
	"github.com/capstan-fs/capstan/wire"
)

// What the lock engine asks inodes and dentries about their clients (locker.Object).

// Clients counts those with a cap.
func (in *inode) Clients() int { return in.ledger.Len() }

// Client is the i-th by session key. While appenders take turns only the loner's wishes
// count: the others wait for theirs, and MIX would be no use to an appender (T6).
func (in *inode) Client(i int) locker.ClientCaps {
	rec := in.ledger.All()[i]
	cc := locker.ClientCaps{Client: rec.Client, Issued: rec.Issued}
	if !rec.Stale || in.ledger.LeftAlone(rec) {
		cc.Wanted = rec.Wanted
		if in.ledger.LonerOf() != rec.Client && in.isReg() && in.ledger.Turns() {
			cc.Wanted = 0
		}
	}
	return cc
}

// Loner is the client that may hold exclusive bits, 0 when there is none.
func (in *inode) Loner() uint64 { return in.ledger.LonerOf() }

// IdealLoner is who should be it (4.6).
func (in *inode) IdealLoner() uint64 {
	if in.ledger.Len() == 0 {
		return 0
	}
	c, again := in.ledger.Ideal(in.isDir(), in.rank.now, lonerTimes)
	if again != 0 {
		in.rank.watchLoner(in, again)
	}
	return c
}

// SetLoner installs it; the engine calls this when SO1 permits.
func (in *inode) SetLoner(c uint64) { in.ledger.SetLoner(c, in.rank.now) }

// Traits tells the policy what the inode is.
func (in *inode) Traits() locker.Traits {
	var t locker.Traits
	if in.isDir() {
		t |= locker.IsDir
	}
	if in.file != nil && in.file.probing {
		t |= locker.Recovering
	}
	return t
}

// Replicas is empty: one rank.
func (in *inode) Replicas() []wire.Rank { return nil }

// lonerTimes: a second of stickiness, 10 ms per turn.
var lonerTimes = caps.LonerTimes{Linger: 1e9, Quantum: 10e6}

// Clients counts those with a lease.
func (d *dentry) Clients() int { return len(d.leases) }

// Client is the i-th by session key.
func (d *dentry) Client(i int) locker.ClientCaps {
	l := d.leases[i]
	if l.mine() {
		return locker.ClientCaps{Client: l.sess.client()}
	}
	return locker.ClientCaps{Client: l.sess.client(), Issued: locker.Lease}
}

// A dentry has no loner.
func (d *dentry) Loner() uint64         { return 0 }
func (d *dentry) IdealLoner() uint64    { return 0 }
func (d *dentry) SetLoner(uint64)       {}
func (d *dentry) Traits() locker.Traits { return 0 }
func (d *dentry) Replicas() []wire.Rank { return nil }

// Reissue implements locker.Host: what clients may hold of the object changed.
func (r *Rank) Reissue(o locker.Object) {
	switch o := o.(type) {
	case *inode:
		r.reissue(o)
	case *dentry:
		r.reissueDentry(o)
	}
}

// watchLoner remembers an inode whose ideal loner changes by time alone.
func (r *Rank) watchLoner(in *inode, at int64) {
	fs := in.fileState()
	if fs.lonerAt == 0 {
		fs.lonerAt = at
		r.loners = append(r.loners, in)
	}
	fs.lonerAt = min(fs.lonerAt, at)
	r.lonerNext = soonest(r.lonerNext, at)
}

// turnLoners lets the locks of inodes whose time has come look again.
func (r *Rank) turnLoners() (next int64) {
	if r.lonerNext == 0 || r.lonerNext > r.now {
		return r.lonerNext
	}
	keep := r.loners[:0]
	for _, in := range r.loners {
		switch {
		case in.dead:
			in.file.lonerAt = 0
		case in.file.lonerAt <= r.now:
			in.file.lonerAt = 0
			r.engine.Changed(in)
		default:
			keep = append(keep, in)
			next = soonest(next, in.file.lonerAt)
		}
	}
	clear(r.loners[len(keep):])
	r.loners = keep
	r.lonerNext = next
	return next
}

// One rank: nothing freezes, no delta travels, nobody is told (locker.Host).

// Pin implements locker.Host.
func (r *Rank) Pin(locker.Object, int) {}

// Absorb implements locker.Host: the aggregate is always clean.
func (r *Rank) Absorb(*locker.Lock) bool { return true }

// Base implements locker.Host.
func (r *Rank) Base(*locker.Lock) {}

// Tell implements locker.Host.
func (r *Rank) Tell(to wire.Rank, l *locker.Lock, m locker.Msg) {
	must.Holdf(false, "%v: message %v to mds.%d, and there is one rank", l, m, to)
}

// mustHoldCaps walks every cap: bounds, exclusivity, lists that agree with each other.
func (r *Rank) mustHoldCaps() {
	n := 0
	for _, in := range r.inodes {
		if in.ledger.Len() == 0 {
			continue
		}
		n += in.ledger.Len()
		err := in.ledger.Check()
		must.Holdf(err == nil, "%v: %v", in, err)
	}
	for _, s := range r.order {
		n -= s.caps.Len()
	}
	for _, s := range r.ghosts {
		n -= s.caps.Len()
	}
	must.Holdf(n == 0, "%d caps are in no session's list, or in no ledger", n)
}
