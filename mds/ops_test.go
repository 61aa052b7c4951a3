package mds

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

func seeds(t *testing.T, n int, run func(t *testing.T, w *world)) {
	for seed := int64(1); seed <= int64(n); seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { run(t, newWorld(t, seed)) })
	}
}

const root = wire.RootIno

// The first thing a user does: names appear, lead where they should, and disappear.
func TestNamesAppearAndDisappear(t *testing.T) {
	seeds(t, 5, func(t *testing.T, w *world) {
		c := w.client()
		d := c.mkdir(root, "d")
		f := c.create(d, "f")
		if got := c.lookup(d, "f"); got != f {
			t.Fatalf("lookup: %v, want %v", got, f)
		}
		c.fails(&wire.Request{Op: wire.OpCreate, Ino: d, Name: "f", Mode: 0o644, OpenFlags: oEXCL}, eEXIST)
		if a := c.stat(d); a.Size != 1 || a.Nlink != 2 {
			t.Fatalf("stat of d: %+v", a)
		}
		if a := c.stat(root); a.Nlink != 3 {
			t.Fatalf("stat of root: %+v", a)
		}
		c.fails(&wire.Request{Op: wire.OpRmdir, Ino: root, Name: "d"}, eNOTEMPTY)
		c.fails(&wire.Request{Op: wire.OpRmdir, Ino: d, Name: "f"}, eNOTDIR)
		c.fails(&wire.Request{Op: wire.OpUnlink, Ino: root, Name: "d"}, eISDIR)
		c.must(&wire.Request{Op: wire.OpUnlink, Ino: d, Name: "f"})
		c.fails(&wire.Request{Op: wire.OpLookup, Ino: d, Name: "f"}, eNOENT)
		c.drop(f)
		c.must(&wire.Request{Op: wire.OpRmdir, Ino: root, Name: "d"})
		c.fails(&wire.Request{Op: wire.OpCreate, Ino: d, Name: "x"}, eNOENT)
		c.drop(d)
		w.quiet()
		if n := len(w.r.inodes); n != 2+2*wire.SystemShards {
			t.Fatalf("%d inodes are left in the cache", n)
		}
		if got := c.list(root); len(got) != 0 {
			t.Fatalf("root lists %v", got)
		}
	})
}

func TestListingIsCompleteAndStable(t *testing.T) {
	w := newWorld(t, 1)
	c := w.client()
	want := map[string]bool{}
	for i := 0; i < 50; i++ {
		name := fmt.Sprintf("file-%d", i)
		c.create(root, name)
		want[name] = true
	}
	got := c.list(root)
	if len(got) != len(want) {
		t.Fatalf("%d names listed, want %d", len(got), len(want))
	}
	rep := c.must(&wire.Request{Op: wire.OpReaddir, Ino: root, Max: 10})
	at := rep.Entries[9].Cookie
	c.must(&wire.Request{Op: wire.OpUnlink, Ino: root, Name: rep.Entries[9].Name})
	again := c.must(&wire.Request{Op: wire.OpReaddir, Ino: root, Max: 100, Cookie: at})
	if len(again.Entries) != 40 || !again.End {
		t.Fatalf("%d entries after cookie, end %v", len(again.Entries), again.End)
	}
}

func TestRenameInAllCases(t *testing.T) {
	seeds(t, 3, func(t *testing.T, w *world) {
		c := w.client()
		a, b := c.mkdir(root, "a"), c.mkdir(root, "b")
		ren := func(d1 wire.Ino, n1 string, d2 wire.Ino, n2 string, flags uint32) *wire.Request {
			return &wire.Request{Op: wire.OpRename, Ino: d1, Name: n1, NewDir: d2, NewName: n2, RenameFlags: flags}
		}
		f := c.create(a, "f")
		c.must(ren(a, "f", b, "g", 0))
		if c.lookup(b, "g") != f || c.lookup(a, "f") != 0 {
			t.Fatal("f did not move")
		}
		c.fails(ren(a, "f", b, "g", 0), eNOENT)
		g := c.create(a, "g")
		c.fails(ren(a, "g", b, "g", wire.RenameNoReplace), eEXIST)
		c.must(ren(a, "g", b, "g", 0))
		if c.lookup(b, "g") != g {
			t.Fatal("g did not replace f")
		}
		if at := c.stat(f); at.Nlink != 0 {
			t.Fatalf("replaced file has nlink %d", at.Nlink)
		}
		c.fails(ren(root, "a", a, "x", 0), eINVAL)
		ab := c.mkdir(a, "sub")
		c.fails(ren(root, "a", ab, "x", 0), eINVAL)
		c.fails(ren(root, "b", root, "a", 0), eNOTEMPTY)
		c.fails(ren(b, "g", root, "a", 0), eISDIR)
		c.fails(ren(root, "a", b, "g", 0), eNOTDIR)
		c.fails(ren(ab, "nothing", b, "g", 0), eNOENT)
		c.must(ren(b, "g", b, "g", 0))
		c.must(ren(root, "b", a, "b", 0))
		if at := c.stat(root); at.Nlink != 3 {
			t.Fatalf("root nlink %d", at.Nlink)
		}
		if at := c.stat(a); at.Nlink != 4 || at.Size != 2 {
			t.Fatalf("a %+v", at)
		}
		h := c.create(root, "h")
		c.must(ren(root, "h", a, "b", wire.RenameExchange))
		if c.lookup(root, "h") != b || c.lookup(a, "b") != h {
			t.Fatal("no exchange")
		}
		if at := c.stat(root); at.Nlink != 4 {
			t.Fatalf("root nlink %d", at.Nlink)
		}
		c.fails(ren(root, "a", a, "sub", wire.RenameExchange), eINVAL)
		c.fails(ren(a, "sub", root, "a", wire.RenameExchange), eINVAL)
		c.fails(ren(root, "h", root, "none", wire.RenameExchange), eNOENT)
	})
}

