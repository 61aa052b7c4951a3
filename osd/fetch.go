package osd

import (
	"maps"
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// Reads that have to wait for the disk wait beside the core: everybody else is served meanwhile,
// and as many of them are under way as the shell allows.
//
//	EvOp ──▶ read: may it be answered? Store.Start ──▶ Effects.Fetches ──▶ EvFetched ──▶ reply
//	             ▲                                                            │ bad bytes
//	             └──────────── once more, and this time in the step ◀─────────┘
//
// What is answered is fixed by Start, at an instant at which the primary holds its leases and the
// object has no uncommitted entry (R5), or a member its read lease: the read takes place then. That a later write, map or
// fence comes before its answer changes nothing. Bytes that turn out to be bad were not answered:
// the operation begins anew, and finds the damage where it can be healed.

// Fetch is a read to be finished: every Later of it, and then an EvFetched with its ID as Seq.
type Fetch struct {
	ID   uint64
	Read []Later
}

// fetching is an operation whose bytes are on their way.
type fetching struct {
	q    *op
	p    *pg
	r    *wire.OSDReply
	data [][]byte
	at   []int // of data: what comes
}

// fetch sends for what x has left for later.
func (p *pg) fetch(q *op, x *exec) {
	o := p.o
	o.fetchID++
	f := &fetching{q: q, p: p, r: &wire.OSDReply{Version: x.st.Version, Ops: x.results}, data: x.data}
	e := Fetch{ID: o.fetchID}
	for _, y := range x.later {
		f.at = append(f.at, y.at)
		e.Read = append(e.Read, y.l)
	}
	q.why = whyDisk
	o.fetches[o.fetchID] = f
	o.stats.Fetched++
	o.eff.Fetches = append(o.eff.Fetches, e)
}

// fetched answers with what has come.
func (o *OSD) fetched(ev *Event) {
	f := o.fetches[ev.Seq]
	if f == nil { // its client has gone
		o.eff.Free = append(o.eff.Free, ev.Got...)
		return
	}
	delete(o.fetches, ev.Seq)
	if ev.Bad {
		o.eff.Free = append(o.eff.Free, ev.Got...)
		f.q.inStep, f.q.why = true, ""
		o.start(f.q)
		return
	}
	for i, b := range ev.Got {
		f.data[f.at[i]] = b
	}
	o.reply(f.q, f.r, f.data...)
	r := &o.eff.Replies[len(o.eff.Replies)-1]
	r.Own, r.Summed, r.CRC = true, len(f.data) == 1, ev.CRC
	f.p.readDone(f.q)
}

// fetchIDs are those under way, the oldest first.
func (o *OSD) fetchIDs() []uint64 { return slices.Sorted(maps.Keys(o.fetches)) }
