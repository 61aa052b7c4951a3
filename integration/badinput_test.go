package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/monc"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/objecter"
	"github.com/capstan-fs/capstan/wire"
)

// refuses runs a command that must fail and name what it failed on.
func refuses(t *testing.T, c *harness.Cluster, words []string, args ...string) {
	t.Helper()
	out, err := c.Run(args...)
	if err == nil {
		t.Fatalf("capstan %s succeeded:\n%s", strings.Join(args, " "), out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("capstan %s: the message lacks %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
	if strings.Contains(out, "goroutine ") {
		t.Errorf("capstan %s died of it:\n%s", strings.Join(args, " "), out)
	}
}

func TestBadMountpointsAreRefused(t *testing.T) {
	c := harness.Up(t)
	m := c.Mount()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	refuses(t, c, []string{file, "directory"}, "mount", "--conf", c.Conf(), file)
	refuses(t, c, []string{"/no/such/dir"}, "mount", "--conf", c.Conf(), "/no/such/dir")
	refuses(t, c, []string{m, "mounted"}, "mount", "--conf", c.Conf(), m)
	refuses(t, c, []string{"/no/such.conf"}, "mount", "--conf", "/no/such.conf", t.TempDir())
	refuses(t, c, nil, "umount", t.TempDir())
}

func TestOptionsThatCannotBeAreRefused(t *testing.T) {
	c := harness.Up(t)
	refuses(t, c, []string{"--ranks", "between 1 and 16"}, "dev", "up", "--dir", t.TempDir(), "--ranks", "17")
	refuses(t, c, []string{"2 monitors", "odd"}, "dev", "up", "--dir", t.TempDir(), "--mons", "2")
	refuses(t, c, []string{"of 1 monitors, not 3"}, "dev", "up", "--dir", c.Dir, "--mons", "3")
}

func TestForeignAndNewerDataDirectoriesAreRefused(t *testing.T) {
	a, b := harness.Up(t), harness.Up(t)
	a.Stop()
	// osd.1 of another cluster is put in place of ours.
	if err := os.Rename(filepath.Join(a.Dir, "osd.1"), filepath.Join(a.Dir, "ours")); err != nil {
		t.Fatal(err)
	}
	b.Stop()
	if err := os.Rename(filepath.Join(b.Dir, "osd.1"), filepath.Join(a.Dir, "osd.1")); err != nil {
		t.Fatal(err)
	}
	refuses(t, a, []string{"osd.1", "cluster"}, "dev", "up", "--dir", a.Dir)
	if err := os.RemoveAll(filepath.Join(a.Dir, "osd.1")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(a.Dir, "ours"), filepath.Join(a.Dir, "osd.1")); err != nil {
		t.Fatal(err)
	}
	a.Start()
	m := a.Mount()
	if err := os.WriteFile(filepath.Join(m, "x"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The monitor's address is in everybody's configuration, so it cannot just take another one.
func TestPortInUseIsNamed(t *testing.T) {
	c := harness.Up(t)
	addr := c.Proc("mon.a").Addr
	c.Kill("mon.a")
	var l net.Listener
	within(t, 5, "the killed monitor's port", func() (free bool) { // its last thread may still hold it
		var err error
		l, err = net.Listen("tcp", addr)
		return err == nil
	})
	defer l.Close()
	refuses(t, c, []string{addr, "in use", "mon_listen"}, "dev", "up", "--dir", c.Dir)
}

// A cluster of 1 GiB fills up: ENOSPC, no daemon dies, unlink works, the space comes back.
func TestFullClusterHealsByDeleting(t *testing.T) {
	c := harness.Up(t)
	m := c.Mount()
	chunk := make([]byte, 4<<20)
	for i := range chunk {
		chunk[i] = byte(i * 7)
	}
	var err error
	n := 0
	for ; n < 600; n++ {
		if err = os.WriteFile(filepath.Join(m, fmt.Sprintf("fill%d", n)), chunk, 0o644); err != nil {
			break
		}
	}
	if e := errnoOf(err); e != syscall.ENOSPC {
		t.Fatalf("after %d files of 4 MiB: %v, want ENOSPC", n, err)
	}
	if n < 100 {
		t.Fatalf("full after %d files of 4 MiB in a cluster of 1 GiB", n)
	}
	var before syscall.Statfs_t
	if err := syscall.Statfs(m, &before); err != nil {
		t.Fatal(err)
	}
	for i := range n + 1 {
		if err := os.Remove(filepath.Join(m, fmt.Sprintf("fill%d", i))); err != nil && !os.IsNotExist(err) {
			t.Fatalf("unlink on a full cluster: %v", err)
		}
	}
	within(t, 30, "the space of deleted files", func() bool {
		return os.WriteFile(filepath.Join(m, "again"), chunk, 0o644) == nil && free(t, m) > uint64(n/2)*4<<20
	})
	for _, p := range c.Procs() {
		if p.PID == 0 || syscall.Kill(p.PID, 0) != nil {
			t.Errorf("%s died of it", p.Name)
		}
	}
}

// alive checks that a daemon is the process that it was: bad input killed nobody.
func alive(t *testing.T, c *harness.Cluster, before []harness.Proc, but ...string) {
	t.Helper()
	now := map[string]int{}
	for _, p := range c.Procs() {
		now[p.Name] = p.PID
	}
	for _, p := range before {
		if p.PID != now[p.Name] && !strings.Contains(strings.Join(but, " "), p.Name) {
			t.Errorf("%s died of it: pid %d became %d", p.Name, p.PID, now[p.Name])
		}
	}
}

func TestBadConfigurationsAreNamed(t *testing.T) {
	c := harness.Up(t)
	bad := filepath.Join(t.TempDir(), "bad.conf")
	for text, words := range map[string][]string{
		"ods_size = \"1GiB\"\n":                 {bad, "ods_size", "osd_size"},
		"osd_size = \"1 furlong\"\n":            {bad, "osd_size", "furlong"},
		"osd_size = = 1\n":                      {bad, "line 1"},
		"pool_size = 2\npool_min_size = 3\n":    {bad, "pool_min_size", "pool_size"},
		"cluster = \"not a uuid\"\nfrobs = 1\n": {bad, "cluster", "frobs"},
		"session_validity = \"1ms\"\n":          {bad, "session_validity", "3s"},
	} {
		if err := os.WriteFile(bad, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		refuses(t, c, words, "status", "--conf", bad)
	}
	refuses(t, c, []string{"/no/such.conf", "--conf"}, "status", "--conf", "/no/such.conf")
	refuses(t, c, []string{bad, "not a directory"}, "dev", "up", "--dir", filepath.Join(bad, "d"))
	refuses(t, c, []string{"holds no cluster", "dev up"}, "dev", "down", "--dir", t.TempDir())
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "thesis.tex"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	refuses(t, c, []string{home, "not empty"}, "dev", "up", "--dir", home)
	if os.Geteuid() != 0 { // root reads everything
		if err := os.Chmod(home, 0); err != nil {
			t.Fatal(err)
		}
		refuses(t, c, []string{home, "permission denied"}, "dev", "up", "--dir", home)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	c := harness.Up(t)
	c.Kill("osd.1")
	meta := filepath.Join(c.Dir, "osd.1", "capstan.meta")
	b, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(meta, bytes.Replace(b, []byte("format = 1"), []byte("format = 99"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	before := c.Procs()
	refuses(t, c, []string{"osd.1", "format 99", "newer"}, "dev", "up", "--dir", c.Dir)
	alive(t, c, before)
	if err := os.WriteFile(meta, b, 0o644); err != nil {
		t.Fatal(err)
	}
	c.Start()
}

// Strangers talk to every port: garbage, lengths of gigabytes, half a hello. Each connection
// ends, one line is logged, and the mount notices nothing.
func TestGarbageAtEveryPortHarmsNobody(t *testing.T) {
	c := harness.Up(t)
	m := c.Mount()
	l, halt := load(mkdir(t, filepath.Join(m, "d")), 1)
	before := c.Procs()
	rng := rand.New(rand.NewSource(7))
	wild := binary.LittleEndian.AppendUint32(nil, 0xffffffff)
	// A hello taken from life: what a right one looks like, then broken everywhere.
	hello := bytes.Repeat([]byte{0}, 64)
	noise := make([]byte, 1<<16)
	rng.Read(noise)
	for _, p := range before {
		for _, b := range [][]byte{nil, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), bytes.Repeat(wild, 1000), hello, noise, noise[:3], bytes.Repeat([]byte{0xff}, 1<<20)} {
			conn, err := net.Dial("tcp", p.Addr)
			if err != nil {
				t.Fatalf("%s: %v", p.Name, err)
			}
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			conn.Write(b)
			conn.(*net.TCPConn).CloseWrite()
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s keeps a connection that said %.20q", p.Name, b)
			}
			conn.Close()
		}
		wellSpoken(t, p)
	}
	halt()
	alive(t, c, before)
	l.check(t, filepath.Join(m, "d"))
	for _, p := range before {
		b, _ := os.ReadFile(filepath.Join(c.Dir, "log", p.Name+".log"))
		if n := len(b); n > 64<<10 {
			t.Errorf("%s logged %d bytes of it", p.Name, n)
		}
		if bytes.Contains(b, []byte("goroutine ")) {
			t.Errorf("%s panicked:\n%s", p.Name, b)
		}
	}
}

type mute struct{ closed chan error }

func (m mute) Frames(*msgr.Conn, []msgr.Frame) {}
func (m mute) Closed(_ *msgr.Conn, err error)  { m.closed <- err }

// wellSpoken says a right hello, then sends messages that the daemon never expects.
func wellSpoken(t *testing.T, p harness.Proc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	h := mute{make(chan error, 1)}
	self := msgr.Peer{Instance: wire.Instance{Kind: wire.KindTool, Nonce: 99}}
	conn, err := msgr.Dial(ctx, msgr.TCP(), p.Addr, self, h)
	if err != nil {
		t.Errorf("%s: %v", p.Name, err)
		return
	}
	defer conn.Close()
	for _, msg := range []wire.Message{&wire.SessionClose{}, &wire.Request{Op: 250, Ino: 1 << 63}, &wire.MonCommand{Args: []byte("{")}, &wire.CapUpdate{}, &wire.OSDBoot{}} {
		if conn.SendNow(1, msg) != nil {
			return
		}
	}
}

// damage changes a file of a stopped daemon.
func damage(t *testing.T, path string, how func(b []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, how(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// An OSD's files are damaged in turn. It refuses to start, names the file and says what to do;
// the cluster goes on without it; emptied, it is filled again from the others.
func TestDamagedStoreRefusesAndIsReplaced(t *testing.T) {
	c := harness.Up(t, harness.Args("--osd-lease", "500ms", "--repl-grace", "1s", "--osd-down-grace", "1s"))
	m := c.Mount()
	d := mkdir(t, filepath.Join(m, "d"))
	store := filepath.Join(c.Dir, "osd.1", "store")
	truncate := func(b []byte) []byte { return b[:len(b)/2] }
	scribble := func(from, n int) func([]byte) []byte {
		return func(b []byte) []byte {
			for i := from; i < min(from+n, len(b)); i++ {
				b[i] ^= 0x5a
			}
			return b
		}
	}
	for _, bad := range []struct {
		file string
		how  func([]byte) []byte
		what string
	}{
		{"wal", scribble(0, 4096), "head"},
		{"block", truncate, "short"},
		{"meta.db", scribble(0, 1<<20), "scribbled"},
		{"meta.db", func(b []byte) []byte { return b[:3*os.Getpagesize()] }, "short"},
		{"meta.db", func([]byte) []byte { return nil }, "empty"},
		{"store.json", truncate, "short"},
	} {
		name := bad.file + " " + bad.what
		sub := mkdir(t, filepath.Join(d, strings.ReplaceAll(name, " ", "-")))
		if err := durable(sub, "before", []byte(name)); err != nil {
			t.Fatal(err)
		}
		c.Kill("osd.1")
		damage(t, filepath.Join(store, bad.file), bad.how)
		before := c.Procs()
		refuses(t, c, []string{"osd.1", store, bad.file}, "dev", "up", "--dir", c.Dir)
		alive(t, c, before)
		if err := durable(sub, "meanwhile", []byte(name)); err != nil {
			t.Fatalf("%s: the others do not go on: %v", name, err)
		}
		if err := os.RemoveAll(filepath.Join(c.Dir, "osd.1")); err != nil {
			t.Fatal(err)
		}
		c.Start()
		c.WaitClean(60 * time.Second)
		for _, f := range []string{"before", "meanwhile"} {
			if b, err := os.ReadFile(filepath.Join(sub, f)); err != nil || string(b) != name {
				t.Errorf("%s: %s: %q, %v", name, f, b, err)
			}
		}
	}
}

// The last record of the log was torn by a crash: that is ordinary. The OSD starts, and what
// was acknowledged is there.
func TestTornLogTailIsOrdinary(t *testing.T) {
	c := harness.Up(t, harness.Args("--osds", "1", "--session-validity", "3s"))
	m := c.Mount()
	l, halt := load(mkdir(t, filepath.Join(m, "d")), 2)
	time.Sleep(time.Second)
	c.Kill()
	c.KillMounts()
	halt()
	// Behind the last whole record everything is zero; a record that was never acknowledged
	// has left its first bytes there.
	damage(t, filepath.Join(c.Dir, "osd.0", "store", "wal"), func(b []byte) []byte {
		end := len(bytes.TrimRight(b, "\x00"))
		end += 8 - end%8
		for i := end; i < min(end+40, len(b)); i++ {
			b[i] = byte(i)
		}
		return b
	})
	c.Start()
	l.check(t, filepath.Join(c.Mount(), "d"))
}

// A monitor whose store is damaged says so and does not begin a new cluster in its place.
func TestDamagedMonitorStoreIsRefused(t *testing.T) {
	c := harness.Up(t)
	c.Stop()
	db := filepath.Join(c.Dir, "mon.a", "store", "raft.db")
	good, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	for what, how := range map[string]func([]byte) []byte{
		"scribbled": func(b []byte) []byte { return bytes.Repeat([]byte{0x5a}, len(b)) },
		"short":     func(b []byte) []byte { return b[:len(b)/3] },
		"empty":     func(b []byte) []byte { return nil },
		"pages":     func(b []byte) []byte { return append(b[:8192:8192], bytes.Repeat([]byte{0x5a}, len(b)-8192)...) },
	} {
		damage(t, db, how)
		t.Log(what)
		refuses(t, c, []string{"mon.a", filepath.Join(c.Dir, "mon.a"), "damaged"}, "dev", "up", "--dir", c.Dir)
		if err := os.WriteFile(db, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.Start()
}

// Objects of the rank's journal are overwritten. The rank must not guess: it is damaged, and
// status says so and what to do. Restored, it goes on where it was.
func TestDamagedJournalStopsTheRankByName(t *testing.T) {
	c := harness.Up(t, harness.Args("--session-validity", "3s"))
	m := c.Mount()
	if err := durable(m, "x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	c.Kill("mds.a")
	cfg, err := conf.Load(c.Conf())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	self := msgr.Peer{Instance: wire.Instance{Kind: wire.KindTool, Nonce: 4711}, Cluster: cfg.Cluster}
	mons, err := monc.Dial(ctx, monc.Config{Net: msgr.TCP(), Addrs: cfg.MonAddrs, Self: self, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer mons.Close()
	obj := objecter.New(objecter.Config{Net: msgr.TCP(), Maps: mons, Self: self, Log: zerolog.Nop()})
	defer obj.Close()
	head := wire.ObjectID{Pool: mons.FSMap().MetaPool, Name: journal.HeadName("journal.0")}
	r, err := obj.Do(ctx, head, []wire.ObjOp{{Kind: wire.ObjRead, Len: 4096}}, objecter.Options{})
	if err != nil || r.Errno != 0 {
		t.Fatalf("read the journal's head: %v errno %d", err, r.Errno)
	}
	good := bytes.Clone(r.Ops[0].Data)
	put := func(b []byte) {
		t.Helper()
		r, err := obj.Do(ctx, head, []wire.ObjOp{{Kind: wire.ObjWriteFull, Data: b, DataLen: uint32(len(b))}}, objecter.Options{})
		if err != nil || r.Errno != 0 {
			t.Fatalf("write the journal's head: %v errno %d", err, r.Errno)
		}
	}
	put(bytes.Repeat([]byte{0x5a}, len(good)))
	refuses(t, c, []string{"rank 0 is damaged", "capstan status"}, "dev", "up", "--dir", c.Dir)
	within(t, 20, "status says that the rank is damaged", func() bool {
		s := c.Must("status")
		return strings.Contains(s, "rank 0 is damaged") && strings.Contains(s, "capstan fs repaired 0")
	})
	log, _ := os.ReadFile(filepath.Join(c.Dir, "log", "mds.a.log"))
	if !bytes.Contains(log, []byte("journal")) || bytes.Contains(log, []byte("goroutine ")) {
		t.Errorf("the log does not name the journal:\n%s", log)
	}
	put(good)
	c.Must("fs", "repaired", "0")
	c.Start()
	within(t, 30, "the file behind the repaired journal", func() bool {
		b, err := os.ReadFile(filepath.Join(m, "x"))
		return err == nil && string(b) == "x"
	})
}

// The host's disk under one OSD is filled by somebody else, long before the OSD's own limit. The
// OSD is full then, as if it had reached that: writers are told, nobody ends, what is there is
// read and deleted, and with room on the host everything goes on.
func TestFullHostDiskUnderOneOSD(t *testing.T) {
	c := harness.Up(t)
	m := c.Mount()
	d := mkdir(t, filepath.Join(m, "d"))
	c.Kill("osd.1")
	dir := filepath.Join(c.Dir, "osd.1")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	mkdir(t, dir)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=160m"); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	c.Start()
	c.WaitClean(60 * time.Second)
	before := c.Procs()
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	for i := range 4 {
		if err := durable(d, fmt.Sprint(i), chunk); err != nil {
			t.Fatalf("file %d: %v", i, err)
		}
	}
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(free(t, dir))-(8<<20)); err != nil { // less than the OSD keeps for its log and its metadata
		t.Fatal(err)
	}
	f.Close()
	health := func() string {
		out, _ := c.Run("health", "--json") // fails when something is wrong
		return out
	}
	within(t, 60, "osd.1 to be full", func() bool { return strings.Contains(health(), `"OSD_FULL"`) })
	if h := health(); !strings.Contains(h, `"osd.1"`) {
		t.Errorf("who is full? %s", h)
	}
	if err := durable(d, "refused", chunk); errnoOf(err) != syscall.ENOSPC {
		t.Errorf("a write while an OSD is full: %v", err)
	}
	if err := os.Remove(filepath.Join(d, "0")); err != nil {
		t.Errorf("unlink while an OSD is full: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	within(t, 60, "the room to be noticed", func() bool { return durable(d, "again", chunk) == nil })
	alive(t, c, before)
	for _, n := range []string{"1", "2", "3", "again"} {
		if b, err := os.ReadFile(filepath.Join(d, n)); err != nil || !bytes.Equal(b, chunk) {
			t.Errorf("file %s: %d bytes, %v", n, len(b), err)
		}
	}
	c.Stop() // before its disk goes
}