func TestHardLinksMoveHomeOnce(t *testing.T) {
	seeds(t, 3, func(t *testing.T, w *world) {
		c := w.client()
		d := c.mkdir(root, "d")
		f := c.create(root, "f")
		ln := func(dir wire.Ino, name string, ino wire.Ino) *wire.Request {
			return &wire.Request{Op: wire.OpLink, Ino: dir, Name: name, Other: ino}
		}
		c.must(ln(d, "g", f))
		c.must(ln(d, "h", f))
		c.fails(ln(d, "h", f), eEXIST)
		c.fails(ln(d, "dd", d), ePERM)
		for _, n := range []struct {
			d wire.Ino
			n string
		}{{root, "f"}, {d, "g"}, {d, "h"}} {
			if got := c.lookup(n.d, n.n); got != f {
				t.Fatalf("%v leads to %v", n, got)
			}
		}
		if at := c.stat(f); at.Nlink != 3 {
			t.Fatalf("nlink %d", at.Nlink)
		}
		// Renaming one name over another of the same inode changes nothing.
		c.must(&wire.Request{Op: wire.OpRename, Ino: d, Name: "g", NewDir: d, NewName: "h"})
		if at := c.stat(f); at.Nlink != 3 {
			t.Fatalf("nlink %d", at.Nlink)
		}
		c.must(&wire.Request{Op: wire.OpRename, Ino: d, Name: "g", NewDir: root, NewName: "g"})
		c.must(&wire.Request{Op: wire.OpUnlink, Ino: root, Name: "f"})
		if in := w.r.inodes[f]; len(in.rec.Backs) != 2 || in.rec.Backs[0] != (backRec{Dir: root, Name: "g"}) {
			t.Fatalf("back-pointers %+v", in.rec.Backs)
		}
		c.must(&wire.Request{Op: wire.OpUnlink, Ino: root, Name: "g"})
		c.must(&wire.Request{Op: wire.OpUnlink, Ino: d, Name: "h"})
		if at := c.stat(f); at.Nlink != 0 {
			t.Fatalf("nlink %d", at.Nlink)
		}
		c.drop(f)
		w.quiet()
		if w.r.inodes[f] != nil {
			t.Fatal("f was not purged")
		}
	})
}

func TestTmpfileLivesUntilLinkedOrDropped(t *testing.T) {
	w := newWorld(t, 2)
	c := w.client()
	a := c.must(&wire.Request{Op: wire.OpTmpfile, Ino: root, Mode: 0o600}).Target.Ino
	b := c.must(&wire.Request{Op: wire.OpTmpfile, Ino: root, Mode: 0o600}).Target.Ino
	c.must(&wire.Request{Op: wire.OpLink, Ino: root, Name: "kept", Other: a})
	c.drop(a)
	c.drop(b)
	w.quiet()
	if w.r.inodes[b] != nil || c.lookup(root, "kept") != a {
		t.Fatal("tmpfile")
	}
	if at := c.stat(a); at.Nlink != 1 {
		t.Fatalf("nlink %d", at.Nlink)
	}
}

