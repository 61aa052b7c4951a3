package mds

import "github.com/capstan-fs/capstan/wire"

// full reports whether the OSDs keep their last space for deletions: nothing new is made then.
func (r *Rank) full() bool { return r.osdmap != nil && r.osdmap.Full }

// statfs: what the OSDs have, divided by the copies of the data pool.
var opStatfs = opDesc{
	name: "statfs",
	plan: func(*Rank, *request) errno { return ok },
	apply: func(r *Rank, q *request) errno {
		st := &wire.Statfs{Inodes: uint64(len(r.inodes))}
		if m := r.osdmap; m != nil {
			var total, used uint64
			for _, o := range m.OSDs {
				if o.In {
					total += o.Total
					used += min(o.Used, o.Total)
				}
			}
			size := uint64(max(m.Pools[r.cfg.DataPool].Size, 1))
			st.Total, st.Avail = total/size, (total-used)/size
			if m.Full {
				st.Avail = 0
			}
		}
		r.reply(q, &wire.Reply{Tid: q.Tid, Statfs: st})
		return ok
	},
}
