package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/capstan-fs/capstan/osd"
)

// PGQuery is one placement group: the monitors' row, and what each OSD of this machine says.
type PGQuery struct {
	PG       string          `json:"pg"`
	Monitors json.RawMessage `json:"monitors"`
	OSDs     []osd.PGState   `json:"osds"`
	Silent   []string        `json:"not_asked"` // members that are elsewhere or do not answer
}

// DaemonsIn names the daemons whose directories lie in dir.
func DaemonsIn(dir string) []string { return daemonsIn(dir) }

// PGQuery asks the monitors and the OSDs whose directories lie in dir.
func (e *Env) PGQuery(ctx context.Context, dir, pg string) (*PGQuery, error) {
	v, err := e.MonCommand(ctx, "pg", "dump")
	if err != nil {
		return nil, err
	}
	var rows []json.RawMessage
	if err := json.Unmarshal(v, &rows); err != nil {
		return nil, err
	}
	q := &PGQuery{PG: pg, OSDs: []osd.PGState{}, Silent: []string{}}
	var members struct {
		PG       string
		InSync   []int32 `json:"in_sync"`
		Learners []int32
	}
	for _, r := range rows {
		if err := json.Unmarshal(r, &members); err != nil {
			return nil, err
		}
		if members.PG == pg {
			q.Monitors = r
			break
		}
	}
	if q.Monitors == nil {
		return nil, fmt.Errorf("there is no pg %s: `capstan pg ls` lists them", pg)
	}
	asked := map[string]bool{}
	for _, name := range daemonsIn(dir) {
		if !strings.HasPrefix(name, "osd.") {
			continue
		}
		v, err := CallDaemon(ctx, dir, name, "pgs", nil)
		if err != nil {
			continue
		}
		var all []osd.PGState
		if err := json.Unmarshal(v, &all); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		asked[name] = true
		for _, s := range all {
			if s.PG == pg {
				q.OSDs = append(q.OSDs, s)
			}
		}
	}
	for _, id := range append(members.InSync, members.Learners...) {
		if name := fmt.Sprintf("osd.%d", id); !asked[name] {
			q.Silent = append(q.Silent, name)
		}
	}
	return q, nil
}
