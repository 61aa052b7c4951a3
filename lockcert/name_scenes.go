package lockcert

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const absent = syscall.ENOENT

// pair are two workers that take turns in the roles of the one who changes and the one who looks.
func (t *T) pair(n int, scene func(i int, maker, looker *W)) {
	for i := range n {
		scene(i, t.W(i%2), t.W((i+1)%2))
	}
}

func negative(t *T) {
	t.pair(6, func(i int, m, l *W) {
		f, d, h, r := fmt.Sprintf("f%d", i), fmt.Sprintf("d%d", i), fmt.Sprintf("h%d", i), fmt.Sprintf("r%d", i)
		for _, n := range []string{f, d, h, r} {
			l.fails(absent, stat(n))
			l.fails(absent, readAll(n))
			m.fails(absent, stat(n))
		}
		l.fails(absent, stat(d+"/below"))
		m.ok(create(f, "new"))
		l.says("new", readAll(f))
		m.ok(mkdir(d))
		l.ok(stat(d))
		l.fails(absent, stat(d+"/below"))
		m.ok(create(d+"/below", ""))
		l.ok(stat(d + "/below"))
		m.ok(Step{Op: "link", P: f, Q: h})
		l.says("new", readAll(h))
		m.ok(rename(f, r))
		l.says("new", readAll(r))
		l.fails(syscall.EEXIST, create(r, ""))
		l.fails(syscall.EEXIST, mkdir(d))
	})
}

func gone(t *T) {
	t.pair(6, func(i int, m, l *W) {
		f, d, r := fmt.Sprintf("f%d", i), fmt.Sprintf("d%d", i), fmt.Sprintf("r%d", i)
		m.ok(create(f, "old"))
		m.ok(mkdir(d))
		m.ok(create(r, "moved"))
		l.says("old", readAll(f))
		l.ok(stat(d))
		l.ok(stat(r))
		m.ok(unlink(f))
		l.fails(absent, stat(f))
		l.fails(absent, readAll(f))
		l.fails(absent, unlink(f))
		m.ok(Step{Op: "rmdir", P: d})
		l.fails(absent, stat(d))
		l.fails(absent, create(d+"/x", ""))
		m.ok(rename(r, r+"2"))
		l.fails(absent, stat(r))
		l.fails(absent, rename(r, "elsewhere"))
		l.ok(create(f, "another"))
		m.says("another", readAll(f))
	})
}

func renames(t *T) {
	t.W(0).ok(mkdir("one"))
	t.W(0).ok(mkdir("two"))
	t.pair(6, func(i int, m, l *W) {
		a, b := fmt.Sprintf("one/a%d", i), fmt.Sprintf("two/b%d", i)
		m.ok(create(a, "first"))
		m.ok(create(b, "second"))
		l.says("first", readAll(a))
		l.says("second", readAll(b))
		old := l.ok(stat(a))
		m.ok(rename(a, b)) // over an existing file, into another directory
		l.says("first", readAll(b))
		l.fails(absent, stat(a))
		e := l.ok(stat(b))
		l.must(e, e.Stat.Ino == old.Stat.Ino, "the inode number it had, %d", old.Stat.Ino)
		// A directory with something in it.
		d, e2 := fmt.Sprintf("one/d%d", i), fmt.Sprintf("two/e%d", i)
		m.ok(mkdir(d))
		m.ok(create(d+"/in", "inside"))
		l.says("inside", readAll(d+"/in"))
		m.ok(rename(d, e2))
		l.fails(absent, stat(d+"/in"))
		l.says("inside", readAll(e2+"/in"))
		l.ok(create(e2+"/more", "x"))
		m.says("x", readAll(e2+"/more"))
		l.ok(rename(e2, d)) // and back from the other side
		m.says("inside", readAll(d+"/in"))
		m.fails(absent, stat(e2))
	})
}

func rmdirs(t *T) {
	t.pair(6, func(i int, m, l *W) {
		d := fmt.Sprintf("d%d", i)
		m.ok(mkdir(d))
		l.ok(list(d))
		m.ok(create(d+"/x", ""))
		l.fails(syscall.ENOTEMPTY, Step{Op: "rmdir", P: d})
		m.ok(unlink(d + "/x"))
		l.ok(Step{Op: "rmdir", P: d})
		m.fails(absent, create(d+"/y", ""))
		m.fails(absent, mkdir(d+"/z"))
		m.fails(absent, list(d))
	})
}

func nlinks(t *T) {
	t.pair(4, func(i int, m, l *W) {
		f, g := fmt.Sprintf("f%d", i), fmt.Sprintf("g%d", i)
		m.ok(create(f, "x"))
		l.ok(rdwr(i+1, f))
		is := func(s Step, n uint64) {
			e := l.ok(s)
			l.must(e, e.Stat.Nlink == n, "nlink %d", n)
		}
		is(stat(f), 1)
		m.ok(Step{Op: "link", P: f, Q: g})
		is(stat(f), 2)
		is(fstat(i+1), 2)
		a, b := m.ok(stat(f)).Stat.Ino, l.ok(stat(g)).Stat.Ino
		if a != b {
			t.failf("two names of one file have inode numbers %d and %d", a, b)
		}
		m.ok(unlink(f))
		is(stat(g), 1)
		is(fstat(i+1), 1)
		m.ok(unlink(g))
		is(fstat(i+1), 0)
	})
}

