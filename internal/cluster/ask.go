package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/capstan-fs/capstan/internal/admin"
	"github.com/capstan-fs/capstan/monc"
	"github.com/capstan-fs/capstan/wire"
)

// MonCommand asks the monitors' leader, in words as a person would say them: "osd", "tree".
func (e *Env) MonCommand(ctx context.Context, words ...string) (json.RawMessage, error) {
	m, err := e.dialMons(ctx, instance(wire.KindTool, 0))
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return monCommand(ctx, m, words...)
}

func monCommand(ctx context.Context, m *monc.Client, words ...string) (json.RawMessage, error) {
	args, err := json.Marshal(words)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := m.Call(ctx, &wire.MonCommand{Args: args})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(words, " "), err)
	}
	rep, ok := r.(*wire.MonCommandReply)
	switch {
	case !ok:
		return nil, fmt.Errorf("%s: the monitors answered with %v", strings.Join(words, " "), r.WireType())
	case rep.Text != "":
		return nil, errors.New(rep.Text)
	case rep.Errno != 0:
		return nil, fmt.Errorf("%s: %w", strings.Join(words, " "), syscall.Errno(rep.Errno))
	}
	return rep.JSON, nil
}

// CallDaemon asks a daemon of this machine over its admin socket. The daemons of a dev or
// demo cluster are found by name in dir; a single daemon by the configuration. Name may be a
// mountpoint: then its mount is asked.
func CallDaemon(ctx context.Context, dir string, name, cmd string, args []string) (json.RawMessage, error) {
	path := filepath.Join(dir, name, admin.SocketName)
	if strings.Contains(name, "/") {
		var err error
		if path, err = MountControl(name); err != nil {
			return nil, err
		}
	} else if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s in %s: its daemons are %s", name, dir, strings.Join(daemonsIn(dir), ", "))
	}
	ctx, cancel := context.WithTimeout(ctx, syncLimit+5*time.Second)
	defer cancel()
	var a any
	if len(args) > 0 {
		a = args
	}
	v, err := admin.Call(ctx, path, cmd, a)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%s does not run here (nobody serves %s): `capstan dev up --dir %s` starts what is missing", name, path, dir)
	}
	if err != nil && errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%s: %s is its owner's alone: ask as that user", name, path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

func daemonsIn(dir string) []string {
	names := []string{}
	metas, _ := filepath.Glob(filepath.Join(dir, "*", MetaFile))
	for _, m := range metas {
		names = append(names, filepath.Base(filepath.Dir(m)))
	}
	if len(names) == 0 {
		return []string{"none (name the cluster with --dir D or --conf D/capstan.conf)"}
	}
	slices.Sort(names)
	return names
}

// RankDaemon is the metadata daemon of dir that holds a rank.
func RankDaemon(ctx context.Context, dir string, rank int) (string, error) {
	names := slices.DeleteFunc(daemonsIn(dir), func(n string) bool { return !strings.HasPrefix(n, "mds.") })
	if len(names) == 0 {
		return "", fmt.Errorf("%s holds no metadata daemon: name the cluster's directory with --dir D, or its file with --conf D/capstan.conf", dir)
	}
	if len(names) == 1 && rank == 0 {
		return names[0], nil
	}
	var said []string
	for _, name := range names {
		var held struct{ Rank int }
		if err := askInto(ctx, filepath.Join(dir, name, admin.SocketName), "rank", &held); err != nil {
			said = append(said, name+" does not answer")
		} else if held.Rank == rank {
			return name, nil
		} else if held.Rank < 0 {
			said = append(said, name+" stands by")
		} else {
			said = append(said, fmt.Sprintf("%s holds rank %d", name, held.Rank))
		}
	}
	return "", fmt.Errorf("no metadata daemon in %s holds rank %d: %s", dir, rank, strings.Join(said, ", "))
}

// InodeOf turns what a person says into what a rank's dumps take: a number stays; a path on a
// mount here becomes its inode's number, or its path in the volume when the mount does not
// answer, as may be the very reason for asking; any other path is one in the volume.
func InodeOf(what string) (string, error) {
	if n, err := strconv.ParseUint(what, 0, 64); err == nil {
		return wire.Ino(n).String(), nil
	}
	m, err := MountOf(what)
	if err != nil {
		if _, serr := os.Lstat(what); serr == nil && what != "/" {
			return "", fmt.Errorf("%w: give a path on a mount, an inode number (0x1a), or a path in the volume (/d/file)", err)
		}
		return what, nil
	}
	type answer struct {
		ino uint64
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		var st syscall.Stat_t
		err := syscall.Lstat(what, &st)
		ch <- answer{st.Ino, err}
	}()
	select {
	case a := <-ch:
		if a.err != nil {
			return "", fmt.Errorf("%s: %w", what, a.err)
		}
		return wire.Ino(a.ino).String(), nil
	case <-time.After(2 * time.Second):
		abs, err := filepath.Abs(what)
		if err != nil {
			return "", err
		}
		return "/" + strings.TrimPrefix(strings.TrimPrefix(abs, m.Point), "/"), nil
	}
}

// oneAsk bounds each question: whoever is stopped must not stop us.
const oneAsk = time.Second

// askInto asks an admin socket, no longer than oneAsk.
func askInto(ctx context.Context, path, cmd string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, oneAsk)
	defer cancel()
	v, err := admin.Call(ctx, path, cmd, nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(v, into)
}
