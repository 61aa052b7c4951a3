package client

// toldNames is what the kernel was told of the names of one directory. A timeout begins when it is
// taken in, at an unknown moment: until it has been seen that the thread has gone on, the name is
// under way, and from then on it is trusted for one timeout more.
type toldNames struct {
	until    map[string]int64  // boottime until which a name is trusted, unless it is under way
	last     int64             // the latest of them
	threads  map[uint32]answer // that may not have taken in what they were told last
	writing  int               // answers with a timeout that are not written yet
	taken    int64             // when a right was last taken back
	changing int               // changes of names of ours under way
	own      int64             // when the last one ended
	leaving  map[string]int    // names that are being expired, by how many
	expiring int               // expiries under way
	stalls   uint              // that had to wait for the timeouts to end
	stalled  int64             // when the last of them did
	swept    int64             // when names that are trusted no more were last looked for
}

// answer is one that a thread was given, about a name or about rows of a listing.
type answer struct {
	name   string // rows: many
	serial uint64 // of all answers of the client
}

const rows = ""

// room reports whether one more name and thread can be remembered.
func (t *toldNames) room(name string, thread uint32) bool {
	if t.until == nil {
		t.until, t.threads = map[string]int64{}, map[uint32]answer{}
	}
	_, old := t.until[name]
	_, th := t.threads[thread]
	return (old || len(t.until) < maxTold) && (th || len(t.threads) < maxTells)
}

func (t *toldNames) note(name string, until int64) {
	t.until[name] = max(t.until[name], until)
	t.last = max(t.last, until)
}

// wentOn notes that a thread has taken in what it was told, perhaps just now: it is trusted until then.
func (t *toldNames) wentOn(thread uint32, until int64) {
	a := t.threads[thread]
	delete(t.threads, thread)
	if a.name != rows {
		if _, ok := t.until[a.name]; ok {
			t.note(a.name, until)
		}
		return
	}
	for name := range t.until {
		t.note(name, until)
	}
}

// trusted returns whether a name is, as far as is known.
func (t *toldNames) trusted(now int64) func(name string) bool {
	var under map[string]bool
	if len(t.threads) > 0 {
		under = make(map[string]bool, len(t.threads))
		for _, a := range t.threads {
			under[a.name] = true
		}
	}
	return func(name string) bool {
		u, ok := t.until[name]
		return ok && (now < u || under[name] || under[rows])
	}
}

// of lists the threads that may not have taken in what they were told of a name.
func (t *toldNames) of(name string) (threads []uint32) {
	for th, a := range t.threads {
		if a.name == name || a.name == rows {
			threads = append(threads, th)
		}
	}
	return threads
}

// sweep forgets names that are trusted no more, and reports whether nothing is left.
func (t *toldNames) sweep(now int64) bool {
	if len(t.threads) > 0 || t.writing > 0 || t.expiring > 0 {
		if now-t.swept < 5*nameTimeout {
			return false
		}
	} else if now >= t.last {
		t.until, t.threads = nil, nil
		return true
	}
	t.swept = now
	trusts := t.trusted(now)
	for name := range t.until {
		if !trusts(name) {
			delete(t.until, name)
		}
	}
	return false
}

// take lists the names that the kernel may trust, all of them or those that pass, and the threads
// that may not have taken in what they were told of these. Until they are back they are leaving.
func (t *toldNames) take(now int64, pass func(name string) bool) (names []string, threads []uint32) {
	if t.leaving == nil {
		t.leaving = map[string]int{}
	}
	trusts := t.trusted(now)
	for n := range t.until {
		if pass == nil || pass(n) {
			if trusts(n) {
				names = append(names, n)
				t.leaving[n]++
			}
			delete(t.until, n)
		}
	}
	for th, a := range t.threads {
		if len(names) > 0 && a.name == rows || t.leaving[a.name] > 0 {
			threads = append(threads, th)
		}
	}
	return names, threads
}

// gone ends what take began: the threads have gone on, and the names are forgotten.
func (t *toldNames) gone(names []string, threads []uint32, until int64) {
	for _, n := range names {
		if t.leaving[n]--; t.leaving[n] == 0 {
			delete(t.leaving, n)
		}
	}
	for _, th := range threads {
		t.wentOn(th, until)
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

// takeOut returns the answers about a name that may not have been taken in, and forgets them.
func (t *toldNames) takeOut(name string) (threads map[uint32]answer) {
	for th, a := range t.threads {
		if a.name == name {
			if threads == nil {
				threads = map[uint32]answer{}
			}
			threads[th] = a
			delete(t.threads, th)
		}
	}
	return threads
}

// moved follows the kernel, which carries a dentry's timeout along to its new name (N5), and
// threads that were answered about the old one. What it was told of both before stays until its time
// is over: the kernel hears of the rename later than we do, and until then shows what was there. The
// rank goes on asking for the names: by Fs, by the lease that comes with the answer,
// or by the author's own that was kept.
func moved(from *dirState, name string, to *dirState, nname string, exchange bool, now int64) {
	trusted := func(d *dirState, n string) int64 {
		if d.told.leaving[n] > 0 { // its expiry waits for the rename, and will find another name
			return max(now, d.told.until[n])
		}
		return d.told.until[n]
	}
	u, v := trusted(from, name), trusted(to, nname)
	ofName, ofOther := from.told.takeOut(name), to.told.takeOut(nname)
	put := func(d *dirState, n string, until int64, threads map[uint32]answer) {
		if until == 0 {
			return
		}
		t := &d.told
		t.room(n, 0)
		t.note(n, max(until, now+nameTimeout))
		for th, a := range threads {
			if b, ok := t.threads[th]; !ok || b.serial < a.serial {
				if ok {
					t.wentOn(th, now+nameTimeout)
				}
				t.threads[th] = answer{n, a.serial}
			}
		}
	}
	put(to, nname, u, ofName)
	if exchange {
		put(from, name, v, ofOther)
	}
}

// watchTold looks which threads have taken in what they were told, so that it is known when names
// are trusted no more, and forgets what is over.
func (c *Client) watchTold() {
	type look struct {
		dir    *Inode
		thread uint32
		serial uint64
	}
	c.mu.Lock()
	var looks []look
	var threads []uint32
	seen := map[uint32]bool{}
	for dir := range c.toldDirs {
		t := &dir.dir.told
		if t.writing > 0 {
			continue // a thread that sleeps waits for us
		}
		for th, a := range t.threads {
			looks = append(looks, look{dir, th, a.serial})
			if !seen[th] {
				seen[th] = true
				threads = append(threads, th)
			}
		}
	}
	n := c.namer
	c.mu.Unlock()
	if n == nil {
		return
	}
	if len(threads) > 0 {
		threads = n.TookIn(threads, 0)
	}
	late := map[uint32]bool{}
	for _, th := range threads {
		late[th] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for _, l := range looks {
		if t := &l.dir.dir.told; !late[l.thread] && t.threads[l.thread].serial == l.serial {
			t.wentOn(l.thread, now+timeoutOf(n))
		}
	}
	for dir := range c.toldDirs {
		if dir.dir.told.sweep(now) {
			delete(c.toldDirs, dir)
		}
	}
}
