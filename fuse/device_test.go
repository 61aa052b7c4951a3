package fuse

import (
	"encoding/binary"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/wire"
)

// kernel is the other end of a device: a socket that keeps messages apart, as /dev/fuse does.
type kernel struct {
	t    *testing.T
	file *os.File
}

// scripted is a file system whose locks wait until they are interrupted.
type scripted struct {
	fuse.RawFileSystem
	dev   *device
	reads func() []byte
}

func (s *scripted) SetLkw(_ <-chan struct{}, in *fuse.LkIn) fuse.Status {
	<-s.dev.cancel(in.Unique)
	return fuse.EINTR
}

func (s *scripted) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	return s.dev.read(in.Unique, s.reads()), fuse.OK
}

func (s *scripted) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Attr.Ino = in.NodeId
	return fuse.OK
}

func (s *scripted) Statx(_ <-chan struct{}, in *fuse.StatxIn, _ *fuse.StatxOut) fuse.Status {
	s.dev.reply(in.Unique, []byte("before go-fuse's"))
	return fuse.OK
}

// startDevice returns when INIT is answered. ended is closed when serve has returned, failed when the
// device has given up by itself.
func startDevice(t *testing.T, fs *scripted) (k *kernel, ended, failed chan struct{}) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	k = &kernel{t, os.NewFile(uintptr(pair[0]), "kernel")}
	t.Cleanup(func() { k.file.Close() })
	init := make([]byte, 64)
	binary.NativeEndian.PutUint32(init[0:], 7)
	binary.NativeEndian.PutUint32(init[4:], 45)
	k.send(opInit, 2, init)
	ended, failed = make(chan struct{}), make(chan struct{})
	fs.RawFileSystem = fuse.NewDefaultRawFileSystem()
	fs.dev, _, err = newDevice(pair[1], fs, &fuse.MountOptions{MaxWrite: 64 << 10}, zerolog.Nop(), sync.OnceFunc(func() { close(failed) }))
	if err != nil {
		t.Fatal(err)
	}
	if unique, errno, _ := k.answer(); unique != 2 || errno != 0 {
		t.Fatalf("INIT is answered %d, errno %d", unique, errno)
	}
	go func() { fs.dev.serve(); close(ended) }()
	return k, ended, failed
}

func (k *kernel) send(op uint32, unique uint64, body []byte) {
	k.t.Helper()
	b := make([]byte, inHeader, inHeader+len(body))
	binary.NativeEndian.PutUint32(b[0:], uint32(inHeader+len(body)))
	binary.NativeEndian.PutUint32(b[4:], op)
	binary.NativeEndian.PutUint64(b[8:], unique)
	binary.NativeEndian.PutUint64(b[16:], 1)
	if _, err := k.file.Write(append(b, body...)); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kernel) interrupt(unique uint64) {
	k.t.Helper()
	k.send(opInterrupt, unique|1, binary.NativeEndian.AppendUint64(nil, unique))
}

func (k *kernel) answer() (unique uint64, errno syscall.Errno, body []byte) {
	k.t.Helper()
	b := make([]byte, 128<<10)
	n, err := k.file.Read(b)
	if err != nil || n < outHeader || int(binary.NativeEndian.Uint32(b)) != n {
		k.t.Fatalf("an answer of %d bytes, %v", n, err)
	}
	return binary.NativeEndian.Uint64(b[8:]), syscall.Errno(-int32(binary.NativeEndian.Uint32(b[4:]))), b[outHeader:n]
}

const (
	opGetattr = 3
	opSetlkw  = 33
	opStatx   = 52
)

