package walk

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/wire"
)

// ErrMoved ends a reading during which another daemon took the rank; errOvertaken one that was
// slower than the rank trims its journal. Both are begun anew.
var (
	ErrMoved     = errors.New("the rank was given to another daemon meanwhile")
	errOvertaken = errors.New("the rank trimmed its journal faster than it was read")
)

// damage says that the journal itself is what is wrong.
type damage struct{ err error }

func (d *damage) Error() string { return d.err.Error() }
func (d *damage) Unwrap() error { return d.err }

// tail reads a rank's journal on and on.
type tail struct {
	o    Objects
	pool uint32
	rank wire.Rank
	each func(*mds.EntryRecord) error

	head journal.Header
	mark journal.Mark // read up to here
}

// begin finds the journal.
func (t *tail) begin(ctx context.Context) (err error) {
	if t.head, err = readHead(ctx, t.o, t.pool, t.rank); err != nil {
		return err
	}
	t.mark = t.head.Expire
	return nil
}

func readHead(ctx context.Context, o Objects, pool uint32, rank wire.Rank) (h journal.Header, err error) {
	obj := wire.ObjectID{Pool: pool, Name: journal.HeadName(mds.JournalPrefix(rank))}
	e, res, err := o.Do(ctx, obj, []wire.ObjOp{{Kind: wire.ObjRead, Len: journal.EncodedHeader}})
	switch {
	case err != nil:
		return h, fmt.Errorf("read %v: %w", obj, err)
	case e != 0:
		return h, &damage{fmt.Errorf("read %v: %w", obj, syscall.Errno(e))}
	}
	if h, err = journal.DecodeHeader(res[0].Data); err != nil {
		return h, &damage{fmt.Errorf("%v: %w", obj, err)}
	}
	return h, nil
}

const (
	holeRetries = 20 // a living rank's two writes may become visible in any order
	holePause   = 20 * time.Millisecond
)

// follow reads what was appended since.
func (t *tail) follow(ctx context.Context) error {
	for try := 0; ; try++ {
		h, err := readHead(ctx, t.o, t.pool, t.rank)
		if err != nil {
			return err
		}
		if h.Inc != t.head.Inc {
			return ErrMoved
		}
		from := h
		from.Expire = t.mark
		end, err := journal.Replay(t.read(ctx), from, journal.DefaultLimits, func(rec journal.Record) error {
			e, err := mds.DecodeEntry(append([]byte(nil), rec.Data...))
			if err == nil {
				err = t.each(e)
			}
			if err != nil {
				return &damage{fmt.Errorf("journal entry at %d: %w", rec.Pos, err)}
			}
			return nil
		})
		t.mark = end.Mark
		switch {
		case h.Expire.Pos > t.mark.Pos:
			return errOvertaken
		case errors.Is(err, journal.ErrHole) && try < holeRetries:
			select {
			case <-time.After(holePause):
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		case errors.Is(err, journal.ErrHole):
			return &damage{err}
		}
		return err
	}
}

// read is a journal.ReadFunc over the journal's objects.
func (t *tail) read(ctx context.Context) journal.ReadFunc {
	return func(off journal.Pos, max int) ([]byte, error) {
		p := journal.Pieces(off, max)[0]
		obj := wire.ObjectID{Pool: t.pool, Name: journal.ObjectName(mds.JournalPrefix(t.rank), p.Index)}
		e, res, err := t.o.Do(ctx, obj, []wire.ObjOp{{Kind: wire.ObjRead, Off: uint64(p.Off), Len: uint64(p.Len)}})
		switch {
		case err != nil:
			return nil, err
		case syscall.Errno(e) == syscall.ENOENT:
			return nil, nil
		case e != 0:
			return nil, fmt.Errorf("read %v: %w", obj, syscall.Errno(e))
		}
		return res[0].Data, nil
	}
}
