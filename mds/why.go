package mds

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/locker"
	"github.com/capstan-fs/capstan/wire"
)

// No wait is without a named owner (L1): every request that is parked, every answer that is held
// and every ask that is open says here whom it waits for. `capstan why` strings these links
// together with those of mounts and OSDs.

// Wait is one thing that waits in the rank, and for whom.
type Wait struct {
	Kind    string   `json:"kind"` // request, answer, ask
	What    string   `json:"what"`
	Who     string   `json:"who"`
	For     []string `json:"for"` // On in words
	Client  string   `json:"client"`
	Host    string   `json:"host"`
	Tid     uint64   `json:"tid,omitempty"`
	PID     uint32   `json:"pid,omitempty"` // of a request: its caller on that host
	Op      string   `json:"op,omitempty"`
	Ino     string   `json:"ino,omitempty"`
	Name    string   `json:"name,omitempty"`
	Stage   string   `json:"stage"`          // lock, caps, file-lock, object, numbers, quiet, journal, answer
	Lock    string   `json:"lock,omitempty"` // the lock whose queue it stands in
	SinceMs int64    `json:"since_ms"`
	On      []On     `json:"on"`

	about []wire.Ino // inodes it concerns, for asking by one
}

// On is one owner of a wait.
type On struct {
	Kind       string `json:"kind"` // client, request, file-lock, rank, recovery, object, journal, monitors, silence
	Text       string `json:"text"`
	Client     string `json:"client,omitempty"`
	Host       string `json:"host,omitempty"`
	PID        uint32 `json:"pid,omitempty"` // client: the mount's process; file-lock: the holder
	Tid        uint64 `json:"tid,omitempty"` // request
	Ino        string `json:"ino,omitempty"`
	SinceMs    int64  `json:"since_ms,omitempty"`
	DeadlineMs int64  `json:"deadline_ms,omitempty"` // the wait ends by force then
	Rank       int32  `json:"rank,omitempty"`
}

// JournalInfo is how far the rank's journal is.
type JournalInfo struct {
	Durable  uint64 `json:"durable"`
	End      uint64 `json:"end"`
	InFlight int    `json:"writes_in_flight"`
	SinceMs  int64  `json:"since_ms"` // since the newest of them left
}

// Journal shows it; zero before there is one.
func (r *Rank) Journal() (j JournalInfo) {
	if r.jw == nil {
		return j
	}
	j = JournalInfo{Durable: uint64(r.durablePos), End: uint64(r.jw.End()), InFlight: r.jw.InFlight()}
	if j.InFlight > 0 {
		j.SinceMs = (r.now - r.handedAt) / 1e6
	}
	return j
}

// Why lists what waits, requests first.
func (r *Rank) Why() []Wait {
	out := []Wait{}
	for _, s := range r.order {
		for _, q := range s.parked {
			out = append(out, r.waitOf(q))
		}
	}
	for _, q := range r.self.parked { // a directory that another rank asks back
		w := r.waitOf(q)
		w.Who = r.asker(q)
		out = append(out, w)
	}
	for _, s := range r.order {
		out = append(out, r.heldAnswers(s)...)
	}
	for _, list := range [][]ask{r.first, r.second, r.silent} {
		for i := range list {
			if r.askOpen(&list[i]) {
				out = append(out, r.waitOfAsk(&list[i]))
			}
		}
	}
	for i := range out {
		for _, on := range out[i].On {
			out[i].For = append(out[i].For, on.Text)
		}
	}
	return out
}

// WhyOf is what of it concerns an inode, by number or path.
func (r *Rank) WhyOf(name string) ([]Wait, error) {
	in, err := r.find(name)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(r.Why(), func(w Wait) bool { return !slices.Contains(w.about, in.rec.Ino) }), nil
}

// Clock is the time of the newest event, as SinceMs counts; the shell sets it before it asks.
func (r *Rank) Clock(now int64) { r.now = max(r.now, now) }

// The stages of a parked request, by the reason that it was parked with.
var stages = map[string]string{
	"lock":                              "lock",
	"caps of others must come back":     "caps",
	"a file lock is held by others":     "file-lock",
	"inode numbers are being journaled": "numbers",
	"sessions of before are silent: what they cache must not change yet": "quiet",
	"directory is being read":             "object",
	"directory header is being read":      "object",
	"inode is being read":                 "object",
	"inode is being looked for by number": "object",
}

