package client

import (
	"slices"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/wire"
)

// kernelOf is a Namer whose threads take their answers in when the test says so.
type kernelOf map[uint32]bool // threads that have not

func (kernelOf) Attrs(wire.Ino)        {}
func (kernelOf) Pages(wire.Ino)        {}
func (kernelOf) Prune(wire.Ino)        {}
func (kernelOf) Name(wire.Ino, string) {}
func (kernelOf) Always() bool          { return false }
func (k kernelOf) TookIn(threads []uint32, _ time.Duration) []uint32 {
	return slices.DeleteFunc(slices.Clone(threads), func(th uint32) bool { return !k[th] })
}

// told is a directory of which two threads were answered about a and b, and one about c before it
// asked for b.
func toldABC(k kernelOf, now int64) *dirState {
	d := &dirState{}
	t := &d.told
	for i, name := range []string{"a", "b", "c", "b"} {
		th := uint32(min(i, 2))
		t.room(k, name, th, now)
		if old, ok := t.threads[th]; ok && old != name {
			t.wentOn(th, now)
		}
		t.until[name], t.last = now+nameTimeout, now+nameTimeout
		t.threads[th] = name
	}
	return d
}

// Whoever takes a name back waits for the threads that were told of this name last, and for no other.
func TestThreadsOfAName(t *testing.T) {
	d := toldABC(nil, 1)
	for name, want := range map[string][]uint32{"a": {0}, "b": {1, 2}, "c": nil} {
		names, threads := d.told.take(2, func(n string) bool { return n == name })
		slices.Sort(threads)
		if !slices.Equal(names, []string{name}) || !slices.Equal(threads, want) {
			t.Errorf("%s: names %q, threads %v, want %v", name, names, threads, want)
		}
		d.told.gone(names, threads)
	}
	if len(d.told.threads) != 0 || len(d.told.leaving) != 0 {
		t.Errorf("left: %v %v", d.told.threads, d.told.leaving)
	}
}

// However old it is: a name of which a thread has not taken in what it was told is not forgotten, nor
// one of which a thread has perhaps just now.
func TestANameUnderWayIsNotForgotten(t *testing.T) {
	k := kernelOf{1: true}
	d := toldABC(k, 1)
	late := int64(time.Hour)
	d.told.prune(late, k)
	names, threads := d.told.take(late, nil)
	slices.Sort(names)
	if !slices.Equal(names, []string{"a", "b"}) || !slices.Equal(threads, []uint32{1}) {
		t.Errorf("after an hour: names %q, threads %v", names, threads)
	}
	// It goes on at last.
	d = toldABC(k, 1)
	d.told.prune(late, k)
	delete(k, 1)
	d.told.prune(2*late, k)
	if names, _ := d.told.take(2*late+nameTimeout, nil); !slices.Equal(names, []string{"b"}) {
		t.Errorf("names %q", names)
	}
}

// A rename takes what the kernel knows to the new name, also when the old one is being expired: that
// waits for the rename, and finds another name then (N4, N5).
func TestARenameTakesAnExpiryWithIt(t *testing.T) {
	d := toldABC(nil, 1)
	names, threads := d.told.take(2, func(n string) bool { return n == "b" })
	moved(d, "b", d, "new", false, 3)
	d.told.gone(names, threads)
	if got, _ := d.told.take(4, func(n string) bool { return n == "new" }); len(got) != 1 {
		t.Error("the new name counts as unknown to the kernel")
	}
}
