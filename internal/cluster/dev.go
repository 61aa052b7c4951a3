package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/capstan-fs/capstan/internal/admin"
	"github.com/capstan-fs/capstan/internal/conf"
)

// Dev is a cluster of separate processes on this machine, kept in one directory:
//
//	D/capstan.conf  D/capstan.meta  D/mon.a/ D/osd.0/ … D/mds.a/  D/log/*.log  D/run/*.json
type Dev struct {
	Dir  string
	Conf *conf.Config
}

const startLimit = 30 * time.Second

// DevStatus is one row of `capstan dev status`.
type DevStatus struct {
	Name  string `json:"name"`
	Role  string `json:"role"`
	PID   int    `json:"pid"` // 0: not running
	Addr  string `json:"addr"`
	State string `json:"state"` // up, down

	Metrics string `json:"metrics"` // URL for Prometheus; empty: off
}

// ConfPath is the cluster's configuration file.
func (d *Dev) ConfPath() string { return filepath.Join(d.Dir, "capstan.conf") }

func (d *Dev) runPath(name string) string { return filepath.Join(d.Dir, "run", name+".json") }
func (d *Dev) logPath(name string) string { return filepath.Join(d.Dir, "log", name+".log") }

// OpenDev opens an existing dev cluster.
func OpenDev(dir string) (*Dev, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	m, err := ReadMeta(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s holds no cluster: `capstan dev up --dir %s` makes one", dir, dir)
	}
	if err != nil {
		return nil, err
	}
	if m.Role != "dev" {
		return nil, fmt.Errorf("%s belongs to %s (%s) and is no directory of `capstan dev`", dir, m.Name, m.Role)
	}
	d := &Dev{Dir: dir}
	if d.Conf, err = conf.Load(d.ConfPath()); err != nil {
		return nil, err
	}
	if d.Conf.Cluster.String() != m.Cluster {
		return nil, fmt.Errorf("%s names cluster %s, but %s belongs to %s: restore one of the two", d.ConfPath(), d.Conf.Cluster, dir, m.Cluster)
	}
	return d, nil
}