func TestSetattrRules(t *testing.T) {
	w := newWorld(t, 3)
	c := w.client()
	f := c.create(root, "f")
	set := func(mask wire.SetMask, a wire.SetAttr) wire.Attr {
		t.Helper()
		return c.must(&wire.Request{Op: wire.OpSetattr, Ino: f, Set: mask, Attr: a}).Target.Attr
	}
	if a := set(wire.SetMode, wire.SetAttr{Mode: 0o6755}); a.Mode != modeReg|0o6755 {
		t.Fatalf("mode %o", a.Mode)
	}
	before := c.stat(f).Ctime
	if a := set(wire.SetUID, wire.SetAttr{UID: 7}); a.Mode != modeReg|0o755 || a.UID != 7 || !before.Before(a.Ctime) {
		t.Fatalf("chown: %+v", a)
	}
	set(wire.SetMode, wire.SetAttr{Mode: 0o6745})
	if a := set(wire.SetKillSuid, wire.SetAttr{}); a.Mode != modeReg|0o2745 {
		t.Fatalf("kill suid: %o", a.Mode)
	}
	at := wire.Time{Sec: -5, Nsec: 123456789}
	if a := set(wire.SetAtime|wire.SetMtime, wire.SetAttr{Atime: at, Mtime: at}); a.Atime != at || a.Mtime != at {
		t.Fatalf("times %+v", a)
	}
	if a := set(wire.SetAtimeNow|wire.SetMtimeNow, wire.SetAttr{}); a.Mtime.Sec <= 0 {
		t.Fatalf("times %+v", a)
	}
	c.fails(&wire.Request{Op: wire.OpSetattr, Ino: root, Set: wire.SetSize}, eISDIR)
	c.fails(&wire.Request{Op: wire.OpSetattr, Ino: f, Set: wire.SetSize, Attr: wire.SetAttr{Size: 1 << 60}}, eFBIG)
	d := c.mkdir(root, "d")
	if a := c.must(&wire.Request{Op: wire.OpSetattr, Ino: d, Set: wire.SetMtime, Attr: wire.SetAttr{Mtime: at}}).Target.Attr; a.Mtime != at {
		t.Fatalf("mtime of a directory %+v", a)
	}
}

// Data behind the new end must be gone before anybody may read or write there again.
func TestTruncateCutsObjects(t *testing.T) {
	seeds(t, 5, func(t *testing.T, w *world) {
		c := w.client()
		f := c.create(root, "f")
		c.must(&wire.Request{Op: wire.OpSetattr, Ino: f, Set: wire.SetSize, Attr: wire.SetAttr{Size: 5*4096 + 100}})
		for i := uint64(0); i < 6; i++ {
			w.object(wire.DataObject(2, f, i), true).write(0, make([]byte, 4096))
		}
		c.must(&wire.Request{Op: wire.OpSetattr, Ino: f, Set: wire.SetSize, Attr: wire.SetAttr{Size: 2*4096 + 10}})
		if a := c.stat(f); a.Size != 2*4096+10 {
			t.Fatalf("size %d", a.Size)
		}
		w.until("cut", func() bool { return len(w.r.cuts) == 0 })
		if o := w.object(wire.DataObject(2, f, 2), false); len(o.data) != 10 {
			t.Fatalf("block 2 has %d bytes", len(o.data))
		}
		for i := uint64(3); i < 6; i++ {
			if w.object(wire.DataObject(2, f, i), false) != nil {
				t.Fatalf("block %d is still there", i)
			}
		}
		if w.r.inodes[f].rec.CutFrom != 0 {
			t.Fatal("cut was not ended")
		}
	})
}

