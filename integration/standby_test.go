package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
)

// ranks is what the monitors say: who holds rank 0, in which state, and who stands by.
func ranks(c *harness.Cluster) (holder, state string, standbys []string) {
	out, err := c.Run("status", "--json")
	var s struct {
		Ranks    []struct{ Name, State string }
		Standbys []string
	}
	if err != nil || json.Unmarshal([]byte(out), &s) != nil || len(s.Ranks) == 0 {
		return "", "", nil
	}
	return s.Ranks[0].Name, s.Ranks[0].State, s.Standbys
}

// awaitRanks waits until holder's rank is active and the others stand by.
func awaitRanks(t *testing.T, c *harness.Cluster, holder string, standbys ...string) {
	t.Helper()
	end := time.Now().Add(60 * time.Second)
	for {
		h, state, sb := ranks(c)
		if h == holder && state == "active" && slices.Equal(sb, standbys) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("rank 0: %s, %s; standbys %v; want %s active and %v\n%s", h, state, sb, holder, standbys, c.Why())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// A standby takes the rank over with nobody's help, whether its holder died or fell silent. One
// that was only silent comes back as a standby by itself; what was acknowledged is there.
func TestStandbyTakesOver(t *testing.T) {
	t.Parallel()
	harness.NeedMount(t)
	c := harness.Up(t, harness.Args("--standbys", "1", "--beacon-interval", "500ms"))
	a, b := c.Mount(), c.Mount()
	first, second := "mds.a", "mds.b" // they race for the rank
	if h, _, _ := ranks(c); h == second {
		first, second = second, first
	}
	awaitRanks(t, c, first, second)
	n := 0
	put := func() {
		t.Helper()
		n++
		if err := durable(a, fmt.Sprintf("f%d", n), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	all := func() {
		t.Helper()
		for i := 1; i <= n; i++ {
			if got, err := os.ReadFile(filepath.Join(b, fmt.Sprintf("f%d", i))); err != nil || string(got) != "x" {
				t.Errorf("f%d: %q, %v", i, got, err)
			}
		}
	}
	put()
	c.Kill(first)
	put() // waits for second
	awaitRanks(t, c, second)
	all()
	c.Start()
	awaitRanks(t, c, second, first)

	p := c.Proc(second)
	if err := syscall.Kill(p.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	put() // waits for first
	if err := syscall.Kill(p.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	awaitRanks(t, c, first, second)
	if now := c.Proc(second); now.PID != p.PID || now.Addr != p.Addr {
		t.Errorf("%s came back as pid %d at %s, it was pid %d at %s", second, now.PID, now.Addr, p.PID, p.Addr)
	}
	put()
	all()

	refuses(t, c, []string{"1 standbys, not 0"}, "dev", "up", "--dir", c.Dir, "--standbys", "0")
	c.Must("dev", "up", "--dir", c.Dir, "--standbys", "2")
	awaitRanks(t, c, first, second, "mds.c")

	// Of two daemons of one name the newer counts, and the older must not come back: they would
	// take the rank from each other for ever.
	twin := exec.Command(harness.Binary(t), "mds", "--conf", c.Conf(), "--name", strings.TrimPrefix(first, "mds."), "--data", t.TempDir())
	if err := twin.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { twin.Process.Kill(); twin.Wait() }()
	for end := time.Now().Add(60 * time.Second); c.Proc(first).PID != 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s goes on beside its twin\n%s", first, c.Why())
		}
	}
	put()
	all()
}