func stageOf(why string) string {
	if s := stages[why]; s != "" {
		return s
	}
	return "rank"
}

func (q *request) String() string {
	s := fmt.Sprintf("%v tid %d ino %v", q.Op, q.Tid&^wire.ReadTid, q.Ino)
	if q.Name != "" {
		s += fmt.Sprintf(" name %q", q.Name)
	}
	return s
}

func (r *Rank) waitOf(q *request) Wait {
	s := q.sess
	w := Wait{Kind: "request", What: q.String(), Who: r.nameOfClient(s.client()), Client: s.instance.String(), Host: s.place(), Tid: uint64(q.Tid), PID: q.PID,
		Op: q.Op.String(), Ino: q.Ino.String(), Name: q.Name, Stage: stageOf(q.why), SinceMs: (r.now - q.began) / 1e6, about: r.about(q)}
	switch w.Stage {
	case "lock":
		if l := q.set.WaitingOn(); l != nil {
			w.Lock, w.On = l.String(), r.ownersOf(l, q)
		}
	case "caps":
		if q.in != nil {
			w.On = r.asksOn(q.in, s.client())
		}
	case "file-lock":
		w.On = r.fileLockOwners(q)
	case "quiet":
		w.On = []On{{Kind: "silence", Text: "sessions of before the take-over to be silent long enough", DeadlineMs: max(0, (r.silentUntil-r.now)/1e6)}}
	case "numbers":
		w.On = []On{r.onJournal(r.jw.End())}
	case "object":
		w.On = []On{{Kind: "object", Text: "the OSDs: " + q.why, Ino: q.Ino.String()}}
	}
	if on := r.moveOwners(q); len(on) > 0 {
		w.On = on
	}
	if len(w.On) == 0 { // woken and not yet run, or a reason of a later day
		w.On = []On{{Kind: "rank", Text: fmt.Sprintf("mds rank %d: %s", r.cfg.Rank, q.why), Rank: int32(r.cfg.Rank)}}
	}
	return w
}

// about lists the inodes that a request concerns, as far as the cache knows them.
func (r *Rank) about(q *request) []wire.Ino {
	list := []wire.Ino{q.Ino, q.NewDir}
	if in := r.inodes[q.Ino]; in != nil && in.dir != nil {
		if dn := in.dir.names[q.Name]; dn != nil && dn.in != nil {
			list = append(list, dn.in.rec.Ino)
		}
	}
	return list
}

// ownersOf names whom a lock waits for: clients that have more than the row it is heading for
// allows, replicas, holders, and for q those before it in the queue.
func (r *Rank) ownersOf(l *locker.Lock, q *request) (out []On) {
	obj := l.Object()
	if mask := l.Type().Mask(); mask != 0 {
		in, _ := obj.(*inode)
		dn, _ := obj.(*dentry)
		for i, n := 0, obj.Clients(); i < n; i++ {
			c := obj.Client(i)
			if c.Issued&mask&^locker.AllowedAtGoal(obj, c.Client) != 0 {
				out = append(out, r.askOf(c.Client, in, dn))
			}
		}
	}
	for _, rank := range l.Gathering() {
		out = append(out, On{Kind: "rank", Rank: rank, Text: fmt.Sprintf("mds rank %d to acknowledge %v", rank, l)})
	}
	if l.Recovering() {
		out = append(out, On{Kind: "recovery", Text: "the size, which is being read from the objects"})
	}
	for _, o := range l.Owners() {
		if q == nil || o != q.set.Owner {
			out = append(out, r.onRequest(o, "holds it"))
		}
	}
	if q != nil && len(out) == 0 {
		for _, o := range l.Queue() {
			if o == q.set.Owner {
				break
			}
			out = append(out, r.onRequest(o, "is before it in the queue"))
		}
	}
	return out
}

