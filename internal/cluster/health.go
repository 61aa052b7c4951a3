package cluster

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/admin"
	"github.com/capstan-fs/capstan/internal/watch"
	osdserver "github.com/capstan-fs/capstan/osd/server"
	"github.com/capstan-fs/capstan/wire"
)

// Warning is something that is wrong with a cluster, and the command that helps.
type Warning struct {
	Code     string `json:"code"`     // of HealthCodes
	Severity string `json:"severity"` // warn: it goes on; error: somebody waits, or data is at risk
	Subject  string `json:"subject"`  // osd.1, rank 0, mon.b, cluster
	What     string `json:"what"`     // the cause, in a sentence
	Do       string `json:"do"`       // what helps
}

// HealthCode is one row of docs/health.md.
type HealthCode struct{ Code, Severity, Means, Do string }

// Severities.
const (
	sevWarn  = "warn"
	sevError = "error"
)

// HealthCodes lists every code that `capstan health` can show.
var HealthCodes = []HealthCode{
	{"WRONG", sevError, "Seeded bugs are on: the cluster was made with `dev up --wrong` and breaks its promises.", "keep nothing here that matters; a cluster without them is made in another directory by `capstan dev up` without --wrong"},
	{"MON_DOWN", sevWarn, "A monitor of this machine does not run or does not answer. With a majority left everything goes on.", "`capstan dev up --dir D` or `capstan mon --name X`"},
	{"OSD_FULL", sevError, "An OSD is full: nothing can be written until something is deleted.", "delete files; `capstan osd df` shows which OSD it is"},
	{"OSD_HOST_FULL", sevError, "The file system in which an OSD keeps its store has no room: its writes wait.", "make room on that host, or delete files of Capstan; `capstan daemon osd.N store` shows it"},
	{"OSD_NEARFULL", sevWarn, "An OSD is nearly full.", "delete files or add OSDs; `capstan osd df` shows the use of each"},
	{"OSD_DOWN", sevWarn, "An OSD is down. Its PGs go on with fewer replicas.", "start it (`capstan dev up --dir D` or `capstan osd --id N`); its log says why it ended; `capstan osd out N` when it will not come back"},
	{"PG_LOST", sevError, "The store of a PG's last member is gone: nothing of the PG is served, and nothing is invented.", "bring that disk back; else `capstan pg copies PG` shows who has an older copy, and `capstan pg revive PG osd.N` goes on with it"},
	{"OBJECT_DAMAGED", sevError, "No replica of an object can be read as it should, or replicas differ and nobody knows which is right: who needs what is damaged gets EIO.", "`capstan pg query PG` names the objects; start an OSD that may have a good copy; else write the damaged part anew or remove the file, then `capstan pg deep-scrub PG` (or `pg repair`, which follows the majority)"},
	{"PG_STUCK", sevError, "PGs have no primary, or fewer members than writes need: reads or writes of their objects wait.", "`capstan pg ls` names whom each waits for"},
	{"PG_DEGRADED", sevWarn, "PGs have fewer replicas in sync than the pool wants, or members that are down.", "they recover by themselves once their OSDs are up; `capstan pg ls` shows how far"},
	{"RANK_NONE", sevError, "There is no metadata rank: no metadata daemon has ever joined.", "start a metadata daemon: `capstan dev up --dir D` or `capstan mds`"},
	{"RANK_FAILED", sevError, "No daemon holds a rank: its part of the tree is not served.", "start a metadata daemon: `capstan dev up --dir D` or `capstan mds`"},
	{"RANK_DAMAGED", sevError, "A rank found an object that it cannot read, and stopped.", "the log of the metadata daemon names the object; restore it, then `capstan fs repaired N` and start the daemon"},
	{"RANK_SURPLUS", sevWarn, "There should be fewer ranks, and one cannot stop: it owns directories.", "`capstan fs set ranks N` with a number above it"},
	{"RANK_RECOVERING", sevWarn, "A rank is being taken over: requests wait until it is active.", "`capstan why` shows what it waits for; `capstan pg ls` if PGs are stuck"},
	{"SLOW_OPS", sevWarn, "A daemon or mount of this machine had operations slower than slow_op in the last minute.", "`capstan daemon NAME slow` names the stage that was slow and whom it waited for"},
	{"WAITING", sevWarn, "A request has waited in a rank for more than 5 s.", "`capstan why` names for whom"},
	{"CLIENT_SILENT", sevWarn, "A client has not renewed its session and is stale or being evicted: others may wait for what it holds.", "`capstan sessions`; wake it or end it"},
}

// warn makes a warning of a code; do "" takes the table's.
func warn(code, subject, do, format string, a ...any) Warning {
	i := slices.IndexFunc(HealthCodes, func(h HealthCode) bool { return h.Code == code })
	if do == "" {
		do = HealthCodes[i].Do
	}
	return Warning{Code: code, Severity: HealthCodes[i].Severity, Subject: subject, What: fmt.Sprintf(format, a...), Do: do}
}

