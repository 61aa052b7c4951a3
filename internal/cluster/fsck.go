package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/fsck"
	"github.com/capstan-fs/capstan/fsck/walk"
	"github.com/capstan-fs/capstan/monc"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/objecter"
	"github.com/capstan-fs/capstan/wire"
)

// FsckOptions of one run.
type FsckOptions struct {
	Repair   bool
	UndoPath string // of a repair
	Undo     string // undo log to put back; nothing else is done
	Progress walk.Progress
}

// fsckRank is the rank with the root. The others are read beside it.
const fsckRank wire.Rank = 0

// Fsck proves the tree of the rank from its objects. The rank may run, unless something is to be
// written. Undone counts the changes that an undo put back; the report is nil then.
func (e *Env) Fsck(ctx context.Context, opt FsckOptions) (rep *walk.Report, undone int, err error) {
	self := instance(wire.KindTool, 0)
	m, err := e.dialMons(ctx, self)
	if err != nil {
		return nil, 0, err
	}
	defer m.Close()
	peer := msgr.Peer{Instance: self, Cluster: m.OSDMap().Cluster}
	s := &objectStore{env: e, mon: m, peer: peer, obj: objecter.New(objecter.Config{Net: e.Net, Maps: m, Self: peer, Log: e.Log})}
	defer s.obj.Close()
	fs := m.FSMap()
	in, ok := fs.Ranks[fsckRank]
	if !ok || !in.Created {
		return nil, 0, errors.New("there is no file system yet: no metadata daemon has made one")
	}
	s.barrier = in.FencedAt
	p := fsck.Params{Rank: fsckRank, MetaPool: fs.MetaPool, DataPool: fs.DataPool, ObjectSize: uint32(e.Conf.ObjectSize), InoRanges: in.InoRanges,
		Live: held(in.State), Now: wire.TimeOf(time.Now())}
	for _, r := range sortedRanks(fs) {
		if o := fs.Ranks[r]; r != fsckRank && o.Created {
			p.Others = append(p.Others, fsck.Other{Rank: r, InoRanges: o.InoRanges})
			p.Live = p.Live || held(o.State)
			s.barrier = max(s.barrier, o.FencedAt)
		}
	}
	if len(p.Others) > 0 && (opt.Repair || opt.Undo != "") {
		return nil, 0, fmt.Errorf("this file system has had %d ranks: a repair knows one so far", len(p.Others)+1)
	}
	down := func() error {
		if in := m.FSMap().Ranks[fsckRank]; held(in.State) {
			return fmt.Errorf("mds.%s holds rank %d (%v): unmount, stop the metadata daemons, then repair", in.Daemon.Name, fsckRank, in.State)
		}
		return nil
	}
	switch {
	case opt.Undo != "":
		f, err := os.Open(opt.Undo)
		if err != nil {
			return nil, 0, err
		}
		defer f.Close()
		if err := down(); err != nil {
			return nil, 0, err
		}
		undone, err = walk.Undo(ctx, s, p, peer.Cluster.String(), f)
		return nil, undone, err
	case opt.Repair:
		if err := down(); err != nil {
			return nil, 0, err
		}
		rep, err = walk.Repair(ctx, s, p, walk.RepairOptions{Cluster: peer.Cluster.String(), UndoPath: opt.UndoPath, Allowed: down, Progress: opt.Progress})
	default:
		rep, err = walk.Check(ctx, s, p, opt.Progress)
	}
	return rep, 0, err
}

// held reports whether a daemon works on the rank, or may begin to.
func held(s clustermap.RankState) bool {
	return s != clustermap.RankStopped && s != clustermap.RankFailed && s != clustermap.RankDamaged && s != clustermap.RankNone
}

// objectStore is walk.Objects over the OSDs.
type objectStore struct {
	env     *Env
	mon     *monc.Client
	peer    msgr.Peer
	obj     *objecter.Objecter
	barrier wire.Epoch // nothing of the rank's holder before lands behind what we read
}

// Do implements walk.Objects.
func (s *objectStore) Do(ctx context.Context, obj wire.ObjectID, ops []wire.ObjOp) (uint32, []wire.ObjResult, error) {
	r, err := s.obj.Do(ctx, obj, ops, objecter.Options{Barrier: s.barrier, FullTry: true})
	return r.Errno, r.Ops, err
}

const (
	listPage    = 4096
	listRetries = 100 // of a PG that has no active primary at the moment
	listPause   = 200 * time.Millisecond
)

// listing is what is left of a PG to list: what it held behind a name when its pool had so many PGs.
type listing struct {
	id    wire.PGID
	after string
	pgNum uint32
}

// List implements walk.Objects: PG by PG, each from its primary. Of a PG that divides meanwhile
// the parts follow, from where it was.
func (s *objectStore) List(ctx context.Context, pool uint32, each func([]wire.PGObject, int, int)) error {
	var pgs []listing
	m := s.mon.OSDMap()
	for _, id := range m.PGIDs() {
		if id.Pool == pool {
			pgs = append(pgs, listing{id: id, pgNum: m.Pools[pool].PGNum})
		}
	}
	for i := 0; i < len(pgs); i++ {
		id, after, n := pgs[i].id, pgs[i].after, pgs[i].pgNum
		for try := 0; ; {
			got, err := s.page(ctx, id, after)
			if err == nil && got.PGNum < n {
				err = fmt.Errorf("its primary has not heard of %d PGs", n)
			}
			if err != nil {
				if try++; try > listRetries || ctx.Err() != nil {
					return errors.Join(fmt.Errorf("list the objects of pg %v: %w", id, err), ctx.Err())
				}
				select {
				case <-time.After(listPause):
				case <-ctx.Done():
				}
				continue
			}
			for _, part := range clustermap.SplitInto(id, n, got.PGNum) {
				pgs = append(pgs, listing{part, after, got.PGNum})
			}
			n = got.PGNum
			each(got.Objects, i+1, len(pgs))
			if !got.More || len(got.Objects) == 0 {
				break
			}
			after = got.Objects[len(got.Objects)-1].Name
		}
	}
	return nil
}

func (s *objectStore) page(ctx context.Context, id wire.PGID, after string) (*wire.PGListed, error) {
	cfg, _ := s.mon.OSDMap().Config(id)
	o, ok := s.mon.OSDMap().OSD(cfg.Primary)
	if !ok || !o.Up {
		return nil, errors.New("it has no primary now")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := s.caller(ctx, o)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r, _, err := c.Call(ctx, &wire.PGList{PG: id, After: after, Max: listPage})
	if err != nil {
		return nil, err
	}
	l, ok := r.(*wire.PGListed)
	if !ok {
		return nil, fmt.Errorf("osd.%d answers %v", o.ID, r.WireType())
	}
	if l.Errno != 0 {
		return nil, fmt.Errorf("osd.%d is not its active primary", o.ID)
	}
	return l, nil
}

// caller is a connection of its own, as that of the objecter passes no listings.
func (s *objectStore) caller(ctx context.Context, o clustermap.OSD) (*msgr.Caller, error) {
	return msgr.DialCaller(ctx, s.env.Net, o.Addr, msgr.Peer{Instance: instance(wire.KindTool, 0), Cluster: s.peer.Cluster}, nil)
}
