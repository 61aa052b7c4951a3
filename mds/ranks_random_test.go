package mds

import (
	"fmt"
	"slices"
	"sort"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// Three ranks, directories that are handed around and worked in by two users, ranks that die at any
// journal write or message: what was answered is there in the end, nothing else, each directory has
// one owner, the sums at the root are exact, and fsck finds nothing.
func TestRanksHandDirectoriesAround(t *testing.T) {
	seeds := int64(40)
	if testing.Short() {
		seeds = 10
	}
	pins, deaths := 0, 0
	for seed := int64(1); seed <= seeds; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			p, d := playRanks(t, seed)
			pins, deaths = pins+p, deaths+d
		})
	}
	if pins < 3*int(seeds) || deaths < int(seeds) {
		t.Errorf("only %d hand-overs and %d deaths", pins, deaths)
	}
}

func playRanks(t *testing.T, seed int64) (pins, deaths int) {
	rk := newRanks(t, seed, 3)
	us := []*user{rk.user(), rk.user()}
	rk.crash = func(int) bool {
		if rk.rng.Intn(25) > 0 {
			return false
		}
		w := rk.w[rk.rng.Intn(len(rk.w))]
		if w.dead {
			return false
		}
		deaths++
		w.crash()
		return true
	}
	defer func() {
		if t.Failed() {
			for _, l := range rk.log[max(0, len(rk.log)-40):] {
				t.Log(l)
			}
		}
	}()
	type place struct {
		ino   wire.Ino
		up    *place
		name  string
		names map[string]bool
	}
	top := &place{ino: root, names: map[string]bool{}}
	places := []*place{top}
	for i := range 60 {
		u := us[rk.rng.Intn(2)]
		p := places[rk.rng.Intn(len(places))]
		name := fmt.Sprint("f", rk.rng.Intn(4))
		has := func(m *wire.Request, want errno) {
			t.Helper()
			if rep := u.ask(m); rep.Errno != uint32(want) {
				t.Fatalf("step %d: %v %v/%q: errno %d, want %d", i, m.Op, m.Ino, m.Name, rep.Errno, want)
			}
		}
		switch rk.rng.Intn(7) {
		case 0:
			if len(places) < 6 {
				n := fmt.Sprint("d", len(places))
				if i%2 == 0 {
					n = fmt.Sprint("e", i)
				}
				if !p.names[n] {
					places = append(places, &place{ino: u.mkdir(p.ino, n), up: p, name: n, names: map[string]bool{}})
					p.names[n] = true
				}
			}
		case 1, 2:
			if p.names[name] {
				has(&wire.Request{Op: wire.OpMkdir, Ino: p.ino, Name: name, Mode: 0o755}, eEXIST)
			} else {
				u.create(p.ino, name)
				p.names[name] = true
			}
		case 3:
			want := ok
			if !p.names[name] {
				want = eNOENT
			}
			has(&wire.Request{Op: wire.OpUnlink, Ino: p.ino, Name: name}, want)
			delete(p.names, name)
		case 4:
			if got := u.lookup(p.ino, name); (got != 0) != p.names[name] {
				t.Fatalf("step %d: lookup of %v/%q: %v", i, p.ino, name, got)
			}
		case 5:
			if p == top {
				continue
			}
			own := rk.ownerNow(p.ino)
			to := rk.rng.Intn(4) - 1
			rep := u.pin(p.ino, to)
			switch errno(rep.Errno) {
			case ok:
				pins++
			case eNOTEMPTY:
				if len(p.names) == 0 {
					t.Fatalf("step %d: an empty directory of mds.%d's is not handed to mds.%d", i, own, to)
				}
			default:
				t.Fatalf("step %d: pin: errno %d", i, rep.Errno)
			}
		case 6:
			if p == top {
				continue
			}
			if len(p.names) > 0 {
				has(&wire.Request{Op: wire.OpRmdir, Ino: p.up.ino, Name: p.name}, eNOTEMPTY)
				continue
			}
			has(&wire.Request{Op: wire.OpRmdir, Ino: p.up.ino, Name: p.name}, ok)
			delete(p.up.names, p.name)
			places = slices.DeleteFunc(places, func(x *place) bool { return x == p })
		}
	}
	rk.crash = nil
	rk.rest()
	files := 0
	for _, p := range places {
		rk.owner(p.ino)
		var want, got []string
		for n := range p.names {
			want = append(want, n)
			if n[0] == 'f' {
				files++
			}
		}
		for _, e := range us[0].must(&wire.Request{Op: wire.OpReaddir, Ino: p.ino, Max: 100}).Entries {
			got = append(got, e.Name)
		}
		sort.Strings(want)
		sort.Strings(got)
		if !slices.Equal(got, want) {
			t.Errorf("%v has %v, should have %v", p.ino, got, want)
		}
	}
	rk.rest()
	rk.fsck("at rest")
	if got, want := us[1].vxattr(root, "ceph.dir.rfiles")+" "+us[1].vxattr(root, "ceph.dir.rsubdirs"), fmt.Sprint(files, " ", len(places)); got != want {
		t.Errorf("files and directories below the root: %s, should be %s", got, want)
	}
	return pins, deaths
}

// ownerNow is who thinks that it owns a directory, for people.
func (rk *ranks) ownerNow(ino wire.Ino) wire.Rank {
	for _, w := range rk.w {
		if !w.dead && w.r.owner(ino) == w.cfg.Rank {
			return w.cfg.Rank
		}
	}
	return wire.NoRank
}
