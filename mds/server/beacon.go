package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/objecter"
	"github.com/capstan-fs/capstan/wire"
)

// beacons tells the monitors every second that we live and in which state we are. The ack
// extends the rank lease, counted from when the beacon was sent.
//
// It does not wait for the core: a step that takes long (a directory of a million names, a
// starved machine) is no reason to be replaced, and a successor would take as long. Only a core
// that does not come back from a step for stuckAfter is taken for dead.
func (d *Daemon) beacons() {
	defer d.wg.Done()
	var seq uint64
	for {
		seq++
		sent := now()
		d.beacon(seq, sent)
		wait := time.NewTimer(max(0, d.cfg.Beacon-time.Duration(now()-sent)))
		select {
		case <-wait.C:
		case <-d.nudge:
			wait.Stop()
		case <-d.ctx.Done():
			wait.Stop()
			return
		}
	}
}

const (
	lockPatience = 50 * time.Millisecond // the core's news is waited for so long
	stuckAfter   = 30 * time.Second
)

// word is what the next beacon says, nil: nothing any more. While the core is busy it is what
// the last one said.
func (d *Daemon) word(seq uint64) *wire.MDSBeacon {
	for end := time.Now().Add(lockPatience); !d.mu.TryLock(); {
		if time.Now().Before(end) {
			time.Sleep(time.Millisecond)
			continue
		}
		if d.said != nil && time.Since(d.saidAt) < stuckAfter {
			m := *d.said
			m.Seq = seq
			return &m
		}
		d.mu.Lock()
		break
	}
	defer d.mu.Unlock()
	d.saidAt = time.Now()
	if d.ended || d.stopping && d.rank == nil {
		d.said = nil
		return nil
	}
	d.said = &wire.MDSBeacon{Seq: seq, Name: d.cfg.Name, Instance: d.self.Instance, Addr: d.self.Addr, Rank: d.num, State: uint8(d.reported())}
	if d.rank != nil {
		d.said.Subtrees = uint32(d.rank.Owned())
	}
	return d.said
}

func (d *Daemon) beacon(seq uint64, sent int64) {
	m := d.word(seq)
	if m == nil {
		return
	}
	ctx, cancel := context.WithTimeout(d.ctx, 2*d.cfg.Beacon)
	r, err := d.mon.Call(ctx, m)
	cancel()
	if err != nil {
		if d.ctx.Err() == nil {
			d.log.Warn().Err(err).Msg("beacon")
		}
		return
	}
	ack, ok := r.(*wire.MDSBeaconAck)
	if !ok {
		return
	}
	if ack.Replaced {
		d.fail(ErrReplaced)
		return
	}
	if ack.Seq != seq {
		return
	}
	d.lease.Store(sent + d.grace())
	if d.freeing.CompareAndSwap(false, true) {
		d.wg.Add(1)
		go d.free()
	}
}

// free lets go what waited for the lease, when the core has time.
func (d *Daemon) free() {
	defer d.wg.Done()
	d.mu.Lock()
	d.freeing.Store(false)
	d.release(now())
	touched := d.takeTouched()
	d.mu.Unlock()
	flush(touched, nil)
}

// grace is G: three beacons.
func (d *Daemon) grace() int64 { return 3 * int64(d.cfg.Beacon) }

// reported is the state as the monitors understand it: a rank that is being made for the
// first time is "creating" until it is active.
func (d *Daemon) reported() clustermap.RankState {
	if d.num == wire.NoRank {
		return clustermap.RankBoot
	}
	if in, ok := d.mon.FSMap().Ranks[d.num]; ok && in.State == clustermap.RankCreating && d.state != clustermap.RankActive {
		return clustermap.RankCreating
	}
	switch d.state {
	case clustermap.RankBoot:
		return clustermap.RankReplay
	case clustermap.RankStopped:
		return clustermap.RankStopping // the last word is sayStopped's
	}
	return d.state
}

// sayStopped tells the monitors that this daemon answers nothing any more.
func (d *Daemon) sayStopped(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	m := &wire.MDSBeacon{Seq: 1 << 62, Name: d.cfg.Name, Instance: d.self.Instance, Addr: d.self.Addr, Rank: d.num, State: uint8(clustermap.RankStopped)}
	if _, err := d.mon.Call(ctx, m); err != nil {
		d.log.Warn().Err(err).Msg("the monitors did not hear of the stop")
	}
}

// retired ends a daemon whose rank stopped by itself, because there should be fewer of them.
func (d *Daemon) retired() {
	defer d.wg.Done()
	d.silence()
	d.sayStopped(d.ctx)
	d.mu.Lock()
	d.ended = false
	d.failLocked(ErrRetired)
	d.mu.Unlock()
}

// onMaps is called by the reader of the monitors' line, which must not wait for the core: acks of
// beacons come behind.
func (d *Daemon) onMaps(o *clustermap.OSDMap, f *clustermap.FSMap) {
	if o == nil || f == nil {
		return
	}
	select {
	case d.mapped <- struct{}{}:
	default:
	}
}

// follow tells the core of new maps, the newest when it has time.
func (d *Daemon) follow() {
	defer d.wg.Done()
	for {
		select {
		case <-d.mapped:
			d.takeMaps(d.mon.OSDMap(), d.mon.FSMap())
		case <-d.ctx.Done():
			return
		}
	}
}

