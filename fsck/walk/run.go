package walk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/capstan-fs/capstan/fsck"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/wire"
)

// Report is what a check or a repair came to.
type Report struct {
	Findings []fsck.Finding `json:"findings"`
	Sum      fsck.Sum       `json:"looked_at"`
	Live     bool           `json:"online"`
	Readings int            `json:"readings"`
	Changes  int            `json:"changes"`  // of objects, by a repair
	UndoLog  string         `json:"undo_log"` // "": nothing was changed
}

// Exit statuses, those of fsck(8).
const (
	ExitClean    = 0
	ExitRepaired = 1
	ExitLeft     = 4
	ExitFailed   = 8
)

// Exit is the program's status.
func (r *Report) Exit() int {
	code := ExitClean
	for i := range r.Findings {
		if !r.Findings[i].Repaired {
			return ExitLeft
		}
		code = ExitRepaired
	}
	return code
}

const (
	liveReadings = 3           // a finding of a living rank counts when as many readings in a row have it
	livePause    = time.Second // between them: clients send sizes within a second
	restarts     = 10          // of one reading that a rank's change or haste spoiled
)

// Check reads everything and judges; it writes nothing. With p.Live it reads again what it would
// complain of.
func Check(ctx context.Context, o Objects, p fsck.Params, prog Progress) (*Report, error) {
	rep := &Report{Live: p.Live, Findings: []fsck.Finding{}}
	for {
		_, found, sum, err := judge(ctx, o, p, prog)
		if err != nil {
			return nil, err
		}
		rep.Readings++
		rep.Sum = sum
		if rep.Readings == 1 {
			rep.Findings = append(rep.Findings, found...)
		} else {
			rep.Findings = both(rep.Findings, found)
		}
		if len(rep.Findings) == 0 || !p.Live || rep.Readings == liveReadings {
			return rep, nil
		}
		if err := pause(ctx, livePause); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// both keeps those of b that a has too.
func both(a, b []fsck.Finding) []fsck.Finding {
	had := map[string]bool{}
	for i := range a {
		had[a[i].Key()] = true
	}
	out := []fsck.Finding{}
	for _, f := range b {
		if had[f.Key()] {
			out = append(out, f)
		}
	}
	return out
}

// judge is one reading. A journal that cannot be read is a finding.
func judge(ctx context.Context, o Objects, p fsck.Params, prog Progress) (m *fsck.Model, found []fsck.Finding, sum fsck.Sum, err error) {
	for try := 0; ; try++ {
		m, _, err = read(ctx, o, p, prog)
		var dam *damage
		switch {
		case errors.As(err, &dam):
			obj := wire.ObjectID{Pool: p.MetaPool, Name: journal.HeadName(mds.JournalPrefix(p.Rank))}
			return nil, []fsck.Finding{fsck.Damage(obj.String(), dam.Error())}, sum, nil
		case p.Live && try < restarts && (errors.Is(err, ErrMoved) || errors.Is(err, errOvertaken)):
			if err := pause(ctx, 100*time.Millisecond); err != nil {
				return nil, nil, sum, err
			}
			continue
		case err != nil:
			return nil, nil, sum, fmt.Errorf("fsck: %w", err)
		}
		found = m.Check()
		return m, found, m.Sum(), nil
	}
}

// RepairOptions of a repair.
type RepairOptions struct {
	Cluster  string
	UndoPath string
	Allowed  func() error // asked before every change: is the rank still down?
	Progress Progress
	Crash    func(change int) bool // of tests: stop before that change
}

// ErrStopped is a repair that RepairOptions.Crash ended.
var ErrStopped = errors.New("stopped before a change")

// Repair mends what can be, of a rank that is down: its journal is brought into the objects, the
// old bytes of each change are made durable in the undo log, then the change is made.
func Repair(ctx context.Context, o Objects, p fsck.Params, opt RepairOptions) (*Report, error) {
	rep, err := Check(ctx, o, p, opt.Progress)
	if err != nil || len(rep.Findings) == 0 {
		return rep, err
	}
	if rep.Findings[0].Code == fsck.JournalDamaged {
		return rep, nil
	}
	m, _, _, err := judge(ctx, o, p, opt.Progress)
	if err != nil {
		return nil, err
	}
	floor, free := m.Floor()
	if err := opt.Allowed(); err != nil {
		return nil, err
	}
	if err := flush(ctx, o, p, floor); err != nil {
		return nil, fmt.Errorf("fsck: bring the journal into the objects: %w", err)
	}
	m, t, err := read(ctx, o, p, opt.Progress)
	if err != nil {
		return nil, fmt.Errorf("fsck: %w", err)
	}
	found := merge(rep.Findings, m.Repair(free))
	changes := m.Changes()
	if err := write(ctx, o, p, opt, t.head.Inc, changes, rep); err != nil {
		return nil, err
	}
	_, left, sum, err := judge(ctx, o, p, opt.Progress)
	if err != nil {
		return nil, err
	}
	after := map[string]bool{}
	for i := range left {
		after[left[i].Key()] = true
	}
	for i := range found {
		found[i].Repaired = !after[found[i].Key()]
	}
	rep.Findings, rep.Sum = merge(found, left), sum
	return rep, nil
}

// merge is a and what only b has.
func merge(a, b []fsck.Finding) []fsck.Finding {
	had := map[string]bool{}
	for i := range a {
		had[a[i].Key()] = true
	}
	for _, f := range b {
		if !had[f.Key()] {
			a = append(a, f)
		}
	}
	return a
}

func write(ctx context.Context, o Objects, p fsck.Params, opt RepairOptions, inc journal.Incarnation, changes []fsck.Change, rep *Report) (err error) {
	if len(changes) == 0 {
		return nil
	}
	u, err := makeUndo(opt.UndoPath, undoHead{Format: undoFormat, Cluster: opt.Cluster, Rank: p.Rank, Inc: inc, Made: time.Now().UTC()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, u.close()) }()
	rep.UndoLog = opt.UndoPath
	for i := range changes {
		c := &changes[i]
		if err := opt.Allowed(); err != nil {
			return err
		}
		if err := still(ctx, o, p, inc); err != nil {
			return err
		}
		l, err := before(ctx, o, c)
		if err != nil {
			return err
		}
		if err := u.line(l); err != nil {
			return err
		}
		if opt.Crash != nil && opt.Crash(i) {
			return ErrStopped
		}
		if err := apply(ctx, o, c); err != nil {
			return err
		}
		rep.Changes++
		if opt.Progress != nil {
			opt.Progress("repairing", i+1, len(changes))
		}
	}
	return nil
}
