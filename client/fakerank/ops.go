package fakerank

import (
	"slices"
	"sort"
	"syscall"
	"time"

	"github.com/capstan-fs/capstan/wire"
)

func (r *Rank) exec(l *link, q *wire.Request, n *node, rep *wire.Reply) syscall.Errno {
	show := func(t *node) { rep.Target = r.stat(t) }
	dir := func() { rep.Dir = r.stat(n) }
	switch q.Op {
	case wire.OpLookup:
		c := n.children[q.Name]
		if n.children == nil {
			return syscall.ENOTDIR
		}
		if c == nil {
			return syscall.ENOENT
		}
		show(c)
	case wire.OpGetattr, wire.OpGetxattrs, wire.OpOpen:
		show(n)
	case wire.OpGetvxattr:
		return syscall.ENODATA
	case wire.OpReaddir:
		names := make([]string, 0, len(n.children))
		for k := range n.children {
			names = append(names, k)
		}
		sort.Slice(names, func(i, j int) bool { return cookie(names[i]) < cookie(names[j]) })
		rep.End = true
		for _, k := range names {
			c := n.children[k]
			ck := cookie(k)
			if ck <= q.Cookie {
				continue
			}
			if len(rep.Entries) == int(q.Max) {
				rep.End = false
				break
			}
			rep.Entries = append(rep.Entries, wire.DirEntry{Name: k, Ino: c.st.Ino, Mode: c.st.Attr.Mode & syscall.S_IFMT, Cookie: ck, Stat: r.stat(c)})
		}
		dir()
	case wire.OpCreate, wire.OpMkdir, wire.OpMknod, wire.OpSymlink:
		if c := n.children[q.Name]; c != nil {
			if q.Op == wire.OpCreate && q.OpenFlags&syscall.O_EXCL == 0 {
				show(c)
				return 0
			}
			return syscall.EEXIST
		}
		if n.st.Attr.Nlink == 0 {
			return syscall.ENOENT
		}
		mode := q.Mode
		switch q.Op {
		case wire.OpCreate:
			mode = mode&07777&^q.Umask | syscall.S_IFREG
		case wire.OpMkdir:
			mode = mode&07777&^q.Umask | syscall.S_IFDIR
			n.st.Attr.Nlink++
		case wire.OpMknod:
			mode &^= q.Umask
		}
		c := r.make(n, mode, q)
		n.children[q.Name] = c
		touch(n)
		show(c)
		dir()
	case wire.OpTmpfile:
		c := r.make(n, q.Mode&07777&^q.Umask|syscall.S_IFREG, q)
		c.st.Attr.Nlink = 0
		show(c)
	case wire.OpLink:
		c := r.nodes[q.Other]
		if c == nil {
			return syscall.ESTALE
		}
		if n.children[q.Name] != nil {
			return syscall.EEXIST
		}
		n.children[q.Name] = c
		c.st.Attr.Nlink++
		touch(n)
		c.st.Attr.Ctime = wire.TimeOf(time.Now())
		show(c)
		dir()
	case wire.OpUnlink, wire.OpRmdir:
		c := n.children[q.Name]
		if c == nil {
			return syscall.ENOENT
		}
		if e := removable(c, q.Op == wire.OpRmdir); e != 0 {
			return e
		}
		delete(n.children, q.Name)
		r.dropLink(n, c)
		touch(n)
		show(c)
		dir()
	case wire.OpRename:
		return r.rename(q, n, rep)
	case wire.OpSetattr:
		r.setattr(q, n)
		show(n)
	case wire.OpSetxattr:
		i := slices.IndexFunc(n.st.Xattrs, func(k wire.KV) bool { return k.Key == q.Xname })
		switch {
		case i >= 0 && q.OpenFlags&1 != 0:
			return syscall.EEXIST
		case i < 0 && q.OpenFlags&2 != 0:
			return syscall.ENODATA
		case i >= 0:
			n.st.Xattrs = slices.Clone(n.st.Xattrs)
			n.st.Xattrs[i].Val = q.Xval
		default:
			n.st.Xattrs = append(slices.Clone(n.st.Xattrs), wire.KV{Key: q.Xname, Val: q.Xval})
		}
		show(n)
	case wire.OpRmxattr:
		i := slices.IndexFunc(n.st.Xattrs, func(k wire.KV) bool { return k.Key == q.Xname })
		if i < 0 {
			return syscall.ENODATA
		}
		n.st.Xattrs = slices.Delete(slices.Clone(n.st.Xattrs), i, i+1)
		show(n)
	case wire.OpSetlk:
		return r.setlk(l, q, n, rep)
	case wire.OpGetlk:
		rep.Lock = wire.FileLock{}
		if c := conflict(n, q.Lock); c != nil {
			rep.Lock = *c
		}
	case wire.OpStatfs:
		rep.Statfs = &wire.Statfs{Total: 1 << 30, Avail: 1 << 29, Inodes: uint64(len(r.nodes))}
	default:
		return syscall.ENOSYS
	}
	return 0
}