// onRequest names another request by whom a lock is held, or who is first.
func (r *Rank) onRequest(o locker.Owner, how string) On {
	s := r.sessionOf(o.Client)
	if s == nil {
		return On{Kind: "rank", Rank: int32(r.cfg.Rank), Text: fmt.Sprintf("the rank's own work (%v) %s", o, how)}
	}
	for _, q := range s.parked {
		if q.set.Owner == o {
			return On{Kind: "request", Client: s.instance.String(), Host: s.place(), Tid: uint64(q.Tid), SinceMs: (r.now - q.began) / 1e6, Text: fmt.Sprintf("%v of %s %s", q, s.place(), how)}
		}
	}
	for _, c := range r.cuts {
		if c.q != nil && c.q.set.Owner == o {
			return On{Kind: "object", Ino: c.in.rec.Ino.String(), Text: fmt.Sprintf("the OSDs: objects of ino %v are being cut after a truncate by %s", c.in.rec.Ino, s.place())}
		}
	}
	return On{Kind: "request", Client: s.instance.String(), Host: s.place(), Text: fmt.Sprintf("a request of %s (%v) %s", s.place(), o, how)}
}

// asksOn names the clients but one that owe something of in.
func (r *Rank) asksOn(in *inode, but uint64) (out []On) {
	for _, rec := range in.ledger.All() {
		if rec.Client != but && rec.Revoking() {
			out = append(out, r.askOf(rec.Client, in, nil))
		}
	}
	if len(out) == 0 {
		for i := range in.locks {
			out = append(out, r.ownersOf(&in.locks[i], nil)...)
		}
	}
	return out
}

// askOf names a client that owes caps of in, or a lease of dn, with since when and until when.
func (r *Rank) askOf(client uint64, in *inode, dn *dentry) On {
	on := On{Kind: "client", Client: fmt.Sprintf("%x", client)}
	s := r.sessionOf(client)
	if s != nil {
		on.Client, on.Host, on.PID = s.instance.String(), s.place(), s.pid()
	}
	what := "its answer"
	var a *ask
	rung := ""
	for i, list := range [][]ask{r.first, r.second, r.silent} {
		for j := range list {
			x := &list[j]
			if x.client() != client || !r.askOpen(x) || in != nil && (x.rec == nil || x.rec.Ino != uint64(in.rec.Ino)) || dn != nil && (x.lease == nil || x.lease.dn != dn) {
				continue
			}
			a, rung = x, [...]string{"asked", "asked twice", "silent"}[i]
		}
	}
	if in != nil {
		on.Ino = in.rec.Ino.String()
		what = fmt.Sprintf("caps of ino %v", in.rec.Ino)
	}
	if dn != nil {
		what = fmt.Sprintf("the lease of %v", dn)
	}
	if a != nil {
		on.SinceMs = (r.now - a.since) / 1e6
		if a.rec != nil {
			what = fmt.Sprintf("%v of ino %v", a.rec.Owed(), wire.Ino(a.rec.Ino))
		}
		due := a.since + r.deadline()
		if rung == "silent" && s != nil {
			due = s.live.lastRenew + r.silence()
		}
		on.DeadlineMs = max(1, (due-r.now)/1e6)
	}
	switch {
	case s == nil:
		on.Text = fmt.Sprintf("client %x, of whom nothing is known, to give back %s", client, what)
	case s.state == sessEvicting:
		on.Kind, on.Text = "monitors", fmt.Sprintf("the monitors to fence %s (pid %d), which is being evicted: %s", s.place(), s.pid(), s.live.goodbye)
	case s.state == sessDead:
		on.DeadlineMs = max(1, (s.live.lastRenew+r.silence()-r.now)/1e6)
		on.Text = fmt.Sprintf("what %s (pid %d) cached, which was evicted, to be forgotten by its kernel in %d ms", s.place(), s.pid(), on.DeadlineMs)
	case a == nil:
		on.Text = fmt.Sprintf("%s (pid %d) to give back %s: about to be asked", s.place(), s.pid(), what)
	default:
		on.Text = fmt.Sprintf("%s (pid %d) to give back %s: %s %d ms ago, renewed %d ms ago, %s in %d ms", s.place(), s.pid(), what, rung, on.SinceMs,
			(r.now-s.live.lastRenew)/1e6, map[bool]string{true: "taken back", false: "evicted"}[rung == "silent"], on.DeadlineMs)
		if b, busy := r.busy[a.rec]; busy {
			on.Text += fmt.Sprintf("; it says that its flush waits for pg %v", b.pg)
		}
	}
	return on
}