// warnings lists what is wrong by the maps, the worst first.
func warnings(om *clustermap.OSDMap, fm *clustermap.FSMap, pgs PGStatus) []Warning {
	out := []Warning{}
	add := func(code, subject, do, format string, a ...any) {
		out = append(out, warn(code, subject, do, format, a...))
	}
	if om.Full {
		add("OSD_FULL", fullest(om), "", "%s is full: nothing can be written until something is deleted", fullest(om))
	}
	if len(fm.Ranks) == 0 {
		add("RANK_NONE", "rank 0", "", "no rank")
	}
	for _, r := range sortedRanks(fm) {
		subject := fmt.Sprintf("rank %d", r)
		in := fm.Ranks[r]
		if !fm.Wanted(r) {
			continue // it has stopped, as it should
		}
		if in.State == clustermap.RankStopping && uint32(r) >= fm.MaxRanks {
			continue // … or is about to
		}
		switch in.State {
		case clustermap.RankActive:
			if uint32(r) >= fm.MaxRanks {
				add("RANK_SURPLUS", subject, "", "rank %d should stop, but owns directories", r)
			}
		case clustermap.RankDamaged:
			add("RANK_DAMAGED", subject, fmt.Sprintf("the log of the metadata daemon names the object; restore it, then `capstan fs repaired %d` and start the daemon", r), "rank %d is damaged: it found an object that it cannot read, and stopped", r)
		case clustermap.RankFailed, clustermap.RankStopped:
			add("RANK_FAILED", subject, "", "rank %d is %v: no daemon holds it", r, in.State)
		case clustermap.RankNone:
			if r > 0 {
				add("RANK_FAILED", subject, "", "rank %d was never held: no daemon is free for it", r)
				break
			}
			fallthrough
		default:
			add("RANK_RECOVERING", subject, "", "rank %d is %v", r, in.State)
		}
	}
	for _, id := range om.OSDIDs() {
		if !om.OSDs[id].Up {
			add("OSD_DOWN", fmt.Sprintf("osd.%d", id), fmt.Sprintf("start it (`capstan dev up --dir D` or `capstan osd --id %d`); its log says why it ended; `capstan osd out %d` when it will not come back", id, id), "osd.%d is down", id)
		}
	}
	for _, pg := range om.PGIDs() {
		if cfg := om.PGs[pg]; om.Lost(cfg) {
			mb := cfg.InSync[0]
			add("PG_LOST", fmt.Sprintf("pg %v", pg), fmt.Sprintf("bring that disk back; else `capstan pg copies %v` shows who has an older copy, and `capstan pg revive %v osd.N` goes on with it", pg, pg),
				"pg %v is lost: its last member was osd.%d with store %v, which is gone", pg, mb.ID, mb.UUID)
		}
	}
	if pgs.Stuck > 0 {
		add("PG_STUCK", "cluster", "", "%d of %d PGs stuck: reads or writes of their objects wait", pgs.Stuck, pgs.Total)
	}
	if n := pgs.Total - pgs.Clean - pgs.Stuck; n > 0 {
		add("PG_DEGRADED", "cluster", "", "%d of %d PGs with too few replicas", n, pgs.Total)
	}
	if om.NearFull && !om.Full {
		add("OSD_NEARFULL", fullest(om), "", "%s is nearly full", fullest(om))
	}
	return out
}

// fullest names the OSD that has the least room, for its size.
func fullest(om *clustermap.OSDMap) string {
	name, most := "an OSD", -1.0
	for _, id := range om.OSDIDs() {
		if o := om.OSDs[id]; o.Up && o.Total > 0 && float64(o.Used)/float64(o.Total) > most {
			name, most = fmt.Sprintf("osd.%d", id), float64(o.Used)/float64(o.Total)
		}
	}
	return name
}

func sortedRanks(fm *clustermap.FSMap) []wire.Rank {
	var out []wire.Rank
	for r := range fm.Ranks {
		out = append(out, r)
	}
	slices.Sort(out)
	return out
}

// Health is what `capstan health` shows.
type Health struct {
	Status   string    `json:"status"` // ok, warn, error
	Warnings []Warning `json:"warnings"`
}

// Exit is the status to end with, as monitoring plugins do: 0 ok, 1 warn, 2 error.
func (h *Health) Exit() int {
	return slices.Index([]string{"ok", sevWarn, sevError}, h.Status)
}

// CheckHealth asks the monitors, and the daemons and mounts of this machine that belong to dir.
func (e *Env) CheckHealth(ctx context.Context, dir string) (*Health, error) {
	s, err := e.Status(ctx)
	if err != nil {
		return nil, err
	}
	return healthOf(append(s.Warnings, localHealth(ctx, dir, s.Cluster)...)), nil
}

