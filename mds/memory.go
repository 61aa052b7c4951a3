package mds

import (
	"unsafe"

	"github.com/capstan-fs/capstan/caps"
)

// The account of the cache: what inodes, dentries, caps and leases take of Go's heap, by the
// sizes that its allocator really hands out. TestAccountOfMemoryIsTheHeaps compares it with
// the heap. What comes and goes with requests (messages, the journal's buffers) is not in it:
// that is the collector's headroom, which the daemon leaves beside the budget (mds/server).

// memory is the account and what keeps it within Config.CacheBytes.
type memory struct {
	used int64 // bytes
	caps int   // caps of all sessions

	rest      int      // steps until trim looks again: nothing could go
	grown     int      // inodes that came since trim looked
	starved   bool     // trim found nothing while the cache was over its bound: caps must come back
	asked     decay    // caps recalled lately, of all sessions
	nextAsk   int64    // recall looks again
	crowded   []func() // requests that wait for room …
	crowdedAt int64    // … the first of them since
}

// What one of each costs. Maps grow by doubling: their slots are taken as filled to two thirds.
var (
	inodeCost  = heapSize(unsafe.Sizeof(inode{})) + 17*3/2 // and its slot in Rank.inodes
	dentryCost = heapSize(unsafe.Sizeof(dentry{})) + 25*3/2 + 15
	capCost    = heapSize(unsafe.Sizeof(caps.Record{}))
	leaseCost  = heapSize(unsafe.Sizeof(leaseRec{})) + 8
	dirCost    = heapSize(unsafe.Sizeof(dir{})) + 512 // the first nodes of its map and tree
	roomCost   = heapSize(unsafe.Sizeof(inodeRoom{})) + heapSize(unsafe.Sizeof(nestRec{}))
	fileCost   = heapSize(unsafe.Sizeof(fileState{}))
)

// heapSize is what the allocator takes for an object of n bytes with pointers in it.
func heapSize(n uintptr) int64 {
	words := (n + 7) / 8
	return int64(cap(append([]*byte(nil), make([]*byte, words)...))) * 8
}

// byteSize is the same for n bytes without pointers.
func byteSize(n int) int64 {
	switch {
	case n == 0:
		return 0
	case n <= 16:
		return 16
	case n <= 128:
		return int64(n+15) &^ 15
	}
	return int64(n + n/16) // classes are an eighth apart
}

func dentryBytes(name string) int64 { return dentryCost + byteSize(len(name)) }

// account takes in what hangs on in now: to be called when its record or its extensions changed.
func (r *Rank) account(in *inode) {
	var n int64
	v := &in.rec
	if v.Target != "" {
		n += byteSize(len(v.Target))
	}
	for i := range v.Xattrs {
		n += int64(unsafe.Sizeof(v.Xattrs[i])) + byteSize(len(v.Xattrs[i].Key)) + byteSize(len(v.Xattrs[i].Val))
	}
	n += int64(len(v.Ranges)) * 16
	for i := range v.Backs {
		n += int64(unsafe.Sizeof(v.Backs[i])) + byteSize(len(v.Backs[i].Name))
	}
	if v.Room != nil {
		n += roomCost
	}
	if in.dir != nil {
		n += dirCost
	}
	if in.file != nil {
		n += fileCost
	}
	r.mem.used += n - int64(in.extra)
	in.extra = int32(n)
}

// Memory is the account, for `capstan status` and tests.
type Memory struct {
	Budget   int64 `json:"budget_bytes"`
	Used     int64 `json:"used_bytes"`
	Inodes   int   `json:"inodes"`
	Dentries int   `json:"dentries"`
	Caps     int   `json:"caps"`
}

// Memory shows it.
func (r *Rank) Memory() Memory {
	return Memory{r.cfg.CacheBytes, r.mem.used, len(r.inodes), r.numDentries, r.mem.caps}
}
