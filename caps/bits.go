package caps

import (
	"fmt"
	"strings"
)

// Bits is a set of capability bits on one inode. What each allows is in the table of
// docs/locks.md; the letters are those of CephFS, so that people can read both systems.
type Bits uint32

// The bits. A, L and X groups are Simple locks (shared, exclusive); the F group is the File
// lock's.
const (
	Pin         Bits = 1 << iota // p: keep the inode; trust ino, type, rdev, symlink target
	AuthShared                   // As: trust mode, uid, gid
	AuthExcl                     // Ax: change them locally
	LinkShared                   // Ls: trust nlink
	LinkExcl                     // Lx
	XattrShared                  // Xs: trust xattrs and ACLs
	XattrExcl                    // Xx
	FileShared                   // Fs: trust size, mtime; of a directory: entries, negative entries
	FileExcl                     // Fx: sole user; owns size and mtime
	FileCache                    // Fc: keep clean pages
	FileRd                       // Fr: read data from the store
	FileWr                       // Fw: write data to the store
	FileBuffer                   // Fb: buffer dirty data
	FileAppend                   // Fa: extend EOF; travels with Fw
	FileLazy                     // Fl: outside coherence
)

// Masks of the four groups, and of the bits every client may cache when nobody writes.
const (
	None      Bits = 0
	AuthMask       = AuthShared | AuthExcl
	LinkMask       = LinkShared | LinkExcl
	XattrMask      = XattrShared | XattrExcl
	FileMask       = FileShared | FileExcl | FileCache | FileRd | FileWr | FileBuffer | FileAppend | FileLazy
	All            = Pin | AuthMask | LinkMask | XattrMask | FileMask

	// AllShared is what a client that only looks gets when no lock stands in the way.
	AllShared = Pin | AuthShared | LinkShared | XattrShared | FileShared
	// AnyExcl are the bits that make their holder the only one in its group.
	AnyExcl = AuthExcl | LinkExcl | XattrExcl | FileExcl | FileBuffer
	// AnyWrite are the bits that only a fence takes back from a silent client (rule K2).
	AnyWrite = AuthExcl | LinkExcl | XattrExcl | FileExcl | FileWr | FileBuffer
)

// Has reports whether all bits of want are in b.
func (b Bits) Has(want Bits) bool { return b&want == want }

// letters in print order; group letters open a group.
var letters = []struct {
	bit   Bits
	group byte
	char  byte
}{
	{Pin, 0, 'p'},
	{AuthShared, 'A', 's'}, {AuthExcl, 'A', 'x'},
	{LinkShared, 'L', 's'}, {LinkExcl, 'L', 'x'},
	{XattrShared, 'X', 's'}, {XattrExcl, 'X', 'x'},
	{FileShared, 'F', 's'}, {FileExcl, 'F', 'x'}, {FileCache, 'F', 'c'}, {FileRd, 'F', 'r'},
	{FileWr, 'F', 'w'}, {FileBuffer, 'F', 'b'}, {FileAppend, 'F', 'a'}, {FileLazy, 'F', 'l'},
}

// String prints the letters, as in pAsLsXsFscr; the empty set prints as "-".
func (b Bits) String() string {
	if b == 0 {
		return "-"
	}
	var sb strings.Builder
	var group byte
	for _, l := range letters {
		if b&l.bit == 0 {
			continue
		}
		if l.group != group {
			sb.WriteByte(l.group)
			group = l.group
		}
		sb.WriteByte(l.char)
	}
	if rest := b &^ All; rest != 0 {
		fmt.Fprintf(&sb, "?%#x", uint32(rest))
	}
	return sb.String()
}

// Parse reads what String prints.
func Parse(s string) (Bits, error) {
	if s == "-" || s == "" {
		return 0, nil
	}
	var b Bits
	var group byte
next:
	for i := 0; i < len(s); i++ {
		c := s[i]
		if strings.IndexByte("ALXF", c) >= 0 {
			group = c
			continue
		}
		for _, l := range letters {
			if l.group == group && l.char == c {
				b |= l.bit
				continue next
			}
		}
		return 0, fmt.Errorf("caps %q: no bit %q in group %q", s, c, group)
	}
	return b, nil
}
