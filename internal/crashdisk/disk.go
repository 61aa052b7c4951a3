package crashdisk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"sort"
	"sync"
)

// ErrCrashed is what every call returns from the crash to Recover, and for ever on handles
// from before it.
var ErrCrashed = errors.New("crashdisk: the machine has crashed")

// SectorBytes is what the disk writes whole or not at all.
const SectorBytes = 512

// Disk is a simulated directory. Safe for concurrent use.
type Disk struct {
	mu      sync.Mutex
	rng     *rand.Rand
	life    int // rises with Recover and Kill: older handles are dead
	crashed bool
	ios     int
	crashAt int // number of the I/O that crashes; 0: none

	names  map[string]*inode // as the running system sees them
	stable map[string]*inode // as they are on disk
	dirops []dirop           // between the two
	cells  map[string]*cell
}

type cell struct {
	val     any
	pending []any // at most one: the commit that the crash interrupted
}

// dirop is one change of the directory: names that point elsewhere afterwards (nil: nowhere).
type dirop map[string]*inode

type inode struct {
	cur     []byte
	stable  []byte
	pending []change
}

// change is one unsynced write, or a truncation when data is nil.
type change struct {
	off  int64
	data []byte
}

// New makes an empty disk whose faults come from seed.
func New(seed uint64) *Disk {
	return &Disk{rng: rand.New(rand.NewPCG(seed, 0x6372617368)), names: map[string]*inode{}, stable: map[string]*inode{}, cells: map[string]*cell{}}
}

// CrashAt makes the n-th I/O from now on crash (1 is the next); 0 takes it back. Writes,
// truncations, syncs, directory changes and cell commits count; reads do not.
func (d *Disk) CrashAt(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ios, d.crashAt = 0, n
}

// IOs is the number of I/Os since CrashAt or New.
func (d *Disk) IOs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ios
}

// Crashed reports whether the machine is down.
func (d *Disk) Crashed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.crashed
}

// Crash takes the power away now.
func (d *Disk) Crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crashed = true
}

// Kill ends the process, not the machine: handles die, everything written stays as it is.
func (d *Disk) Kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.life++
}

// Recover brings the machine up again with what survived of unsynced changes.
func (d *Disk) Recover() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, op := range d.dirops[:d.rng.IntN(len(d.dirops)+1)] {
		op.apply(d.stable)
	}
	d.dirops = nil
	d.names = map[string]*inode{}
	seen := map[*inode]bool{}
	for _, name := range sortedKeys(d.stable) { // a fixed order, or the seed would not repeat
		n := d.stable[name]
		if !seen[n] {
			n.settle(d.rng)
			seen[n] = true
		}
		d.names[name] = n
	}
	for _, name := range sortedKeys(d.cells) {
		c := d.cells[name]
		if len(c.pending) > 0 && d.rng.IntN(2) == 0 {
			c.val = c.pending[0]
		}
		c.pending = nil
	}
	d.crashed, d.crashAt, d.ios = false, 0, 0
	d.life++
}

// settle decides what is left of unsynced changes.
func (n *inode) settle(rng *rand.Rand) {
	// Not only a coin for each sector: whole writes kept or lost, and everything kept or
	// lost, are what real machines mostly do.
	mood := rng.IntN(4)
	if len(n.pending) == 0 {
		return
	}
	for _, c := range n.pending {
		keep := rng.IntN(2) == 0
		if c.data == nil {
			if mood == 1 || mood > 1 && keep {
				n.stable = resize(n.stable, c.off)
			}
			continue
		}
		for i := int64(0); i < int64(len(c.data)); {
			j := min(int64(len(c.data)), (c.off+i)/SectorBytes*SectorBytes+SectorBytes-c.off)
			if mood == 1 || mood == 2 && keep || mood == 3 && rng.IntN(2) == 0 {
				n.stable = put(n.stable, c.off+i, c.data[i:j])
			}
			i = j
		}
	}
	n.pending = nil
	n.cur = append([]byte(nil), n.stable...)
}

