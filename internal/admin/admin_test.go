package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func start(t *testing.T, path string) {
	t.Helper()
	r := NewRegistry()
	r.Register("add", func(args json.RawMessage) (any, error) {
		var n []int
		if err := json.Unmarshal(args, &n); err != nil {
			return nil, err
		}
		return n[0] + n[1], nil
	})
	r.Register("fail", func(json.RawMessage) (any, error) { return nil, errors.New("no luck") })
	s, err := Serve(path, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
}

func TestAskAndAnswer(t *testing.T) {
	deep := filepath.Join(t.TempDir(), strings.Repeat("d", 120)) // longer than a socket address
	if err := os.Mkdir(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(t.TempDir(), SocketName), filepath.Join(deep, SocketName)} {
		// A socket that a killed daemon has left behind.
		if addr, done, _ := short(path); true {
			l, err := net.Listen("unix", addr)
			if err != nil {
				t.Fatal(err)
			}
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			l.Close()
			done()
		}
		start(t, path)
		for _, q := range []struct {
			cmd  string
			args any
			want string
		}{
			{"add", []int{2, 3}, "5"},
			{"help", nil, `["add","fail","help"]`},
			{"fail", nil, "fail: no luck"},
			{"add", []int{1}, "add: add panicked"},
			{"nope", nil, `nope: no command "nope"; there are add, fail, help`},
		} {
			v, err := Call(context.Background(), path, q.cmd, q.args)
			got := string(v)
			if err != nil {
				got = err.Error()
			}
			if !strings.HasPrefix(got, q.want) {
				t.Errorf("%s %v: got %s, want %s", q.cmd, q.args, got, q.want)
			}
		}
		if _, err := Serve(path, NewRegistry()); err == nil || !strings.Contains(err.Error(), "another process serves it") {
			t.Errorf("second server: %v", err)
		}
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("socket: %v %v", fi, err)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	_, err := Call(context.Background(), filepath.Join(t.TempDir(), SocketName), "help", nil)
	if err == nil || !strings.Contains(err.Error(), "is the daemon running?") {
		t.Errorf("got %v", err)
	}
}
