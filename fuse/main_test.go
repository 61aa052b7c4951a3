package fuse_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/client/fakerank"
)

// A test process serves itself. If it ends while one of its threads waits for its own answer, that
// thread cannot die before the connection is gone, and the connection is not gone before the thread
// has died: the process stays for ever, and whoever waits for it with it. A guard outside ends the
// connections when the process is dying, for whatever reason.

const (
	guardEnv = "CAPSTAN_FUSE_TEST_GUARD"
	dieEnv   = "CAPSTAN_FUSE_TEST_DIE" // a mountpoint
)

func TestMain(m *testing.M) {
	if os.Getenv(guardEnv) != "" {
		guard()
		return
	}
	os.Exit(m.Run())
}

// guard is the outside process. Lines of its input are mountpoints, the first letter says whether it
// comes or goes.
func guard() {
	dying := make(chan os.Signal, 1)
	signal.Notify(dying, syscall.SIGTERM)
	os.Stdout.WriteString("on guard\n")
	os.Stdout.Close()
	lines := make(chan string)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			lines <- in.Text()
		}
	}()
	at := map[string]bool{}
	take := func(l string) { at[l[1:]] = l[0] == '+' }
	for open := true; open; {
		select {
		case l, ok := <-lines:
			if open = ok; ok {
				take(l)
			}
		case <-dying: // what it has said before is in the pipe; a pipe that a thread holds open has no end
			for open {
				select {
				case l, ok := <-lines:
					if open = ok; ok {
						take(l)
					}
				case <-time.After(100 * time.Millisecond):
					open = false
				}
			}
		}
	}
	for dir, mounted := range at {
		if mounted {
			unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH)
		}
	}
}

var startGuard = sync.OnceValues(func() (*os.File, error) {
	type started struct {
		to  *os.File
		err error
	}
	ch := make(chan started)
	go func() {
		runtime.LockOSThread() // the signal comes when this thread dies, and it does when the process does
		from, to, err := os.Pipe()
		if err == nil {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), guardEnv+"=1")
			cmd.Stdin = from
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
			var ready io.ReadCloser
			if ready, err = cmd.StdoutPipe(); err == nil {
				err = cmd.Start()
			}
			from.Close()
			if err == nil {
				_, err = io.ReadAll(ready)
			}
		}
		ch <- started{to, err}
		select {}
	}()
	s := <-ch
	return s.to, s.err
})

// guarded tells the guard of a mount. The caller calls the function that it returns, when it is unmounted.
func guarded(t testing.TB, dir string) (gone func()) {
	to, err := startGuard()
	must(t, err)
	_, err = fmt.Fprintf(to, "+%s\n", dir)
	must(t, err)
	return func() { fmt.Fprintf(to, "-%s\n", dir) }
}

// A process that panics while a write to its own mount is on its way ends all the same.
func TestADyingProcessIsNotHeldByItsOwnMount(t *testing.T) {
	if dir := os.Getenv(dieEnv); dir != "" {
		m := mountAt(t, fakerank.New(), dir)
		m.rank.Store.Hold()
		go os.WriteFile(m.path("f"), make([]byte, 8192), 0o644)
		if !fakerank.Wait(func() bool { return m.rank.Store.Parked() > 0 }) {
			t.Fatal("the write did not come")
		}
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs /dev/fuse and root")
	}
	dir := filepath.Join(t.TempDir(), "mnt")
	must(t, os.Mkdir(dir, 0o755))
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), dieEnv+"="+dir)
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(180 * time.Second):
		t.Error("it hangs")
		unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH)
		<-ended
	}
}
