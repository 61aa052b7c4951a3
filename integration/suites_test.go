package integration

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
)

// Suites of others: Debian's packages, on one to three mounts. The short form of each is due in
// every `make test`; `make real` runs the long one. docs/conformance.md tells what they can show.
// Two run at once, since much of their time goes into waiting for each other's processes.

// runFor starts a program in dir and returns what it printed; it is killed, with its children,
// when it takes longer than limit.
func runFor(t testing.TB, dir string, limit time.Duration, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("no end after %v", limit)
	}
	return string(out), err
}

// ---- ctdb's ping_pong ----------------------------------------------------------------------

// pingPong is one process of ping_pong and what it has said of late.
type pingPong struct {
	cmd   *exec.Cmd
	mu    sync.Mutex
	steps []int // every "data increment" that it printed
	rate  int   // locks per second, the last it printed
}

var incremented = regexp.MustCompile(`data increment = (\d+)`)
var locksPerSecond = regexp.MustCompile(`(\d+) locks/sec`)

func startPingPong(t testing.TB, file string, locks int, opts ...string) *pingPong {
	t.Helper()
	p := &pingPong{cmd: exec.Command("stdbuf", append(append([]string{"-o0", "ping_pong"}, opts...), file, strconv.Itoa(locks))...)}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.read(out)
	return p
}

// read takes its lines, which end in \r or \n.
func (p *pingPong) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Split(func(b []byte, atEOF bool) (int, []byte, error) {
		if i := bytes.IndexAny(b, "\r\n"); i >= 0 {
			return i + 1, b[:i], nil
		}
		return 0, nil, nil
	})
	for lines.Scan() {
		p.mu.Lock()
		if m := incremented.FindSubmatch(lines.Bytes()); m != nil {
			n, _ := strconv.Atoi(string(m[1]))
			p.steps = append(p.steps, n)
		}
		if m := locksPerSecond.FindSubmatch(lines.Bytes()); m != nil {
			p.rate, _ = strconv.Atoi(string(m[1]))
		}
		p.mu.Unlock()
	}
}

func (p *pingPong) seen() (steps []int, rate int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.steps), p.rate
}

func (p *pingPong) end() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// Each process goes round a ring of byte locks, always holding one or two. With -rw every byte
// is a counter that each adds one to: in a ring of n processes the same process finds it n
// higher each time, whatever their speed, if locks exclude and data follows them. So it says
// "data increment = n" once all are there and nothing else as long as all are.
func TestPingPong(t *testing.T) {
	t.Parallel()
	need(t, "ping_pong")
	need(t, "stdbuf")
	c := harness.Up(t, harness.Limit(10*time.Minute))
	mounts := []string{c.Mount(), c.Mount(), c.Mount()}
	type form struct {
		mounts int
		opts   []string
	}
	forms := []form{{2, nil}, {3, []string{"-rw"}}, {2, []string{"-m"}}}
	d := time.Second
	if long() {
		forms = []form{{1, nil}, {2, nil}, {3, nil}, {2, []string{"-rw"}}, {3, []string{"-rw"}}, {2, []string{"-m"}}, {3, []string{"-m"}}}
		d = 10 * time.Second
	}
	for i, f := range forms {
		t.Run(fmt.Sprintf("%d mounts %s", f.mounts, strings.Join(f.opts, "")), func(t *testing.T) {
			var ps []*pingPong
			for _, m := range mounts[:f.mounts] {
				p := startPingPong(t, filepath.Join(m, fmt.Sprintf("ring%d", i)), f.mounts+1, f.opts...)
				defer p.end()
				ps = append(ps, p)
			}
			data := slices.Contains(f.opts, "-rw")
			together := func(p *pingPong) bool {
				steps, rate := p.seen()
				return rate > 0 && (!data || len(steps) > 0 && steps[len(steps)-1] == f.mounts)
			}
			within(t, 20, "all go round together", func() bool { return !slices.ContainsFunc(ps, func(p *pingPong) bool { return !together(p) }) })
			before := make([]int, len(ps))
			for i, p := range ps {
				steps, _ := p.seen()
				before[i] = len(steps)
			}
			time.Sleep(d) // the time of the measurement: nothing is waited for
			sum := 0
			for i, p := range ps {
				steps, rate := p.seen()
				sum += rate
				if rest := steps[before[i]:]; data && len(rest) > 0 {
					t.Errorf("process %d found increments of %v, must be %d all along", i, rest, f.mounts)
				}
				if rate == 0 {
					t.Errorf("process %d stands still", i)
				}
			}
			t.Logf("%d locks per second in all", sum)
		})
	}
}

