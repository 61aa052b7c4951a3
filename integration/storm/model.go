package storm

import (
	"sort"
	"strings"
	"syscall"
)

// node is an inode of the model.
type node struct {
	id      int
	mode    uint32 // permission bits
	kind    byte   // 'f', 'd', 'l'
	nlink   int
	data    []byte
	target  string
	entries map[string]*node
	xattr   map[string]string
	mtime   int64 // seconds, when set by utimens; -1: unknown
}

// model is what the tree must look like. Operations return the errno that Linux gives; the
// order of their checks is the VFS's.
type model struct {
	root *node
	next int
}

func newModel() *model {
	m := &model{}
	m.root = m.node('d', 0o755)
	return m
}

func (m *model) node(kind byte, mode uint32) *node {
	m.next++
	n := &node{id: m.next, kind: kind, mode: mode, nlink: 1, mtime: -1}
	if kind == 'd' {
		n.entries = map[string]*node{}
		n.nlink = 2
	}
	return n
}

// parent resolves all but the last component.
func (m *model) parent(path string) (*node, string, syscall.Errno) {
	parts := strings.Split(path, "/")
	d := m.root
	for _, p := range parts[:len(parts)-1] {
		n := d.entries[p]
		switch {
		case n == nil:
			return nil, "", syscall.ENOENT
		case n.kind == 'l': // every symlink of the storm dangles
			return nil, "", syscall.ENOENT
		case n.kind != 'd':
			return nil, "", syscall.ENOTDIR
		}
		d = n
	}
	return d, parts[len(parts)-1], 0
}

func (m *model) lookup(path string) (*node, syscall.Errno) {
	d, name, e := m.parent(path)
	if e != 0 {
		return nil, e
	}
	if n := d.entries[name]; n != nil {
		return n, 0
	}
	return nil, syscall.ENOENT
}

// openFile resolves path as open(O_NOFOLLOW) of a regular file for writing does.
func (m *model) openFile(path string, write bool) (*node, syscall.Errno) {
	n, e := m.lookup(path)
	switch {
	case e != 0:
		return nil, e
	case n.kind == 'l':
		return nil, syscall.ELOOP
	case n.kind == 'd' && write:
		return nil, syscall.EISDIR
	}
	return n, 0
}

// add makes a new entry, or says why not.
func (m *model) add(path string, make func() *node) (*node, syscall.Errno) {
	d, name, e := m.parent(path)
	if e != 0 {
		return nil, e
	}
	if d.entries[name] != nil {
		return nil, syscall.EEXIST
	}
	n := make()
	d.entries[name] = n
	if n.kind == 'd' {
		d.nlink++
	}
	return n, 0
}

func (m *model) link(old, new string) syscall.Errno {
	src, e := m.lookup(old)
	if e != 0 {
		return e
	}
	d, name, e := m.parent(new)
	switch {
	case e != 0:
		return e
	case d.entries[name] != nil:
		return syscall.EEXIST
	case src.kind == 'd':
		return syscall.EPERM
	}
	d.entries[name] = src
	src.nlink++
	return 0
}

func (m *model) unlink(path string) syscall.Errno {
	d, name, e := m.parent(path)
	if e != 0 {
		return e
	}
	n := d.entries[name]
	switch {
	case n == nil:
		return syscall.ENOENT
	case n.kind == 'd':
		return syscall.EISDIR
	}
	delete(d.entries, name)
	n.nlink--
	return 0
}

func (m *model) rmdir(path string) syscall.Errno {
	d, name, e := m.parent(path)
	if e != 0 {
		return e
	}
	n := d.entries[name]
	switch {
	case n == nil:
		return syscall.ENOENT
	case n.kind != 'd':
		return syscall.ENOTDIR
	case len(n.entries) > 0:
		return syscall.ENOTEMPTY
	}
	delete(d.entries, name)
	n.nlink = 0
	d.nlink--
	return 0
}

// below reports whether n is d or lies beneath it.
func below(d, n *node) bool {
	if d == n {
		return true
	}
	for _, e := range d.entries {
		if e.kind == 'd' && below(e, n) {
			return true
		}
	}
	return false
}

func (m *model) rename(old, new string, noReplace, exchange bool) syscall.Errno {
	od, oname, e := m.parent(old)
	if e != 0 {
		return e
	}
	nd, nname, e := m.parent(new)
	if e != 0 {
		return e
	}
	src, dst := od.entries[oname], nd.entries[nname]
	switch {
	case src == nil:
		return syscall.ENOENT
	case noReplace && dst != nil:
		return syscall.EEXIST
	case exchange && dst == nil:
		return syscall.ENOENT
	case src.kind == 'd' && below(src, nd):
		return syscall.EINVAL
	case dst != nil && dst.kind == 'd' && below(dst, od):
		if exchange {
			return syscall.EINVAL
		}
		return syscall.ENOTEMPTY
	case src == dst:
		return 0
	case dst == nil, exchange:
	case src.kind == 'd' && dst.kind != 'd':
		return syscall.ENOTDIR
	case src.kind != 'd' && dst.kind == 'd':
		return syscall.EISDIR
	case dst.kind == 'd' && len(dst.entries) > 0:
		return syscall.ENOTEMPTY
	}
	if exchange {
		od.entries[oname], nd.entries[nname] = dst, src
		od.nlink += dirCount(dst) - dirCount(src)
		nd.nlink += dirCount(src) - dirCount(dst)
		return 0
	}
	if dst != nil {
		if dst.kind == 'd' {
			dst.nlink = 0
			nd.nlink--
		} else {
			dst.nlink--
		}
	}
	delete(od.entries, oname)
	nd.entries[nname] = src
	od.nlink -= dirCount(src)
	nd.nlink += dirCount(src)
	return 0
}

func dirCount(n *node) int {
	if n.kind == 'd' {
		return 1
	}
	return 0
}

func (n *node) list() []string {
	var l []string
	for name := range n.entries {
		l = append(l, name)
	}
	sort.Strings(l)
	return l
}

func (n *node) write(off int, b []byte) {
	n.truncate(max(len(n.data), off+len(b)))
	copy(n.data[off:], b)
}

func (n *node) truncate(size int) {
	if size <= len(n.data) {
		n.data = n.data[:size:size]
		return
	}
	n.data = append(n.data, make([]byte, size-len(n.data))...)
}
