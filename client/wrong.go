package client

import (
	"time"

	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// What a client does under seeded bugs (internal/wrong), where it takes more than a line. A
// client without them keeps no lies.

// keepLie is how long what was true once is told on.
const keepLie = int64(time.Second)

// lies are answers given once. Our own changes void them: the bugs are those of a mount that
// does not hear of others.
type lies struct {
	names  map[lieKey]lie
	attrs  map[wire.Ino]lie
	xattrs map[wire.Ino]lie
	lists  map[wire.Ino]lie
	writes uint64
}

type lieKey struct {
	dir  wire.Ino
	name string
}

type lie struct {
	until  int64
	entry  Entry // Ino 0: absent
	attr   Attr
	xattrs []wire.KV
	rows   []wire.DirEntry
}

func lied[K comparable](c *Client, m map[K]lie, k K) (lie, bool) {
	l, ok := m[k]
	return l, ok && c.now() < l.until
}

func keep[K comparable](c *Client, m *map[K]lie, k K, l lie) {
	if _, fresh := lied(c, *m, k); fresh {
		return // it is told for so long and no longer
	}
	if *m == nil {
		*m = map[K]lie{}
	}
	l.until = c.now() + keepLie
	(*m)[k] = l
}

func (c *Client) lieOfName(k *Caller, dir wire.Ino, name string) (Entry, bool, error) {
	l, ok := lied(c, c.lies.names, lieKey{dir, name})
	if !ok {
		return Entry{}, false, nil
	}
	if l.entry.Ino == 0 {
		return Entry{}, true, eNOENT
	}
	in := c.inodes[l.entry.Ino]
	if in == nil {
		return Entry{}, false, nil
	}
	in.nlookup++
	c.maybeIdle(in)
	return l.entry, true, nil
}

func (c *Client) keepName(dir wire.Ino, name string, e *Entry, err error) {
	if err == eNOENT && c.wrong.Has(wrong.EnoentKept) || err == nil && c.wrong.Has(wrong.NameKept) {
		keep(c, &c.lies.names, lieKey{dir, name}, lie{entry: *e})
	}
}

func (c *Client) lieOfAttr(in *Inode) (Attr, bool) {
	l, ok := lied(c, c.lies.attrs, in.ino)
	return l.attr, ok
}

func (c *Client) keepAttr(in *Inode) {
	if c.wrong.Has(wrong.AttrKept) {
		a := c.attrOf(in)
		a.TTL = 0
		keep(c, &c.lies.attrs, in.ino, lie{attr: a})
	}
}

func (c *Client) lieOfXattrs(in *Inode) ([]wire.KV, bool) {
	l, ok := lied(c, c.lies.xattrs, in.ino)
	return l.xattrs, ok
}

func (c *Client) keepXattrs(in *Inode, all []wire.KV) {
	if c.wrong.Has(wrong.XattrKept) {
		keep(c, &c.lies.xattrs, in.ino, lie{xattrs: all})
	}
}

func (c *Client) lieOfListing(in *Inode) ([]wire.DirEntry, bool) {
	l, ok := lied(c, c.lies.lists, in.ino)
	return l.rows, ok
}

func (c *Client) keepListing(in *Inode, rows []wire.DirEntry, whole bool) {
	if whole && c.wrong.Has(wrong.ListingKept) {
		keep(c, &c.lies.lists, in.ino, lie{rows: rows})
	}
}

// writeWrongly makes a write in its own way, or changes what is asked, or leaves it alone.
func (c *Client) writeWrongly(k *Caller, f *File, data []byte, off *uint64, fl *WriteFlags) (n int, made bool, err error) {
	c.mu.Lock()
	c.lies.attrs = nil
	c.lies.writes++
	count, size := c.lies.writes, f.in.attr.Size
	c.mu.Unlock()
	switch {
	case fl.FromMmap:
	case c.wrong.Has(wrong.LostWrite) && !fl.Append && count%7 == 0:
		return len(data), true, nil
	case c.wrong.Has(wrong.AppendOldEnd) && fl.Append:
		*off, fl.Append = size, false
	case c.wrong.Has(wrong.TornAppend) && fl.Append && len(data) > 1 && !fl.torn:
		fl.torn = true
		half := len(data) / 2
		if n, err = c.Write(k, f, data[:half], 0, *fl); err == nil {
			time.Sleep(200 * time.Microsecond) // others come between
			var m int
			m, err = c.Write(k, f, data[half:], 0, *fl)
			n += m
		}
		return n, true, err
	}
	return 0, false, nil
}

// cutFirst empties the file that is about to lose its last name.
func (c *Client) cutFirst(k *Caller, dir wire.Ino, name string) {
	e, err := c.Lookup(k, dir, name)
	if err != nil {
		return
	}
	defer c.Forget(e.Ino, 1)
	if e.Attr.Mode&0170000 == 0100000 && e.Attr.Nlink == 1 {
		_, _ = c.Setattr(k, e.Ino, SetAttr{Set: wire.SetSize})
	}
}

// removeFirst unlinks what a rename is about to replace, unless that is what it moves.
func (c *Client) removeFirst(k *Caller, dir wire.Ino, name string) {
	if c.Unlink(k, dir, name) == nil {
		time.Sleep(time.Millisecond)
	}
}
