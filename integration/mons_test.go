package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
)

// leadingMon is the name of the leader, as each of the monitors named says; empty when they
// do not agree.
func leadingMon(c *harness.Cluster, names ...string) string {
	leader := ""
	for _, n := range names {
		out, err := c.Run("daemon", n, "quorum", "--dir", c.Dir, "--json")
		var q struct{ Leader string }
		if err != nil || json.Unmarshal([]byte(out), &q) != nil || q.Leader == "" || leader != "" && leader != q.Leader {
			return ""
		}
		leader = q.Leader
	}
	return "mon." + leader
}

func waitLeader(t *testing.T, c *harness.Cluster, names ...string) string {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if l := leadingMon(c, names...); l != "" {
			return l
		}
	}
	t.Fatalf("%v do not agree on a leader", names)
	return ""
}

// Of three monitors the leading one is killed, its directory deleted, and it comes back; then
// another is killed, so that the one that was filled again has to carry the quorum. Files go
// on being made all the while, and no epoch goes back.
func TestThreeMonitors(t *testing.T) {
	c := harness.Up(t, harness.Args("--mons", "3"))
	mnt := c.Mount()
	all := []string{"mon.a", "mon.b", "mon.c"}
	var made atomic.Int64
	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(failed)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := os.WriteFile(filepath.Join(mnt, "f"+strconv.Itoa(n)), []byte("x"), 0o644); err != nil {
				failed <- err
				return
			}
			made.Store(int64(n + 1))
		}
	}()
	epoch := func() (e uint64) {
		t.Helper()
		var s struct {
			Epoch uint64 `json:"osd_epoch"`
		}
		if out := c.Must("status", "--json"); json.Unmarshal([]byte(out), &s) != nil {
			t.Fatal(out)
		}
		return s.Epoch
	}
	grow := func(what string) {
		t.Helper()
		before, end := made.Load(), time.Now().Add(30*time.Second)
		for made.Load() < before+20 {
			if time.Now().After(end) {
				t.Fatalf("%s: nothing is made any more\n%s", what, c.Why())
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	grow("at first")
	e := epoch()
	rises := func(what string) {
		t.Helper()
		n := epoch()
		if n < e {
			t.Fatalf("%s: epoch %d after %d", what, n, e)
		}
		e = n
	}
	lost := waitLeader(t, c, all...)
	c.Kill(lost)
	grow("with the leader killed")
	if err := os.RemoveAll(filepath.Join(c.Dir, lost)); err != nil {
		t.Fatal(err)
	}
	c.Must("blocklist", "add", "client.9/99")
	rises("with two monitors")
	c.Start()
	grow("with the leader's directory deleted")
	voter := func() bool {
		out := c.Must("daemon", lost, "quorum", "--dir", c.Dir, "--json")
		var q struct {
			Member  string
			Members []struct {
				Member string
				Voter  bool
			}
		}
		if err := json.Unmarshal([]byte(out), &q); err != nil {
			t.Fatal(err, out)
		}
		for _, m := range q.Members {
			if m.Member == q.Member && strings.HasPrefix(m.Member, lost[len("mon."):]+"/") && m.Voter {
				return true
			}
		}
		return false
	}
	for end := time.Now().Add(30 * time.Second); !voter(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not vote", lost)
		}
	}
	second := waitLeader(t, c, all...)
	for _, n := range all {
		if second == lost && n != lost { // the one that was filled again leads already
			second = n
		}
	}
	c.Kill(second)
	grow("with a second monitor killed")
	if out := c.Must("blocklist", "ls"); !strings.Contains(out, "client.9/99") {
		t.Fatalf("the filled monitor lacks what was decided while it was away:\n%s", out)
	}
	rises("with the filled monitor")
	close(stop)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// Without a majority nothing is decided, a tool says which monitors are missing instead of
// hanging, and all goes on when they are back.
func TestNoQuorumIsSaid(t *testing.T) {
	c := harness.Up(t, harness.Args("--mons", "3"))
	c.Kill("mon.a", "mon.b")
	// If the one that is left led, it believes so for as long as its lease, and answers.
	for end := time.Now().Add(30 * time.Second); ; {
		out, err := c.Run("status")
		if err != nil && strings.Contains(out, "no monitor leads") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("status without a quorum: %v\n%s", err, out)
		}
	}
	c.Start()
	c.Must("status")
}
