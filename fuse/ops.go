package fuse

import "sync/atomic"

// The kernel's requests by number, as far as they are answered here (fuse(4)).
var opNames = [numOps]string{1: "LOOKUP", 3: "GETATTR", 4: "SETATTR", 5: "READLINK", 6: "SYMLINK", 8: "MKNOD", 9: "MKDIR", 10: "UNLINK",
	11: "RMDIR", 12: "RENAME", 13: "LINK", 14: "OPEN", 15: "READ", 16: "WRITE", 17: "STATFS", 18: "RELEASE", 20: "FSYNC", 21: "SETXATTR",
	22: "GETXATTR", 23: "LISTXATTR", 24: "REMOVEXATTR", 25: "FLUSH", 27: "OPENDIR", 28: "READDIR", 29: "RELEASEDIR", 30: "FSYNCDIR",
	31: "GETLK", 32: "SETLK", 33: "SETLKW", 34: "ACCESS", 35: "CREATE", 43: "FALLOCATE", 44: "READDIRPLUS", 45: "RENAME2", 46: "LSEEK",
	47: "COPY_FILE_RANGE", 51: "TMPFILE", 52: "STATX"}

const numOps = 64

// opCounts counts requests of all mounts of this process.
var opCounts [numOps]atomic.Uint64

// Ops are how many requests of each sort the mounts of this process have had. Requests that wait for
// nobody (FORGET, FLUSH, RELEASE) are not counted.
func Ops() map[string]uint64 {
	m := map[string]uint64{}
	for i := range opCounts {
		if n := opCounts[i].Load(); n > 0 && opNames[i] != "" {
			m[opNames[i]] = n
		}
	}
	return m
}
