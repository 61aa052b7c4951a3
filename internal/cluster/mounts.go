package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CheckMountpoint says in plain words why dir cannot be mounted on.
func CheckMountpoint(dir string) error {
	fi, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("mountpoint %s does not exist: make it first (mkdir -p %s)", dir, dir)
	case errors.Is(err, unix.ENOTCONN):
		return fmt.Errorf("mountpoint %s holds a mount whose process is gone: capstan umount %s", dir, dir)
	case err != nil:
		return fmt.Errorf("mountpoint %s: %w", dir, err)
	case !fi.IsDir():
		return fmt.Errorf("mountpoint %s is no directory", dir)
	}
	if m, err := mountAt(dir); err == nil && m != nil {
		if m.dead() {
			return fmt.Errorf("mountpoint %s holds a mount whose process is gone: capstan umount %s", dir, dir)
		}
		return fmt.Errorf("mountpoint %s is busy: %s is mounted there already (capstan umount %s)", dir, m.Type, dir)
	}
	return nil
}

// dead reports whether the process behind one of our mounts is gone. The kernel may still
// know the root's attributes, so that stat succeeds; a directory that is opened asks.
func (m *MountInfo) dead() bool {
	if !m.ours() {
		return false
	}
	f, err := os.Open(m.Point)
	if err == nil {
		f.Close()
	}
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}

func (m *MountInfo) ours() bool { return m.Type == "fuse.capstan" }

// ClearDead detaches a mount at dir whose process is gone, and leaves any other alone.
func ClearDead(dir string) (cleared bool, err error) {
	m, err := mountAt(dir)
	if err != nil || m == nil || !m.dead() {
		return false, err
	}
	return true, Unmount(dir, true)
}

// CheckFUSE says what this machine lacks for a mount.
func CheckFUSE() error {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return errors.New("/dev/fuse is missing: load the kernel's fuse module (modprobe fuse), or run the container with --device /dev/fuse --cap-add SYS_ADMIN")
	}
	if os.Geteuid() == 0 {
		return nil
	}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		return errors.New("only root can mount by itself, and fusermount3 is not there: install the package fuse3, or run as root")
	}
	return nil
}

// MountInfo is one line of /proc/self/mountinfo.
type MountInfo struct {
	Point, Type, Source string
	Dev                 string // major:minor of st_dev
}

// Mounts lists what is mounted in our name space.
func Mounts() ([]MountInfo, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []MountInfo
	for line := range strings.Lines(string(b)) {
		// 36 35 98:0 /root /point options … - type source super-options
		left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if ok && len(l) >= 5 && len(r) >= 2 {
			out = append(out, MountInfo{Point: unescape(l[4]), Type: r[0], Source: unescape(r[1]), Dev: l[2]})
		}
	}
	return out, nil
}

// unescape undoes the octal escapes of blanks in mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// mountAt finds the top mount at exactly dir.
func mountAt(dir string) (*MountInfo, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	// The directory itself cannot be resolved when its mount is dead; its parent can.
	if parent, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		abs = filepath.Join(parent, filepath.Base(abs))
	}
	all, err := Mounts()
	if err != nil {
		return nil, err
	}
	var found *MountInfo
	for i := range all {
		if all[i].Point == abs {
			found = &all[i]
		}
	}
	return found, nil
}

// Unmount takes the mount at dir away. Lazy also when files are open on it.
func Unmount(dir string, lazy bool) error {
	m, err := mountAt(dir)
	if err != nil {
		return err
	}
	if m == nil {
		return fmt.Errorf("%s: nothing is mounted there", dir)
	}
	if !strings.HasPrefix(m.Type, "fuse") {
		return fmt.Errorf("%s: a %s is mounted there, no Capstan volume", dir, m.Type)
	}
	if os.Geteuid() == 0 {
		flags := 0
		if lazy {
			flags = unix.MNT_DETACH
		}
		err := unix.Unmount(m.Point, flags)
		if errors.Is(err, unix.EBUSY) {
			return busyError(dir, m.Point)
		}
		if err != nil {
			return fmt.Errorf("umount %s: %w", dir, err)
		}
		return nil
	}
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	if out, err := exec.Command("fusermount3", append(args, m.Point)...).CombinedOutput(); err != nil {
		if strings.Contains(strings.ToLower(string(out)), "busy") {
			return busyError(dir, m.Point)
		}
		return fmt.Errorf("umount %s: %s", dir, strings.TrimSpace(string(out)+" ("+err.Error()+")"))
	}
	return nil
}

func busyError(dir, point string) error {
	return fmt.Errorf("%s is busy%s: close what uses it, or detach it now with capstan umount --lazy %s", dir, usedBy(point), dir)
}
