package mds

import (
	"encoding/binary"
	"errors"

	"github.com/capstan-fs/capstan/wire"
)

// POSIX ACLs, in the form in which the kernel passes them: version 2, then entries of tag,
// permissions and id, little endian. The owner's, the mask's (or group's) and others'
// permissions of an access ACL are the mode's, always.

const (
	xattrACLAccess  = "system.posix_acl_access"
	xattrACLDefault = "system.posix_acl_default"

	aclVersion  = 2
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

type aclEntry struct {
	tag  uint16
	perm uint16
	id   uint32
}

type acl []aclEntry

func isACL(name string) bool { return name == xattrACLAccess || name == xattrACLDefault }

var errACL = errors.New("malformed ACL")

// parseACL reads and validates: the three basic entries once each, ordered tags, a mask when
// there are named entries.
func parseACL(b []byte) (acl, error) {
	if len(b) < 4 || (len(b)-4)%8 != 0 || binary.LittleEndian.Uint32(b) != aclVersion {
		return nil, errACL
	}
	var a acl
	var seen uint16
	last := uint16(0)
	named := false
	for b = b[4:]; len(b) > 0; b = b[8:] {
		e := aclEntry{binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])}
		switch e.tag {
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			if seen&e.tag != 0 {
				return nil, errACL
			}
		case aclUser, aclGroup:
			named = true
		default:
			return nil, errACL
		}
		if e.tag < last || e.perm > 7 {
			return nil, errACL
		}
		last = e.tag
		seen |= e.tag
		a = append(a, e)
	}
	if seen&aclUserObj == 0 || seen&aclGroupObj == 0 || seen&aclOther == 0 || named && seen&aclMask == 0 {
		return nil, errACL
	}
	return a, nil
}

func (a acl) encode() []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+8*len(a)), aclVersion)
	for _, e := range a {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

func (a acl) entry(tag uint16) *aclEntry {
	for i := range a {
		if a[i].tag == tag {
			return &a[i]
		}
	}
	return nil
}

// groupClass is the entry that the mode's group bits show: the mask, else the owning group.
func (a acl) groupClass() *aclEntry {
	if m := a.entry(aclMask); m != nil {
		return m
	}
	return a.entry(aclGroupObj)
}

// applyToMode is mode with the permissions of an access ACL.
func (a acl) applyToMode(mode uint32) uint32 {
	return mode&^0o777 | uint32(a.entry(aclUserObj).perm)<<6 | uint32(a.groupClass().perm)<<3 | uint32(a.entry(aclOther).perm)
}

// equalsMode reports whether the ACL says no more than a mode: it need not be stored.
func (a acl) equalsMode() bool { return len(a) == 3 }

// setMode brings an access ACL in line with a new mode.
func (a acl) setMode(mode uint32) {
	a.entry(aclUserObj).perm = uint16(mode >> 6 & 7)
	a.groupClass().perm = uint16(mode >> 3 & 7)
	a.entry(aclOther).perm = uint16(mode & 7)
}

// chmodACL is the list of xattrs after a chmod.
func chmodACL(list []wire.KV, mode uint32) []wire.KV {
	for i := range list {
		if list[i].Key == xattrACLAccess {
			a, err := parseACL(list[i].Val)
			if err != nil {
				return list
			}
			a.setMode(mode)
			return setXattr(list, xattrACLAccess, a.encode())
		}
	}
	return list
}

// inheritACL gives a new inode the default ACL of its directory, masked by the mode that was
// asked for; without one the umask counts.
func inheritACL(rec *inodeRec, dir *inode, umask uint32) {
	val, have := dir.xattr(xattrACLDefault)
	var a acl
	if have {
		var err error
		if a, err = parseACL(val); err != nil {
			have = false
		}
	}
	if !have {
		rec.Mode &^= umask & 0o777
		return
	}
	if rec.Mode&modeType == modeDir {
		rec.Xattrs = setXattr(rec.Xattrs, xattrACLDefault, val)
	}
	u, g, o := a.entry(aclUserObj), a.groupClass(), a.entry(aclOther)
	u.perm &= uint16(rec.Mode >> 6 & 7)
	g.perm &= uint16(rec.Mode >> 3 & 7)
	o.perm &= uint16(rec.Mode & 7)
	rec.Mode = a.applyToMode(rec.Mode)
	if !a.equalsMode() {
		rec.Xattrs = setXattr(rec.Xattrs, xattrACLAccess, a.encode())
	}
}
