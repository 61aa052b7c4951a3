package client

import (
	"time"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// Names that the kernel may trust without asking. Every one of them rests on Fs of its
// directory or on a lease; before that right is given up the kernel must have forgotten it,
// or its time must be over.
//
//	LOOKUP ── right? calm? ──▶ answer with a timeout ──▶ written ──▶ taken in by its thread
//	REVOKE ── no more timeouts ─▶ all answers taken in ─▶ EXPIRE each name ─▶ ack
//
// EXPIRE_ONLY has two holes (docs/kernel.md). An answer on its way to a LOOKUP that
// revalidates is not waited for and would set its timeout behind the expiry (N3): so the
// threads that were answered are watched until they have gone on. And it blocks while a
// CREATE or LOOKUP of this mount is parked in the directory (N4, F5), perhaps behind the very
// request that waits for our ack: so it is waited for no longer than the timeouts last. That
// is why timeouts are short, and given only in a directory that has been calm.
//
// NOTIFY_INC_EPOCH would have neither hole, but whatever the next walk meets is thrown out,
// with all that is mounted on it (N2).

// Namer is a Notifier of a kernel that can be trusted with names.
type Namer interface {
	Notifier
	// Name makes the kernel ask for a name again. It may block (F5).
	Name(dir wire.Ino, name string)
	// TookIn waits until the threads, which were answered, have taken their answers in, and
	// returns those of which that could not be seen in limit; 0: it looks once.
	TookIn(threads []uint32, limit time.Duration) []uint32
	// Always: names are not only trusted in directories that are calm; but for a tenth of the
	// time, so that a storm, which is what this is for, does not spend its own with waiting.
	Always() bool
}

const (
	// nameTimeout is how long the kernel may trust a name, and so how long a revoke can be held
	// up by a request of this mount that is parked in the directory.
	nameTimeout = int64(time.Second)
	// calmTaken and calmOwn: no timeouts are given for so long after a right to names of the
	// directory was taken back, and after a change of our own: who makes names beside others
	// would only pay for expiring them.
	calmTaken = 2 * int64(time.Second)
	calmOwn   = 500 * int64(time.Millisecond)
	maxTold   = 8192 // names per directory
	maxTells  = 256  // threads
)

// mayTell reports whether the kernel may be given a timeout for a name of dir, and for how
// long: min(nameTimeout, K, what is left of the validity).
func (c *Client) mayTell(k *Caller, dir *Inode, name string, right Right) int64 {
	d := dir.dir
	if right == NoRight || c.namer == nil || d == nil || dir.cap.job || c.wrong != 0 || k.PID == 0 || dir.at.state != sessOpen || name == ".." {
		return 0
	}
	t, now := &d.told, c.now()
	if t.expiring > 0 || t.changing > 0 {
		return 0
	}
	calm := !c.namer.Always()
	if calm && t.stalls > 0 && now-t.stalled < int64(time.Minute)<<min(t.stalls-1, 6) {
		return 0 // who makes names here does it beside others
	}
	if calm && (t.taken != 0 && now-t.taken < calmTaken || t.own != 0 && now-t.own < calmOwn) {
		return 0
	}
	ttl := min(timeoutOf(c.namer), c.kernel, dir.at.valid-now)
	if ttl <= 0 || !t.room(name, k.PID) {
		return 0
	}
	return ttl
}

func timeoutOf(n Namer) int64 {
	if n.Always() {
		return nameTimeout / 10
	}
	return nameTimeout
}

// tell notes a timeout that is about to be given. Told must follow when it is written.
func (c *Client) tell(k *Caller, dir *Inode, name string, right Right) (ttl time.Duration, at int64) {
	t := c.mayTell(k, dir, name, right)
	if t == 0 {
		return 0, 0
	}
	at = c.now()
	dir.dir.told.note(name, at+t)
	c.writes(k, dir, name)
	return time.Duration(t), at
}

// writes notes that an answer with timeouts is about to be written.
func (c *Client) writes(k *Caller, dir *Inode, name string) {
	t := &dir.dir.told
	if _, ok := t.threads[k.PID]; ok {
		t.wentOn(k.PID, c.now()+timeoutOf(c.namer)) // it asks something else
	}
	c.answers++
	t.threads[k.PID] = answer{name, c.answers}
	t.writing++
	c.toldDirs[dir] = struct{}{}
	c.ref(dir)
}

// Late reports whether too much time has passed since at for a timeout computed then (B6).
func (c *Client) Late(at int64) bool { return c.now()-at > c.kernel/10 }

// Told ends what began with an answer whose Entry has a TTL: it is written, or was not given
// (ok false). If the process stood still in between, the kernel is told to ask again (B6).
func (c *Client) Told(dir wire.Ino, name string, e *Entry, ok bool) {
	late := ok && c.Late(e.at)
	n := c.written(dir)
	if late && n != nil {
		go n.Name(dir, name)
	}
}

func (c *Client) written(dir wire.Ino) Namer {
	c.mu.Lock()
	defer c.unlockFlush()
	in := c.inodes[dir] // writes holds a reference
	t := &in.dir.told
	if t.writing--; t.writing == 0 && t.expiring > 0 {
		in.changed.wake()
	}
	c.unref(in)
	return c.namer
}

// trustsNames reports whether the kernel may trust a name of dir, or one answer is on its way.
func (in *Inode) trustsNames(now int64) bool {
	if in.dir == nil || in.c.namer == nil {
		return false
	}
	t := &in.dir.told
	return t.writing > 0 || t.expiring > 0 || now < t.last || len(t.threads) > 0
}

// expire makes the kernel forget names of dir, or waits until their time is over. The lock is
// held before and after, not meanwhile; no timeout is given in dir until it ends.
func (c *Client) expire(dir *Inode, pass func(name string) bool) {
	n, t := c.namer, &dir.dir.told
	if n == nil {
		return
	}
	t.expiring++
	c.ref(dir)
	defer func() { t.expiring--; c.unref(dir) }()
	for t.writing > 0 || t.leaves(pass) {
		if !c.unlockedWait(dir.changed.wait()) {
			return
		}
	}
	names, threads := t.take(c.now(), pass)
	if len(names) == 0 {
		return
	}
	after := time.Duration(timeoutOf(n)) + 10*time.Millisecond
	c.unlockFlush()
	c.tookIn(n, dir.ino, threads)
	byTime := !expireNames(n, dir.ino, names, after, c.closed)
	c.mu.Lock()
	t.gone(names, threads, c.now()+timeoutOf(n))
	dir.changed.wake()
	if byTime {
		c.log.Info().Stringer("dir", dir.ino).Strs("names", names).
			Msg("names expired by time: a request of this mount is parked in the directory")
		t.stalls++
		t.stalled = c.now()
	}
}

// voidAttrs makes the kernel ask for attributes again. One that first heard of the inode by a row of
// a listing must have taken that in: before, it would not find what to void. The lock is held before
// and after, not meanwhile.
func (c *Client) voidAttrs(in *Inode) {
	n := c.notifier
	if dir := in.shownBy; dir != nil && c.namer != nil {
		t := &dir.dir.told
		t.expiring++
		c.ref(dir)
		for t.writing > 0 && c.unlockedWait(dir.changed.wait()) {
		}
		if threads := t.of(rows); len(threads) > 0 {
			c.unlockFlush()
			c.tookIn(c.namer, dir.ino, threads)
			c.mu.Lock()
			t.gone(nil, threads, c.now()+nameTimeout)
		}
		t.expiring--
		c.unref(dir)
		if in.shownBy == dir {
			in.shownBy = nil
		}
	}
	c.unlockFlush()
	n.Attrs(in.ino)
	c.mu.Lock()
}

// tookIn waits until threads that were answered have gone on, however long that takes: their
// timeouts would be set behind the expiry. A rank that waits too long for the ack evicts us, which
// is bad, and still better than a name that is wrong.
func (c *Client) tookIn(n Namer, dir wire.Ino, threads []uint32) {
	for said := false; ; said = true {
		if threads = n.TookIn(threads, time.Second); len(threads) == 0 {
			return
		}
		if !said {
			c.log.Warn().Stringer("dir", dir).Uints32("threads", threads).
				Msg("a name cannot be given back yet: these threads were told of it, and get no processor to go on with")
		}
		select {
		case <-c.closed:
			return
		default:
		}
	}
}

// expireNames tells the kernel; false: it has forgotten by itself before it heard.
func expireNames(n Namer, dir wire.Ino, names []string, after time.Duration, closed <-chan struct{}) bool {
	done := make(chan struct{})
	go func() {
		for _, name := range names {
			n.Name(dir, name)
		}
		close(done)
	}()
	over := time.NewTimer(after)
	defer over.Stop()
	select {
	case <-done:
		return true
	case <-over.C:
		return false
	case <-closed:
		return true
	}
}

// unlockedWait waits for ch without the lock; false: the client was closed.
func (c *Client) unlockedWait(ch <-chan struct{}) bool {
	c.unlockFlush()
	defer c.mu.Lock()
	select {
	case <-ch:
		return true
	case <-c.closed:
		return false
	}
}

// ownChange notes that a change of names of ours begins; the function that it returns, that it
// has ended with err. Who was killed while it waits lets the kernel go on, with the names as
// they were before, while the change may come about: not before their time is over, and there are
// no new timeouts until the answer has come, since the rank asks the author of a change for nothing.
func (c *Client) ownChange(dirs ...*Inode) (ended func(err error, cl *call, names ...string)) {
	for _, d := range dirs {
		d.dirState().told.changing++
	}
	over := func() {
		for _, d := range dirs {
			t := &d.dir.told
			t.changing--
			t.own = c.now()
		}
	}
	return func(err error, cl *call, names ...string) {
		if err == ErrInterrupted {
			c.outlast(dirs, names)
		}
		if cl == nil || !cl.gone || cl.ended() {
			over()
			return
		}
		for _, d := range dirs {
			c.ref(d)
		}
		go func() {
			select {
			case <-cl.done:
			case <-c.closed:
			}
			c.mu.Lock()
			over()
			for _, d := range dirs {
				c.unref(d)
			}
			c.unlockFlush()
		}()
	}
}

// outlast waits until the kernel trusts none of the names. It gets no new timeouts meanwhile. A
// timeout begins when it is taken in, so all of it is waited for.
func (c *Client) outlast(dirs []*Inode, names []string) {
	n := c.namer
	if n == nil {
		return
	}
	trusted := false
	for _, d := range dirs {
		t := &d.dir.told
		trusts := t.trusted(c.now())
		for _, name := range names {
			if trusts(name) {
				trusted = true
				threads := t.of(name)
				c.unlockFlush()
				c.tookIn(n, d.ino, threads)
				c.mu.Lock()
			}
		}
	}
	if !trusted {
		return
	}
	t := time.NewTimer(time.Duration(timeoutOf(n)))
	defer t.Stop()
	c.unlockFlush()
	defer c.mu.Lock()
	select {
	case <-t.C:
	case <-c.closed:
	}
}

// keepNames is what makes it rare that a REVOKE of Fs has to wait for the kernel: names that it
// was told of are kept under leases, which the answer asks for (wire.CapUpdate.Names). From
// then on only who changes one of these very names has to ask. Called before the right ends.
func (c *Client) keepNames(dir *Inode, leaving caps.Bits) {
	now := c.now()
	if leaving&caps.FileShared == 0 || dir.cap.pending == 0 || dir.at.state != sessOpen || !dir.trustsNames(now) || !dir.usable() {
		return
	}
	d := dir.dir
	trusts := d.told.trusted(now)
	for n := range d.told.until {
		if !trusts(n) {
			delete(d.told.until, n)
			continue
		}
		e := d.names[n]
		switch {
		case len(d.keep) == wire.MaxKept:
			return
		case e != nil && e.gen == d.gen:
			e.lease = dir.at.valid
		case e == nil && d.complete:
			d.names[n] = &dentry{lease: dir.at.valid}
		default:
			continue
		}
		d.keep = append(d.keep, n)
	}
}

// bareNames reports whether the kernel may trust a name of dir that no lease covers.
func (c *Client) bareNames(dir *Inode) bool {
	if !dir.trustsNames(c.now()) {
		return false
	}
	bare, trusts := c.unleased(dir), dir.dir.told.trusted(c.now())
	for n := range dir.dir.told.until {
		if bare(n) && trusts(n) {
			return true
		}
	}
	return dir.dir.told.leaves(bare)
}

// leasedOnly are the names of a directory that only a lease covers.
func (c *Client) leasedOnly(dir *Inode) func(string) bool {
	if dir.cap.issued&caps.FileShared == 0 {
		return nil
	}
	d := dir.dir
	return func(name string) bool {
		e := d.names[name]
		return e == nil && !d.complete || e != nil && e.gen != d.gen
	}
}

// expireLeased ends the kernel's trust in names before the leases behind them are given up
// with the rank that gave them: its successor asks nobody for them.
func (c *Client) expireLeased() {
	c.mu.Lock()
	now := c.now()
	var dirs []*Inode
	for in := range c.toldDirs {
		if in.trustsNames(now) {
			dirs = append(dirs, in)
		}
	}
	if len(dirs) == 0 {
		c.mu.Unlock()
		return
	}
	done := make(chan struct{}, len(dirs))
	for _, in := range dirs {
		c.ref(in)
		go func() {
			c.mu.Lock()
			c.expire(in, c.leasedOnly(in))
			c.unref(in)
			c.unlockFlush()
			done <- struct{}{}
		}()
	}
	c.unlockFlush()
	for range dirs {
		<-done
	}
}

// expireAll makes the kernel ask for every name again. Nobody waits.
func (c *Client) expireAll() {
	now := c.now()
	for in := range c.toldDirs {
		if in.trustsNames(now) {
			c.ref(in)
			go func() {
				c.mu.Lock()
				c.expire(in, nil)
				c.unref(in)
				c.unlockFlush()
			}()
		}
	}
}
