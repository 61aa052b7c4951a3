package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
	"github.com/capstan-fs/capstan/internal/metrics"
)

// blocked starts a command that is expected to hang and ends it with the test.
func blocked(t *testing.T, name string, args ...string) int {
	t.Helper()
	cmd := exec.Command(name, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Errorf("%s %v still hangs", name, args)
		}
	})
	return cmd.Process.Pid
}

// whyUntil asks why a process waits until the answer has all words.
func whyUntil(t *testing.T, c *harness.Cluster, pid int, words ...string) string {
	t.Helper()
	out, missing := "", ""
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		out = c.Must("why", fmt.Sprint(pid))
		missing = ""
		for _, w := range words {
			if !strings.Contains(out, w) {
				missing = w
			}
		}
		if missing == "" {
			return out
		}
	}
	t.Fatalf("why %d never says %q, but:\n%s", pid, missing, out)
	return ""
}

// holder keeps a file open for reading and writing in a process of its own: one that has a
// descriptor of a stopped mount hangs at its next fork.
func holder(t *testing.T, path string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `exec 3<>"$0" && printf hi >&3 && echo ok && read x`, path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if s, err := bufio.NewReader(out).ReadString('\n'); s != "ok\n" {
		t.Fatalf("open and write %s: %q %v", path, s, err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
}

// A writes and is stopped; B stats. The process in B hangs for A alone, and whoever asks why is
// told so, with A's process, since when and until when. Then the same for a file lock.
func TestWhyNamesTheOwner(t *testing.T) {
	c := harness.Up(t, harness.Args("--revoke-deadline", "60s"))
	a, b := c.Mount(), c.Mount()
	if err := os.WriteFile(filepath.Join(a, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var sessions []struct {
		Host string
		PID  int
	}
	if err := json.Unmarshal([]byte(c.Must("sessions", "--json")), &sessions); err != nil {
		t.Fatal(err)
	}
	stopped := 0
	for _, s := range sessions {
		if strings.HasSuffix(s.Host, ":"+a) {
			stopped = s.PID
		}
	}
	if stopped == 0 {
		t.Fatalf("no session of %s with a pid: %+v", a, sessions)
	}
	holder(t, filepath.Join(a, "f"))
	if err := syscall.Kill(stopped, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(stopped, syscall.SIGCONT) }) // before holder's and blocked's
	pid := blocked(t, "stat", filepath.Join(b, "f"))
	out := whyUntil(t, c, pid, "mount "+b, "ifile", a, fmt.Sprintf("(pid %d)", stopped), "is stopped", "evicted in")
	if at, by := strings.Index(out, "mount "+b), strings.Index(out, fmt.Sprintf("process %d:", stopped)); at < 0 || by < at {
		t.Errorf("the owner is not below the mount that waits:\n%s", out)
	}
	// By request, by inode, and in JSON the same owner.
	_, req, ok := strings.Cut(out, "[request ")
	if req, _, _ = strings.Cut(req, "]"); !ok {
		t.Fatalf("no request is named:\n%s", out)
	}
	says(t, c, []string{fmt.Sprintf("process %d:", stopped)}, "why", req)
	says(t, c, []string{fmt.Sprintf("process %d:", stopped)}, "why", "/f")
	type link struct {
		At         string
		DeadlineMs int64 `json:"deadline_ms"`
		On         []link
	}
	var chains struct{ Chains []link }
	if err := json.Unmarshal([]byte(c.Must("why", "--json", fmt.Sprint(pid))), &chains); err != nil {
		t.Fatal(err)
	}
	if len(chains.Chains) != 1 {
		t.Fatalf("%d chains for one process", len(chains.Chains))
	}
	l, deadline := chains.Chains[0], int64(0)
	for len(l.On) > 0 {
		l = l.On[0]
		deadline = max(deadline, l.DeadlineMs)
	}
	if l.At != fmt.Sprintf("process %d", stopped) || deadline == 0 || deadline > 60_000 {
		t.Errorf("the chain ends at %q with a deadline of %d ms", l.At, deadline)
	}
	if err := syscall.Kill(stopped, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}

	// A file lock: the holder is this process, through A.
	f, err := os.Create(filepath.Join(a, "l"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("flock"); err != nil {
		t.Skip("flock(1) is not installed")
	}
	whyUntil(t, c, blocked(t, "flock", filepath.Join(b, "l"), "true"), "SETLKW", "file-lock", a, fmt.Sprintf("process %d on", os.Getpid()))
}

// Two of three OSDs are gone: writes wait for min_size, and the missing members are named; so is
// the slow write afterwards, in the log that people read.
func TestWhyNamesTheMissingMember(t *testing.T) {
	c := harness.Up(t, harness.Args("--slow-op", "500ms"))
	m := c.Mount()
	if err := os.WriteFile(filepath.Join(m, "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Kill("osd.1", "osd.2")
	pid := blocked(t, "dd", "if=/dev/zero", "of="+filepath.Join(m, "f"), "bs=64k", "count=4", "conv=fsync,notrunc", "status=none")
	whyUntil(t, c, pid, "mount "+m, "osd.1", "osd.2", "does not run", "dev up")
	// With fewer members up than writes need it is an error, whether or not the dead ones have been
	// dropped from the in-sync sets; but first the monitors must hear of it.
	health := ""
	var unwell error
	for end := time.Now().Add(30 * time.Second); !strings.Contains(health, "PG_STUCK"); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no PG is ever stuck:\n%s", health)
		}
		health, unwell = c.Run("health")
	}
	if unwell == nil {
		t.Fatalf("health ends with 0, and PGs are stuck:\n%s", health)
	}
	if !strings.Contains(health, "OSD_DOWN") || !strings.Contains(health, "osd.1") {
		t.Errorf("health does not name the OSDs:\n%s", health)
	}
	says(t, c, []string{"osds", "not_asked", "osd.1"}, "pg", "query", "2.0")
	c.Start()
	for end := time.Now().Add(60 * time.Second); syscall.Kill(pid, 0) == nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the write still hangs with all OSDs back:\n%s", c.Must("why", fmt.Sprint(pid)))
		}
	}
	var late struct {
		Total uint64
		Ops   []struct {
			What, Stage, Owner string
			Ms                 float64
		}
	}
	if err := json.Unmarshal([]byte(c.Must("daemon", m, "slow", "--json")), &late); err != nil {
		t.Fatal(err)
	}
	if late.Total == 0 || late.Ops[0].Ms < 500 || late.Ops[0].Stage == "" || late.Ops[0].Owner == "" {
		t.Errorf("the mount noted no slow operation: %+v", late)
	}
	// Whatever the table of metrics promises of a daemon, it shows.
	for name, role := range map[string]string{"mon.a": "mon", "osd.0": "osd", "mds.a": "mds", m: "mount"} {
		says(t, c, metrics.Names(role), "metrics", name)
	}
}

// Without a majority of monitors a rank soon may not answer: the missing monitors are named.
func TestWhyNamesTheMissingMonitors(t *testing.T) {
	c := harness.Up(t, harness.Args("--mons", "3"))
	m := c.Mount()
	c.Kill("mon.b", "mon.c")
	time.Sleep(4 * time.Second) // longer than three beacons: the rank's lease
	pid := blocked(t, "mkdir", filepath.Join(m, "d"))
	whyUntil(t, c, pid, "mount "+m, "mds.a", "may not answer", "the monitors", "mon.b", "mon.c", "does not run")
	c.Start()
}
