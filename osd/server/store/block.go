package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/wire"
)

// BlockBytes is the unit of allocation and of checksums.
const BlockBytes = 4096

// maxBlocks keeps block numbers in 32 bits: 16 TiB.
const maxBlocks = 1<<32 - 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// zeroes is one block of them.
var zeroes [BlockBytes]byte

// fileHeader is the first block of block and wal:
//
//	 0  8 "CAPBLK\x00" or "CAPWAL\x00" and the format version
//	 8 16 uuid of the store
//	24  8 bytes that follow the header block
//	32  4 crc32c of the above
func fileHeader(magic string, id wire.UUID, size int64) []byte {
	b := make([]byte, BlockBytes)
	copy(b, magic)
	b[7] = FormatVersion
	copy(b[8:], id[:])
	binary.LittleEndian.PutUint64(b[24:], uint64(size))
	binary.LittleEndian.PutUint32(b[32:], crc32.Checksum(b[:32], castagnoli))
	return b
}

const (
	blockMagic = "CAPBLK\x00"
	walMagic   = "CAPWAL\x00"
)

// checkHeader reads the header block of one of the store's files and returns its size
// without the header.
func checkHeader(f crashdisk.File, name, magic string, id wire.UUID) (int64, error) {
	b := make([]byte, 36)
	if _, err := f.ReadAt(b, 0); err == io.EOF {
		return 0, fmt.Errorf("%w: %s is shorter than its header; %s", ErrCorrupt, name, giveUp)
	} else if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	if string(b[:7]) != magic {
		return 0, fmt.Errorf("%w: the head of %s is not one of ours; %s", ErrCorrupt, name, giveUp)
	}
	if b[7] != FormatVersion {
		return 0, fmt.Errorf("%w: %s has format %d, this program knows %d; use the version of Capstan that made it or a newer one", ErrFormat, name, b[7], FormatVersion)
	}
	if crc32.Checksum(b[:32], castagnoli) != binary.LittleEndian.Uint32(b[32:]) {
		return 0, fmt.Errorf("%w: the head of %s has a bad checksum; %s", ErrCorrupt, name, giveUp)
	}
	if wire.UUID(b[8:24]) != id {
		return 0, fmt.Errorf("%w: %s belongs to store %v, %s to %v; one of them was copied from elsewhere", ErrForeign, name, wire.UUID(b[8:24]), superName, id)
	}
	size := int64(binary.LittleEndian.Uint64(b[24:]))
	have, err := f.Size()
	if err != nil {
		return 0, err
	}
	if size <= 0 || have < size+BlockBytes {
		return 0, fmt.Errorf("%w: %s is truncated: %d bytes, its head says %d; %s", ErrCorrupt, name, have, size+BlockBytes, giveUp)
	}
	return size, nil
}

const giveUp = "the store cannot be opened: remove the directory and start this OSD again, it is refilled from its replicas"

// growBlockFile gives the block file up to want bytes behind its header, if that is more than it
// has, and returns what it has then. Its head says how long it was made; a longer file is one
// that grew. It never shrinks.
func growBlockFile(f crashdisk.File, made, want int64) (int64, error) {
	have, err := f.Size()
	if err != nil {
		return 0, err
	}
	size := max(made, (have-BlockBytes)/BlockBytes*BlockBytes)
	want = min(want/BlockBytes, maxBlocks-1) * BlockBytes
	if want <= size {
		return size, nil
	}
	// Durable before a block behind the old end is given out, for its record may be durable soon.
	if err := errors.Join(f.Truncate(want+BlockBytes), f.Sync()); err != nil {
		return 0, fmt.Errorf("%s: grow from %d to %d bytes: %w", blockName, size, want, err)
	}
	return want, nil
}

func makeBlockFile(f crashdisk.File, id wire.UUID, size int64) error {
	size = max(size/BlockBytes, 2) * BlockBytes
	if size/BlockBytes > maxBlocks {
		return fmt.Errorf("block file of %d bytes: at most 16 TiB", size)
	}
	if err := f.Truncate(size + BlockBytes); err != nil {
		return err
	}
	_, err := f.WriteAt(fileHeader(blockMagic, id, size), 0)
	return err
}

// blockFile is the data. Every block is read with the checksum that its reference carries.
type blockFile struct {
	f      crashdisk.File
	direct crashdisk.File // past the page cache; nil: there is no such way
	cached interface {    // reads what the page cache has; nil: there is no such way
		ReadCached(p []byte, off int64) bool
	}
	bad atomic.Uint64
}

// ref is where a block's durable content lies; phys 0 is a hole.
type ref struct{ phys, crc uint32 }

// BadBlock reports data that does not match its checksum.
type BadBlock struct {
	PG     wire.PGID
	Object string
	Off    uint64 // in the object
	Block  uint32 // in the block file
	Err    error  // of the disk; nil: it returned wrong bytes
}

func (e *BadBlock) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("store: pg %v object %q at %d: block %d cannot be read: %v", e.PG, e.Object, e.Off, e.Block, e.Err)
	}
	return fmt.Sprintf("store: pg %v object %q at %d: block %d has a bad checksum", e.PG, e.Object, e.Off, e.Block)
}

// Unwrap makes errors.Is(err, ErrBadBlock) true.
func (e *BadBlock) Unwrap() []error { return []error{ErrBadBlock, e.Err} }

// read fills dst, whole blocks, from physically adjacent refs. It returns the index of the
// first bad block, or -1.
func (b *blockFile) read(dst []byte, refs []ref) (bad int, err error) {
	if _, err := b.f.ReadAt(dst, int64(refs[0].phys)*BlockBytes); err != nil {
		b.bad.Add(1)
		return 0, err
	}
	if bad = badIn(dst, refs); bad >= 0 {
		b.bad.Add(1)
	}
	return bad, nil
}

// badIn is the index of the first block of p that does not match its checksum, or -1.
func badIn(p []byte, refs []ref) int {
	for i, r := range refs {
		if crc32.Checksum(p[i*BlockBytes:(i+1)*BlockBytes], castagnoli) != r.crc {
			return i
		}
	}
	return -1
}

// hints tells the system how the file is read. It is not to read ahead: what comes next in the
// file is another object's, and clients read ahead by themselves.
func (b *blockFile) hints() {
	b.cached, _ = b.f.(interface {
		ReadCached(p []byte, off int64) bool
	})
	if f, ok := b.f.(interface{ NoReadAhead() }); ok {
		f.NoReadAhead()
	}
}

func (b *blockFile) write(e extent, p []byte) error {
	_, err := b.f.WriteAt(p, int64(e.phys)*BlockBytes)
	return err
}

// openDirect looks for a way past the page cache: a large write is then copied once less, and
// does not push out what is read. Without one everything works the same.
func (b *blockFile) openDirect(fs crashdisk.FS) {
	if d, ok := fs.(interface {
		OpenDirect(string) (crashdisk.File, error)
	}); ok {
		if f, err := d.OpenDirect(blockName); err == nil {
			b.direct = f
		}
	}
}

// writeDirect is write, past the page cache if the system takes these bytes so.
func (b *blockFile) writeDirect(e extent, p []byte) error {
	if b.direct != nil && uintptr(unsafe.Pointer(&p[0]))%BlockBytes == 0 {
		_, err := b.direct.WriteAt(p, int64(e.phys)*BlockBytes)
		if !errors.Is(err, syscall.EINVAL) { // the device has larger blocks than ours
			return err
		}
	}
	return b.write(e, p)
}

// blocksOf is the number of blocks that n bytes take.
func blocksOf(n uint64) uint64 { return (n + BlockBytes - 1) / BlockBytes }
