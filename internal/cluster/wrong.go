package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/internal/wrong"
)

// wrong is the seeded bugs of this cluster; conf.Check has seen their names.
func (e *Env) wrong() wrong.Set {
	s, err := wrong.Parse(e.Conf.Wrong)
	must.Holdf(err == nil, "%v", err)
	return s
}

// CheckWrong refuses seeded bugs in a configuration that `capstan dev` has not made.
func CheckWrong(c *conf.Config, path string) error {
	if len(c.Wrong) == 0 {
		return nil
	}
	m, err := ReadMeta(filepath.Dir(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && m.Role == "dev" && m.Cluster == c.Cluster.String() {
		return nil
	}
	return fmt.Errorf("%s switches on seeded bugs (wrong = %q), and is not the configuration of a `capstan dev` cluster: take the line out", path, c.Wrong)
}

// WarnWrong says in a log, and WrongText to a person, that this is no cluster to trust.
func WarnWrong(log zerolog.Logger, c *conf.Config) {
	if len(c.Wrong) > 0 {
		log.Warn().Strs("wrong", c.Wrong).Msg("WRONG ON PURPOSE: seeded bugs are on; this cluster breaks its promises")
	}
}

// WrongText is empty for a cluster without seeded bugs.
func WrongText(c *conf.Config) string {
	if len(c.Wrong) == 0 {
		return ""
	}
	return "WRONG ON PURPOSE: seeded bugs are on (" + strings.Join(c.Wrong, ", ") + "); this cluster breaks its promises"
}

func (s *Status) sayWrong(bugs wrong.Set) {
	if bugs == 0 {
		return
	}
	w := warn("WRONG", "cluster", "", "seeded bugs are on: %v", bugs)
	s.Warnings = append([]Warning{w}, s.Warnings...)
	if s.Health == "ok" {
		s.Health = w.What
	} else {
		s.Health = w.What + ", " + s.Health
	}
}
