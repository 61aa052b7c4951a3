// Command osds measures objects through the client library beside one local file on the same
// disk: large sequential writes and reads, and durable writes of 4 KiB, in rounds that take
// turns, so that a busy machine hurts all alike. CPU is that of a control group that holds the
// OSDs and this program; the raw rows count this program's alone.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/monc"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/objecter"
	"github.com/capstan-fs/capstan/wire"
)

const (
	large = 4 << 20 // bytes of a large write or read, and of an object
	small = 4 << 10
)

var (
	confFile = flag.String("conf", "", "cluster's capstan.conf; empty: raw rows only")
	pools    = flag.String("pools", "", "names of pools, comma separated")
	dir      = flag.String("dir", "/var/tmp", "directory on the disk under measure, for the raw file")
	total    = flag.Int64("mib", 512, "MiB of a large sequential row")
	span     = flag.Duration("span", 3*time.Second, "time of a small row")
	rounds   = flag.Int("rounds", 3, "rounds; the median counts")
	depth    = flag.Int("depth", 16, "large operations in flight")
	cpuacct  = flag.String("cpuacct", "", "cpuacct.usage of a control group with the OSDs and this program")
	only     = flag.String("only", "write,cold,warm,small", "rows, comma separated; reads need the objects of an earlier write")
	asJSON   = flag.Bool("json", false, "as JSON")
)

// target is what is measured: a pool or the raw file. Offsets are in bytes of one long stream.
type target interface {
	name() string
	write(off int64, p []byte, durable bool) error
	read(off int64, p []byte) error
	cpu() time.Duration
}

func main() {
	flag.Parse()
	targets := []target{newRaw()}
	if *confFile != "" {
		c := dial()
		defer c.close()
		for n := range strings.SplitSeq(*pools, ",") {
			targets = append(targets, &pool{c: c, id: c.pool(n), label: "pool " + n})
		}
	}
	t := &table{rows: map[string][]sample{}}
	for range *rounds {
		t.large(targets)
		if wanted("small") {
			t.small(targets)
		}
	}
	t.print(targets)
}

func wanted(row string) bool { return slices.Contains(strings.Split(*only, ","), row) }

func (t *table) large(targets []target) {
	for _, x := range targets {
		if wanted("write") {
			t.add(x, "write 4 MiB", stream(x, func(off int64, p []byte) error { return x.write(off, p, false) }, true))
		}
	}
	for _, x := range targets {
		if wanted("cold") {
			dropCaches()
			t.add(x, "read 4 MiB cold", stream(x, x.read, false))
		}
		if wanted("warm") {
			t.add(x, "read 4 MiB warm", stream(x, x.read, false))
		}
	}
}

func (t *table) small(targets []target) {
	for _, writers := range []int{1, 16} {
		for _, x := range targets {
			t.add(x, fmt.Sprintf("durable 4 KiB, %d writers", writers), durable(x, writers))
		}
	}
}

// sample is one row of one round.
type sample struct {
	ops  int64
	size int64 // bytes of an operation
	took time.Duration
	cpu  time.Duration
}

// measured runs f, which returns operations, between two looks at the clock and the CPU.
func measured(x target, size int64, f func() int64) sample {
	cpu, at := x.cpu(), time.Now()
	n := f()
	return sample{ops: n, size: size, took: time.Since(at), cpu: x.cpu() - cpu}
}

// stream calls do for each 4 MiB of the stream, depth at a time. A write is durable at the end:
// an object when it is answered, the raw file by one fdatasync.
func stream(x target, do func(int64, []byte) error, writes bool) sample {
	return measured(x, large, func() int64 {
		var next atomic.Int64
		var wg sync.WaitGroup
		for range *depth {
			wg.Go(func() {
				p := aligned(large)
				if writes {
					fill(p)
				}
				for {
					off := (next.Add(1) - 1) * large
					if off >= *total<<20 {
						return
					}
					fatal(do(off, p))
				}
			})
		}
		wg.Wait()
		if r, ok := x.(*raw); ok && writes {
			fatal(unix.Fdatasync(int(r.f.Fd())))
		}
		return *total << 20 / large
	})
}

// durable lets writers write 4 KiB at random places of the stream, each waiting for its own to
// be durable.
func durable(x target, writers int) sample {
	return measured(x, small, func() int64 {
		var n atomic.Int64
		var wg sync.WaitGroup
		end := time.Now().Add(*span)
		for range writers {
			wg.Go(func() {
				p := aligned(small)
				fill(p)
				for time.Now().Before(end) {
					fatal(x.write(rand.Int64N(*total<<20/small)*small, p, true))
					n.Add(1)
				}
			})
		}
		wg.Wait()
		return n.Load()
	})
}

// raw is a file with O_DIRECT; its reads are warm or cold alike.
type raw struct{ f *os.File }

func newRaw() *raw {
	f, err := os.OpenFile(filepath.Join(*dir, "osds.raw"), os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_DIRECT, 0o600)
	fatal(err)
	fatal(unix.Fallocate(int(f.Fd()), 0, 0, *total<<20))
	fatal(os.Remove(f.Name()))
	return &raw{f}
}

func (r *raw) name() string { return "local file" }

func (r *raw) write(off int64, p []byte, durable bool) error {
	if _, err := r.f.WriteAt(p, off); err != nil || !durable {
		return err
	}
	return unix.Fdatasync(int(r.f.Fd()))
}

func (r *raw) read(off int64, p []byte) error {
	_, err := r.f.ReadAt(p, off)
	return err
}

