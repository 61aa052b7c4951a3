package integration

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
)

// postgres is a PostgreSQL server with its data directory on a mount, run as user postgres.
type postgres struct {
	t    *testing.T
	bin  string // of its programs
	data string
	sock string // directory of its socket, on the local file system
	uid  int
	gid  int
	main *exec.Cmd
}

// needPostgres finds the newest installed one.
func needPostgres(t *testing.T) *postgres {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	u, err := user.Lookup("postgres")
	if len(found) == 0 || err != nil {
		t.Skip("PostgreSQL is not installed (.ci/run installs it)")
	}
	need(t, "setpriv")
	harness.NeedMount(t)
	p := &postgres{t: t, bin: filepath.Dir(slices.Max(found))}
	p.uid, _ = strconv.Atoi(u.Uid)
	p.gid, _ = strconv.Atoi(u.Gid)
	if p.sock, err = os.MkdirTemp("/var/tmp", "capstan-pg"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(p.sock) })
	p.own(p.sock)
	return p
}

func (p *postgres) own(dir string) {
	p.t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Chown(dir, p.uid, p.gid); err != nil {
		p.t.Fatal(err)
	}
}

// command is a program of PostgreSQL's, as its user.
func (p *postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("setpriv", append([]string{"--reuid", strconv.Itoa(p.uid), "--regid", strconv.Itoa(p.gid), "--clear-groups", filepath.Join(p.bin, name)}, args...)...)
	cmd.Dir = p.sock
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "PGHOST=" + p.sock, "PGUSER=postgres", "PGDATABASE=postgres", "HOME=" + p.sock}
	return cmd
}

func (p *postgres) must(name string, args ...string) string {
	p.t.Helper()
	out, err := p.command(name, args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s %s: %v\n%s\n%s", name, strings.Join(args, " "), err, tail(out), p.log())
	}
	return string(out)
}

func (p *postgres) log() string {
	b, _ := os.ReadFile(filepath.Join(p.sock, "log"))
	return string(tail(b))
}