func resize(b []byte, size int64) []byte {
	if int64(len(b)) >= size {
		return b[:size:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

func put(b []byte, off int64, p []byte) []byte {
	if end := off + int64(len(p)); int64(len(b)) < end {
		b = resize(b, end)
	}
	copy(b[off:], p)
	return b
}

func (op dirop) apply(names map[string]*inode) {
	for name, n := range op {
		if n == nil {
			delete(names, name)
		} else {
			names[name] = n
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	ks := make([]string, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	sort.Strings(ks)
	return ks
}

// io counts one I/O; crash means that this one is the end.
func (d *Disk) io() (crash bool) {
	d.ios++
	if d.ios == d.crashAt {
		d.crashed = true
	}
	return d.crashed
}

// Open implements FS.
func (d *Disk) Open(name string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return nil, ErrCrashed
	}
	n, ok := d.names[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &file{d: d, n: n, life: d.life, name: name}, nil
}

// Create implements FS.
func (d *Disk) Create(name string) (File, error) {
	n := &inode{}
	if err := d.dir("create", name, func() (dirop, error) {
		if d.names[name] != nil {
			return nil, fs.ErrExist
		}
		return dirop{name: n}, nil
	}); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return &file{d: d, n: n, life: d.life, name: name}, nil
}

// Rename implements FS.
func (d *Disk) Rename(from, to string) error {
	return d.dir("rename", from, func() (dirop, error) {
		n := d.names[from]
		if n == nil {
			return nil, fs.ErrNotExist
		}
		return dirop{from: nil, to: n}, nil
	})
}

// Remove implements FS.
func (d *Disk) Remove(name string) error {
	return d.dir("remove", name, func() (dirop, error) {
		if d.names[name] == nil {
			return nil, fs.ErrNotExist
		}
		return dirop{name: nil}, nil
	})
}

func (d *Disk) dir(what, name string, op func() (dirop, error)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return ErrCrashed
	}
	o, err := op()
	if err != nil {
		return &fs.PathError{Op: what, Path: name, Err: err}
	}
	o.apply(d.names)
	d.dirops = append(d.dirops, o)
	if d.io() {
		return ErrCrashed
	}
	return nil
}

// SyncDir implements FS.
func (d *Disk) SyncDir() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed || d.io() {
		return ErrCrashed
	}
	for _, op := range d.dirops {
		op.apply(d.stable)
	}
	d.dirops = nil
	return nil
}

// List implements FS.
func (d *Disk) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return nil, ErrCrashed
	}
	return sortedKeys(d.names), nil
}

// Cell returns the value of the cell, nil at first.
func (d *Disk) Cell(name string) any {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.cells[name]; c != nil {
		return c.val
	}
	return nil
}

// Commit replaces the cell's value: durable at return, all or nothing in a crash. The value
// must not be changed afterwards. A commit of an earlier life fails.
func (d *Disk) Commit(name string, life int, v any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed || life != d.life {
		return ErrCrashed
	}
	c := d.cells[name]
	if c == nil {
		c = &cell{}
		d.cells[name] = c
	}
	if d.io() {
		c.pending = []any{v}
		return ErrCrashed
	}
	c.val = v
	return nil
}

// Life is the number of the present life of the process, for Commit.
func (d *Disk) Life() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.life
}

// Corrupt changes a file's bytes behind everybody's back: f gets the stable content.
func (d *Disk) Corrupt(name string, f func(b []byte) []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[name]
	if n == nil {
		return fmt.Errorf("crashdisk: corrupt %s: %w", name, fs.ErrNotExist)
	}
	n.cur = f(n.cur)
	n.stable = append([]byte(nil), n.cur...)
	n.pending = nil
	return nil
}

type file struct {
	d    *Disk
	n    *inode
	life int
	name string
}

// enter locks the disk and says whether the handle lives.
func (f *file) enter() error {
	f.d.mu.Lock()
	if f.d.crashed || f.life != f.d.life {
		return ErrCrashed
	}
	return nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	defer f.d.mu.Unlock()
	if err := f.enter(); err != nil {
		return 0, err
	}
	if off >= int64(len(f.n.cur)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.cur[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	defer f.d.mu.Unlock()
	if err := f.enter(); err != nil {
		return 0, err
	}
	f.n.cur = put(f.n.cur, off, p)
	f.n.pending = append(f.n.pending, change{off, append([]byte{}, p...)})
	if f.d.io() {
		return 0, ErrCrashed
	}
	return len(p), nil
}

// Punch writes zeros, as far as a crash can tell.
func (f *file) Punch(off, n int64) error {
	_, err := f.WriteAt(make([]byte, n), off)
	return err
}

func (f *file) Truncate(size int64) error {
	defer f.d.mu.Unlock()
	if err := f.enter(); err != nil {
		return err
	}
	f.n.cur = resize(f.n.cur, size)
	f.n.pending = append(f.n.pending, change{off: size})
	if f.d.io() {
		return ErrCrashed
	}
	return nil
}

func (f *file) Sync() error {
	defer f.d.mu.Unlock()
	if err := f.enter(); err != nil {
		return err
	}
	if f.d.io() {
		return ErrCrashed
	}
	for _, c := range f.n.pending {
		if c.data == nil {
			f.n.stable = resize(f.n.stable, c.off)
		} else {
			f.n.stable = put(f.n.stable, c.off, c.data)
		}
	}
	f.n.pending = nil
	return nil
}

func (f *file) Size() (int64, error) {
	defer f.d.mu.Unlock()
	if err := f.enter(); err != nil {
		return 0, err
	}
	return int64(len(f.n.cur)), nil
}

func (f *file) Close() error { return nil }
