package locker

// Owners lists who holds l now, and whom an xlock is reserved for: what a waiter is behind.
func (l *Lock) Owners() []Owner {
	x := l.ext
	if x == nil {
		return nil
	}
	var out []Owner
	seen := false
	for i := range x.holds {
		out = append(out, x.holds[i].by)
		seen = seen || x.holds[i].by == x.xlocker
	}
	if x.hasX && !seen {
		out = append(out, x.xlocker)
	}
	return out
}

// Queue lists whose turns come on l, in order.
func (l *Lock) Queue() []Owner {
	if l.ext == nil {
		return nil
	}
	var out []Owner
	for _, w := range l.ext.waiters {
		out = append(out, w.set.Owner)
	}
	return out
}

// Gathering lists the ranks whose ack is due.
func (l *Lock) Gathering() (out []int32) {
	if l.ext == nil {
		return nil
	}
	for _, r := range l.ext.gather {
		out = append(out, int32(r))
	}
	return out
}

// Recovering reports whether l is held up by a size that is not known yet (R1).
func (l *Lock) Recovering() bool { return l.recovering() }
