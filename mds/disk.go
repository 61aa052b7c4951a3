package mds

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/capstan-fs/capstan/wire"
)

// What tools read and write of a rank's objects (capstan fsck). The records themselves are in
// record.go, entry.go and index.go; nothing of the rank uses this file.

// Records on disk, for those who look at them without a rank.
type (
	DentryRecord = dentryRec
	InodeRecord  = inodeDisk
	HeaderRecord = headerRec
	EntryRecord  = entryRec
	IndexRecord  = indexRec
	BackPointer  = backRec
	NestRecord   = nestRec
	ChargeRecord = chargeRec
	MoveRecord   = moveRec
	DentryKind   = dentryKind
)

// Kinds of dentry records.
const (
	DentryNull   = dnNull
	DentryHome   = dnHome
	DentryRemote = dnRemote
)

// Names of what a directory's object has.
const (
	BaseIno     = baseIno
	RootName    = rootName
	HeaderXattr = headerXattr
)

// MetaObjectKind says what an object of the metadata pool is.
type MetaObjectKind uint8

// Kinds of metadata objects.
const (
	MetaUnknown MetaObjectKind = iota
	MetaDir                    // number: the directory's inode
	MetaIndex                  // number: inode numbers >> 12
	MetaJournalHead
	MetaJournal // number: the object's place
)

// MetaObject tells what an object of the metadata pool is by its name.
func MetaObject(name string) (kind MetaObjectKind, number uint64, rank wire.Rank) {
	if s, ok := strings.CutSuffix(name, ".00000000.dir"); ok {
		if n, err := strconv.ParseUint(s, 16, 64); err == nil && DirObjectName(wire.Ino(n)) == name {
			return MetaDir, n, 0
		}
	}
	if s, ok := strings.CutPrefix(name, "index."); ok {
		if n, err := strconv.ParseUint(s, 16, 64); err == nil && fmt.Sprintf("index.%x", n) == name {
			return MetaIndex, n, 0
		}
	}
	if s, ok := strings.CutPrefix(name, "journal."); ok {
		r, what, _ := strings.Cut(s, ".")
		n, err := strconv.ParseInt(r, 10, 32)
		if err != nil || strconv.FormatInt(n, 10) != r {
			return MetaUnknown, 0, 0
		}
		if what == "head" {
			return MetaJournalHead, 0, wire.Rank(n)
		}
		if at, err := strconv.ParseUint(what, 16, 64); err == nil && fmt.Sprintf("%08x", at) == what {
			return MetaJournal, at, wire.Rank(n)
		}
	}
	return MetaUnknown, 0, 0
}

// DataObjectParts reads the name that wire.DataObject makes.
func DataObjectParts(name string) (ino wire.Ino, block uint64, ok bool) {
	a, b, found := strings.Cut(name, ".")
	n, err := strconv.ParseUint(a, 16, 64)
	i, err2 := strconv.ParseUint(b, 16, 64)
	if !found || err != nil || err2 != nil || wire.DataObject(0, wire.Ino(n), i).Name != name {
		return 0, 0, false
	}
	return wire.Ino(n), i, true
}

// DirObjectName names the object of a directory.
func DirObjectName(ino wire.Ino) string { return fmt.Sprintf("%x.00000000.dir", uint64(ino)) }

// JournalPrefix begins the names of a rank's journal objects.
func JournalPrefix(r wire.Rank) string { return fmt.Sprintf("journal.%d", r) }

// IndexObjectName names the object with the index line of ino; IndexKey is the line's key.
func IndexObjectName(ino wire.Ino) string { return fmt.Sprintf("index.%x", uint64(ino)>>indexShift) }

// IndexKey is the key of an inode's line in the index.
func IndexKey(ino wire.Ino) string { return indexKey(ino) }

// ShardOf says which of a rank's stray and links directories is an inode's.
func ShardOf(ino wire.Ino) int { return int(uint64(ino) % wire.SystemShards) }

// StrayName names an inode in its stray or links directory.
func StrayName(ino wire.Ino) string { return strayName(ino) }

// SystemDirs lists the names in a rank's base directory and their inode numbers.
func SystemDirs(r wire.Rank) (names []string, inos []wire.Ino) {
	if r == 0 {
		names, inos = []string{rootName}, []wire.Ino{wire.RootIno}
	}
	for i := range wire.SystemShards {
		names = append(names, strayDirName(i), linksDirName(i))
		inos = append(inos, wire.StrayDir(r, i), wire.LinksDir(r, i))
	}
	return names, inos
}

// DentryKey is a name's key in its directory's omap; DentryName undoes it.
func DentryKey(name string) string { return name + headSuffix }

// DentryName is the name of an omap key; false: the key is not of the present version.
func DentryName(key string) (string, bool) { return strings.CutSuffix(key, headSuffix) }

// HashName is the cookie that a name wants.
func HashName(name string) uint64 { return hashName(name) }

// DecodeDentry reads a dentry's record; a record that no rank would take is an error.
func DecodeDentry(b []byte) (rec DentryRecord, err error) {
	if err = wire.Unmarshal(b, &rec); err != nil {
		return rec, err
	}
	switch {
	case rec.Kind > dnRemote:
		return rec, fmt.Errorf("record of kind %d", rec.Kind)
	case rec.Kind == dnHome && (rec.Inode == nil || rec.Inode.Ino != rec.Ino):
		return rec, fmt.Errorf("a home without its inode")
	}
	return rec, nil
}

// DecodeHeader reads a directory's header out of its object's xattrs.
func DecodeHeader(xattrs []wire.KV) (HeaderRecord, error) { return decodeHeader(xattrs) }

// DecodeHeaderBytes reads the header as a journal entry has it.
func DecodeHeaderBytes(b []byte) (h HeaderRecord, err error) {
	err = wire.Unmarshal(b, &h)
	return h, err
}

// DecodeEntry reads a journal entry.
func DecodeEntry(b []byte) (*EntryRecord, error) { return decodeEntry(b) }

// DecodeIndex reads a line of the index.
func DecodeIndex(b []byte) (rec IndexRecord, err error) {
	err = wire.Unmarshal(b, &rec)
	return rec, err
}

// EncodeRecord is what the three decoders above read.
func EncodeRecord(rec any) []byte {
	b, err := wire.Append(nil, rec)
	if err != nil {
		panic(err) // documented never to fail
	}
	return b
}
