package cluster

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/msgr"
)

// Logger writes lines for people to a terminal and JSON elsewhere.
func Logger(level string, w io.Writer) (zerolog.Logger, error) {
	l, err := zerolog.ParseLevel(level)
	if err != nil {
		return zerolog.Nop(), fmt.Errorf("log_level: %w", err)
	}
	if f, ok := w.(*os.File); ok {
		if fi, err := f.Stat(); err == nil && fi.Mode()&os.ModeCharDevice != 0 {
			w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly}
		}
	}
	return zerolog.New(w).Level(l).With().Timestamp().Logger(), nil
}

// ToolEnv is the environment of a verb that only talks to a cluster: it logs to stderr what
// is at least a warning.
func ToolEnv(c *conf.Config) (*Env, error) {
	log, err := Logger("warn", os.Stderr)
	if err != nil {
		return nil, err
	}
	if len(c.MonAddrs) == 0 {
		return nil, fmt.Errorf("the configuration names no monitors: set mon_addrs")
	}
	return &Env{Net: msgr.TCP(), Conf: c, Log: log}, nil
}
