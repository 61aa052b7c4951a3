package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
)

// holders is what the monitors say: who holds each rank that is active, and who stands by.
func holders(c *harness.Cluster) (held map[int]string, standbys []string) {
	out, err := c.Run("status", "--json")
	var s struct {
		Ranks []struct {
			Rank        int
			Name, State string
		}
		Standbys []string
	}
	held = map[int]string{}
	if err == nil && json.Unmarshal([]byte(out), &s) == nil {
		for _, r := range s.Ranks {
			if r.State == "active" {
				held[r.Rank] = r.Name
			}
		}
	}
	return held, s.Standbys
}

// awaitHolders waits until ranks 0 to n-1 are active and no others, with so many standbys.
func awaitHolders(t *testing.T, c *harness.Cluster, n, standbys int) map[int]string {
	t.Helper()
	end := time.Now().Add(90 * time.Second)
	for {
		held, sb := holders(c)
		ok := len(held) == n && len(sb) == standbys
		for r := range n {
			ok = ok && held[r] != ""
		}
		if ok {
			return held
		}
		if time.Now().After(end) {
			t.Fatalf("ranks %v, standbys %v; want %d and %d\n%s", held, sb, n, standbys, c.Why())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Ranks come and go by a number, each fails over by itself, and the tree of rank 0 is served all
// along.
func TestRanksComeAndGo(t *testing.T) {
	t.Parallel()
	harness.NeedMount(t)
	c := harness.Up(t, harness.Args("--ranks", "2", "--standbys", "1", "--beacon-interval", "500ms"))
	m := c.Mount()
	held := awaitHolders(t, c, 2, 1)
	n := 0
	put := func() {
		t.Helper()
		n++
		if err := durable(m, fmt.Sprintf("f%d", n), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	put()
	c.Kill(held[1])
	put() // rank 0 does not care
	now := awaitHolders(t, c, 2, 0)
	if now[1] == held[1] || now[0] != held[0] {
		t.Fatalf("ranks were %v, are %v", held, now)
	}
	c.Kill(now[0])
	c.Start() // one of the two has rank 0, the other stands by
	now = awaitHolders(t, c, 2, 1)
	put()
	if out := c.Must("fs", "status"); !strings.Contains(out, "rank 1") || !strings.Contains(out, "wanted   2 ranks") {
		t.Errorf("fs status says\n%s", out)
	}
	var rows []json.RawMessage
	if out := c.Must("sessions", "--json", "--dir", c.Dir, "--rank", "0"); json.Unmarshal([]byte(out), &rows) != nil || len(rows) == 0 {
		t.Errorf("rank 0 has no sessions: %s", out)
	}
	if out := c.Must("fs", "subtrees", "--dir", c.Dir); !strings.Contains(out, "rank 0   /") || !strings.Contains(out, "rank 1   nothing") {
		t.Errorf("fs subtrees says\n%s", out)
	}
	c.Must("fs", "set", "ranks", "3")
	awaitHolders(t, c, 3, 0)
	put()
	c.Must("fs", "set", "ranks", "1")
	awaitHolders(t, c, 1, 2) // who held them stands by
	put()
	if out, err := c.Run("health"); err != nil {
		t.Errorf("health after fewer ranks: %v\n%s", err, out)
	}
	c.Must("fs", "set", "ranks", "2") // what rank 1 wrote in its first life is read
	awaitHolders(t, c, 2, 1)
	put()
	refuses(t, c, []string{"daemons for 2 ranks, not 1"}, "dev", "up", "--dir", c.Dir, "--ranks", "1")
	got, err := os.ReadDir(m)
	var names []string
	for _, e := range got {
		names = append(names, e.Name())
	}
	if err != nil || len(names) != n {
		t.Errorf("%v, %v", names, err)
	}
}
