package mds

import (
	"fmt"
	"runtime"
	"testing"
	"unsafe"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// fill puts n files in directories of a hundred into the cache, as reading them from the
// objects does, each with one cap.
func fill(r *Rank, s *session, n int, leases bool) {
	var d *dir
	ino := wire.Ino(1 << 41)
	next := func(typ uint32) dentryRec {
		ino++
		in := inodeDisk{inodeRec: inodeRec{Ino: ino, Mode: typ | 0o644, UID: 1000, GID: 1000, Nlink: 1, Size: 4096, Change: 7, Pool: 2, ObjectSize: 4 << 20,
			Xattrs: []wire.KV{}, Ranges: []rangeRec{}, Backs: []backRec{}}}
		return dentryRec{Version: 3, Kind: dnHome, Ino: ino, Type: typ, Inode: &in}
	}
	load := func(d *dir, name string, rec dentryRec) *inode {
		rec.Hash = d.cookieFor(name)
		b, err := wire.Append(nil, &rec)
		if err == nil {
			err = r.loadDentry(d, name, b)
		}
		if err != nil {
			panic(err)
		}
		return r.inodes[rec.Ino]
	}
	root := r.dirOf(r.root)
	for i := range n {
		if i%100 == 0 {
			in := load(root, fmt.Sprintf("directory-%d", i/100), next(modeDir))
			d = r.dirOf(in)
			d.loaded, d.complete = true, true
		}
		in := load(d, fmt.Sprintf("file-name-%d.c", i), next(modeReg))
		rec := r.capFor(in, s)
		rec.Show(caps.AllShared)
		if leases {
			r.leaseFor(in.home, s)
		}
		if i%1000 == 0 {
			r.engine.Settle()
		}
	}
	r.engine.Settle()
	r.eff.reset()
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What the rank thinks its cache takes is what it takes of the heap, within a tenth; and an
// inode with its dentry and one cap takes no more than 1 KiB.
func TestAccountOfMemoryIsTheHeaps(t *testing.T) {
	for _, tc := range []struct {
		name   string
		n      int
		leases bool
	}{{"caps", 20_000, false}, {"caps and leases", 12_000, true}, {"few", 9_000, false}} {
		t.Run(tc.name, func(t *testing.T) {
			br := newBench(t)
			s := br.r.sessions[br.key]
			before, had := heap(), br.r.mem.used
			fill(br.r, s, tc.n, tc.leases)
			grew, said := heap()-before, br.r.mem.used-had
			per := float64(grew) / float64(tc.n)
			t.Logf("%d files: %.0f bytes of heap each, %.0f accounted (inode %d+, dentry %d+, cap %d, lease %d)",
				tc.n, per, float64(said)/float64(tc.n), unsafe.Sizeof(inode{}), unsafe.Sizeof(dentry{}), capCost, leaseCost)
			if d := float64(said-grew) / float64(grew); d < -0.1 || d > 0.1 {
				t.Errorf("accounted %d bytes, the heap grew by %d: %+.0f %%", said, grew, 100*d)
			}
			if !tc.leases && per > 1024 {
				t.Errorf("%.0f bytes per cached inode with its dentry and one cap", per)
			}
			// And all of it goes again.
			br.r.dropAll(s)
			br.r.engine.Settle()
			br.r.dropIdle()
			br.r.cfg.CacheBytes = 1
			br.r.mem.grown = tc.n
			for range 4 {
				br.r.mem.rest, br.r.mem.grown = 0, tc.n
				br.r.trim()
			}
			if left := br.r.mem.used - had; left > int64(tc.n)*5 {
				t.Errorf("%d bytes are left accounted after everything was trimmed", left)
			}
			runtime.KeepAlive(br)
		})
	}
}