func removable(c *node, dir bool) syscall.Errno {
	switch {
	case dir && c.children == nil:
		return syscall.ENOTDIR
	case !dir && c.children != nil:
		return syscall.EISDIR
	case dir && len(c.children) > 0:
		return syscall.ENOTEMPTY
	}
	return 0
}

func (r *Rank) dropLink(parent, c *node) {
	if c.children != nil {
		c.st.Attr.Nlink = 0
		parent.st.Attr.Nlink--
	} else {
		c.st.Attr.Nlink--
	}
	c.st.Attr.Ctime = wire.TimeOf(time.Now())
}

func (r *Rank) rename(q *wire.Request, n *node, rep *wire.Reply) syscall.Errno {
	nd := r.nodes[q.NewDir]
	c := n.children[q.Name]
	if nd == nil || c == nil {
		return syscall.ENOENT
	}
	for p := nd; p != nil; p = p.parent {
		if p == c {
			return syscall.EINVAL
		}
	}
	old := nd.children[q.NewName]
	switch {
	case old != nil && q.RenameFlags&wire.RenameNoReplace != 0:
		return syscall.EEXIST
	case q.RenameFlags&wire.RenameExchange != 0:
		if old == nil {
			return syscall.ENOENT
		}
		n.children[q.Name], nd.children[q.NewName] = old, c
		c.parent, old.parent = nd, n
		return 0
	case old == c:
		return 0
	case old != nil:
		if c.children != nil && old.children == nil {
			return syscall.ENOTDIR
		}
		if e := removable(old, c.children != nil); e != 0 {
			return e
		}
		r.dropLink(nd, old)
		rep.Target = r.stat(old)
	}
	delete(n.children, q.Name)
	nd.children[q.NewName] = c
	c.parent = nd
	if c.children != nil {
		n.st.Attr.Nlink--
		nd.st.Attr.Nlink++
	}
	touch(n)
	touch(nd)
	c.st.Attr.Ctime = wire.TimeOf(time.Now())
	return 0
}

func (r *Rank) setattr(q *wire.Request, n *node) {
	a, s := &n.st.Attr, &q.Attr
	now := wire.TimeOf(time.Now())
	if q.Set&wire.SetMode != 0 {
		a.Mode = a.Mode&syscall.S_IFMT | s.Mode
	}
	if q.Set&wire.SetUID != 0 {
		a.UID = s.UID
	}
	if q.Set&wire.SetGID != 0 {
		a.GID = s.GID
	}
	if q.Set&wire.SetSize != 0 {
		r.Store.cut(Pool, n.st.Ino, s.Size, uint64(n.st.ObjectSize), a.Size)
		a.Sparse = a.Sparse || s.Size > a.Size
		a.Size = s.Size
		n.st.TruncSeq++
		a.Mtime = now
	}
	if q.Set&wire.SetAtime != 0 {
		a.Atime = s.Atime
	}
	if q.Set&wire.SetMtime != 0 {
		a.Mtime = s.Mtime
	}
	if q.Set&wire.SetAtimeNow != 0 {
		a.Atime = now
	}
	if q.Set&wire.SetMtimeNow != 0 {
		a.Mtime = now
	}
	if q.Set&wire.SetKillSuid != 0 {
		a.Mode &^= syscall.S_ISUID
		if a.Mode&010 != 0 {
			a.Mode &^= syscall.S_ISGID
		}
	}
	a.Ctime = now
}

func conflict(n *node, l wire.FileLock) *wire.FileLock {
	for i := range n.locks {
		h := &n.locks[i]
		if h.Flock == l.Flock && h.Owner != l.Owner && h.Start <= l.End && l.Start <= h.End && (h.Type == wire.LockWrite || l.Type == wire.LockWrite) {
			return h
		}
	}
	return nil
}

func (r *Rank) setlk(l *link, q *wire.Request, n *node, rep *wire.Reply) syscall.Errno {
	k := q.Lock
	if k.Type != wire.LockUnlock && conflict(n, k) != nil {
		if !k.Wait {
			return syscall.EAGAIN
		}
		n.waiters = append(n.waiters, &waiter{l, q})
		return errParked
	}
	var out []wire.FileLock
	for _, h := range n.locks {
		if h.Flock != k.Flock || h.Owner != k.Owner || h.End < k.Start || h.Start > k.End {
			out = append(out, h)
			continue
		}
		if h.Start < k.Start {
			x := h
			x.End = k.Start - 1
			out = append(out, x)
		}
		if h.End > k.End {
			x := h
			x.Start = k.End + 1
			out = append(out, x)
		}
	}
	if k.Type != wire.LockUnlock {
		out = append(out, k)
	}
	n.locks = out
	for i := 0; i < len(n.waiters); i++ {
		w := n.waiters[i]
		if conflict(n, w.req.Lock) == nil {
			n.waiters = slices.Delete(n.waiters, i, i+1)
			r.request(w.l, w.req)
			break
		}
	}
	rep.Lock = k
	return 0
}
