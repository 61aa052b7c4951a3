package fuse

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// options of a mount, out of the -o list.
type options struct {
	allowOther bool
	fsname     string
	flags      uintptr
	max        int
	names      names
}

// names is whether the kernel may be told for how long to trust a name.
type names int

const (
	never      names = iota
	whenCalm         // where nobody else works
	wheneverOK       // whenever it is right, however often it must be taken back: for storms
)

var namesOf = map[string]names{"no_name_cache": never, "name_cache": whenCalm, "name_cache=always": wheneverOK}

// nameCache is whether a mount that does not say so has name_cache.
const nameCache = whenCalm

// CheckOptions says whether a list after -o can be mounted with.
func CheckOptions(list string) error {
	_, err := parseOptions([]string{list})
	return err
}

func parseOptions(list []string) (options, error) {
	o := options{fsname: "capstan", flags: unix.MS_NOSUID | unix.MS_NODEV, max: maxWrite, names: nameCache}
	if os.Geteuid() == 0 {
		o.flags = 0
	}
	for _, arg := range list {
		for _, s := range strings.Split(arg, ",") {
			key, val, _ := strings.Cut(s, "=")
			switch key {
			case "rw":
				o.flags &^= unix.MS_RDONLY
			case "", "atime", "diratime", "default_permissions", "defaults", "_netdev":
			case "name_cache", "no_name_cache":
				n, ok := namesOf[s]
				if !ok {
					return o, fmt.Errorf("mount option %q: want name_cache, name_cache=always or no_name_cache", s)
				}
				o.names = n
			case "ro":
				o.flags |= unix.MS_RDONLY
			case "allow_other":
				o.allowOther = true
			case "fsname":
				o.fsname = val
			case "max_read":
				if _, err := fmt.Sscan(val, &o.max); err != nil || o.max < 4096 {
					return o, fmt.Errorf("mount option %q: want a number of bytes of at least 4096", s)
				}
			case "nosuid":
				o.flags |= unix.MS_NOSUID
			case "suid":
				o.flags &^= unix.MS_NOSUID
			case "nodev":
				o.flags |= unix.MS_NODEV
			case "dev":
				o.flags &^= unix.MS_NODEV
			case "noexec":
				o.flags |= unix.MS_NOEXEC
			case "exec":
				o.flags &^= unix.MS_NOEXEC
			case "noatime":
				o.flags |= unix.MS_NOATIME
			case "nodiratime":
				o.flags |= unix.MS_NODIRATIME
			case "relatime":
				o.flags |= unix.MS_RELATIME
			case "strictatime":
				o.flags |= unix.MS_STRICTATIME
			case "sync":
				o.flags |= unix.MS_SYNCHRONOUS
			case "dirsync":
				o.flags |= unix.MS_DIRSYNC
			case "nosymfollow":
				o.flags |= unix.MS_NOSYMFOLLOW
			default:
				return o, fmt.Errorf("unknown mount option %q", s)
			}
		}
	}
	return o, nil
}

// mount attaches a new /dev/fuse descriptor to dir and returns it: by mount(2) as root, so
// that the descriptor is ours, by fusermount3 otherwise.
func mount(dir string, o options) (int, error) {
	st, err := os.Stat(dir)
	if err != nil {
		if errors.Is(err, syscall.ENOTCONN) {
			return -1, fmt.Errorf("mountpoint %s: a mount whose process is gone is still there; remove it with: umount -l %s", dir, dir)
		}
		return -1, fmt.Errorf("mountpoint: %w", err)
	}
	if !st.IsDir() {
		return -1, fmt.Errorf("mountpoint %s is not a directory", dir)
	}
	if busy(dir) {
		return -1, fmt.Errorf("mountpoint %s is busy: something is mounted there already; unmount it first: umount %s", dir, dir)
	}
	fd, err := direct(dir, o)
	if err == nil {
		return fd, nil
	}
	bin, lookErr := exec.LookPath("fusermount3")
	if lookErr != nil {
		return -1, fmt.Errorf("cannot mount %s: mount(2): %w; and there is no fusermount3: run as root, or install the package fuse3", dir, err)
	}
	fd, err2 := helper(bin, dir, o)
	if err2 != nil {
		return -1, fmt.Errorf("cannot mount %s: mount(2): %w; %s: %w", dir, err, bin, err2)
	}
	return fd, nil
}

// busy reports whether dir is a mountpoint already.
func busy(dir string) bool {
	var a, b unix.Stat_t
	if unix.Lstat(dir, &a) != nil || unix.Lstat(dir+"/..", &b) != nil {
		return false
	}
	return a.Dev != b.Dev && a.Ino == 1 || isFuse(dir)
}

func isFuse(dir string) bool {
	var s, p unix.Statfs_t
	if unix.Statfs(dir, &s) != nil || unix.Statfs(dir+"/..", &p) != nil {
		return false
	}
	return s.Type == unix.FUSE_SUPER_MAGIC && s.Fsid != p.Fsid
}

func direct(dir string, o options) (int, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/fuse: %w", err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,default_permissions,max_read=%d", fd, os.Geteuid(), os.Getegid(), o.max)
	if o.allowOther {
		data += ",allow_other"
	}
	if err := unix.Mount(o.fsname, dir, "fuse.capstan", o.flags, data); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// helper asks fusermount3, which passes the descriptor back over a socket.
func helper(bin, dir string, o options) (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	remote := os.NewFile(uintptr(pair[1]), "fusermount")
	defer unix.Close(pair[0])
	defer remote.Close()
	opts := fmt.Sprintf("fsname=%s,subtype=capstan,default_permissions,max_read=%d", o.fsname, o.max)
	if o.allowOther {
		opts += ",allow_other"
	}
	if o.flags&unix.MS_RDONLY != 0 {
		opts += ",ro"
	}
	if o.flags&unix.MS_NOEXEC != 0 {
		opts += ",noexec"
	}
	cmd := exec.Command(bin, "-o", opts, "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{remote}
	if out, err := cmd.CombinedOutput(); err != nil {
		return -1, fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	oob := make([]byte, 64)
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 8), oob, 0)
	if err != nil {
		return -1, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) == 0 {
		return -1, errors.New("no descriptor came back")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) == 0 {
		return -1, errors.New("no descriptor came back")
	}
	unix.CloseOnExec(fds[0])
	return fds[0], nil
}

// unmount detaches dir; lazily when asked.
func unmount(dir string, lazy bool) error {
	fl := unix.UMOUNT_NOFOLLOW
	if lazy {
		fl |= unix.MNT_DETACH
	}
	err := unix.Unmount(dir, fl)
	if err == unix.EPERM {
		args := []string{"-u", "--", dir}
		if lazy {
			args = []string{"-u", "-z", "--", dir}
		}
		out, err2 := exec.Command("fusermount3", args...).CombinedOutput()
		if err2 != nil {
			return fmt.Errorf("unmount %s: %w; fusermount3: %s", dir, err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