// The kernel sends INTERRUPT right behind a request that nobody has looked at yet, or long after its
// answer; the first must not be lost, and nobody but who was meant may be told.
func TestInterruptFindsItsRequest(t *testing.T) {
	k, ended, _ := startDevice(t, &scripted{})
	const rounds, mark = 2000, 1 << 30
	waits := uint64(mark)
	k.send(opSetlkw, waits, make([]byte, 48))
	for i := uint64(1); i <= rounds; i++ {
		k.send(opSetlkw, 4*i, make([]byte, 48))
		k.interrupt(4 * i)
		if unique, errno, _ := k.answer(); unique != 4*i || errno != syscall.EINTR {
			t.Fatalf("answer to %d: errno %d; want to %d: EINTR", unique, errno, 4*i)
		}
		k.interrupt(4 * i)
	}
	k.interrupt(waits)
	k.interrupt(waits) // is not answered again
	if unique, errno, _ := k.answer(); unique != waits || errno != syscall.EINTR {
		t.Fatalf("answer to %d: errno %d", unique, errno)
	}
	k.send(opGetattr, 8*mark, make([]byte, 16))
	if unique, errno, _ := k.answer(); unique != 8*mark || errno != 0 {
		t.Fatalf("answer to %d: errno %d", unique, errno)
	}
	k.file.Close()
	<-ended
}

// When no more requests can be read, who waits is told, the mount is told to end, and serve returns.
func TestNobodyWaitsWhenTheConnectionEnds(t *testing.T) {
	k, ended, failed := startDevice(t, &scripted{})
	for i := uint64(1); i <= 100; i++ {
		k.send(opSetlkw, 4*i, make([]byte, 48))
	}
	k.file.Close() // reads as a request of no bytes: not what an unmount looks like
	<-failed
	<-ended
}

// A forced unmount has answered everybody: a request that waits for a rank that is not there is given up,
// or the process would stay for as long as anybody who had asked it lives.
func TestARequestIsGivenUpWhenTheConnectionEnds(t *testing.T) {
	fs := &scripted{}
	k, ended, _ := startDevice(t, fs)
	real := &fileSystem{dev: fs.dev, places: newPlaces(wire.RootIno)}
	h := &fuse.InHeader{Unique: 4, Caller: fuse.Caller{Pid: uint32(os.Getpid())}}
	c := real.caller(h)
	if c.Killed(c.PID) {
		t.Error("it lives, and counts as killed")
	}
	k.file.Close()
	<-ended
	c = real.caller(h)
	<-c.Cancel
	if !c.Killed(c.PID) {
		t.Error("it is waited for")
	}
}

// An answer that the kernel refuses leaves nobody waiting.
func TestARefusedAnswerIsEIO(t *testing.T) {
	fs := &scripted{reads: func() []byte { return make([]byte, 64<<10) }}
	k, ended, _ := startDevice(t, fs)
	if err := unix.SetsockoptInt(fs.dev.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<10); err != nil {
		t.Fatal(err)
	}
	read := make([]byte, 40)
	binary.NativeEndian.PutUint32(read[16:], 64<<10)
	k.send(opRead, 4, read)
	if unique, errno, body := k.answer(); unique != 4 || errno != syscall.EIO || len(body) != 0 {
		t.Fatalf("answer to %d: errno %d, %d bytes", unique, errno, len(body))
	}
	k.file.Close()
	<-ended
}

// What a handler has answered itself is not answered again, and reads come as they are.
func TestOneAnswerEach(t *testing.T) {
	fs := &scripted{reads: func() []byte { return []byte("bytes") }}
	k, ended, _ := startDevice(t, fs)
	k.send(opStatx, 4, make([]byte, 24))
	read := make([]byte, 40)
	binary.NativeEndian.PutUint32(read[16:], 4096)
	for _, want := range []string{"before go-fuse's", "bytes"} {
		if _, errno, body := k.answer(); errno != 0 || string(body) != want {
			t.Fatalf("errno %d, %q; want %q", errno, body, want)
		}
		k.send(opRead, 8, read)
	}
	if _, errno, body := k.answer(); errno != 0 || string(body) != "bytes" {
		t.Fatalf("errno %d, %q", errno, body)
	}
	k.file.Close()
	<-ended
}