func (d *Daemon) takeMaps(o *clustermap.OSDMap, f *clustermap.FSMap) {
	if o.IsBlocklisted(d.self.Instance) {
		d.mu.Lock()
		clean := d.stopping
		d.mu.Unlock()
		if !clean {
			d.fail(ErrReplaced)
		}
		return
	}
	rank, in, holds := f.Holder(d.self.Instance)
	d.mu.Lock()
	switch {
	case d.rank != nil:
		if !holds && f.Epoch > d.assigned && !d.stopping {
			d.failLocked(ErrReplaced)
			break
		}
		d.step(mds.Event{Kind: mds.Maps, OSDMap: o, FSMap: f})
	case holds && !d.making && !d.stopping:
		d.making = true
		d.num = rank
		d.wg.Add(1)
		go d.makeRank(rank, in, now())
	}
	touched := d.takeTouched()
	d.mu.Unlock()
	flush(touched, nil)
}

// makeRank starts the core of a rank that was assigned. at is when we learned of it.
func (d *Daemon) makeRank(rank wire.Rank, in clustermap.RankInfo, at int64) {
	defer d.wg.Done()
	ranges := in.InoRanges
	for len(ranges) == 0 {
		r, err := d.mon.Call(d.ctx, &wire.InoRange{Rank: rank, Instance: d.self.Instance})
		if err != nil {
			return // closed
		}
		if a, ok := r.(*wire.InoRangeReply); ok && a.Errno == 0 {
			ranges = append(ranges, a.Range)
		} else {
			d.fail(fmt.Errorf("mds.%s: no inode numbers: %v", d.cfg.Name, r))
			return
		}
	}
	// Every read carries the epoch that fences the holder before (6).
	barrier := max(in.FencedAt, d.mon.OSDMap().Epoch)
	o, err := d.mon.WaitOSDEpoch(d.ctx, barrier)
	if err != nil {
		return
	}
	f := d.mon.FSMap()
	d.mu.Lock()
	if d.ended {
		d.mu.Unlock()
		return
	}
	d.assigned = in.Assigned
	if in.LeaseWait {
		// Rule LS: the holder before may answer from memory until its lease is over.
		d.quiet = at + d.grace() + d.grace()/100
	}
	d.rank = mds.New(mds.Config{
		Rank: rank, Instance: d.self.Instance, Incarnation: journal.Incarnation(in.Assigned),
		MetaPool: f.MetaPool, DataPool: f.DataPool, ObjectSize: d.cfg.ObjectSize, Create: !in.Created, InoRanges: ranges,
		Barrier: max(barrier, o.Epoch), Epoch: in.Assigned, QuietUntil: d.quiet,
		ValidityNs: int64(d.cfg.Validity), RevokeNs: int64(d.cfg.Revoke), GraceNs: d.grace(), NestLagNs: int64(d.cfg.RstatLag), LingerNs: 2e6, SafeRideNs: 2e6, CacheBytes: d.cfg.CacheBytes, MaxCaps: d.cfg.MaxCaps, MaxFileLocks: d.cfg.MaxFileLocks, LogLevel: mds.LogInfo,
		Wrong: d.cfg.Wrong,
	})
	d.log.Info().Int32("rank", int32(rank)).Bool("create", !in.Created).Bool("leasewait", in.LeaseWait).Uint64("barrier", uint64(barrier)).Msg("rank assigned")
	d.step(mds.Event{Kind: mds.Maps, OSDMap: o, FSMap: f})
	d.step(mds.Event{Kind: mds.Start})
	early := d.early
	d.early = nil
	for i := range early {
		d.step(early[i])
	}
	touched := d.takeTouched()
	d.mu.Unlock()
	flush(touched, nil)
}

// blocklist asks the monitors to fence a client until they have.
func (d *Daemon) blocklist(b mds.BlocklistAsk) {
	defer d.wg.Done()
	for d.ctx.Err() == nil {
		r, err := d.mon.Call(d.ctx, &wire.BlocklistAdd{Instance: b.Instance, Reason: b.Reason})
		if rep, ok := r.(*wire.MonReply); err == nil && ok && rep.Errno == 0 {
			d.enter(mds.Event{Kind: mds.Blocklisted, Instance: b.Instance, Epoch: rep.Epoch})
			return
		}
		d.log.Warn().Err(err).Stringer("instance", b.Instance).Msg("blocklist: trying again")
		select {
		case <-time.After(500 * time.Millisecond):
		case <-d.ctx.Done():
		}
	}
}

// lost: the objecter gave up, which it does only at its end or ours.
func (d *Daemon) lost(err error) {
	if errors.Is(err, objecter.ErrBlocklisted) {
		d.fail(ErrReplaced)
	}
}

func errnoError(what string, obj wire.ObjectID, errno uint32) error {
	return fmt.Errorf("mds: %s: %v: errno %d", what, obj, errno)
}

func (d *Daemon) metaPool() uint32      { return d.mon.FSMap().MetaPool }
func (d *Daemon) journalPrefix() string { return fmt.Sprintf("journal.%d", d.num) }
