package objecter

import (
	"hash/fnv"
	"time"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// Large reads are spread over the members of a PG: piece by piece of an object each has its
// turn, always the same for the same piece, so that its bytes are warm in one place. A member
// may refuse (osd/anyread.go); then, and where it is silent, the primary is asked, who is also
// asked while an own change of the object is under way: reads come after it.

const (
	spreadPiece = 1 << 20
	shyFor      = 20 * time.Millisecond  // a member that has refused is not asked again
	patience    = 500 * time.Millisecond // with a member that does not answer
)

// spreads reports whether any member may serve the vector: large reads of data.
func (o *Objecter) spreads(ops []wire.ObjOp) bool {
	if o.cfg.SpreadReads == 0 {
		return false
	}
	n := uint64(0)
	for i := range ops {
		if ops[i].Kind != wire.ObjRead {
			return false
		}
		n += ops[i].Len
	}
	return n >= o.cfg.SpreadReads
}

// turn is which of n members serves the piece at off.
func turn(name string, off uint64, n int) int {
	h := fnv.New32a()
	h.Write([]byte(name))
	return int((uint64(h.Sum32()) + off/spreadPiece) % uint64(n))
}

// memberFor is the line to the member whose turn it is; nil: the primary's.
func (o *Objecter) memberFor(q *op, cfg clustermap.PGConfig) *line {
	if !q.spread || len(cfg.InSync) < 2 || o.changing[q.obj] > 0 {
		return nil
	}
	m := cfg.InSync[turn(q.obj.Name, q.ops[0].Off, len(cfg.InSync))]
	d, ok := o.m.OSD(m.ID)
	if m.ID == cfg.Primary || !ok || !d.Up || d.UUID != m.UUID {
		return nil
	}
	if l := o.lineTo(d); l.conn != nil && !time.Now().Before(l.shy) {
		return l
	}
	return nil
}

// refused sends a read that a member has left to the primary there; called with mu held, returns
// without it.
func (o *Objecter) refused(q *op, l *line) {
	o.stats.MemberRefused++
	l.shy = time.Now().Add(shyFor)
	q.spread = false
	o.resend(func(x *op) bool { return x == q })
}

// armPatience looks, after a while, for members that do not answer.
func (o *Objecter) armPatience() {
	if o.hedge != nil || o.closed {
		return
	}
	o.hedge = time.AfterFunc(patience, func() {
		o.mu.Lock()
		o.hedge = nil
		if o.closed {
			o.mu.Unlock()
			return
		}
		late, waiting := time.Now().Add(-patience), false
		for q := o.head; q != nil; q = q.next {
			if q.atMember && q.sentAt.Before(late) {
				q.spread = false
				o.stats.MemberSilent++
			} else if q.atMember {
				waiting = true
			}
		}
		if waiting {
			o.armPatience()
		}
		o.resend(func(q *op) bool { return q.atMember && !q.spread })
	})
}
