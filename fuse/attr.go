package fuse

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/wire"
)

const blockSize = 4096

func fillAttr(out *fuse.Attr, a *client.Attr) {
	out.Ino = uint64(a.Ino)
	out.Size = a.Size
	out.Blocks = a.Blocks
	if a.Mode&unix.S_IFMT == unix.S_IFDIR {
		out.Size = max(a.Size, 1) // find and others take 0 for a file system without sizes
	}
	out.Atime, out.Atimensec = uint64(a.Atime.Sec), a.Atime.Nsec
	out.Mtime, out.Mtimensec = uint64(a.Mtime.Sec), a.Mtime.Nsec
	out.Ctime, out.Ctimensec = uint64(a.Ctime.Sec), a.Ctime.Nsec
	out.Mode = a.Mode
	out.Nlink = a.Nlink
	out.Uid, out.Gid = a.UID, a.GID
	out.Rdev = a.Rdev
	out.Blksize = blockSize
}

// fillEntry tells the kernel of an inode. Timeouts of names are tell's (names.go).
func fillEntry(out *fuse.EntryOut, e *client.Entry) {
	out.NodeId = uint64(e.Ino)
	out.Generation = 1 // numbers are never given out twice
	fillAttr(&out.Attr, &e.Attr)
	out.SetAttrTimeout(e.Attr.TTL)
}

func fillStatx(out *fuse.Statx, a *client.Attr) {
	var f fuse.Attr
	fillAttr(&f, a)
	out.Mask = unix.STATX_BASIC_STATS | unix.STATX_BTIME
	out.Blksize = f.Blksize
	out.Nlink, out.Uid, out.Gid, out.Mode = f.Nlink, f.Uid, f.Gid, uint16(f.Mode)
	out.Ino, out.Size, out.Blocks = f.Ino, f.Size, f.Blocks
	out.Atime = fuse.SxTime{Sec: f.Atime, Nsec: f.Atimensec}
	out.Mtime = fuse.SxTime{Sec: f.Mtime, Nsec: f.Mtimensec}
	out.Ctime = fuse.SxTime{Sec: f.Ctime, Nsec: f.Ctimensec}
	out.Btime = fuse.SxTime{Sec: uint64(a.Btime.Sec), Nsec: a.Btime.Nsec}
	out.RdevMajor, out.RdevMinor = uint32(unix.Major(uint64(f.Rdev))), uint32(unix.Minor(uint64(f.Rdev)))
}

// setattr translates what a SETATTR wants changed.
func setattr(in *fuse.SetAttrIn) client.SetAttr {
	var s client.SetAttr
	v := in.Valid
	if v&fuse.FATTR_MODE != 0 {
		s.Set |= wire.SetMode
		s.Attr.Mode = in.Mode & 07777
	}
	if v&fuse.FATTR_UID != 0 {
		s.Set |= wire.SetUID
		s.Attr.UID = in.Uid
	}
	if v&fuse.FATTR_GID != 0 {
		s.Set |= wire.SetGID
		s.Attr.GID = in.Gid
	}
	if v&fuse.FATTR_SIZE != 0 {
		s.Set |= wire.SetSize
		s.Attr.Size = in.Size
	}
	if v&fuse.FATTR_ATIME_NOW != 0 {
		s.Set |= wire.SetAtimeNow
	} else if v&fuse.FATTR_ATIME != 0 {
		s.Set |= wire.SetAtime
		s.Attr.Atime = wire.Time{Sec: int64(in.Atime), Nsec: in.Atimensec}
	}
	if v&fuse.FATTR_MTIME_NOW != 0 {
		s.Set |= wire.SetMtimeNow
	} else if v&fuse.FATTR_MTIME != 0 {
		s.Set |= wire.SetMtime
		s.Attr.Mtime = wire.Time{Sec: int64(in.Mtime), Nsec: in.Mtimensec}
	}
	if v&fuse.FATTR_CTIME != 0 {
		s.Set |= wire.SetCtime
		s.Attr.Ctime = wire.TimeOf(time.Unix(int64(in.Ctime), int64(in.Ctimensec)))
	}
	if v&fuse.FATTR_KILL_SUIDGID != 0 {
		s.Set |= wire.SetKillSuid
	}
	return s
}
