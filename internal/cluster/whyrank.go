package cluster

import (
	"fmt"
	"slices"
	"strings"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mds"
	mdsserver "github.com/capstan-fs/capstan/mds/server"
	"github.com/capstan-fs/capstan/wire"
)

// rankState is what the monitors say of rank 0, or that they say nothing.
func (s *scene) rankState() []*Link {
	if s.fm == nil {
		return s.monitors()
	}
	in, ok := s.fm.Ranks[0]
	if !ok {
		return []*Link{{At: "mds rank 0", What: "does not exist: no metadata daemon has joined", Do: "start one: `capstan dev up --dir D` or `capstan mds`"}}
	}
	name := "mds." + strings.TrimPrefix(in.Daemon.Name, "mds.")
	l := &Link{At: "mds rank 0", What: fmt.Sprintf("is %v, held by %s at %s", in.State, name, in.Daemon.Addr)}
	if in.State != clustermap.RankActive {
		l.Do = "`capstan health` says what helps"
	}
	l.On = s.daemon(name)
	return []*Link{l}
}

// rankWait is a wait of the rank with its owners. seen guards against a ring.
func (s *scene) rankWait(r *mdsserver.Waits, w *mds.Wait, seen []*mds.Wait) *Link {
	what := w.What
	if w.Lock != "" {
		what += ", parked on the lock " + w.Lock
	} else if w.Stage != "answer" {
		what += ", parked (" + w.Stage + ")"
	}
	if w.Tid != 0 {
		what += fmt.Sprintf(" [request %s:%d]", w.Client, wire.Tid(w.Tid)&^wire.ReadTid)
	}
	l := &Link{At: r.Daemon, What: what, SinceMs: w.SinceMs}
	if slices.Contains(seen, w) {
		l.What += " (a ring of waits: this is a bug)"
		return l
	}
	l.On = s.owners(r, w, append(seen, w))
	return l
}

func (s *scene) owners(r *mdsserver.Waits, w *mds.Wait, seen []*mds.Wait) (out []*Link) {
	for i := range w.On {
		on := &w.On[i]
		switch on.Kind {
		case "client":
			out = append(out, s.clientOwner(on))
		case "request":
			out = append(out, s.requestOwner(r, on, seen))
		case "journal":
			out = append(out, s.journal(r, on.Text))
		case "object", "recovery":
			l := &Link{At: r.Daemon, What: "waits for " + on.Text, On: s.objectsOf(r.Objects, on.Ino)}
			if len(l.On) == 0 {
				l.On = s.objectsOf(r.Objects, "")
			}
			out = append(out, l)
		case "monitors":
			out = append(out, &Link{At: r.Daemon, What: "waits for " + on.Text, On: s.monitors()})
		case "file-lock":
			l := &Link{At: fmt.Sprintf("process %d on %s", on.PID, on.Host), What: "is waited for: " + on.Text}
			if s.here(on.Host) {
				l.What += " (" + comm(int(on.PID)) + ")"
				l.On = s.stopped(int(on.PID))
			}
			out = append(out, l)
		default:
			out = append(out, &Link{At: r.Daemon, What: "waits for " + on.Text, SinceMs: on.SinceMs, DeadlineMs: on.DeadlineMs})
		}
	}
	return out
}

func (s *scene) requestOwner(r *mdsserver.Waits, on *mds.On, seen []*mds.Wait) *Link {
	for i := range r.Waits {
		if x := &r.Waits[i]; x.Client == on.Client && x.Tid == on.Tid && on.Tid != 0 && x.Kind == "request" {
			return s.rankWait(r, x, seen)
		}
	}
	return &Link{At: r.Daemon, What: on.Text, SinceMs: on.SinceMs}
}

// journal is the rank's journal and the object writes that carry it.
func (s *scene) journal(r *mdsserver.Waits, text string) *Link {
	if text == "" {
		text = fmt.Sprintf("durable up to %d of %d", r.Journal.Durable, r.Journal.End)
	}
	l := &Link{At: r.Daemon, What: "waits for its journal: " + text, SinceMs: r.Journal.SinceMs}
	for i := range r.Objects {
		if o := &r.Objects[i]; strings.HasPrefix(o.Object, "journal.") {
			l.On = append(l.On, s.object(o))
		}
	}
	return l
}
