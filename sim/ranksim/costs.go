package ranksim

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/wire"
)

// Costs is what a step costs in CPU, by class of event. While it measures, each step is timed by the clock of
// this thread (the caller locks it); then it tells the means, so that a run does not depend on this machine's
// other work, and repeats.
type Costs struct {
	measuring bool
	sum       map[string]int64
	n         map[string]int64
}

// NewCosts measures.
func NewCosts() *Costs {
	return &Costs{measuring: true, sum: map[string]int64{}, n: map[string]int64{}}
}

// Fix ends the measuring.
func (c *Costs) Fix() { c.measuring = false }

func cpu() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // it has no other error than an unknown clock
	return ts.Nano()
}

func (c *Costs) begin() int64 {
	if c == nil || !c.measuring {
		return 0
	}
	return cpu()
}

// end is what the step of this class costs.
func (c *Costs) end(class string, began int64) int64 {
	switch {
	case c == nil:
		return 10_000
	case c.measuring:
		d := cpu() - began
		c.sum[class] += d
		c.n[class]++
		return d
	case c.n[class] == 0: // a rare kind, not seen while it was measured
		return 10_000
	}
	return c.sum[class] / c.n[class]
}

// class is the kind of an event, and of its message.
func class(ev *mds.Event) string {
	switch ev.Kind {
	case mds.FromSession, mds.FromPeer:
		if q, ok := ev.Msg.(*wire.Request); ok {
			return q.Op.String()
		}
		return typeName(ev.Msg)
	case mds.JournalDone:
		return "journal done"
	case mds.ObjectDone:
		return "object done"
	case mds.Tick:
		return "tick"
	}
	return "other"
}

var typeNames = map[reflect.Type]string{}

func typeName(m wire.Message) string {
	t := reflect.TypeOf(m)
	s, ok := typeNames[t]
	if !ok {
		s = strings.TrimPrefix(t.String(), "*wire.")
		typeNames[t] = s
	}
	return s
}

// String lists the classes, the dearest in all first.
func (c *Costs) String() string {
	var keys []string
	for k := range c.n {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return int(c.sum[b] - c.sum[a]) })
	var b strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&b, "%-16s %8d steps, %7.1f us each\n", k, c.n[k], float64(c.sum[k])/float64(c.n[k])/1000)
	}
	return b.String()
}
