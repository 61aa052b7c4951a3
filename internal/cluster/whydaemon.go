package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// monitors says whether they have a leader, and if not, which of them are missing.
func (s *scene) monitors() []*Link {
	if s.om != nil && s.monErr == nil {
		return []*Link{{At: "the monitors", What: "answer: it is on its way there"}}
	}
	l := &Link{At: "the monitors", What: "do not answer: no majority of them has a leader", Do: "start those that are missing: `capstan dev up --dir D` or `capstan mon`"}
	if s.monErr != nil {
		l.What = s.monErr.Error()
	}
	names := make([]string, 0, len(s.mons))
	for n := range s.mons {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		switch m := s.mons[n]; {
		case m.err != nil:
			l.On = append(l.On, s.daemon(n)...)
		case m.Leader == "":
			l.On = append(l.On, &Link{At: n, What: "runs, but knows no leader"})
		default:
			l.On = append(l.On, &Link{At: n, What: "follows mon." + strings.TrimPrefix(m.Leader, "mon.")})
		}
	}
	return []*Link{l}
}

// daemon says what is wrong with the process of a daemon of this machine; nothing when it runs.
func (s *scene) daemon(name string) []*Link {
	p, err := loadProcess(filepath.Join(s.dir, "run", name+".json"))
	if err != nil {
		return nil
	}
	if !p.Alive() {
		return []*Link{{At: name, What: "does not run (its process " + strconv.Itoa(p.PID) + " has ended)", Do: "`capstan dev up --dir " + s.dir + "` starts it; its log says why it ended"}}
	}
	return s.stopped(p.PID)
}

func (s *scene) daemonState(name string, err error) string {
	for _, l := range s.daemon(name) {
		return l.At + " " + l.What
	}
	return name + ": " + err.Error()
}

// stopped tells of a process that cannot answer because somebody stopped it, or has ended.
func (s *scene) stopped(pid int) []*Link {
	switch st := procState(pid); st {
	case "T", "t":
		return []*Link{{At: fmt.Sprintf("process %d", pid), What: comm(pid) + " is stopped (SIGSTOP or a debugger)", Do: fmt.Sprintf("kill -CONT %d", pid)}}
	case "":
		return []*Link{{At: fmt.Sprintf("process %d", pid), What: "has ended"}}
	case "D":
		return []*Link{{At: fmt.Sprintf("process %d", pid), What: comm(pid) + " hangs in the kernel (state D)"}}
	}
	return nil
}

// processState is stopped, or that it runs and does not answer.
func (s *scene) processState(pid int) []*Link {
	if pid == 0 {
		return []*Link{{At: "its process", What: "is not known: no rank has a session of it"}}
	}
	if l := s.stopped(pid); l != nil {
		return l
	}
	return []*Link{{At: fmt.Sprintf("process %d", pid), What: comm(pid) + " runs, but does not answer on its control socket"}}
}

// procState is the letter of /proc/PID/stat: R, S, D, T, …; "": no such process.
func procState(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	if i := strings.LastIndexByte(string(b), ')'); i >= 0 && i+2 < len(b) {
		return string(b[i+2 : i+3])
	}
	return ""
}

func comm(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "(ended)"
	}
	return strings.TrimSpace(string(b))
}
