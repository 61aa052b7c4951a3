package client

import (
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// listing is where an open directory stands: the rows fetched last and a count of what was
// seen since offset 0, to know in the end whether it was everything.
type listing struct {
	rows []wire.DirEntry
	from uint64 // cookie the rows come after
	end  bool   // nothing follows them

	all  []wire.DirEntry // since 0, while the directory's age stands still
	next uint64          // cookie after the last of all
	age  dirAge
	good bool
}

// dirAge tells what is known of a directory's names from what was: a listing that is put together
// under one age is complete.
type dirAge struct {
	fs       bool // Fs is held
	gen, own uint64
}

func (c *Client) ageOf(in *Inode) dirAge {
	d := in.dirState()
	return dirAge{in.cap.issued.Has(caps.FileShared), d.gen, d.own}
}

// Cookies of the first two rows, which no rank knows of.
const (
	cookieDot    = 1
	cookieDotDot = 2
	chunk        = 1024
)

// DirEntry is a row for the kernel. Known: Attr can be shown with it.
type DirEntry struct {
	Name   string
	Ino    wire.Ino
	Mode   uint32 // type bits
	Cookie uint64
	known  bool
}

// Readdir calls emit for rows after cookie, in order, until it returns false, the directory ends, or
// the rank would have to be asked for more: behind the first row nothing is waited for. It is called
// without the lock.
func (c *Client) Readdir(k *Caller, f *File, cookie uint64, emit func(*DirEntry) bool) error {
	in := f.in
	e := DirEntry{Ino: in.ino, Mode: 0040000}
	if cookie < cookieDot {
		e.Name, e.Cookie = ".", cookieDot
		if !emit(&e) {
			return nil
		}
		cookie = cookieDot
	}
	if cookie < cookieDotDot {
		e.Name, e.Cookie = "..", cookieDotDot
		c.mu.Lock()
		if in.parent != 0 && in != c.root {
			e.Ino = in.parent
		}
		c.mu.Unlock()
		if !emit(&e) {
			return nil
		}
		cookie = cookieDotDot
	}
	for {
		rows, end, err := c.rows(k, f, cookie)
		if err != nil {
			return err
		}
		for i := range rows {
			r := &rows[i]
			e = DirEntry{Name: r.Name, Ino: r.Ino, Mode: r.Mode, Cookie: r.Cookie}
			if !emit(&e) {
				return nil
			}
			cookie = r.Cookie
		}
		if end || len(rows) > 0 {
			return nil
		}
	}
}

// rows returns some rows after cookie; end: nothing follows them.
func (c *Client) rows(k *Caller, f *File, cookie uint64) ([]wire.DirEntry, bool, error) {
	in, cur := f.in, &f.cur
	c.mu.Lock()
	defer c.unlockFlush()
	after := func(rows []wire.DirEntry) []wire.DirEntry {
		return rows[sort.Search(len(rows), func(i int) bool { return rows[i].Cookie > cookie }):]
	}
	if c.wrong != 0 {
		if all, lied := c.lieOfListing(in); lied {
			return after(all), true, nil
		}
	}
	if all, right := c.mayList(in); right != NoRight {
		c.keepListing(in, all, true)
		return after(all), true, nil
	}
	if cookie > cookieDotDot && cookie >= cur.from && len(cur.rows) > 0 {
		// The rest of the chunk that the kernel's last buffer had no room for. Rows may be
		// gone by now; a listing in progress may show them (T7).
		if rest := after(cur.rows); len(rest) > 0 || cur.end {
			return rest, cur.end, nil
		}
	}
	at := cookie
	if at <= cookieDotDot {
		at = 0
	}
	cl, err := c.do(k, &wire.Request{Op: wire.OpReaddir, Ino: in.ino, Cookie: at, Max: chunk})
	if err != nil {
		return nil, false, err
	}
	m := cl.reply
	c.keepListing(in, m.Entries, at == 0 && m.End)
	*cur = listing{rows: m.Entries, from: at, end: m.End, all: cur.all, next: cur.next, age: cur.age, good: cur.good}
	// Its age is that of the answer: what came behind that, before we went on, it does not show.
	if at == 0 {
		cur.good, cur.age, cur.all, cur.next = cl.shown.fs, cl.shown, nil, 0
	}
	if cur.good = cur.good && cl.shown == cur.age && at == cur.next; cur.good {
		cur.all = append(cur.all, m.Entries...)
		if n := len(m.Entries); n > 0 {
			cur.next = m.Entries[n-1].Cookie
		}
		if m.End {
			if c.ageOf(in) == cur.age {
				c.learnAll(in, cur.all)
			}
			cur.all, cur.good = nil, false
		}
	} else {
		cur.all = nil
	}
	return m.Entries, m.End || len(m.Entries) == 0, nil
}

// learnAll makes a listing that was made under Fs from start to end the truth.
func (c *Client) learnAll(in *Inode, all []wire.DirEntry) {
	d := in.dir
	if len(all) > maxNames {
		return
	}
	d.complete = true
	d.listing = make([]wire.DirEntry, len(all))
	for i := range all {
		r := &all[i]
		d.listing[i] = wire.DirEntry{Name: r.Name, Ino: r.Ino, Mode: r.Mode, Cookie: r.Cookie}
		e := d.names[r.Name]
		if e == nil {
			e = &dentry{}
			d.names[r.Name] = e
		}
		e.ino, e.gen, e.lease = r.Ino, d.gen, 0
	}
}

// learnListing takes in the rows of a reply: names, and the inodes that came with them.
func (c *Client) learnListing(s *session, dir *Inode, m *wire.Reply, sent int64) {
	for i := range m.Entries {
		r := &m.Entries[i]
		if r.Stat != nil {
			in := c.applyStat(s, r.Stat)
			if in.cap.id == 0 && in.refs == 0 && in.nlookup == 0 {
				delete(c.inodes, in.ino)
			} else {
				c.maybeIdle(in)
			}
			r.Stat = nil
		}
		c.learn(dir, r.Name, r.Ino, r.Lease, sent)
	}
}

// Rows is an answer to READDIRPLUS in the making. Done must follow when it is written.
type Rows struct {
	c   *Client
	k   *Caller
	dir *Inode

	at    int64 // when its first timeout was computed; 0: it has none
	names []string
}

// NewRows begins an answer about f.
func (c *Client) NewRows(k *Caller, f *File) *Rows { return &Rows{c: c, k: k, dir: f.in} }

// Timed: the answer tells the kernel for how long to trust something, so it must be known when it is
// written. At is when the first timeout was computed, for Late.
func (r *Rows) Timed() (at int64, timed bool) { return r.at, r.at != 0 }

// Entry is what is shown with a row: only what the cache has, and a reference of the kernel when it
// does. ok false: the kernel has to look it up itself.
func (r *Rows) Entry(e *DirEntry) (out Entry, ok bool) {
	if e.Cookie <= cookieDotDot {
		return out, false
	}
	c := r.c
	c.mu.Lock()
	defer c.unlockFlush()
	in := c.inodes[e.Ino]
	if in == nil || in.cap.id == 0 || in.ever&statMask != statMask || c.mayAttr(in, statMask) == NoRight {
		return out, false
	}
	if ino, right := c.mayName(r.dir, e.Name); ino == e.Ino && in.steady(in.told) {
		if t := c.mayTell(r.k, r.dir, e.Name, right); t > 0 {
			r.tell(e.Name, t)
			out.TTL = time.Duration(t)
			if !in.known && in.shownBy == nil {
				in.shownBy = r.dir // an invalidation of its attributes would miss it until the row is taken in
			}
		}
	}
	in.nlookup++
	c.maybeIdle(in)
	out.Ino, out.Attr = in.ino, c.attrOf(in)
	if !in.known && in.shownBy != r.dir {
		out.Attr.TTL = 0
	}
	return out, true
}

// tell notes a timeout of a row.
func (r *Rows) tell(name string, ttl int64) {
	if r.at == 0 {
		r.at = r.c.now()
		r.c.writes(r.k, r.dir, rows)
	}
	r.dir.dir.told.note(name, r.c.now()+ttl)
	r.names = append(r.names, name)
}

// Done ends an answer with timeouts: it is written, or was not (ok false).
func (r *Rows) Done(ok bool) {
	if r.at == 0 {
		return
	}
	late := ok && r.c.Late(r.at)
	if n := r.c.written(r.dir.ino); late && n != nil {
		go func() {
			for _, name := range r.names {
				n.Name(r.dir.ino, name)
			}
		}()
	}
}

// Readlink returns a symlink's target, which never changes.
func (c *Client) Readlink(k *Caller, ino wire.Ino) (string, error) {
	c.mu.Lock()
	defer c.unlockFlush()
	in, err := c.byIno(ino)
	if err != nil {
		return "", err
	}
	if in.target == "" {
		c.ref(in)
		defer c.unref(in)
		if err := c.fetch(k, in, wire.MaskAuth); err != nil {
			return "", err
		}
	}
	return in.target, nil
}

// Xattrs returns all xattrs of ino, from the cache under Xs.
func (c *Client) xattrsOf(k *Caller, ino wire.Ino) ([]wire.KV, error) {
	in, err := c.byIno(ino)
	if err != nil {
		return nil, err
	}
	if c.wrong != 0 {
		if all, lied := c.lieOfXattrs(in); lied {
			return all, nil
		}
	}
	if c.mayAttr(in, wire.MaskXattr) != NoRight {
		c.keepXattrs(in, in.xattrs)
		return in.xattrs, nil
	}
	c.ref(in)
	defer c.unref(in)
	cl, err := c.do(k, &wire.Request{Op: wire.OpGetxattrs, Ino: ino, Mask: wire.MaskXattr})
	defer c.doneWith(cl)
	if err != nil {
		return nil, err
	}
	if cl.reply.Target == nil {
		return nil, eIO
	}
	c.keepXattrs(in, cl.reply.Target.Xattrs)
	return cl.reply.Target.Xattrs, nil
}

// Getxattr returns one xattr; ENODATA when there is none.
func (c *Client) Getxattr(k *Caller, ino wire.Ino, name string) ([]byte, error) {
	c.mu.Lock()
	defer c.unlockFlush()
	if strings.HasPrefix(name, virtual) {
		return c.virtualXattr(k, ino, name)
	}
	all, err := c.xattrsOf(k, ino)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Key == name {
			return all[i].Val, nil
		}
	}
	return nil, eNODATA
}

