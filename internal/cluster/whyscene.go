package cluster

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/admin"
	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/mds"
	mdsserver "github.com/capstan-fs/capstan/mds/server"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// scene is what everybody said.
type scene struct {
	dir     string
	host    string
	mounts  []*mountSeen
	ranks   []*mdsserver.Waits
	osds    map[string][]osd.OpState // by name; nil: it did not answer
	mons    map[string]*monSeen
	om      *clustermap.OSDMap // nil: no monitor answered
	fm      *clustermap.FSMap
	monErr  error
	notes   []string
	session []mds.SessionInfo
}

type mountSeen struct {
	MountInfo
	client.Report
	cluster string
	pid     int // of its process; 0: not known
	err     error
}

type monSeen struct {
	Leader string
	err    error
}

// look asks everybody on this machine.
func look(ctx context.Context, dir string) *scene {
	s := &scene{dir: dir, osds: map[string][]osd.OpState{}, mons: map[string]*monSeen{}}
	s.host, _ = os.Hostname()
	var wg sync.WaitGroup
	var mu sync.Mutex
	ask := func(path, cmd string, into any) error { return askInto(ctx, path, cmd, into) }
	all, err := Mounts()
	if err != nil {
		s.notes = append(s.notes, err.Error())
	}
	for _, m := range all {
		if !m.ours() {
			continue
		}
		seen := &mountSeen{MountInfo: m}
		s.mounts = append(s.mounts, seen)
		wg.Go(func() {
			var st struct {
				PID     int
				Cluster string
			}
			if seen.err = ask(controlPath(seen.Dev), "waits", &seen.Report); seen.err == nil {
				_ = ask(controlPath(seen.Dev), "status", &st)
				seen.pid, seen.cluster = st.PID, st.Cluster
			}
		})
	}
	for _, name := range daemonsIn(dir) {
		path := filepath.Join(dir, name, admin.SocketName)
		wg.Go(func() {
			switch {
			case strings.HasPrefix(name, "mds."):
				w := &mdsserver.Waits{}
				var list []mds.SessionInfo
				err := ask(path, "why", w)
				if err == nil {
					err = ask(path, "sessions", &list)
				}
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					s.notes = append(s.notes, s.daemonState(name, err))
					return
				}
				s.ranks, s.session = append(s.ranks, w), append(s.session, list...)
			case strings.HasPrefix(name, "osd."):
				ops := []osd.OpState{}
				err := ask(path, "ops", &ops)
				mu.Lock()
				defer mu.Unlock()
				if s.osds[name] = ops; err != nil {
					s.osds[name] = nil
				}
			case strings.HasPrefix(name, "mon."):
				m := &monSeen{}
				m.err = ask(path, "quorum", m)
				mu.Lock()
				defer mu.Unlock()
				s.mons[name] = m
			}
		})
	}
	wg.Go(func() { s.askMons(ctx, dir) })
	wg.Wait()
	slices.Sort(s.notes)
	for _, m := range s.mounts { // one that does not answer is known to the rank
		for _, x := range s.session {
			if m.pid == 0 && x.Host == s.host+":"+m.Point && startTime(int(x.PID)) != 0 {
				m.pid = int(x.PID)
				m.Report.Client = x.Client
			}
		}
	}
	// Mounts of other clusters are none of ours; of one that does not answer the rank knows.
	if meta, err := ReadMeta(dir); err == nil {
		s.mounts = slices.DeleteFunc(s.mounts, func(m *mountSeen) bool {
			return m.err == nil && m.cluster != "" && m.cluster != meta.Cluster || m.err != nil && m.pid == 0 && len(s.ranks) > 0
		})
	}
	return s
}

func (s *scene) askMons(ctx context.Context, dir string) {
	c, err := conf.Load(filepath.Join(dir, "capstan.conf"))
	if err != nil {
		s.monErr = err
		return
	}
	e, err := ToolEnv(c)
	if err != nil {
		s.monErr = err
		return
	}
	ctx, cancel := context.WithTimeout(ctx, oneAsk)
	defer cancel()
	m, err := e.dialMons(ctx, instance(wire.KindTool, 0))
	if err != nil {
		s.monErr = err
		return
	}
	s.om, s.fm = m.OSDMap(), m.FSMap()
	m.Close()
}

// asked: a request waits for this ask, so that its chain tells of it.
func (s *scene) asked(r *mdsserver.Waits, a *mds.Wait) bool {
	for _, w := range r.Waits {
		for _, on := range w.On {
			if w.Kind != "ask" && on.Kind == "client" && on.Client == a.Client && on.Ino == a.Ino {
				return true
			}
		}
	}
	return false
}

// covered: a chain of a mount of this machine tells of it already.
func (s *scene) covered(out *Chains, w *mds.Wait) bool {
	for _, m := range s.mounts {
		for i := range m.Waits {
			if m.Report.Client == w.Client && m.Waits[i].Tid == w.Tid && w.Tid != 0 && len(out.Chains) > 0 {
				return true
			}
		}
	}
	return false
}

func (s *scene) here(host string) bool { return strings.HasPrefix(host, s.host+":") }
