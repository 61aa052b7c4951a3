package msgr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/capstan-fs/capstan/wire"
)

// What a refused hello means to the caller; Dial's and Closed's errors wrap one of them.
// None of them is worth a retry as it stands.
var (
	ErrOtherCluster   = errors.New("the peer belongs to another cluster")
	ErrFeatures       = errors.New("the peers' versions do not fit")
	ErrUnknownSession = errors.New("the peer does not know the session")
	ErrRefused        = errors.New("the peer does not accept the connection")
)

// Refused reports whether err is the peer's own decision and not an accident of the network.
func Refused(err error) bool {
	return errors.Is(err, ErrOtherCluster) || errors.Is(err, ErrFeatures) ||
		errors.Is(err, ErrUnknownSession) || errors.Is(err, ErrRefused)
}

func refusal(r *wire.HelloRefused) error {
	err := ErrRefused
	switch r.Code {
	case wire.RefusedCluster:
		err = ErrOtherCluster
	case wire.RefusedFeatures:
		err = ErrFeatures
	case wire.RefusedUnknownSession:
		err = ErrUnknownSession
	}
	return fmt.Errorf("%w: %s", err, r.Reason)
}

func helloOf(self Peer, opt Options, sh wire.SessionHello) *wire.Hello {
	return &wire.Hello{Cluster: self.Cluster, Instance: self.Instance, Addr: self.Addr,
		Features: opt.Features, Need: opt.Need, Session: sh}
}

// check compares the peer's hello with ours; nil: they fit.
func check(self Peer, opt Options, h *wire.Hello) *wire.HelloRefused {
	if !self.Cluster.IsZero() && !h.Cluster.IsZero() && self.Cluster != h.Cluster {
		return &wire.HelloRefused{Code: wire.RefusedCluster,
			Reason: fmt.Sprintf("%v is of cluster %v, %v is of cluster %v", self.Instance, self.Cluster, h.Instance, h.Cluster)}
	}
	if missing := h.Need &^ opt.Features; missing != 0 {
		return &wire.HelloRefused{Code: wire.RefusedFeatures,
			Reason: fmt.Sprintf("%v needs features %#x that %v does not have: update %v", h.Instance, missing, self.Instance, self.Instance)}
	}
	if missing := opt.Need &^ h.Features; missing != 0 {
		return &wire.HelloRefused{Code: wire.RefusedFeatures,
			Reason: fmt.Sprintf("%v needs features %#x that %v does not have: update %v", self.Instance, missing, h.Instance, h.Instance)}
	}
	return nil
}

// say writes one frame before the connection exists. The stream has a deadline.
func say(nc net.Conn, m wire.Message) error {
	h := headerOf(0, m, nil)
	b, err := encode(nil, &h, m)
	if err != nil {
		return err
	}
	_, err = nc.Write(b)
	return err
}

// hear reads one frame; what follows it in the buffer stays there.
func hear(l *link) (wire.Message, error) {
	if err := l.rd.next(1); err != nil {
		return nil, err
	}
	m := l.rd.batch[0].Msg
	l.rd.release()
	return m, nil
}

// withDeadline runs fn while nc is bound to the hello's time and to ctx.
func withDeadline(ctx context.Context, nc net.Conn, d time.Duration, fn func() error) error {
	_ = nc.SetDeadline(time.Now().Add(d))
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	err := fn()
	if !stop() && err == nil {
		err = ctx.Err() // the deadline may be set only now
	}
	_ = nc.SetDeadline(time.Time{}) // fails on a closed stream only: whoever reads it will see
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return err
}

// greet is the dialling side of the hello.
func greet(ctx context.Context, l *link, self Peer, opt Options, sh wire.SessionHello) (*wire.Hello, error) {
	var answer wire.Message
	err := withDeadline(ctx, l.nc, opt.HelloTimeout, func() (err error) {
		if err = say(l.nc, helloOf(self, opt, sh)); err != nil {
			return err
		}
		answer, err = hear(l)
		return err
	})
	if err != nil {
		return nil, err
	}
	switch m := answer.(type) {
	case *wire.HelloRefused:
		return nil, refusal(m)
	case *wire.Hello:
		if r := check(self, opt, m); r != nil {
			return nil, refusal(r)
		}
		if m.Session.ID != sh.ID {
			return nil, fmt.Errorf("%w: answer to session %v is for %v", ErrBadFrame, sh.ID, m.Session.ID)
		}
		return m, nil
	}
	return nil, fmt.Errorf("%w: %T where a hello belongs", ErrBadFrame, answer)
}

func peerOf(h *wire.Hello) Peer {
	return Peer{Instance: h.Instance, Addr: h.Addr, Cluster: h.Cluster}
}
