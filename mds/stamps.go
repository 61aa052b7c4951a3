package mds

import "github.com/capstan-fs/capstan/journal"

// stamps is the (pos, by, foreign) of rule ES1: the last update's position, whose request it
// was, and what of it its author must still wait for.
type stamps struct {
	pos     journal.Pos
	by      SessionKey
	foreign journal.Pos
}

// toward is the stamp of a message to s that shows the object.
func (t *stamps) toward(s SessionKey) journal.Pos {
	if t.by == s && s != 0 {
		return t.foreign
	}
	return t.pos
}

// update records an update at pos by s. rest is the stamp of the update's own early reply: a
// later change of the author to the same object can be shown no earlier than this one.
func (t *stamps) update(pos journal.Pos, s SessionKey, rest journal.Pos) {
	if t.by != s || s == 0 {
		t.foreign = max(t.foreign, t.pos)
	}
	t.foreign = max(t.foreign, rest)
	t.pos, t.by = pos, s
	if s == 0 {
		t.foreign = pos
	}
}
