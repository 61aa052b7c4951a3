package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	mdsserver "github.com/capstan-fs/capstan/mds/server"
	"github.com/capstan-fs/capstan/wire"
)

// `capstan why` strings the waits of processes, mounts, ranks, OSDs and monitors together until
// it arrives at somebody who waits for nobody: the owner. It asks everybody on this machine once,
// at about one moment, and then only follows links.

// Link is one step of a chain: At waits, or is waited for; On is whom it waits for in turn. A link
// without On is the owner of the wait.
type Link struct {
	At         string  `json:"at"`
	What       string  `json:"what"`
	SinceMs    int64   `json:"since_ms,omitempty"`
	DeadlineMs int64   `json:"deadline_ms,omitempty"` // the wait ends by force then
	Do         string  `json:"do,omitempty"`          // what helps
	On         []*Link `json:"on,omitempty"`
}

// Chains answers one question.
type Chains struct {
	Question string   `json:"question"`
	Chains   []*Link  `json:"chains"`
	Notes    []string `json:"notes,omitempty"` // whom it could not ask
}

// Why answers for everything (what ""), a path or inode, a process, or a request (CLIENT:TID).
func Why(ctx context.Context, dir, what string) (*Chains, error) {
	s := look(ctx, dir)
	out := &Chains{Question: what, Chains: []*Link{}}
	switch pid, perr := strconv.Atoi(what); {
	case what == "":
		s.whyAll(out)
	case perr == nil && startTime(pid) != 0:
		s.whyPID(out, pid)
	case requestName(what):
		s.whyRequest(out, what)
	default:
		ino, err := InodeOf(what)
		if err != nil {
			return nil, err
		}
		if err := s.whyInode(ctx, out, ino); err != nil {
			return nil, err
		}
	}
	out.Notes = s.notes
	return out, nil
}

// requestName: client.3/89ab:12
func requestName(w string) bool {
	c, tid, ok := strings.Cut(w, ":")
	_, err := strconv.ParseUint(tid, 10, 64)
	return ok && err == nil && strings.Contains(c, "/") && !strings.HasPrefix(c, "/")
}

func (s *scene) whyAll(out *Chains) {
	told := map[string]bool{}
	for _, m := range s.mounts {
		for i := range m.Waits {
			w := &m.Waits[i]
			told[fmt.Sprint(m.Report.Client, w.Tid)] = w.Tid != 0
			out.Chains = append(out.Chains, s.process(int(w.PID), s.mountWait(m, w)))
		}
	}
	for _, r := range s.ranks {
		for i := range r.Waits {
			if w := &r.Waits[i]; !told[fmt.Sprint(w.Client, w.Tid)] && !(w.Kind == "ask" && s.asked(r, w)) {
				out.Chains = append(out.Chains, s.rankWait(r, w, nil))
			}
		}
	}
}

func (s *scene) whyPID(out *Chains, pid int) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	tids := map[uint32]bool{uint32(pid): true}
	for _, t := range tasks {
		if n, err := strconv.Atoi(t.Name()); err == nil {
			tids[uint32(n)] = true
		}
	}
	for _, m := range s.mounts {
		for i := range m.Waits {
			if tids[m.Waits[i].PID] {
				out.Chains = append(out.Chains, s.process(pid, s.mountWait(m, &m.Waits[i])))
			}
		}
	}
	if len(out.Chains) > 0 {
		return
	}
	// Not asleep in a mount that answers. Perhaps in one that does not.
	wchan := ""
	for t := range tids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/wchan", pid, t))
		if w := string(b); strings.Contains(w, "fuse") || strings.Contains(w, "request_wait") || wchan == "" {
			wchan = w
		}
	}
	for _, m := range s.mounts {
		if m.err != nil {
			out.Chains = append(out.Chains, s.process(pid, &Link{At: "mount " + m.Point, What: "does not answer: " + m.err.Error(), On: s.processState(m.pid)}))
		}
	}
	if len(out.Chains) == 0 {
		text := "waits for nothing in a Capstan mount of this machine"
		if wchan != "" && wchan != "0" {
			text += " (in the kernel it is in " + wchan + ")"
		}
		l := s.process(pid, nil)
		l.What, l.On = l.What+", "+text, nil
		out.Chains = append(out.Chains, l)
	}
}

func (s *scene) whyRequest(out *Chains, what string) {
	i := strings.LastIndex(what, ":")
	client := what[:i]
	n, _ := strconv.ParseUint(what[i+1:], 10, 64)
	same := func(tid uint64) bool { return uint64(wire.Tid(tid)&^wire.ReadTid) == uint64(wire.Tid(n)&^wire.ReadTid) }
	for _, m := range s.mounts {
		for j := range m.Waits {
			if w := &m.Waits[j]; m.Report.Client == client && w.Tid != 0 && same(w.Tid) {
				out.Chains = append(out.Chains, s.process(int(w.PID), s.mountWait(m, w)))
			}
		}
	}
	if len(out.Chains) > 0 {
		return
	}
	for _, r := range s.ranks {
		for j := range r.Waits {
			if w := &r.Waits[j]; w.Client == client && w.Tid != 0 && same(w.Tid) {
				out.Chains = append(out.Chains, s.rankWait(r, w, nil))
			}
		}
	}
	for name, ops := range s.osds {
		for j := range ops {
			if o := &ops[j]; o.Client == client && o.Tid == n {
				out.Chains = append(out.Chains, s.osdOp(name, o))
			}
		}
	}
}

func (s *scene) whyInode(ctx context.Context, out *Chains, ino string) error {
	number := ino
	for _, m := range s.mounts {
		for i := range m.Waits {
			if w := &m.Waits[i]; w.Ino == ino || w.On2 == ino {
				out.Chains = append(out.Chains, s.process(int(w.PID), s.mountWait(m, w)))
			}
		}
	}
	for _, r := range s.ranks {
		v, err := CallDaemon(ctx, s.dir, r.Daemon, "why", []string{number})
		if err != nil {
			if len(out.Chains) > 0 {
				break
			}
			return err
		}
		var of mdsserver.Waits
		if err := json.Unmarshal(v, &of); err != nil {
			return err
		}
		for i := range of.Waits {
			w := &of.Waits[i]
			if s.covered(out, w) || w.Kind == "ask" && s.asked(&of, w) {
				continue
			}
			out.Chains = append(out.Chains, s.rankWait(&of, w, nil))
		}
	}
	return nil
}
