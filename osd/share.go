package osd

// Recovery's share: while clients have operations, copies to learners leave at no more than
// Config.RecoveryBytes a second, whoever asks; one PG after the other gets a turn, an object
// each. Without clients nothing is held back but by what one tick may send.

// copyWait is a learner with objects on order.
type copyWait struct {
	p *pg
	q *peer
}

const (
	idleNs    = 5e9      // no client has asked for anything for so long: there is no share to keep
	copyBurst = 16 << 20 // bytes that leave between two ticks at most
	copyFee   = 16 << 10 // what an object costs beside its bytes
)

// serveCopies sends what the share allows. Requests of an interval that is over are forgotten.
func (o *OSD) serveCopies() {
	for len(o.copying) > 0 && o.copyLeft > 0 {
		w := o.copying[0]
		o.copying = o.copying[1:]
		if w.p.peer(w.q.m.ID) != w.q || w.p.role != rolePrimary {
			continue
		}
		if len(w.q.wants) > 0 {
			o.copyLeft -= int64(w.p.giveCopy(w.q)) + copyFee
		}
		if len(w.q.wants) == 0 {
			w.q.wants = nil
			continue
		}
		o.copying = append(o.copying, w)
	}
}

// refillShare gives recovery what the time since the last tick is worth.
func (o *OSD) refillShare() {
	limit := int64(copyBurst)
	if rate := o.cfg.RecoveryBytes; rate > 0 && o.now-o.clientAt < idleNs {
		add := int64(float64(rate) * float64(min(o.now-o.sharedAt, 1e9)) / 1e9)
		limit = min(o.copyLeft+add, max(rate/4, 1), copyBurst)
	}
	o.copyLeft, o.sharedAt = limit, o.now
	o.serveCopies()
}