// ---- fio, dbench, stress-ng ----------------------------------------------------------------

// Two jobs write their halves of one file, each through its own mount, and each half is then
// verified through the other mount.
func TestFioVerifiesAcrossMounts(t *testing.T) {
	t.Parallel()
	need(t, "fio")
	c := harness.Up(t, harness.Limit(10*time.Minute))
	m := []string{c.Mount(), c.Mount()}
	size := "6M"
	if long() {
		size = "128M"
	}
	job := func(half int, more string) []string {
		return strings.Fields("fio --name=j --filename=shared --bsrange=1k-64k --bs_unaligned=1 --rw=randwrite --verify=crc32c --verify_backlog=0 --ioengine=psync --randseed=7 --size=" + size +
			" --offset=" + []string{"0", size}[half] + " " + more)
	}
	// At its full size from the start, or fio lays it out: who comes second would cut it.
	sh(t, m[0], `truncate -s $((2 * $1))M shared`, strings.TrimSuffix(size, "M"))
	var wg sync.WaitGroup
	for half := range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if out, err := runFor(t, m[half], 5*time.Minute, job(half, "--do_verify=0 --end_fsync=1")...); err != nil {
				t.Errorf("write: %v\n%s", err, tail([]byte(out)))
			}
		}()
	}
	wg.Wait()
	for half := range 2 {
		out, err := runFor(t, m[1-half], 5*time.Minute, job(half, "--verify_only")...)
		if err != nil || strings.Contains(out, "verify:") || strings.Contains(out, "bad ") {
			t.Errorf("half %d through the other mount: %v\n%s", half, err, tail([]byte(out)))
		}
	}
}

func TestDbench(t *testing.T) {
	t.Parallel()
	need(t, "dbench")
	c := harness.Up(t, harness.Limit(10*time.Minute))
	m := []string{c.Mount(), c.Mount()}
	seconds, clients := "3", "2"
	if long() {
		seconds, clients = "60", "4"
	}
	var wg sync.WaitGroup
	for i := range m {
		d := mkdir(t, filepath.Join(m[0], fmt.Sprint(i)))
		wg.Add(1)
		go func() {
			defer wg.Done()
			out, err := runFor(t, m[i], 5*time.Minute, "dbench", "-t", seconds, "-D", filepath.Join(m[i], filepath.Base(d)), clients)
			if err != nil || !strings.Contains(out, "Throughput") {
				t.Errorf("%v\n%s", err, tail([]byte(out)))
			}
			t.Log(strings.TrimSpace(out[strings.LastIndex(out, "Throughput"):]))
		}()
	}
	wg.Wait()
}

// leftOut names each stressor of stress-ng's class that does not run, with its reason.
var leftOut = map[string]string{
	"bind-mount": "mounts, and wants a namespace of its own; no file of the file system under test is used",
	"binderfs":   "is another file system, which this kernel does not have",
	"eventfd":    "uses no file; it takes all descriptors there are until the daemons have none left, and a rank that cannot send its beacons is replaced",
	"fanotify":   "marks every mount of the machine and hangs on local file systems too (0.15.06 on Linux 6.18)",
	"fiemap":     "FUSE has no FIEMAP",
	"fsize":      "truncates files of 16 TiB: each cut visits every object that may be there, minutes for one",
	"io":         "calls sync(2) for the whole machine, not for the file system under test",
	"ioprio":     "is about the scheduler's classes",
	"procfs":     "reads /proc",
	"verity":     "FUSE has no fs-verity",
}

