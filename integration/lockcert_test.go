package integration

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
	"github.com/capstan-fs/capstan/lockcert"
)

// TestLockcert runs the conformance kit on two mounts, shortly; CAPSTAN_REAL gives its races a
// minute more.
func TestLockcert(t *testing.T) {
	c := harness.Up(t, harness.Limit(15*time.Minute)) // 80 checks of several processes: four minutes on a machine with ten times its work
	cfg := lockcert.Config{Dirs: []string{c.Mount(), c.Mount()}, Worker: []string{harness.Binary(t), lockcert.Verb},
		Slice: 40 * time.Millisecond, Grace: 15 * time.Millisecond}
	if long() {
		cfg.Slice, cfg.Minutes = 0, 1
	}
	rep, err := lockcert.Run(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var sb strings.Builder
	if err := rep.WriteMatrix(&sb); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + sb.String())
	if !rep.Conformant() {
		t.Fatalf("repeat with: capstan lockcert --seed %d DIR DIR", rep.Seed)
	}
}