func TestXattrsAndACLs(t *testing.T) {
	w := newWorld(t, 4)
	c := w.client()
	f := c.create(root, "f")
	d := c.mkdir(root, "d")
	set := func(ino wire.Ino, name string, val []byte, flags uint32) *wire.Request {
		return &wire.Request{Op: wire.OpSetxattr, Ino: ino, Xname: name, Xval: val, OpenFlags: flags}
	}
	c.must(set(f, "user.b", []byte("2"), xattrCREATE))
	c.must(set(f, "user.a", []byte("1"), 0))
	c.fails(set(f, "user.a", nil, xattrCREATE), eEXIST)
	c.fails(set(f, "user.c", nil, xattrREPLACE), eNODATA)
	c.fails(set(f, "foo.c", nil, 0), eOPNOTSUPP)
	c.fails(set(f, "user.big", make([]byte, 70000), 0), eRANGE)
	c.fails(&wire.Request{Op: wire.OpRmxattr, Ino: f, Xname: "user.c"}, eNODATA)
	c.must(set(f, "security.x", []byte("s"), 0))
	c.must(&wire.Request{Op: wire.OpRmxattr, Ino: f, Xname: "user.b"})
	got := c.must(&wire.Request{Op: wire.OpGetxattrs, Ino: f}).Target.Xattrs
	if want := []wire.KV{{Key: "security.x", Val: []byte("s")}, {Key: "user.a", Val: []byte("1")}}; !reflect.DeepEqual(got, want) {
		t.Fatalf("xattrs %v", got)
	}
	// An access ACL shows in the mode, and chmod in the ACL's mask.
	a := acl{{aclUserObj, 7, ^uint32(0)}, {aclUser, 6, 1000}, {aclGroupObj, 4, ^uint32(0)}, {aclMask, 6, ^uint32(0)}, {aclOther, 0, ^uint32(0)}}
	c.must(set(f, xattrACLAccess, a.encode(), 0))
	if at := c.stat(f); at.Mode != modeReg|0o760 {
		t.Fatalf("mode %o", at.Mode)
	}
	c.must(&wire.Request{Op: wire.OpSetattr, Ino: f, Set: wire.SetMode, Attr: wire.SetAttr{Mode: 0o700}})
	v, _ := w.r.inodes[f].xattr(xattrACLAccess)
	if b, err := parseACL(v); err != nil || b.entry(aclMask).perm != 0 || b.entry(aclGroupObj).perm != 4 {
		t.Fatalf("after chmod: %v %v", b, err)
	}
	c.must(set(f, xattrACLAccess, acl{{aclUserObj, 6, 0}, {aclGroupObj, 4, 0}, {aclOther, 4, 0}}.encode(), 0))
	if _, have := w.r.inodes[f].xattr(xattrACLAccess); have || c.stat(f).Mode != modeReg|0o644 {
		t.Fatal("an ACL that is only a mode is stored")
	}
	c.fails(set(f, xattrACLDefault, a.encode(), 0), eACCES)
	c.fails(set(f, xattrACLAccess, []byte("rubbish"), 0), eINVAL)
	// A default ACL is inherited, masked by what was asked for instead of the umask.
	c.must(set(d, xattrACLDefault, a.encode(), 0))
	m := &wire.Request{Op: wire.OpCreate, Ino: d, Name: "x", Mode: 0o666, Umask: 0o077, OpenFlags: oEXCL}
	x := c.must(m).Target
	if x.Attr.Mode != modeReg|0o660 || !x.HasACL {
		t.Fatalf("inherited: %+v", x)
	}
	sub := c.must(&wire.Request{Op: wire.OpMkdir, Ino: d, Name: "sub", Mode: 0o777, Umask: 0o077}).Target
	if _, have := w.r.inodes[sub.Ino].xattr(xattrACLDefault); !have || sub.Attr.Mode != modeDir|0o760 {
		t.Fatalf("inherited by a directory: %+v", sub)
	}
	y := c.must(&wire.Request{Op: wire.OpCreate, Ino: root, Name: "y", Mode: 0o666, Umask: 0o027, OpenFlags: oEXCL}).Target
	if y.Attr.Mode != modeReg|0o640 {
		t.Fatalf("umask: %o", y.Attr.Mode)
	}
}

func TestSetgidDirectoriesPassTheirGroupOn(t *testing.T) {
	w := newWorld(t, 5)
	c := w.client()
	d := c.must(&wire.Request{Op: wire.OpMkdir, Ino: root, Name: "d", Mode: 0o2775, GID: 50}).Target.Ino
	f := c.must(&wire.Request{Op: wire.OpCreate, Ino: d, Name: "f", Mode: 0o644, GID: 7}).Target.Attr
	s := c.must(&wire.Request{Op: wire.OpMkdir, Ino: d, Name: "s", Mode: 0o755, GID: 7}).Target.Attr
	if f.GID != 50 || f.Mode != modeReg|0o644 || s.GID != 50 || s.Mode != modeDir|0o2755 {
		t.Fatalf("f %+v s %+v", f, s)
	}
}

func TestSymlinksAndDevices(t *testing.T) {
	w := newWorld(t, 6)
	c := w.client()
	l := c.must(&wire.Request{Op: wire.OpSymlink, Ino: root, Name: "l", Target: "a/b"}).Target
	if l.Target != "a/b" || l.Attr.Mode != modeLink|0o777 || l.Attr.Size != 3 {
		t.Fatalf("%+v", l)
	}
	n := c.must(&wire.Request{Op: wire.OpMknod, Ino: root, Name: "n", Mode: modeChar | 0o600, Rdev: 0x103}).Target
	if n.Attr.Mode != modeChar|0o600 || n.Attr.Rdev != 0x103 {
		t.Fatalf("%+v", n)
	}
	c.fails(&wire.Request{Op: wire.OpMknod, Ino: root, Name: "bad", Mode: modeDir | 0o600}, eINVAL)
	c.fails(&wire.Request{Op: wire.OpCreate, Ino: n.Ino, Name: "x"}, eNOTDIR)
	c.fails(&wire.Request{Op: wire.OpCreate, Ino: root, Name: string(make([]byte, 300))}, eNAMETOOLONG)
	c.fails(&wire.Request{Op: wire.OpCreate, Ino: root, Name: "a/b"}, eINVAL)
	c.fails(&wire.Request{Op: wire.OpGetattr, Ino: 12345}, eSTALE)
}
