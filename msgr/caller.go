package msgr

import (
	"context"
	"fmt"
	"sync"

	"github.com/capstan-fs/capstan/wire"
)

// Caller is a Handler for tools and simple shells: requests and replies matched by tid.
type Caller struct {
	Push func(c *Conn, f *Frame) // gets frames that answer no call; may be nil

	mu    sync.Mutex
	conn  *Conn
	last  uint64
	calls map[uint64]chan answer
	err   error
}

type answer struct {
	msg  wire.Message
	data []byte
	err  error
}

// DialCaller connects a Caller.
func DialCaller(ctx context.Context, net Network, addr string, self Peer, push func(*Conn, *Frame)) (*Caller, error) {
	k := &Caller{Push: push, calls: map[uint64]chan answer{}}
	c, err := Dial(ctx, net, addr, self, k)
	if err != nil {
		return nil, err
	}
	k.conn = c
	return k, nil
}

// Conn is the connection underneath.
func (k *Caller) Conn() *Conn { return k.conn }

// Close ends the connection; calls under way fail.
func (k *Caller) Close() { k.conn.Close() }

// Call sends m and waits for the frame with the same tid.
func (k *Caller) Call(ctx context.Context, m wire.Message, data ...[]byte) (wire.Message, []byte, error) {
	ch := make(chan answer, 1)
	k.mu.Lock()
	if k.err != nil {
		defer k.mu.Unlock()
		return nil, nil, k.err
	}
	k.last++
	tid := k.last
	k.calls[tid] = ch
	k.mu.Unlock()
	err := k.conn.SendNow(tid, m, data...)
	if err == nil {
		select {
		case a := <-ch:
			return a.msg, a.data, a.err
		case <-ctx.Done():
			err = fmt.Errorf("msgr: call %v at %v: %w", m.WireType(), k.conn.Peer(), ctx.Err())
		}
	}
	k.mu.Lock()
	delete(k.calls, tid)
	k.mu.Unlock()
	return nil, nil, err
}

// Frames implements Handler.
func (k *Caller) Frames(c *Conn, batch []Frame) {
	for i := range batch {
		f := &batch[i]
		k.mu.Lock()
		ch := k.calls[f.Tid]
		delete(k.calls, f.Tid)
		k.mu.Unlock()
		if ch != nil {
			ch <- answer{f.Msg, f.Retain(), nil}
		} else if k.Push != nil {
			k.Push(c, f)
		}
	}
}

// Closed implements Handler.
func (k *Caller) Closed(c *Conn, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = fmt.Errorf("msgr: %v: %w", c.Peer(), err)
	for tid, ch := range k.calls {
		ch <- answer{err: k.err}
		delete(k.calls, tid)
	}
}
