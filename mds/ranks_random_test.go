package mds

import (
	"fmt"
	"maps"
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
	pins, filled, deaths := 0, 0, 0
	for seed := int64(1); seed <= seeds; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			p, f, d := playRanks(t, seed)
			pins, filled, deaths = pins+p, filled+f, deaths+d
		})
	}
	if pins < 2*int(seeds) || 2*filled < int(seeds) || deaths < int(seeds) {
		t.Errorf("only %d hand-overs, %d of them with contents, and %d deaths", pins, filled, deaths)
	}
}

func playRanks(t *testing.T, seed int64) (pins, filled, deaths int) {
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
		names map[string]wire.Ino
	}
	top := &place{ino: root, names: map[string]wire.Ino{}}
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
		switch rk.rng.Intn(9) {
		case 0:
			if len(places) < 6 {
				n := fmt.Sprint("d", len(places))
				if i%2 == 0 {
					n = fmt.Sprint("e", i)
				}
				if p.names[n] == 0 {
					places = append(places, &place{ino: u.mkdir(p.ino, n), up: p, name: n, names: map[string]wire.Ino{}})
					p.names[n] = places[len(places)-1].ino
				}
			}
		case 1, 2:
			if p.names[name] != 0 {
				has(&wire.Request{Op: wire.OpMkdir, Ino: p.ino, Name: name, Mode: 0o755}, eEXIST)
			} else {
				p.names[name] = u.create(p.ino, name)
			}
		case 3:
			want := ok
			if p.names[name] == 0 {
				want = eNOENT
			}
			has(&wire.Request{Op: wire.OpUnlink, Ino: p.ino, Name: name}, want)
			delete(p.names, name)
		case 4:
			if got := u.lookup(p.ino, name); got != p.names[name] {
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
				if len(p.names) > 0 {
					filled++
				}
			case eBUSY:
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
		case 7: // by number, of whoever; what a name leads to may have come from anywhere
			if p.names[name] != 0 && name[0] == 'f' {
				u.at[p.names[name]] = wire.Rank(rk.rng.Intn(3))
				has(&wire.Request{Op: wire.OpGetattr, Ino: p.names[name]}, ok)
			}
		case 8:
			to := places[rk.rng.Intn(len(places))]
			if p.names[name] == 0 || p == to || to.names[name] != 0 {
				continue
			}
			switch rep := u.ask(&wire.Request{Op: wire.OpRename, Ino: p.ino, Name: name, NewDir: to.ino, NewName: name}); errno(rep.Errno) {
			case ok:
				to.names[name] = p.names[name]
				delete(p.names, name)
			case eXDEV:
			default:
				t.Fatalf("step %d: rename: errno %d", i, rep.Errno)
			}
		}
	}
	rk.crash = nil
	rk.rest()
	files := 0
	for _, p := range places {
		rk.oneOwner(us[0], p.ino)
		var want, got []string
		for _, n := range slices.Sorted(maps.Keys(p.names)) {
			ino := p.names[n]
			want = append(want, n)
			rk.oneOwner(us[1], ino)
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
	return pins, filled, deaths
}

// oneOwner sees that all ranks lead to one that has an inode, and nobody else has it.
func (rk *ranks) oneOwner(u *user, ino wire.Ino) {
	rk.t.Helper()
	own := wire.NoRank
	for n := range rk.w {
		u.at[ino] = wire.Rank(n)
		u.must(&wire.Request{Op: wire.OpGetattr, Ino: ino})
		if own != wire.NoRank && u.at[ino] != own {
			rk.t.Errorf("%v: who asks mds.%d comes to mds.%d, others to mds.%d", ino, n, u.at[ino], own)
		}
		own = u.at[ino]
	}
	for _, w := range rk.w {
		if in := w.r.inodes[ino]; in != nil && !in.stub && w.cfg.Rank != own {
			rk.t.Errorf("%v is mds.%d's, and in the cache of mds.%d", ino, own, w.cfg.Rank)
		}
		if m := w.r.moves[ino]; m != nil && m.State == movePending || len(w.r.exports) > 0 {
			rk.t.Errorf("%v is pending at mds.%d, or that is exporting", ino, w.cfg.Rank)
		}
	}
}

// ownerNow is who thinks that it owns a directory, for people.
func (rk *ranks) ownerNow(ino wire.Ino) wire.Rank {
	for _, w := range rk.w {
		if !w.dead && w.r.whose(ino) == w.cfg.Rank {
			return w.cfg.Rank
		}
	}
	return wire.NoRank
}