// virtual begins the names of xattrs that nobody sets and no list has: statistics of
// directories, as CephFS names them. The rank is asked each time.
const virtual = "ceph."

func (c *Client) virtualXattr(k *Caller, ino wire.Ino, name string) ([]byte, error) {
	in, err := c.byIno(ino)
	if err != nil {
		return nil, err
	}
	c.ref(in)
	defer c.unref(in)
	cl, err := c.do(k, &wire.Request{Op: wire.OpGetvxattr, Ino: ino, Xname: name})
	defer c.doneWith(cl)
	if err != nil {
		return nil, err
	}
	return slices.Clone(cl.reply.Value), nil
}

// Listxattr returns the names, each with a NUL behind it. ACLs are listed by the kernel.
func (c *Client) Listxattr(k *Caller, ino wire.Ino) ([]byte, error) {
	c.mu.Lock()
	defer c.unlockFlush()
	all, err := c.xattrsOf(k, ino)
	if err != nil {
		return nil, err
	}
	var sb strings.Builder
	for i := range all {
		sb.WriteString(all[i].Key)
		sb.WriteByte(0)
	}
	return []byte(sb.String()), nil
}

// Setxattr sets one; flags are XATTR_CREATE and XATTR_REPLACE.
func (c *Client) Setxattr(k *Caller, ino wire.Ino, name string, val []byte, flags uint32) error {
	if len(name) > wire.MaxXattrName {
		return errNameTooLong
	}
	return c.xattrOp(k, &wire.Request{Op: wire.OpSetxattr, Ino: ino, Xname: name, Xval: append([]byte{}, val...), OpenFlags: flags})
}

// Removexattr removes one.
func (c *Client) Removexattr(k *Caller, ino wire.Ino, name string) error {
	return c.xattrOp(k, &wire.Request{Op: wire.OpRmxattr, Ino: ino, Xname: name})
}

func (c *Client) xattrOp(k *Caller, r *wire.Request) error {
	c.mu.Lock()
	defer c.unlockFlush()
	in, err := c.byIno(r.Ino)
	if err != nil {
		return err
	}
	c.ref(in)
	defer c.unref(in)
	cl, err := c.do(k, r)
	if err == nil && (cl.reply.Target == nil || !cl.reply.Target.HasXattrs) {
		in.fresh &^= wire.MaskXattr | wire.MaskAuth
	}
	c.doneWith(cl)
	return err
}