func (r *raw) cpu() time.Duration {
	var u unix.Rusage
	fatal(unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// cluster is the client library's side.
type cluster struct {
	mons *monc.Client
	obj  *objecter.Objecter
}

func dial() *cluster {
	cfg, err := conf.Load(*confFile)
	fatal(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	self := msgr.Peer{Instance: wire.Instance{Kind: wire.KindTool, Nonce: uint64(time.Now().UnixNano())}, Cluster: cfg.Cluster}
	mons, err := monc.Dial(ctx, monc.Config{Net: msgr.TCP(), Addrs: cfg.MonAddrs, Self: self, Log: zerolog.Nop()})
	fatal(err)
	return &cluster{mons: mons, obj: objecter.New(objecter.Config{Net: msgr.TCP(), Maps: mons, Self: self, Log: zerolog.Nop()})}
}

func (c *cluster) close() {
	c.obj.Close()
	c.mons.Close()
}

func (c *cluster) pool(name string) uint32 {
	for _, p := range c.mons.OSDMap().Pools {
		if p.Name == name {
			return p.ID
		}
	}
	fatal(fmt.Errorf("no pool %q", name))
	return 0
}

type pool struct {
	c     *cluster
	id    uint32
	label string
}

func (p *pool) name() string { return p.label }

func (p *pool) do(off int64, op wire.ObjOp) (objecter.Result, error) {
	o := wire.ObjectID{Pool: p.id, Name: fmt.Sprintf("bench.%d", off/large)}
	r, err := p.c.obj.Do(context.Background(), o, []wire.ObjOp{op}, objecter.Options{})
	if err == nil && r.Errno != 0 {
		err = fmt.Errorf("%s: %w", o.Name, unix.Errno(r.Errno))
	}
	return r, err
}

// write is durable on every replica when it is answered, wanted or not.
func (p *pool) write(off int64, b []byte, _ bool) error {
	_, err := p.do(off, wire.ObjOp{Kind: wire.ObjWrite, Off: uint64(off % large), Data: b, DataLen: uint32(len(b))})
	return err
}

func (p *pool) read(off int64, b []byte) error {
	r, err := p.do(off, wire.ObjOp{Kind: wire.ObjRead, Off: uint64(off % large), Len: uint64(len(b))})
	if err == nil && len(r.Ops[0].Data) != len(b) {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		msgr.Recycle(r.Ops[0].Data)
	}
	return err
}

func (p *pool) cpu() time.Duration {
	if *cpuacct == "" {
		return 0
	}
	b, err := os.ReadFile(*cpuacct)
	fatal(err)
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	fatal(err)
	return time.Duration(n)
}

// table keeps the samples of each target's rows, in the order of their first.
type table struct {
	order []string
	rows  map[string][]sample // by row, a tab, target
}

func (t *table) add(x target, row string, s sample) {
	if !slices.Contains(t.order, row) {
		t.order = append(t.order, row)
	}
	t.rows[row+"\t"+x.name()] = append(t.rows[row+"\t"+x.name()], s)
}

type line struct {
	Row    string  `json:"row"`
	Target string  `json:"target"`
	MBs    float64 `json:"mb_per_second"`
	Ops    float64 `json:"operations_per_second"`
	CPU    float64 `json:"cpu_us_per_operation"`
	CPUGiB float64 `json:"cpu_seconds_per_gib"`
	Ratio  float64 `json:"of_local_file"`
}

func (t *table) print(targets []target) {
	var out []line
	for _, row := range t.order {
		base := 0.0
		for _, x := range targets {
			ss := t.rows[row+"\t"+x.name()]
			slices.SortFunc(ss, func(a, b sample) int { return int(a.took/time.Duration(a.ops) - b.took/time.Duration(b.ops)) })
			s := ss[len(ss)/2]
			ops := float64(s.ops) / s.took.Seconds()
			if base == 0 {
				base = ops
			}
			out = append(out, line{Row: row, Target: x.name(), MBs: ops * float64(s.size) / 1e6, Ops: ops, CPU: float64(s.cpu.Microseconds()) / float64(s.ops),
				CPUGiB: s.cpu.Seconds() / float64(s.ops*s.size) * (1 << 30), Ratio: ops / base})
		}
	}
	if *asJSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		fatal(e.Encode(out))
		return
	}
	fmt.Printf("%-28s %-12s %10s %10s %12s %12s %8s\n", "", "", "MB/s", "ops/s", "CPU us/op", "CPU s/GiB", "of file")
	for _, l := range out {
		fmt.Printf("%-28s %-12s %10.1f %10.0f %12.0f %12.2f %7.0f%%\n", l.Row, l.Target, l.MBs, l.Ops, l.CPU, l.CPUGiB, l.Ratio*100)
	}
}

// dropCaches makes the next read come from the disk. It needs root.
func dropCaches() {
	unix.Sync()
	fatal(os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0))
}

// aligned is n bytes that O_DIRECT takes.
func aligned(n int) []byte {
	b := make([]byte, n+4096)
	skip := 4096 - int(uintptr(unsafe.Pointer(&b[0]))%4096)
	return b[skip : skip+n : skip+n]
}

// fill makes bytes that nothing compresses.
func fill(p []byte) {
	r := rand.NewChaCha8([32]byte{1})
	r.Read(p)
}

func fatal(err error) {
	if err != nil {
		_, file, n, _ := runtime.Caller(1)
		fmt.Fprintf(os.Stderr, "osds: %v (%s:%d)\n", err, filepath.Base(file), n)
		os.Exit(1)
	}
}
