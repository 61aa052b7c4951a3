package server

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// TestRestart stops a whole cluster of OSDs and starts it again on the same stores: what was
// answered is there. CAPSTAN_IDLE=1 also measures what an idle cluster costs.
func TestRestart(t *testing.T) {
	c := newCluster(t, 3)
	o, _ := c.client(1)
	for i := range 50 {
		write(t, o, fmt.Sprintf("o%d", i), []byte(fmt.Sprint(i)))
	}
	if os.Getenv("CAPSTAN_IDLE") != "" {
		time.Sleep(6 * time.Second)
		cpu := cpuTime()
		time.Sleep(5 * time.Second)
		t.Logf("idle: %.2f ms CPU per second", float64(cpuTime()-cpu)/5e6)
	}
	for i := range c.osds {
		if i == 2 {
			c.osds[i].Close()
		} else {
			c.osds[i].Kill()
		}
	}
	begin := time.Now()
	for i := range c.osds {
		c.start(i)
	}
	for i := range 50 {
		if got := read(t, o, fmt.Sprintf("o%d", i)); string(got) != fmt.Sprint(i) {
			t.Fatalf("o%d is %q", i, got)
		}
	}
	t.Logf("all read %v after the restart (a lease is %v)", time.Since(begin), 2*time.Second)
}
