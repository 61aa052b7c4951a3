package mds_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/capstan-fs/capstan/fsck"
	"github.com/capstan-fs/capstan/fsck/walk"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/wire"
)

type viewed struct {
	mu sync.Mutex
	s  mds.StoreView
}

func (v *viewed) Do(_ context.Context, obj wire.ObjectID, ops []wire.ObjOp) (uint32, []wire.ObjResult, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	e, res := v.s.Do(obj, ops)
	return e, res, nil
}

func (v *viewed) List(_ context.Context, pool uint32, each func([]wire.PGObject, int, int)) error {
	v.mu.Lock()
	objs := v.s.List(strconv.Itoa(int(pool)))
	v.mu.Unlock()
	each(objs, 1, 1)
	return nil
}

func init() {
	mds.CheckStore = func(t testing.TB, s mds.StoreView) (out []string) {
		p := fsck.Params{MetaPool: s.Cfg.MetaPool, DataPool: s.Cfg.DataPool, ObjectSize: s.Cfg.ObjectSize, InoRanges: s.Cfg.InoRanges, Live: s.Live}
		for _, c := range s.More {
			p.Others = append(p.Others, fsck.Other{Rank: c.Rank, InoRanges: c.InoRanges})
		}
		rep, err := walk.Check(context.Background(), &viewed{s: s}, p, nil)
		if err != nil {
			t.Fatal(err)
		}
		if rep.Readings > 1 {
			out = append(out, fmt.Sprintf("%d readings until nothing was found", rep.Readings))
		}
		for _, f := range rep.Findings {
			out = append(out, f.Text())
		}
		return out
	}
}