// start runs the server and waits until it answers, after whatever recovery it needs.
func (p *postgres) start() {
	p.t.Helper()
	log, err := os.OpenFile(filepath.Join(p.sock, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.main = p.command("postgres", "-D", p.data, "-c", "listen_addresses=", "-c", "unix_socket_directories="+p.sock, "-c", "shared_buffers=16MB",
		"-c", "autovacuum_naptime=5s", "-c", "checkpoint_timeout=30s", "-c", "max_wal_size=64MB")
	p.main.Stdout, p.main.Stderr = log, log
	if err := p.main.Start(); err != nil {
		p.t.Fatal(err)
	}
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if out, err := p.command("psql", "-Atqc", "SELECT 1").CombinedOutput(); err == nil {
			return
		} else if time.Now().After(end) {
			p.t.Fatalf("the server does not come up: %v %s\n%s", err, out, p.log())
		}
	}
}

// pids are the server and its children, which have sessions of their own.
func (p *postgres) pids() []int {
	pids := []int{p.main.Process.Pid}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, s := range stats {
		b, _ := os.ReadFile(s)
		i := strings.LastIndexByte(string(b), ')')
		if i < 0 {
			continue
		}
		if f := strings.Fields(string(b[i+1:])); len(f) > 1 && f[1] == strconv.Itoa(pids[0]) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(s)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// crash ends all its processes with SIGKILL; gone then waits for their end, which a process in
// the middle of I/O puts off until the file system answers.
func (p *postgres) crash() (gone func()) {
	pids := p.pids()
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	return func() {
		p.t.Helper()
		p.main.Wait()
		within(p.t, 60, "PostgreSQL's processes end", func() bool {
			return !slices.ContainsFunc(pids, func(pid int) bool { return syscall.Kill(pid, 0) == nil })
		})
	}
}

func (p *postgres) stop() {
	p.t.Helper()
	p.main.Process.Signal(syscall.SIGINT) // its fast shutdown
	if err := p.main.Wait(); err != nil {
		p.t.Errorf("shutdown: %v\n%s", err, p.log())
	}
}

// init makes the data directory: in the long form where it is to be, in the short one on the local
// file system, to be copied (20 000 small writes less).
func (p *postgres) init() {
	p.t.Helper()
	dir := p.data
	if !long() {
		dir = filepath.Join(p.sock, "pg")
	}
	p.own(dir)
	p.must("initdb", "-D", dir, "-A", "trust", "-k", "--no-sync", "--no-instructions", "--wal-segsize=1")
	if dir != p.data {
		sh(p.t, p.sock, `cp -a "$1" "$2"`, dir, p.data)
	}
}

// fill makes pgbench's tables, with so many accounts (its own are 100 000, which take their time
// to load), and the script that works on them.
func (p *postgres) fill(accounts int) {
	p.t.Helper()
	script := fmt.Sprintf(`\set aid random(1, %d)
\set tid random(1, 10)
\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, 1, :aid, :delta, CURRENT_TIMESTAMP);
END;
`, accounts)
	if err := os.WriteFile(filepath.Join(p.sock, "script"), []byte(script), 0o644); err != nil {
		p.t.Fatal(err)
	}
	p.must("pgbench", "-i", "-q", "-I", "dt")
	p.must("psql", "-qc", fmt.Sprintf(`INSERT INTO pgbench_branches(bid,bbalance) VALUES(1,0);
		INSERT INTO pgbench_tellers(tid,bid,tbalance) SELECT i,1,0 FROM generate_series(1,10) i;
		INSERT INTO pgbench_accounts(aid,bid,abalance,filler) SELECT i,1,0,'' FROM generate_series(1,%d) i;
		ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid); ALTER TABLE pgbench_tellers ADD PRIMARY KEY (tid); ALTER TABLE pgbench_branches ADD PRIMARY KEY (bid)`, accounts))
}

// rows counts the transactions that are there.
func (p *postgres) rows() int {
	p.t.Helper()
	n, _ := strconv.Atoi(strings.TrimSpace(p.must("psql", "-Atqc", "SELECT count(*) FROM pgbench_history")))
	return n
}

// bench runs TPC-B for so long and returns how many transactions were acknowledged. fails: it
// may be cut short.
func (p *postgres) bench(d time.Duration, fails bool) int {
	p.t.Helper()
	out, err := p.command("pgbench", "-n", "-c", "4", "-j", "2", "-f", filepath.Join(p.sock, "script"), "-T", strconv.Itoa(int(d.Seconds()))).CombinedOutput()
	if err != nil && !fails {
		p.t.Fatalf("pgbench: %v\n%s\n%s", err, out, p.log())
	}
	m := regexp.MustCompile(`actually processed: (\d+)`).FindSubmatch(out)
	if m == nil {
		p.t.Fatalf("pgbench does not say what it did: %v\n%s\n%s", err, out, p.log())
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

// check: every acknowledged transaction is there, each as a whole.
func (p *postgres) check(acked int) {
	p.t.Helper()
	got := strings.TrimSpace(p.must("psql", "-AtqF,", "-c", `SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
		(SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta),0) FROM pgbench_history), (SELECT count(*) FROM pgbench_history)`))
	f := strings.Split(got, ",")
	if len(f) != 5 || f[1] != f[0] || f[2] != f[0] || f[3] != f[0] {
		p.t.Fatalf("sums over accounts, tellers, branches, history: %s: must be the same", got)
	}
	if n, _ := strconv.Atoi(f[4]); n < acked {
		p.t.Fatalf("%d transactions are there, %d were acknowledged", n, acked)
	}
}

// A database's whole life on a mount: made, loaded, crashed in the middle of transactions
// together with the daemons and the mount that keep its files, recovered by its own log. In the
// long form also crashes of one of the two alone: the daemons' it must not notice.
func TestPgbench(t *testing.T) {
	t.Parallel()
	p := needPostgres(t)
	// After the crash of everything the rank waits for the mount that will not come back.
	c := harness.Up(t, harness.Limit(15*time.Minute), harness.Args("--session-validity", "3s"))
	m := c.Mount("-o", "allow_other")
	p.data = filepath.Join(m, "pg")
	began := time.Now()
	step := func(what string) {
		t.Logf("%-8s after %.1f s", what, time.Since(began).Seconds())
	}
	p.init()
	step("initdb")
	p.start()
	step("start")
	defer func() {
		if p.main.ProcessState == nil {
			p.crash()()
		}
	}()
	accounts, more := 2000, 50
	if long() {
		accounts, more = 100_000, 300
	}
	p.fill(accounts)
	step("fill")
	acked := 0

	during := func(d time.Duration, fails bool, do func()) {
		t.Helper()
		done := make(chan int)
		go func() { done <- p.bench(d, fails) }()
		within(t, 120, "transactions run", func() bool { return p.rows() >= acked+more })
		do()
		n := <-done
		t.Logf("%d transactions acknowledged", n)
		acked += n
	}
	if long() {
		during(2*time.Minute, true, func() { p.crash()() })
		p.start()
		p.check(acked)
		during(time.Minute, false, func() {
			for _, daemon := range []string{"mds.a", "osd.0", "mon.a"} {
				c.Kill(daemon)
				c.Start()
			}
		})
		p.check(acked)
	}
	during(2*time.Minute, true, func() {
		gone := p.crash()
		c.KillMounts()
		c.Kill()
		gone()
	})
	step("crash")
	c.Start()
	step("up again")
	p.data = filepath.Join(c.Mount("-o", "allow_other"), "pg")
	p.start()
	step("recovery")
	p.check(acked)
	if long() {
		acked += p.bench(10*time.Second, false)
		p.check(acked)
		p.stop()
		p.must("pg_checksums", "--check", "-D", p.data)
	}
}
