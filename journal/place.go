package journal

import "fmt"

// ObjectBytes is the size of one object of a journal that is kept in objects.
const ObjectBytes = 4 << 20

// Piece is a part of a run in one place: object Index, or a slot of a file.
type Piece struct {
	Index uint64
	Off   int // in the object
	Skip  int // in the run
	Len   int
}

// ObjectName names object number index of a journal in objects.
func ObjectName(prefix string, index uint64) string { return fmt.Sprintf("%s.%08x", prefix, index) }

// HeadName names the object that holds the journal's Header.
func HeadName(prefix string) string { return prefix + ".head" }

// Pieces maps n bytes at off to pieces of objects, in order.
func Pieces(off Pos, n int) []Piece {
	var ps []Piece
	for skip := 0; skip < n; {
		p := Piece{Index: uint64(off) / ObjectBytes, Off: int(uint64(off) % ObjectBytes), Skip: skip}
		p.Len = min(n-skip, ObjectBytes-p.Off)
		ps = append(ps, p)
		skip += p.Len
		off += Pos(p.Len)
	}
	return ps
}

// Trimmable returns the half-open range of indices of the objects that may be removed once a
// Header that expires at to is durable, when the one before expired at from.
func Trimmable(from, to Pos) (first, end uint64) {
	return uint64(from) / ObjectBytes, uint64(to) / ObjectBytes
}

// Ring maps positions to a fixed space in a file, used over and over: position p lies at
// Base + p mod Size. Old rounds are told apart by the positions in their frames. The live
// part of a log plus Limits.Window must fit.
type Ring struct {
	Base int64
	Size int64
}

// At maps n bytes at off to file offset at, of which first fit before the ring turns; the
// rest lies at Base.
func (r Ring) At(off Pos, n int) (at int64, first int) {
	o := int64(uint64(off) % uint64(r.Size))
	return r.Base + o, int(min(int64(n), r.Size-o))
}

// Room is how many bytes may be appended at end while everything from expire on is live.
func (r Ring) Room(expire, end Pos, lim Limits) int64 {
	return r.Size - int64(lim.Window()) - int64(end-expire)
}