// Each stressor of the class `filesystem` runs on both mounts at once and verifies what it does.
func TestStressNG(t *testing.T) {
	t.Parallel()
	need(t, "stress-ng")
	c := harness.Up(t, harness.Limit(30*time.Minute))
	m := []string{c.Mount(), c.Mount()}
	list, _ := exec.Command("stress-ng", "--class", "filesystem?").CombinedOutput()
	_, names, ok := strings.Cut(string(list), "stressors:")
	if !ok {
		t.Fatalf("stress-ng --class filesystem? says %q", list)
	}
	var class []string
	for _, n := range strings.Fields(names) {
		if leftOut[n] == "" {
			class = append(class, n)
		}
	}
	stress := func(t *testing.T, seconds int, stressors ...string) {
		var wg sync.WaitGroup
		for i := range m {
			d := mkdir(t, filepath.Join(m[i], fmt.Sprintf("on%d", i)))
			args := []string{"stress-ng", "--temp-path", d, "--timeout", strconv.Itoa(seconds), "--verify"}
			for _, s := range stressors {
				args = append(args, "--"+s, "1")
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				// Some look at the time only between rounds of thousands of files.
				out, err := runFor(t, "/", time.Duration(seconds+100)*time.Second, args...)
				if err != nil || strings.Contains(out, "fail:") || strings.Contains(out, "unsuccessful") {
					t.Errorf("%v on mount %d: %v\n%s", stressors, i, err, tail([]byte(out)))
				}
			}()
		}
		wg.Wait()
	}
	if !long() {
		// A handful that is quick to stop, all at once.
		stress(t, 3, "access", "chmod", "fallocate", "fcntl", "flock", "fpunch", "fstat", "getdent", "handle", "lockf", "lockofd", "open", "rename", "utime", "xattr")
		return
	}
	for _, s := range class {
		t.Run(s, func(t *testing.T) { stress(t, 5, s) })
	}
}

// ---- SQLite ----------------------------------------------------------------------------

// Several processes on two mounts work on one database: every one reads a counter and writes
// what it read plus one, in a transaction. A lost update shows in the sum, a torn page in
// integrity_check. (WAL needs memory shared by all users, so that SQLite itself rules it out
// between hosts; the journals that it has for that are tried.)
func TestSQLiteContendedFromTwoMounts(t *testing.T) {
	t.Parallel()
	need(t, "sqlite3")
	c := harness.Up(t, harness.Limit(10*time.Minute))
	m := []string{c.Mount(), c.Mount()}
	workers, steps := 4, 12
	modes := []string{"DELETE"}
	if long() {
		steps, modes = 60, []string{"DELETE", "TRUNCATE", "PERSIST"}
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			sh(t, m[0], `sqlite3 $1.db "PRAGMA journal_mode=$1; CREATE TABLE n(v INTEGER); INSERT INTO n VALUES(0); CREATE TABLE log(w INTEGER, i INTEGER, v INTEGER, PRIMARY KEY(w,i));" >/dev/null`, mode)
			var wg sync.WaitGroup
			for w := range workers {
				var sql strings.Builder
				fmt.Fprintf(&sql, ".timeout 120000\nPRAGMA journal_mode=%s;\n", mode)
				for i := range steps {
					fmt.Fprintf(&sql, "BEGIN IMMEDIATE; INSERT INTO log SELECT %d,%d,v FROM n; UPDATE n SET v=(SELECT v FROM log WHERE w=%d AND i=%d)+1; COMMIT;\n", w, i, w, i)
				}
				wg.Add(1)
				go func() {
					defer wg.Done()
					cmd := exec.Command("sqlite3", "-bail", mode+".db")
					cmd.Dir, cmd.Stdin = m[w%2], strings.NewReader(sql.String())
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("process %d: %v\n%s", w, err, out)
					}
				}()
			}
			wg.Wait()
			for _, x := range m {
				got := sh(t, x, `sqlite3 $1.db "SELECT v FROM n; SELECT count(DISTINCT v) FROM log; PRAGMA integrity_check;"`, mode)
				if want := fmt.Sprintf("%d\n%d\nok\n", workers*steps, workers*steps); got != want {
					t.Errorf("through %s: %q, want %q", x, got, want)
				}
			}
		})
	}
}
