package caps

import (
	"cmp"
	"fmt"
	"slices"
)

// Ledger is all caps on one inode, ordered by client: nearly always none or one, so a slice.
// The zero value is empty. It is not to be copied once it was used.
type Ledger struct {
	recs []*Record
	one  [1]*Record // where recs lies while it is alone
	Loner
}

func (l *Ledger) find(client uint64) (int, bool) {
	if n := len(l.recs); n <= 4 {
		for i, r := range l.recs {
			if r.Client >= client {
				return i, r.Client == client
			}
		}
		return n, false
	}
	return slices.BinarySearchFunc(l.recs, client, func(r *Record, c uint64) int { return cmp.Compare(r.Client, c) })
}

// Get is the client's record, nil when it has none.
func (l *Ledger) Get(client uint64) *Record {
	if i, ok := l.find(client); ok {
		return l.recs[i]
	}
	return nil
}

// Put adds a record of a client that has none.
func (l *Ledger) Put(r *Record) {
	i, ok := l.find(r.Client)
	if ok {
		panic(fmt.Sprintf("caps: client %d has two caps on %#x", r.Client, r.Ino))
	}
	if l.recs == nil {
		l.recs = l.one[:0:1]
	}
	l.recs = slices.Insert(l.recs, i, r)
}

// Remove drops the client's record.
func (l *Ledger) Remove(client uint64) {
	i, ok := l.find(client)
	if !ok {
		return
	}
	l.recs = slices.Delete(l.recs, i, i+1)
	if len(l.recs) == 0 {
		l.recs = nil
	}
	l.Loner.forget(client)
}

// All is every record in client order; the caller must not change the slice.
func (l *Ledger) All() []*Record { return l.recs }

// Len is the number of clients with a cap.
func (l *Ledger) Len() int { return len(l.recs) }

// Issued is the union of all bounds but that of one client (0: of nobody).
func (l *Ledger) Issued(but uint64) Bits {
	var b Bits
	for _, r := range l.recs {
		if r.Client != but {
			b |= r.Issued
		}
	}
	return b
}

// Wanted is the union of what clients want, but that of one client and of stale ones.
func (l *Ledger) Wanted(but uint64) Bits {
	var b Bits
	for _, r := range l.recs {
		if r.Client != but && !r.Stale {
			b |= r.Wanted
		}
	}
	return b
}

// Check walks the whole ledger.
func (l *Ledger) Check() error {
	for i, r := range l.recs {
		if err := r.Check(); err != nil {
			return err
		}
		if i > 0 && l.recs[i-1].Client >= r.Client {
			return fmt.Errorf("ledger of %#x: clients %d and %d out of order", r.Ino, l.recs[i-1].Client, r.Client)
		}
	}
	if c := l.Loner.client; c != 0 && l.Get(c) == nil {
		return fmt.Errorf("ledger: loner %d has no cap", c)
	}
	return l.Exclusive()
}

// Exclusive checks C1 and C2 on the bounds: who may change is alone with what he changes.
func (l *Ledger) Exclusive() error {
	for _, r := range l.recs {
		for _, d := range l.recs {
			if d == r {
				continue
			}
			for _, g := range [...]struct{ group, alone Bits }{
				{AuthMask, AuthExcl}, {LinkMask, LinkExcl}, {XattrMask, XattrExcl}, {FileMask, FileExcl | FileBuffer},
			} {
				if r.Issued&g.alone != 0 && d.Issued&g.group != 0 {
					return fmt.Errorf("C1 on %#x: %v beside %v", r.Ino, r, d)
				}
			}
			if r.Issued&FileWr != 0 && d.Issued&(FileShared|FileCache) != 0 {
				return fmt.Errorf("C2 on %#x: %v beside %v", r.Ino, r, d)
			}
		}
	}
	return nil
}
