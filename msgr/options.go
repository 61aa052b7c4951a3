package msgr

import (
	"time"

	"github.com/rs/zerolog"
)

// Options of a server or a dialled connection; the zero value is good.
type Options struct {
	HelloTimeout time.Duration // until both sides know each other; 10 s
	Limits       Limits        // of received frames and of sent data; DefaultLimits
	MaxQueued    int           // bytes; Send refuses with ErrFull above it; 256 MiB
	Linger       time.Duration // how long a server keeps a session without a stream; 5 min
	Features     uint64        // what this side can do
	Need         uint64        // what the peer must be able to do
	Log          zerolog.Logger
}

func (o Options) withDefaults() Options {
	if o.HelloTimeout == 0 {
		o.HelloTimeout = 10 * time.Second
	}
	if o.Limits == (Limits{}) {
		o.Limits = DefaultLimits
	}
	if o.MaxQueued == 0 {
		o.MaxQueued = 256 << 20
	}
	if o.Linger == 0 {
		o.Linger = 5 * time.Minute
	}
	return o
}