// fileLockOwners names the holders that a waiting setlk is behind.
func (r *Rank) fileLockOwners(q *request) (out []On) {
	in := q.in
	if in == nil || in.file == nil || in.file.locks == nil {
		return nil
	}
	for _, h := range in.file.locks.Held(q.Lock.Flock) {
		if h.Start > q.Lock.End || q.Lock.Start > h.End || h.Type != wire.LockWrite && q.Lock.Type != wire.LockWrite ||
			h.Owner.Client == q.sess.client() && h.Owner.Token == q.Lock.Owner {
			continue
		}
		out = append(out, r.onFileLock(in, h.Owner.Client, h.PID, fmt.Sprintf("holds it since ticket %d", h.Ticket)))
	}
	for _, w := range in.file.locks.Waiting(q.Lock.Flock) {
		if w.Req == q.set.Owner.Req && w.Owner.Client == q.sess.client() || len(out) > 0 {
			break
		}
		out = append(out, r.onFileLock(in, w.Owner.Client, w.PID, "is before it in the queue"))
	}
	return out
}

func (r *Rank) onFileLock(in *inode, client uint64, pid uint32, how string) On {
	on := On{Kind: "file-lock", Client: fmt.Sprintf("%x", client), PID: pid, Ino: in.rec.Ino.String()}
	if s := r.sessionOf(client); s != nil {
		on.Client, on.Host = s.instance.String(), s.place()
	}
	on.Text = fmt.Sprintf("the file lock of pid %d on %s, who %s", pid, on.Host, how)
	return on
}

// heldAnswers are the replies to s that wait for the journal.
func (r *Rank) heldAnswers(s *session) (out []Wait) {
	for i := s.out.head; i < len(s.out.items); i++ {
		it := &s.out.items[i]
		rep, ok := it.msg.(*wire.Reply)
		if !ok {
			continue
		}
		on := r.onJournal(it.stamp)
		out = append(out, Wait{Kind: "answer", What: fmt.Sprintf("the answer to tid %d", rep.Tid&^wire.ReadTid), Who: r.nameOfClient(s.client()), Client: s.instance.String(),
			Host: s.place(), Tid: uint64(rep.Tid), Stage: "journal", SinceMs: on.SinceMs, On: []On{on}})
	}
	return out
}

func (r *Rank) onJournal(pos journal.Pos) On {
	j := r.Journal()
	return On{Kind: "journal", SinceMs: j.SinceMs, Text: fmt.Sprintf("the journal of rank %d: durable up to %d, %d is needed; %d writes under way, the newest for %d ms", r.cfg.Rank, j.Durable, pos, j.InFlight, j.SinceMs)}
}

func (r *Rank) waitOfAsk(a *ask) Wait {
	var in *inode
	var dn *dentry
	w := Wait{Kind: "ask", Stage: "answer", SinceMs: (r.now - a.since) / 1e6, Who: r.nameOfClient(a.client())}
	if a.lease != nil {
		dn = a.lease.dn
		w.What, w.Ino, w.Name = fmt.Sprintf("lease of %v", dn), dn.dir.in.rec.Ino.String(), dn.name
		w.about = []wire.Ino{dn.dir.in.rec.Ino}
		if dn.in != nil {
			w.about = append(w.about, dn.in.rec.Ino)
		}
	} else {
		in = r.inodes[wire.Ino(a.rec.Ino)]
		w.What, w.Ino, w.about = fmt.Sprintf("%v of ino %v", a.rec.Owed(), wire.Ino(a.rec.Ino)), wire.Ino(a.rec.Ino).String(), []wire.Ino{wire.Ino(a.rec.Ino)}
	}
	on := r.askOf(a.client(), in, dn)
	w.Client, w.Host, w.On = on.Client, on.Host, []On{on}
	return w
}

func (r *Rank) nameOfClient(client uint64) string {
	s := r.sessionOf(client)
	if s == nil {
		return fmt.Sprintf("client %x", client)
	}
	return fmt.Sprintf("%v (%s, pid %d, %v, renewed %d ms ago)", s.instance, s.place(), s.pid(), s.state, (r.now-s.live.lastRenew)/1e6)
}

// A client says its host as "node:/mnt pid 12": place is what comes before the pid.
const pidMark = " pid "

func (s *session) place() string {
	if i := strings.LastIndex(s.host, pidMark); i >= 0 {
		return s.host[:i]
	}
	return s.host
}

func (s *session) pid() uint32 {
	i := strings.LastIndex(s.host, pidMark)
	if i < 0 {
		return 0
	}
	n, err := strconv.ParseUint(s.host[i+len(pidMark):], 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}
