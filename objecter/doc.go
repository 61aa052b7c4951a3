// Package objecter sends object operations to the primary of the object's PG and keeps at it
// until they are answered: over map changes, lost connections and OSDs that come and go. Large
// reads are spread over the PG's members (spread.go).
//
// An operation gets its tid once and keeps it for ever, so the OSDs can recognise a resend
// (invariant I5). Operations on one object leave in submission order, and in tid order when
// they are sent again. Submit never waits; Do waits, for the answer and for room.
package objecter
