package clustermap

import (
	"math/bits"

	"github.com/capstan-fs/capstan/wire"
)

// A pool's PGs multiply by splitting: with n PGs an object is in the one that the low bits of its
// name's hash say, just so many that the number is below n (Ceph's stable mod). So when n grows
// an object stays where it is, or moves to a PG that was not there before, and all objects of a
// new PG come from one old one: nothing else has to be looked at.

// PGNumOf is the number of an object's PG in a pool of n PGs; n is not 0.
func PGNumOf(name string, n uint32) uint32 { return slot(nameHash(name), n) }

// SplitFrom is the number of the PG that held what PG num holds when the pool had n PGs: num
// itself, if it was there. n is not 0.
func SplitFrom(num, n uint32) uint32 {
	for num >= n {
		num &^= 1 << (bits.Len32(num) - 1)
	}
	return num
}

// SplitInto lists, in order, the PGs that come from pg when its pool grows from n to m PGs.
func SplitInto(pg wire.PGID, n, m uint32) (into []wire.PGID) {
	step := uint32(1) // all of them have the low bits of pg in common
	for 2*step < n {
		step *= 2
	}
	for num := pg.Num; num < m; num += step {
		if num >= n && SplitFrom(num, n) == pg.Num {
			into = append(into, wire.PGID{Pool: pg.Pool, Num: num})
		}
	}
	return into
}
