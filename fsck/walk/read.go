package walk

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/capstan-fs/capstan/fsck"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/wire"
)

// Objects is the object store. Do runs one vector atomically; errno is the vector's own failure,
// err that nothing answered. Both may be called from several goroutines.
type Objects interface {
	Do(ctx context.Context, obj wire.ObjectID, ops []wire.ObjOp) (errno uint32, res []wire.ObjResult, err error)
	List(ctx context.Context, pool uint32, each func(objs []wire.PGObject, done, total int)) error
}

// Progress tells how far a reading is. Total may still grow.
type Progress func(what string, done, total int)

const (
	readers   = 16                     // objects read at once
	pageKeys  = 2048                   // of one read of a directory
	tailEvery = 200 * time.Millisecond // the journal is followed so often: a rank keeps it for many MiB
)

// reading is one pass over all objects.
type reading struct {
	o    Objects
	p    fsck.Params
	prog Progress

	mu sync.Mutex
	m  *fsck.Model
	ts []*tail // of each rank
}

// read makes a model of the objects as they are, or of a moment while this runs. A *damage
// error says that the journal cannot be read.
func read(ctx context.Context, o Objects, p fsck.Params, prog Progress) (*fsck.Model, *tail, error) {
	r := &reading{o: o, p: p, prog: prog, m: fsck.New(p)}
	if r.prog == nil {
		r.prog = func(string, int, int) {}
	}
	ranks := []wire.Rank{p.Rank}
	for _, o := range p.Others {
		ranks = append(ranks, o.Rank)
	}
	for _, rank := range ranks {
		t := &tail{o: o, pool: p.MetaPool, rank: rank, each: func(e *mds.EntryRecord) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.m.Entry(rank, e)
		}}
		if err := t.begin(ctx); err != nil {
			return nil, nil, err
		}
		r.ts = append(r.ts, t)
	}
	if err := r.follow(ctx); err != nil {
		return nil, nil, err
	}
	for _, t := range r.ts {
		r.m.Expire(t.rank, t.head.Expire.Pos) // before the listing: what is trimmed after it is no leftover
	}
	var names []string
	err := o.List(ctx, p.MetaPool, func(objs []wire.PGObject, done, total int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, ob := range objs {
			r.m.MetaObject(ob.Name)
			if k, _, _ := mds.MetaObject(ob.Name); k == mds.MetaDir || k == mds.MetaIndex {
				names = append(names, ob.Name)
			}
		}
		r.prog("listing metadata", done, total)
	})
	if err != nil {
		return nil, nil, err
	}
	if err := r.meanwhile(ctx, func(ctx context.Context) error { return r.objects(ctx, names) }); err != nil {
		return nil, nil, err
	}
	err = r.meanwhile(ctx, func(ctx context.Context) error {
		return o.List(ctx, p.DataPool, func(objs []wire.PGObject, done, total int) {
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, ob := range objs {
				r.m.Data(ob.Name, ob.Size)
			}
			r.prog("listing data", done, total)
		})
	})
	if err != nil {
		return nil, nil, err
	}
	return r.m, r.ts[0], r.follow(ctx)
}

// follow reads what was appended to the journals since.
func (r *reading) follow(ctx context.Context) error {
	for _, t := range r.ts {
		if err := t.follow(ctx); err != nil {
			return err
		}
	}
	return nil
}

// meanwhile follows the journal while work runs.
func (r *reading) meanwhile(ctx context.Context, work func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- work(ctx) }()
	tick := time.NewTicker(tailEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			if err := r.follow(ctx); err != nil {
				cancel()
				return errors.Join(err, ignoreCanceled(<-done))
			}
		}
	}
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// objects reads directories and index objects.
func (r *reading) objects(ctx context.Context, names []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	done := 0
	for _, name := range names {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			kind, n, _ := mds.MetaObject(name)
			err := r.object(ctx, name, kind, wire.Ino(n))
			r.mu.Lock()
			defer r.mu.Unlock()
			done++
			r.prog("reading directories", done, len(names))
			return err
		})
	}
	return g.Wait()
}

// object reads one of them page by page. The pages show different moments, as the objects do:
// the journal's records are newer than what moved between them.
func (r *reading) object(ctx context.Context, name string, kind mds.MetaObjectKind, ino wire.Ino) error {
	obj := wire.ObjectID{Pool: r.p.MetaPool, Name: name}
	from := ""
	for round := 0; ; round++ {
		ops := []wire.ObjOp{{Kind: wire.ObjOmapRange, From: from, Max: pageKeys}}
		if round == 0 {
			ops = append(ops, wire.ObjOp{Kind: wire.ObjGetXattrs})
		}
		e, res, err := r.o.Do(ctx, obj, ops)
		switch {
		case err != nil:
			return fmt.Errorf("read %v: %w", obj, err)
		case syscall.Errno(e) == syscall.ENOENT:
			r.mu.Lock()
			defer r.mu.Unlock()
			if kind == mds.MetaDir {
				r.m.Gone(ino)
			}
			return nil
		case e != 0:
			return fmt.Errorf("read %v: %w", obj, syscall.Errno(e))
		case len(res) != len(ops):
			return fmt.Errorf("read %v: %d answers to %d steps", obj, len(res), len(ops))
		}
		r.mu.Lock()
		if round == 0 && kind == mds.MetaDir {
			r.m.Header(ino, res[1].Pairs)
		}
		last := from
		for _, kv := range res[0].Pairs {
			last = kv.Key
			if kind == mds.MetaDir {
				r.m.Dentry(ino, kv.Key, kv.Val)
			} else {
				r.m.IndexKey(name, kv.Key, kv.Val)
			}
		}
		r.mu.Unlock()
		if !res[0].More || last == from {
			return nil
		}
		from = last
	}
}
