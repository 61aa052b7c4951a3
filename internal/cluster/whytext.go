package cluster

import (
	"fmt"
	"strings"
)

// Text lays the chains out as trees, for people.
func (c *Chains) Text() string {
	var b strings.Builder
	if len(c.Chains) == 0 {
		if c.Question == "" {
			b.WriteString("nothing waits: not in the rank, nor in a mount of this machine\n")
		} else {
			fmt.Fprintf(&b, "nothing waits for or because of %s\n", c.Question)
		}
	}
	for _, l := range c.Chains {
		l.write(&b, "", "")
	}
	for _, n := range c.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	return b.String()
}

func (l *Link) write(b *strings.Builder, first, rest string) {
	fmt.Fprintf(b, "%s%s: %s", first, l.At, l.What)
	if l.SinceMs > 0 {
		fmt.Fprintf(b, ", for %s", shortTime(l.SinceMs))
	}
	if l.DeadlineMs > 0 {
		fmt.Fprintf(b, ", at most %s more", shortTime(l.DeadlineMs))
	}
	b.WriteByte('\n')
	if l.Do != "" {
		fmt.Fprintf(b, "%s   → %s\n", rest, l.Do)
	}
	for _, on := range l.On {
		on.write(b, rest+"└─ ", rest+"   ")
	}
}

func shortTime(ms int64) string {
	if ms < 1000 {
		return fmt.Sprintf("%d ms", ms)
	}
	return fmt.Sprintf("%.1f s", float64(ms)/1000)
}
