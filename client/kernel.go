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
	// returns those of which that could not be seen in limit.
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
	// keepTold is for how long what was told is remembered beyond its timeout: longer than any
	// thread that was woken takes to go on.
	keepTold = 10 * int64(time.Second)
	maxTold  = 8192 // names per directory
	maxTells = 256  // threads
)

// toldNames is what the kernel was told of one directory.
type toldNames struct {
	until    map[string]int64 // boottime until which a name may be trusted
	last     int64            // the latest of them
	threads  map[uint32]int64 // that were answered lately, and when
	writing  int              // answers with a timeout that are not written yet
	taken    int64            // when a right was last taken back
	changing int              // changes of names of ours under way
	own      int64            // when the last one ended
	leaving  map[string]int   // names that are being expired, by how many
	expiring int              // expiries under way
	stalls   uint             // that had to wait for the timeouts to end
	stalled  int64            // when the last of them did
	pruned   int64
}

// mayTell reports whether the kernel may be given a timeout for a name of dir, and for how
// long: min(nameTimeout, K, what is left of the validity).
func (c *Client) mayTell(k *Caller, dir *Inode, name string, right Right) int64 {
	d := dir.dir
	if right == NoRight || c.namer == nil || d == nil || dir.cap.job || c.wrong != 0 || k.PID == 0 || c.state != sessOpen || name == ".." {
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
	ttl := min(timeoutOf(c.namer), c.kernel, c.valid-now)
	if ttl <= 0 || !t.room(name, k.PID, now) {
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

// room reports whether one more name and thread can be remembered.
func (t *toldNames) room(name string, thread uint32, now int64) bool {
	if t.until == nil {
		t.until, t.threads = map[string]int64{}, map[uint32]int64{}
	}
	if (len(t.until) >= maxTold || len(t.threads) >= maxTells) && now-t.pruned > nameTimeout {
		t.prune(now)
	}
	_, n := t.until[name]
	_, th := t.threads[thread]
	return (n || len(t.until) < maxTold) && (th || len(t.threads) < maxTells)
}

func (t *toldNames) prune(now int64) {
	t.pruned = now
	for n, u := range t.until {
		if now > u+keepTold {
			delete(t.until, n)
		}
	}
	for th, at := range t.threads {
		if now > at+keepTold {
			delete(t.threads, th)
		}
	}
}

// tell notes a timeout that is about to be given. Told must follow when it is written.
func (c *Client) tell(k *Caller, dir *Inode, name string, right Right) (ttl time.Duration, at int64) {
	t := c.mayTell(k, dir, name, right)
	if t == 0 {
		return 0, 0
	}
	at = c.now()
	d := &dir.dir.told
	d.until[name], d.last = at+t, max(d.last, at+t)
	d.threads[k.PID] = at
	d.writing++
	c.ref(dir)
	return time.Duration(t), at
}

// Late reports whether too much time has passed since at for a timeout computed then (B6).
func (c *Client) Late(at int64) bool { return c.now()-at > c.kernelTimeout()/10 }

// Told ends what began with an answer whose Entry has a TTL: it is written, or was not given
// (ok false). If the process stood still in between, the kernel is told to ask again (B6).
func (c *Client) Told(k *Caller, dir wire.Ino, name string, e *Entry, ok bool) {
	late := ok && c.Late(e.at)
	c.mu.Lock()
	in := c.inodes[dir] // tell holds a reference
	t := &in.dir.told
	if ok {
		t.threads[k.PID] = c.now()
	}
	if t.writing--; t.writing == 0 && t.expiring > 0 {
		in.changed.wake()
	}
	n := c.namer
	c.unref(in)
	c.unlockFlush()
	if late && n != nil {
		go n.Name(dir, name)
	}
}

// trustsNames reports whether the kernel may trust a name of dir, or one answer is on its way.
func (in *Inode) trustsNames(now int64) bool {
	if in.dir == nil || in.c.namer == nil {
		return false
	}
	t := &in.dir.told
	return t.writing > 0 || t.expiring > 0 || now < t.last+keepTold
}

// take lists the names that the kernel may trust, all of them or those that pass. Until they
// are back they are leaving. A thread may have taken its answer in late, so a name counts beyond
// its time.
func (t *toldNames) take(now int64, pass func(name string) bool) (names []string) {
	if t.leaving == nil {
		t.leaving = map[string]int{}
	}
	for n, u := range t.until {
		if pass == nil || pass(n) {
			if now < u+keepTold {
				names = append(names, n)
				t.leaving[n]++
			}
			delete(t.until, n)
		}
	}
	return names
}

// gone ends what take began.
func (t *toldNames) gone(names []string) {
	for _, n := range names {
		if t.leaving[n]--; t.leaving[n] == 0 {
			delete(t.leaving, n)
		}
	}
}

// leaves reports whether another expiry has one of the names in hand.
func (t *toldNames) leaves(pass func(name string) bool) bool {
	for n := range t.leaving {
		if pass == nil || pass(n) {
			return true
		}
	}
	return false
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
	names := t.take(c.now(), pass)
	if len(names) == 0 {
		return
	}
	threads := t.answered(c.now())
	after := time.Duration(timeoutOf(n)) + 10*time.Millisecond
	c.unlockFlush()
	late := n.TookIn(threads, time.Duration(keepTold))
	byTime := !expireNames(n, dir.ino, names, after, c.closed)
	c.mu.Lock()
	t.gone(names)
	dir.changed.wake()
	if len(late) > 0 || byTime {
		c.log.Info().Stringer("dir", dir.ino).Strs("names", names).Uints32("threads", late).
			Msg("names expired by time: a request of this mount is parked in the directory, or a thread that was answered does not run")
		t.stalls++
		t.stalled = c.now()
	}
}

// answered lists the threads that may not have taken their answers in.
func (t *toldNames) answered(now int64) (threads []uint32) {
	for th, at := range t.threads {
		if now < at+keepTold {
			threads = append(threads, th)
		} else {
			delete(t.threads, th)
		}
	}
	return threads
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
// they were before, while the change may come about: not before their time is over.
func (c *Client) ownChange(dirs ...*Inode) (ended func(err error, names ...string)) {
	for _, d := range dirs {
		d.dirState().told.changing++
	}
	return func(err error, names ...string) {
		if err == ErrInterrupted {
			c.outlast(dirs, names)
		}
		for _, d := range dirs {
			t := &d.dir.told
			t.changing--
			t.own = c.now()
		}
	}
}

// outlast waits until the kernel trusts none of the names. It gets no new timeouts meanwhile.
func (c *Client) outlast(dirs []*Inode, names []string) {
	var last int64
	for _, d := range dirs {
		for _, n := range names {
			last = max(last, d.dir.told.until[n])
		}
	}
	if left := last - c.now(); left > 0 && c.namer != nil {
		t := time.NewTimer(time.Duration(left))
		defer t.Stop()
		c.unlockFlush()
		defer c.mu.Lock()
		select {
		case <-t.C:
		case <-c.closed:
		}
	}
}

// moved follows the kernel, which carries a dentry's timeout along to its new name (N5), and
// threads that were answered about the old one; of the old name nothing is left, unless the two
// change places. The rank goes on asking for it: by Fs, by the lease that comes with the answer,
// or by the author's own that was kept.
func moved(from *dirState, name string, to *dirState, nname string, exchange bool) {
	u, v := from.told.until[name], to.told.until[nname]
	delete(from.told.until, name)
	delete(to.told.until, nname)
	put := func(d, of *dirState, n string, until int64) {
		if until == 0 {
			return
		}
		t := &d.told
		if t.until == nil {
			t.until, t.threads = map[string]int64{}, map[uint32]int64{}
		}
		t.until[n], t.last = until, max(t.last, until)
		for th, at := range of.told.threads {
			t.threads[th] = max(t.threads[th], at)
		}
	}
	put(to, from, nname, u)
	if exchange {
		put(from, to, name, v)
	}
}

// keepNames is what makes it rare that a REVOKE of Fs has to wait for the kernel: names that it
// was told of are kept under leases, which the answer asks for (wire.CapUpdate.Names). From
// then on only who changes one of these very names has to ask. Called before the right ends.
func (c *Client) keepNames(dir *Inode, leaving caps.Bits) {
	now := c.now()
	if leaving&caps.FileShared == 0 || dir.cap.pending == 0 || c.state != sessOpen || !dir.trustsNames(now) || !c.usable() {
		return
	}
	d := dir.dir
	for n, u := range d.told.until {
		if now >= u+keepTold {
			delete(d.told.until, n)
			continue
		}
		e := d.names[n]
		switch {
		case len(d.keep) == wire.MaxKept:
			return
		case e != nil && e.gen == d.gen:
			e.lease = c.valid
		case e == nil && d.complete:
			d.names[n] = &dentry{lease: c.valid}
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
	bare := c.unleased(dir)
	for n := range dir.dir.told.until {
		if bare(n) {
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
	for _, in := range c.inodes {
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
	for _, in := range c.inodes {
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
