package fuse

import (
	"os"
	"os/exec"
	"testing"
)

// Threads are watched by the numbers that the kernel's requests name them by. A process whose /proc
// shows another pid namespace would watch others instead.
func TestWatchable(t *testing.T) {
	const child = "CAPSTAN_TEST_OTHER_PIDS"
	err := watchable()
	if os.Getenv(child) != "" {
		if err == nil {
			t.Fatal("threads seem to be watchable, and /proc shows those of another pid namespace")
		}
		return
	}
	if err != nil {
		t.Skip(err)
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("needs unshare(1) and root")
	}
	cmd := exec.Command(unshare, "--pid", "--fork", os.Args[0], "-test.run=^TestWatchable$")
	cmd.Env = append(os.Environ(), child+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// A thread that is gone is seen to be, and one that cannot be looked at is not taken for gone.
func TestStateOf(t *testing.T) {
	me := uint32(os.Getpid())
	if s := stateOf(me, "/proc/self"); s == 0 {
		t.Error("this process is gone")
	}
	if s := stateOf(me, "/nowhere"); s != 'R' {
		t.Errorf("a thread that is there, and cannot be looked at, is in state %q", s)
	}
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if s := stateOf(uint32(cmd.Process.Pid), "/nowhere"); s != 0 {
		t.Errorf("a process that has ended is in state %q", s)
	}
}
