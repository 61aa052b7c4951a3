package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"
)

// bbolt maps its file and trusts its pages: a file that lost its end is a SIGBUS in the middle
// of some later read, and an empty one is quietly made anew. So daemons look before they open.

// checkBolt reads the two meta pages of a bbolt file and compares the length that the newer
// one tells with the file's. A file that is not there is the opener's matter.
func checkBolt(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	const header, metaBytes = 16, 64
	var pages, pageSize, newest uint64
	for _, size := range []int64{int64(os.Getpagesize()), 4096, 16384, 65536} {
		for i := range int64(2) {
			b := make([]byte, header+metaBytes)
			if _, err := f.ReadAt(b, i*size); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			m := b[header:]
			h := fnv.New64a()
			h.Write(m[:56])
			if binary.NativeEndian.Uint32(m) != 0xED0CDAED || binary.NativeEndian.Uint64(m[56:]) != h.Sum64() || int64(binary.NativeEndian.Uint32(m[8:])) != size {
				continue
			}
			if txid := binary.NativeEndian.Uint64(m[48:]); pages == 0 || txid > newest {
				pages, pageSize, newest = binary.NativeEndian.Uint64(m[40:]), uint64(size), txid
			}
		}
		if pages != 0 {
			break
		}
	}
	switch {
	case pages == 0:
		return fmt.Errorf("%s is damaged: it is no database, or neither of its heads is whole", path)
	case uint64(fi.Size()) < pages*pageSize:
		return fmt.Errorf("%s is damaged: it is truncated: %d bytes, its head says %d", path, fi.Size(), pages*pageSize)
	}
	return walkBolt(path)
}

// walkBolt reads every page that a key leads to. bbolt does so too when it opens the file, but
// in a goroutine of its own, whose panic over a bad page nobody could catch.
func walkBolt(path string) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: 2 * time.Second})
	if err != nil {
		return fmt.Errorf("%s is damaged or in use: %w", path, err)
	}
	defer db.Close()
	return db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	})
}

// guarded runs a start that reads what may be damaged: what panics over it, or touches a page
// of a file that is not there, is an error that names the directory.
func guarded(dir string, log zerolog.Logger, run func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			log.Error().Str("dir", dir).Bytes("stack", debug.Stack()).Msgf("start: %v", p)
			err = fmt.Errorf("what is in %s is damaged: %v", dir, p)
		}
	}()
	return run()
}

const (
	rejoin  = "remove %s and start this monitor again, it is filled from the others"
	refill  = "remove %s and start this OSD again, it is refilled from its replicas"
	restore = "restore %s from a copy; without it the cluster's maps are lost (a monitor that never came up may start on an empty directory)"
)

// checkMonStore refuses a monitor's store that lost its database: an empty one would become
// another, new cluster.
func checkMonStore(d *DataDir, several bool) error {
	db := d.File("store/raft.db")
	err := checkBolt(db)
	if fi, serr := os.Stat(db); serr != nil || fi.Size() == 0 {
		if _, merr := os.Stat(d.File(madeFile)); merr != nil {
			return nil // it never led: nothing can be lost
		}
		err = fmt.Errorf("%s is damaged: it is gone or empty, but this monitor has served before", db)
	}
	if err != nil {
		what := restore
		if several {
			what = rejoin
		}
		return fmt.Errorf("%w: "+what, err, d.Path)
	}
	return nil
}

// madeFile says that a monitor has led once.
const madeFile = "served"

func noteMade(d *DataDir) error {
	if _, err := os.Stat(d.File(madeFile)); err == nil {
		return nil
	}
	return os.WriteFile(d.File(madeFile), []byte("This monitor's store holds a cluster.\n"), 0o644)
}

// checkOSDStore refuses an OSD's metadata database that lost its end.
func checkOSDStore(d *DataDir) error {
	if _, err := os.Stat(d.File("store/store.making")); err == nil {
		return nil // it was never finished and is made again
	}
	if _, err := os.Stat(filepath.Join(d.Path, "store", "store.json")); err != nil {
		return nil // the store says it better, or there is none
	}
	if err := checkBolt(d.File("store/meta.db")); err != nil {
		return fmt.Errorf("%w: "+refill, err, d.Path)
	}
	return nil
}