// newDev makes the directory and configuration of a cluster.
func newDev(dir string, over *conf.Overrides) (*Dev, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	c := conf.Default()
	if err := over.Apply(c); err != nil {
		return nil, err
	}
	if c.Cluster.IsZero() {
		c.Cluster = NewClusterID()
	}
	c.PoolSize = min(c.PoolSize, c.OSDs)
	if !over.Given("metrics_listen") {
		c.MetricsListen = "127.0.0.1:0" // all daemons share the file: each draws a port
	}
	ports, err := freePorts(2 * c.Mons)
	if err != nil {
		return nil, err
	}
	c.MonAddrs, c.MonListen = ports[:c.Mons], ports[0]
	if c.Mons > 1 {
		c.MonRaftAddrs = ports[c.Mons:]
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := mustBeEmpty(dir); err != nil {
		return nil, err
	}
	d := &Dev{Dir: dir, Conf: c}
	if err := c.Save(d.ConfPath()); err != nil {
		return nil, err
	}
	return d, writeMeta(dir, Meta{Cluster: c.Cluster.String(), Role: "dev", Name: "dev", Format: Format})
}

// freePorts finds ports for the monitors, which have to keep their addresses.
func freePorts(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // together, or one could be drawn twice
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// names lists the daemons that belong to the cluster.
func (d *Dev) names() []string {
	var names []string
	for i := range max(1, len(d.Conf.MonAddrs)) {
		names = append(names, "mon."+conf.MonName(i))
	}
	for i := range d.Conf.OSDs {
		names = append(names, fmt.Sprintf("osd.%d", i))
	}
	for i := range max(1, d.Conf.Ranks) + d.Conf.Standbys {
		names = append(names, "mds."+conf.MonName(i)) // a, b, … as with monitors
	}
	return names
}

// moreStandbys raises the number of standbys of an existing cluster.
func (d *Dev) moreStandbys(n int) error {
	switch {
	case n == d.Conf.Standbys:
		return nil
	case n < d.Conf.Standbys:
		return fmt.Errorf("%s is a cluster with %d standbys, not %d: leave --standbys away, or lower standbys in %s while it is down", d.Dir, d.Conf.Standbys, n, d.ConfPath())
	}
	d.Conf.Standbys = n
	return d.Conf.Save(d.ConfPath())
}

// moreRanks gives an existing cluster daemons for more ranks.
func (d *Dev) moreRanks(n int) error {
	switch {
	case n == d.Conf.Ranks:
		return nil
	case n < d.Conf.Ranks:
		return fmt.Errorf("%s is a cluster with daemons for %d ranks, not %d: leave --ranks away; `capstan fs set ranks %d` stops ranks, and their daemons stand by", d.Dir, d.Conf.Ranks, n, n)
	}
	d.Conf.Ranks = n
	return d.Conf.Save(d.ConfPath())
}

// setRanks tells the monitors how many ranks there should be.
func (d *Dev) setRanks(ctx context.Context) error {
	env, err := ToolEnv(d.Conf)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	_, err = env.MonCommand(ctx, "fs", "set", "ranks", strconv.Itoa(d.Conf.Ranks))
	return err
}

// DevUp makes a cluster in dir, or starts the one that is there: every daemon that does not
// run. Settings of an existing cluster stay as they are in its file.
func DevUp(ctx context.Context, dir string, over *conf.Overrides) (*Dev, error) {
	d, err := OpenDev(dir)
	if _, serr := os.Stat(filepath.Join(dir, MetaFile)); errors.Is(serr, fs.ErrNotExist) {
		d, err = newDev(dir, over)
	}
	if err != nil {
		return nil, err
	}
	want := conf.Default()
	if err := over.Apply(want); err != nil {
		return nil, err
	}
	if over.Given("osds") && want.OSDs != d.Conf.OSDs {
		return nil, fmt.Errorf("%s is a cluster of %d OSDs, not %d: leave --osds away, or choose another directory", d.Dir, d.Conf.OSDs, want.OSDs)
	}
	if over.Given("mons") && want.Mons != len(d.Conf.MonAddrs) {
		return nil, fmt.Errorf("%s is a cluster of %d monitors, not %d: leave --mons away, or choose another directory", d.Dir, len(d.Conf.MonAddrs), want.Mons)
	}
	if over.Given("wrong") {
		want := conf.Default()
		if err := over.Apply(want); err != nil {
			return nil, err
		}
		if !slices.Equal(want.Wrong, d.Conf.Wrong) {
			return nil, fmt.Errorf("%s is a cluster with the seeded bugs %q, not %q: they are chosen when a cluster is made; leave --wrong away, or choose another directory", d.Dir, d.Conf.Wrong, want.Wrong)
		}
	}
	lock, err := lockDir(d.Dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if over.Given("standbys") {
		if err := d.moreStandbys(want.Standbys); err != nil {
			return nil, err
		}
	}
	if over.Given("ranks") {
		if err := d.moreRanks(want.Ranks); err != nil {
			return nil, err
		}
	}
	for _, sub := range []string{"log", "run"} {
		if err := os.MkdirAll(filepath.Join(d.Dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	started, err := d.startAll(ctx)
	if err == nil && over.Given("ranks") {
		err = d.setRanks(ctx)
	}
	if err == nil {
		err = d.waitProbe(ctx)
	}
	if err != nil {
		// What we started and what does not work is not left running behind an error.
		return nil, errors.Join(err, d.stopNamed(started))
	}
	return d, nil
}

func (d *Dev) startAll(ctx context.Context) (started []string, err error) {
	missing := slices.DeleteFunc(d.names(), func(name string) bool {
		p, err := loadProcess(d.runPath(name))
		return err == nil && p.Alive()
	})
	// Monitors first, all of them together: each is ready when there is a quorum.
	mons := slices.IndexFunc(missing, func(name string) bool { return !strings.HasPrefix(name, "mon.") })
	if mons < 0 {
		mons = len(missing)
	}
	for _, names := range [][]string{missing[:mons], missing[mons:]} {
		var g errgroup.Group
		for _, name := range names {
			g.Go(func() error { return d.spawn(name) })
		}
		started = append(started, names...)
		if err := g.Wait(); err != nil {
			return started, err
		}
	}
	return started, nil
}

// spawn starts one daemon and writes down who it is.
func (d *Dev) spawn(name string) error {
	role, id, _ := strings.Cut(name, ".")
	args := []string{role, "--conf", d.ConfPath(), "--data", filepath.Join(d.Dir, name)}
	if role == "osd" {
		args = append(args, "--id", id)
	} else {
		args = append(args, "--name", id)
	}
	pid, addr, err := Spawn(d.logPath(name), startLimit, args...)
	if pid != 0 {
		p := Process{Name: name, Role: role, PID: pid, Start: startTime(pid), Addr: addr}
		err = errors.Join(err, p.save(d.runPath(name)))
	}
	return err
}

func (d *Dev) waitProbe(ctx context.Context) error {
	env, err := ToolEnv(d.Conf)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	if err := env.Probe(ctx); err != nil {
		return fmt.Errorf("the daemons run, but no file could be written: %w; see %s", err, filepath.Join(d.Dir, "log"))
	}
	return nil
}

// Down stops the processes that Up started, and no others: first the MDS, which still needs
// the OSDs, then these, then the monitor.
func (d *Dev) Down() error {
	lock, err := lockDir(d.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	return d.stopNamed(d.known())
}

// Kill ends daemons as a crash does, and returns when they have let go of their files.
func (d *Dev) Kill(names ...string) error {
	var ps []Process
	for _, name := range names {
		if !slices.Contains(d.known(), name) {
			return fmt.Errorf("%s has no daemon %s: `capstan dev status --dir %s` lists them", d.Dir, name, d.Dir)
		}
		p, err := loadProcess(d.runPath(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it does not run
		}
		if err != nil {
			return err
		}
		ps = append(ps, p)
	}
	for _, p := range ps {
		if err := p.signal(syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill %s (pid %d): %w", p.Name, p.PID, err)
		}
	}
	if !waitGone(ps, 5*time.Second) {
		return errors.New("a process survived SIGKILL: it hangs in the kernel")
	}
	for _, p := range ps {
		// The first thread is a zombie before the others have let go of what is locked.
		for end := time.Now().Add(5 * time.Second); threads(p.PID) > 1 && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

func threads(pid int) int {
	l, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return len(l)
}

// known lists all that ever ran here, daemons of an edited configuration too.
func (d *Dev) known() []string {
	names := d.names()
	files, _ := filepath.Glob(d.runPath("*"))
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".json"); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func (d *Dev) stopNamed(names []string) error {
	var errs []error
	for _, role := range []string{"mds", "osd", "mon"} {
		var ps []Process
		for _, name := range names {
			p, err := loadProcess(d.runPath(name))
			if err == nil && p.Role == role {
				ps = append(ps, p)
			}
		}
		errs = append(errs, stop(ps, 10*time.Second))
		for _, p := range ps {
			if !p.Alive() {
				_ = os.Remove(d.runPath(p.Name))
			}
		}
	}
	return errors.Join(errs...)
}

// Status lists the daemons, sorted by name.
func (d *Dev) Status() []DevStatus {
	rows := []DevStatus{}
	for _, name := range d.known() {
		role, _, _ := strings.Cut(name, ".")
		row := DevStatus{Name: name, Role: role, State: "down"}
		if p, err := loadProcess(d.runPath(name)); err == nil {
			row.Addr = p.Addr
			if p.Alive() {
				row.PID, row.State = p.PID, "up"
				row.Metrics = d.metricsOf(name)
			}
		}
		rows = append(rows, row)
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i].Name < rows[j].Name })
	return rows
}

// metricsOf asks a daemon where it serves its metrics; one that does not answer at once shows none.
func (d *Dev) metricsOf(name string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	v, err := admin.Call(ctx, filepath.Join(d.Dir, name, admin.SocketName), "status", nil)
	var s struct{ Metrics string }
	if err != nil || json.Unmarshal(v, &s) != nil || s.Metrics == "" {
		return ""
	}
	return "http://" + s.Metrics + "/metrics"
}
