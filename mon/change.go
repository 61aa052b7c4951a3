package mon

import (
	"fmt"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

// Change is one decision: a record that raft carries and every monitor applies alike. apply
// must depend on nothing but the edit and the record.
type Change interface {
	fmt.Stringer
	apply(e *edit) error
}

// kinds numbers the records in raft's log; a number is never given a second meaning.
var kinds = map[byte]func() Change{
	1:  func() Change { return &Bootstrap{} },
	2:  func() Change { return &OSDBoot{} },
	3:  func() Change { return &OSDDown{} },
	4:  func() Change { return &OSDPlace{} },
	5:  func() Change { return &Usage{} },
	6:  func() Change { return &PoolCreate{} },
	7:  func() Change { return &PGCreate{} },
	8:  func() Change { return &PGCAS{} },
	9:  func() Change { return &PGDrop{} },
	10: func() Change { return &PGGiveUp{} },
	11: func() Change { return &Block{} },
	12: func() Change { return &Unblock{} },
	13: func() Change { return &MDSAssign{} },
	14: func() Change { return &MDSFail{} },
	15: func() Change { return &MDSState{} },
	16: func() Change { return &MDSStandby{} },
	17: func() Change { return &InoRange{} },
	18: func() Change { return &MonSet{} },
	19: func() Change { return &MDSRepaired{} },
	20: func() Change { return &OSDCrush{} },
	21: func() Change { return &OSDRemove{} },
	22: func() Change { return &PoolSet{} },
	23: func() Change { return &Except{} },
	24: func() Change { return &FSRanks{} },
	25: func() Change { return &PoolSplit{} },
	26: func() Change { return &PGRevive{} },
}

func kindOf(c Change) byte {
	t := fmt.Sprintf("%T", c)
	for k, mk := range kinds {
		if fmt.Sprintf("%T", mk()) == t {
			return k
		}
	}
	must.Holdf(false, "change %T has no number", c)
	return 0
}

// EncodeChange gives a change's record: its number, a version byte, its fields.
func EncodeChange(c Change) []byte {
	b, err := wire.Append([]byte{kindOf(c)}, c)
	must.NoErr(err, "encode change %T", c)
	return b
}

// DecodeChange reads a record from the log.
func DecodeChange(b []byte) (Change, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("change: empty record")
	}
	mk, ok := kinds[b[0]]
	if !ok {
		return nil, fmt.Errorf("change: unknown kind %d: written by a newer program", b[0])
	}
	c := mk()
	if err := wire.Unmarshal(b[1:], c); err != nil {
		return nil, fmt.Errorf("change: %w", err)
	}
	return c, nil
}
