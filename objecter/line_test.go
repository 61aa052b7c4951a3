package objecter

import (
	"context"
	"testing"

	"github.com/capstan-fs/capstan/msgr"
)

// closing says when a connection of the line has ended.
type closing struct {
	*line
	done chan struct{}
}

func (h closing) Closed(c *msgr.Conn, err error) {
	h.line.Closed(c, err)
	close(h.done)
}

// An OSD hangs up right behind its hello, before the line has taken the connection: taken, it would
// be kept for ever, and what is sent on it refused for ever.
func TestAConnectionThatHasEndedIsNotTaken(t *testing.T) {
	o, maps, _ := setup(t)
	d := maps.m.OSDs[0]
	l := &line{o: o, id: d.ID, inst: d.Instance, addr: d.Addr}
	h := closing{l, make(chan struct{})}
	dial := func() *msgr.Conn {
		c, err := msgr.Dial(context.Background(), o.cfg.Net, d.Addr, o.cfg.Self, h)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := dial()
	c.Close()
	<-h.done
	h.done = make(chan struct{})
	next := dial()
	defer next.Close()
	o.mu.Lock()
	defer o.mu.Unlock()
	if l.took(c) || l.conn != nil {
		t.Fatal("a connection that has ended was taken")
	}
	if !l.took(next) {
		t.Fatal("one that lives was not")
	}
}