func listCoherent(t *T) {
	t.W(0).ok(mkdir("d"))
	want := map[string]bool{}
	t.pair(10, func(i int, m, l *W) {
		show := func(w *W) {
			e := w.ok(list("d"))
			var names []string
			for n := range want {
				names = append(names, n)
			}
			slices.Sort(names)
			w.must(e, slices.Equal(e.Names, names), "{%s}", strings.Join(names, " "))
		}
		show(l)
		n := fmt.Sprintf("n%d", i)
		m.ok(create("d/"+n, ""))
		want[n] = true
		show(l)
		if i%2 == 1 {
			m.ok(rename("d/"+n, "d/m"+n))
			delete(want, n)
			want["m"+n] = true
			show(l)
		}
		if i%3 == 2 {
			gone := "n" + fmt.Sprint(i-2)
			if !want[gone] {
				gone = "m" + gone
			}
			l.ok(unlink("d/" + gone))
			delete(want, gone)
			show(m)
			show(l)
		}
	})
}

func attrSize(t *T) {
	f := "f"
	t.W(0).ok(create(f, "12345"))
	for i := range 2 {
		t.W(i).open(f)
	}
	size := int64(5)
	t.pair(8, func(i int, m, l *W) {
		see := func() {
			for _, s := range []Step{stat(f), fstat(0)} {
				e := l.ok(s)
				l.must(e, e.Stat.Size == size, "size %d", size)
			}
		}
		see()
		m.ok(pwrite(0, size, "longer"))
		size += 6
		see()
		m.ok(Step{Op: "ftruncate", Len: 3})
		size = 3
		see()
		m.ok(openAs(1, f, unix.O_WRONLY|unix.O_APPEND))
		m.ok(Step{Op: "append", H: 1, Data: "appended"})
		size = 11
		see()
		m.ok(closes(1))
		see()
		m.ok(put(f, "1234567")) // O_TRUNC and written
		size = 7
		see()
		m.ok(Step{Op: "ftruncate", Len: 10_000})
		size = 10_000
		see()
		m.ok(Step{Op: "ftruncate", Len: 5})
		size = 5
	})
}

// seekEnd looks through a handle of each kind: a mount may treat one that could write otherwise.
func seekEnd(t *T) {
	t.W(0).ok(create("f", "12345"))
	size := int64(5)
	t.pair(4, func(i int, m, l *W) {
		m.ok(rdwr(0, "f"))
		for _, mode := range []int{unix.O_RDONLY, unix.O_RDWR} {
			l.ok(openAs(1, "f", mode))
			see := func() {
				e := l.ok(Step{Op: "seek-end", H: 1})
				l.must(e, e.N == size, "%d", size)
			}
			see()
			m.ok(pwrite(0, size, "some more"))
			size += 9
			see()
			m.ok(Step{Op: "ftruncate", Len: 3})
			size = 3
			see()
			l.ok(closes(1))
		}
		m.ok(closes(0))
	})
}

func attrModeTimes(t *T) {
	f := "f"
	t.W(0).ok(create(f, ""))
	for i := range 2 {
		t.W(i).open(f)
	}
	t.pair(8, func(i int, m, l *W) {
		l.ok(stat(f))
		mode := uint32(0o600 + i)
		m.ok(Step{Op: "chmod", P: f, Flags: int(mode)})
		for _, s := range []Step{stat(f), fstat(0)} {
			e := l.ok(s)
			l.must(e, e.Stat.Mode == mode, "mode %o", mode)
		}
		sec := int64(1_000_000_000 + i)
		m.ok(Step{Op: "utimes", P: f, Len: sec})
		for _, s := range []Step{stat(f), fstat(0)} {
			e := l.ok(s)
			l.must(e, e.Stat.Mtime == sec, "mtime %d", sec)
		}
		m.ok(pwrite(0, 0, "now"))
		for _, s := range []Step{stat(f), fstat(0)} {
			e := l.ok(s)
			l.must(e, e.Stat.Mtime > sec+100, "an mtime of today: it was written")
		}
	})
}

func attrXattr(t *T) {
	f := "f"
	t.W(0).ok(create(f, ""))
	get := Step{Op: "getxattr", P: f, Q: "user.k"}
	set := func(v string) Step { return Step{Op: "setxattr", P: f, Q: "user.k", Data: v} }
	if e := t.W(0).do(set("0")); e.Errno == syscall.EOPNOTSUPP {
		t.skipf("no user xattrs here")
	}
	t.pair(6, func(i int, m, l *W) {
		l.ok(get)
		m.ok(set(fmt.Sprint("value ", i)))
		l.says(fmt.Sprint("value ", i), get)
	})
}