func healthOf(list []Warning) *Health {
	h := &Health{Status: "ok", Warnings: list}
	for _, w := range list {
		if h.Status != sevError {
			h.Status = w.Severity
		}
	}
	return h
}

// localHealth asks everybody here what the maps do not say.
func localHealth(ctx context.Context, dir, cluster string) []Warning {
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := []Warning{}
	add := func(w Warning) {
		mu.Lock()
		out = append(out, w)
		mu.Unlock()
	}
	ask := func(path, cmd string, into any) error { return askInto(ctx, path, cmd, into) }
	slow := func(name, path string) {
		var r watch.Report
		if ask(path, "slow", &r) != nil {
			return
		}
		n := 0
		for _, o := range r.Ops {
			if time.Since(o.At) < time.Minute {
				n++
			}
		}
		if n > 0 {
			o := r.Ops[0]
			add(warn("SLOW_OPS", name, fmt.Sprintf("`capstan daemon %s slow` names the stages", name), "%d slow operations in the last minute, the newest took %.1f s: %s, %s: %s", n, o.Ms/1000, o.What, o.Stage, o.Owner))
		}
	}
	for _, name := range daemonsIn(dir) {
		path := filepath.Join(dir, name, admin.SocketName)
		wg.Go(func() {
			switch {
			case strings.HasPrefix(name, "mon."):
				var q any
				if err := ask(path, "quorum", &q); err != nil {
					add(warn("MON_DOWN", name, "", "%s does not answer: %v", name, err))
				}
			case strings.HasPrefix(name, "osd."):
				slow(name, path)
				var st osdserver.StoreState
				if ask(path, "store", &st) == nil && st.HostFull {
					add(warn("OSD_HOST_FULL", name, fmt.Sprintf("make room in the file system of %s, or delete files of Capstan", st.Dir), "writes of %s wait: the file system of %s has no room", name, st.Dir))
				}
			case strings.HasPrefix(name, "mds."):
				slow(name, path)
				rankHealth(ask, name, path, add)
			}
		})
	}
	if all, err := Mounts(); err == nil {
		for _, m := range all {
			if m.ours() {
				wg.Go(func() {
					var st struct{ Cluster string }
					if ask(controlPath(m.Dev), "status", &st) == nil && st.Cluster == cluster {
						slow(m.Point, controlPath(m.Dev))
					}
				})
			}
		}
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b Warning) int { return strings.Compare(a.Code+a.Subject, b.Code+b.Subject) })
	return out
}

func rankHealth(ask func(path, cmd string, into any) error, name, path string, add func(Warning)) {
	var w struct {
		Waits []struct {
			Kind, What string
			For        []string
			SinceMs    int64 `json:"since_ms"`
		}
	}
	if ask(path, "why", &w) == nil {
		for _, x := range w.Waits {
			if x.Kind == "request" && x.SinceMs > 5000 {
				add(warn("WAITING", name, "", "%s has waited for %s: %s", x.What, shortTime(x.SinceMs), strings.Join(x.For, "; ")))
			}
		}
	}
	var sessions []struct {
		Host, State string
		PID         int
		Renewed     int64 `json:"renewed_seconds_ago"`
	}
	if ask(path, "sessions", &sessions) == nil {
		for _, s := range sessions {
			if s.State == "stale" || s.State == "evicting" {
				add(warn("CLIENT_SILENT", s.Host, "", "%s (pid %d) is %s: not heard of for %d s", s.Host, s.PID, s.State, s.Renewed))
			}
		}
	}
}

// Text is the health for people.
func (h *Health) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", h.Status)
	for _, w := range h.Warnings {
		fmt.Fprintf(&b, "%-5s %-15s %s: %s\n      → %s\n", w.Severity, w.Code, w.Subject, w.What, w.Do)
	}
	return b.String()
}

// WriteHealthDocs writes docs/health.md.
func WriteHealthDocs(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# Health

<!-- written by make docs from internal/cluster/health.go -->

` + "`capstan health [--json]`" + ` says what is wrong with a cluster, of what, why, and which command helps. It asks the monitors, and
the daemons and mounts that run on the same machine (` + "`--dir`" + ` or the directory of the configuration finds them). It ends with 0 when
all is well, 1 when there are warnings, 2 when there are errors, and 3 when no monitor answers: what monitoring plugins expect.
A *warning* is something that goes on by itself; an *error* means that somebody waits or that data is at risk.

With ` + "`--json`" + `: ` + "`{status: ok|warn|error, warnings: [{code, severity, subject, what, do}]}`" + `. Codes keep their meaning; new ones may come.

| code | severity | what it means | what helps |
|---|---|---|---|
`)
	for _, c := range HealthCodes {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", c.Code, c.Severity, c.Means, c.Do)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
