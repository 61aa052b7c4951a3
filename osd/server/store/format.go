package store

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/wire"
)

// The files of a store.
const (
	superName  = "store.json"
	blockName  = "block"
	walName    = "wal"
	metaName   = "meta.db"
	makingName = "store.making" // exists while a store is being made
)

// FormatVersion is the version of everything below a store's directory. 2: values of meta.db
// end with a checksum.
const FormatVersion = 2

// super is store.json: text, so that a person can tell what the directory is.
type super struct {
	What    string `json:"what"`
	Format  int    `json:"format"`
	UUID    string `json:"uuid"`
	Cluster string `json:"cluster,omitempty"`
	Owner   string `json:"owner,omitempty"`
}

const superWhat = "capstan object store"

// make creates the files of an empty store of the wished size. store.json comes last: a
// directory without it was never a store, and the marker says that it was about to be one.
func makeStore(dir crashdisk.FS, makeMeta func() error, o Options) (super, error) {
	var id [16]byte
	if _, err := io.ReadFull(o.Rand, id[:]); err != nil {
		return super{}, err
	}
	sp := super{What: superWhat, Format: FormatVersion, UUID: hex.EncodeToString(id[:]), Owner: o.Owner}
	if !o.Cluster.IsZero() {
		sp.Cluster = hex.EncodeToString(o.Cluster[:])
	}
	if f, err := dir.Create(makingName); err != nil {
		return super{}, err
	} else if err := f.Close(); err != nil {
		return super{}, err
	}
	if err := dir.SyncDir(); err != nil {
		return super{}, err
	}
	if err := makeFile(dir, blockName, func(f crashdisk.File) error { return makeBlockFile(f, id, o.Bytes) }); err != nil {
		return super{}, err
	}
	if err := makeFile(dir, walName, func(f crashdisk.File) error { return makeWAL(f, id, o.WALBytes) }); err != nil {
		return super{}, err
	}
	if err := makeMeta(); err != nil {
		return super{}, err
	}
	text, err := json.MarshalIndent(sp, "", "  ")
	if err != nil {
		return super{}, err
	}
	if err := makeFile(dir, superName+".tmp", func(f crashdisk.File) error {
		_, err := f.WriteAt(append(text, '\n'), 0)
		return err
	}); err != nil {
		return super{}, err
	}
	if err := dir.SyncDir(); err != nil {
		return super{}, err
	}
	if err := dir.Rename(superName+".tmp", superName); err != nil {
		return super{}, err
	}
	if err := dir.SyncDir(); err != nil {
		return super{}, err
	}
	if err := dir.Remove(makingName); err != nil {
		return super{}, err
	}
	return sp, dir.SyncDir()
}

func makeFile(dir crashdisk.FS, name string, fill func(crashdisk.File) error) error {
	f, err := dir.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Sync(), f.Close())
}

// prepare makes the store when the directory is empty and may be made into one; otherwise it
// reads store.json. made: the store is new.
func prepare(dir crashdisk.FS, makeMeta func() error, o Options) (sp super, made bool, err error) {
	names, err := dir.List()
	if err != nil {
		return sp, false, err
	}
	has := map[string]bool{}
	for _, n := range names {
		has[n] = true
	}
	if !has[superName] {
		for _, n := range names {
			ours := n == blockName || n == walName || n == metaName || n == superName+".tmp" || n == makingName
			switch {
			case !ours:
				return sp, false, fmt.Errorf("%w: it holds %q but no %s; give an empty directory", ErrForeign, n, superName)
			case !has[makingName]:
				return sp, false, fmt.Errorf("%w: %s is missing beside %q; put it back (its uuid is in the first block of %s) or remove the directory to give this store up",
					ErrCorrupt, superName, n, blockName)
			}
		}
		if !o.Create {
			return sp, false, fmt.Errorf("%w: there is no %s", ErrNoStore, superName)
		}
		for _, n := range names { // what an interrupted making has left; the marker goes last
			if n != makingName {
				if err := dir.Remove(n); err != nil {
					return sp, false, err
				}
			}
		}
		if has[makingName] {
			if err := errors.Join(dir.SyncDir(), dir.Remove(makingName)); err != nil {
				return sp, false, err
			}
		}
		sp, err = makeStore(dir, makeMeta, o)
		return sp, true, err
	}
	if has[makingName] {
		if err := dir.Remove(makingName); err != nil {
			return sp, false, err
		}
	}
	if sp, err = readSuper(dir); err != nil {
		return sp, false, err
	}
	if want := hex.EncodeToString(o.Cluster[:]); !o.Cluster.IsZero() && sp.Cluster != "" && sp.Cluster != want {
		return sp, false, fmt.Errorf("%w: %s belongs to cluster %s, not %s; give another directory", ErrForeign, superName, sp.Cluster, want)
	}
	if o.Owner != "" && sp.Owner != "" && sp.Owner != o.Owner {
		return sp, false, fmt.Errorf("%w: %s belongs to %s, not %s; give another directory", ErrForeign, superName, sp.Owner, o.Owner)
	}
	return sp, false, nil
}

func readSuper(dir crashdisk.FS) (sp super, err error) {
	text, err := readAll(dir, superName)
	if err != nil {
		return sp, err
	}
	if err := json.Unmarshal(text, &sp); err != nil || sp.What != superWhat {
		return sp, fmt.Errorf("%w: %s is no description of an object store (%v)", ErrForeign, superName, err)
	}
	if sp.Format != FormatVersion {
		return sp, fmt.Errorf("%w: %s says format %d, this program knows %d; use the version of Capstan that made it or a newer one",
			ErrFormat, superName, sp.Format, FormatVersion)
	}
	return sp, nil
}

func (sp super) uuid() (u wire.UUID, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(sp.UUID, "-", ""))
	if err != nil || len(b) != len(u) {
		return u, fmt.Errorf("%w: %s: uuid %q", ErrCorrupt, superName, sp.UUID)
	}
	return wire.UUID(b), nil
}

func readAll(dir crashdisk.FS, name string) ([]byte, error) {
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(size, 64<<10))
	n, err := f.ReadAt(b, 0)
	if err == io.EOF {
		err = nil
	}
	return b[:n], err
}

// open opens one of the store's files, with an error that says what a missing one means.
func open(dir crashdisk.FS, name string) (crashdisk.File, error) {
	f, err := dir.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing; the store cannot be used without it: remove the directory to give this store up (its replicas have the data)", ErrCorrupt, name)
	}
	return f, err
}

var cryptoRand io.Reader = rand.Reader
