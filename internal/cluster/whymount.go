package cluster

import (
	"fmt"
	"strings"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/mds"
)

// process is the first link of a chain that begins at one; on is what it does in a mount.
func (s *scene) process(pid int, on *Link) *Link {
	l := &Link{At: fmt.Sprintf("process %d", pid), What: comm(pid)}
	if pid == 0 {
		l.At, l.What = "a mount of this machine", "for its own sake"
	}
	if on != nil {
		l.On = []*Link{on}
		l.SinceMs = on.SinceMs
	}
	return l
}

// mountWait is what an operation of a mount waits for.
func (s *scene) mountWait(m *mountSeen, w *client.Waiting) *Link {
	l := &Link{At: "mount " + m.Point, What: fmt.Sprintf("%s of ino %s waits for %s", w.Op, w.Ino, w.On), SinceMs: w.SinceMs}
	switch w.For {
	case "request":
		l.On = s.request(m, w)
	case "caps", "range":
		l.On = s.capsOf(m, w)
	case "safe":
		for _, r := range s.ranks {
			l.On = append(l.On, s.journal(r, ""))
		}
	case "osd":
		l.On = s.objectsOf(m.Objects, w.On2)
	case "kernel":
		l.On = []*Link{{At: "the kernel of this host", What: "has not finished an invalidation: a page of the file is locked by a reader or writer that waits itself"}}
	default:
		for _, g := range m.Giving {
			if g.Ino == w.On2 || g.Ino == w.Ino {
				l.On = append(l.On, s.giving(m, &g))
			}
		}
		if len(l.On) == 0 {
			l.On = s.objectsOf(m.Objects, w.Ino)
		}
	}
	if len(l.On) == 0 && w.For != "turn" {
		l.On = s.noRank(m)
	}
	return l
}

// request follows a request to the rank.
func (s *scene) request(m *mountSeen, w *client.Waiting) []*Link {
	for _, r := range s.ranks {
		for i := range r.Waits {
			if x := &r.Waits[i]; x.Client == m.Report.Client && x.Tid == w.Tid && x.Kind != "ask" {
				return []*Link{s.rankWait(r, x, nil)}
			}
		}
	}
	return s.noRank(m)
}

// noRank says why a rank does not answer although nothing is parked there.
func (s *scene) noRank(m *mountSeen) (out []*Link) {
	if m.Session != "open" {
		l := &Link{At: "mount " + m.Point, What: "has no session with the rank (" + m.Session + ")"}
		l.On = s.rankState()
		return []*Link{l}
	}
	for _, r := range s.ranks {
		if r.LeaseMs <= 0 || r.Held > 0 {
			l := &Link{At: r.Daemon, What: fmt.Sprintf("may not answer: the monitors have not acknowledged its beacons, its lease ended %d ms ago; %d messages are held", -r.LeaseMs, r.Held)}
			l.On = s.monitors()
			return []*Link{l}
		}
		out = append(out, &Link{At: r.Daemon, What: "has it on its way: nothing is parked there for it"})
	}
	if len(out) == 0 {
		out = s.rankState()
	}
	return out
}

// capsOf names who has the caps that a mount waits for.
func (s *scene) capsOf(m *mountSeen, w *client.Waiting) (out []*Link) {
	for i := range m.Giving {
		if g := &m.Giving[i]; g.Ino == w.On2 {
			out = append(out, s.giving(m, g)) // it gives them up itself first
		}
	}
	for _, r := range s.ranks {
		l := &Link{At: r.Daemon, What: fmt.Sprintf("has not granted %s of ino %s", w.Bits, w.On2)}
		for i := range r.Waits {
			if x := &r.Waits[i]; x.Kind == "ask" && x.Ino == w.On2 && x.Client != m.Report.Client {
				l.On = append(l.On, s.owners(r, x, nil)...)
			}
		}
		if len(l.On) > 0 {
			out = append(out, l)
		}
	}
	return out
}

// clientOwner is a client that must give something back; what it waits for itself is followed
// when its mount is here.
func (s *scene) clientOwner(on *mds.On) *Link {
	l := &Link{At: fmt.Sprintf("client %s (pid %d)", on.Host, on.PID), What: mustGive(on.Text), SinceMs: on.SinceMs, DeadlineMs: on.DeadlineMs}
	if !s.here(on.Host) {
		return l
	}
	for _, m := range s.mounts {
		if m.Report.Client != on.Client {
			continue
		}
		if m.err != nil {
			l.On = s.processState(m.pid)
			return l
		}
		for i := range m.Giving {
			if m.Giving[i].Ino == on.Ino {
				l.On = append(l.On, s.giving(m, &m.Giving[i]))
			}
		}
		return l
	}
	if on.PID != 0 {
		l.On = s.stopped(int(on.PID))
	}
	return l
}

// mustGive turns the rank's "X to give back Y" into what X must do.
func mustGive(text string) string {
	if _, what, ok := strings.Cut(text, " to give back "); ok {
		return "must give back " + what
	}
	return "is waited for: " + text
}

// giving is a revoke that a mount of this machine works off.
func (s *scene) giving(m *mountSeen, g *client.Giving) *Link {
	l := &Link{At: "mount " + m.Point, What: fmt.Sprintf("gives up %s of ino %s and waits for %s", g.Caps, g.Ino, g.On), SinceMs: g.SinceMs}
	l.On = s.objectsOf(m.Objects, g.Ino)
	return l
}
