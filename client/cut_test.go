package client

import (
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// A mount that holds nothing of a file is not told of a truncation (it keeps no pages). It hears of it with
// the next w, also when others have w too and the size is not the rank's to tell: its next flush must name
// that truncation, or the rank takes the size for one of before and drops it, with all that was written.
func TestATruncationIsHeardOfWithW(t *testing.T) {
	in := &Inode{c: &Client{}}
	stat := func(seq uint32, size uint64, valid wire.AttrMask, pending caps.Bits) {
		in.applyAttr(&wire.InodeStat{TruncSeq: seq, Valid: valid, Attr: wire.Attr{Size: size}, Cap: &wire.Cap{Pending: pending}})
	}
	stat(1, 100, wire.MaskFile, caps.FileShared)
	stat(2, 5, 0, caps.AuthShared)
	if in.tseq != 1 || in.attr.Size != 100 {
		t.Errorf("without w: truncation %d, size %d; it may not be durable yet", in.tseq, in.attr.Size)
	}
	stat(2, 5, 0, caps.FileWr)
	if in.tseq != 2 || in.attr.Size != 5 {
		t.Errorf("with w: truncation %d, size %d", in.tseq, in.attr.Size)
	}
	in.attr.Size, in.dirty = 11, true
	stat(2, 5, 0, caps.FileWr)
	if in.attr.Size != 11 {
		t.Errorf("the same truncation again: size %d", in.attr.Size)
	}
	var u wire.CapUpdate
	in.dirtyFields(&u, in.attr.Size)
	if u.TruncSeq != 2 || u.Attr.Size != 11 {
		t.Errorf("handed in: size %d behind truncation %d", u.Attr.Size, u.TruncSeq)
	}
}
