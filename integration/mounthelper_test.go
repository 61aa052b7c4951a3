package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
)

// mount(8) itself, with our helper in a /sbin that only the test sees and an /etc/fstab of
// its own: what administrators and boot scripts do.
func TestMountHelper(t *testing.T) {
	c := harness.Up(t)
	for _, bin := range []string{"unshare", "mount", "umount", "findmnt"} {
		if _, err := exec.LookPath(bin); err != nil {
			t.Skipf("needs %s", bin)
		}
	}
	m := c.Mount()
	mkdir(t, m+"/pods/one")
	put(t, m+"/pods/one/f", "one")
	put(t, m+"/top", "top")

	dir, err := os.MkdirTemp("/var/tmp", "capstan-helper")
	must(t, err)
	defer os.RemoveAll(dir)
	bin := harness.Binary(t)
	for _, d := range []string{"sbin", "mnt", "mnt2"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	if out, err := c.Run("mount-helper", "--dir", dir+"/sbin"); err != nil || !strings.Contains(out, "fstab") {
		t.Fatalf("mount-helper: %v\n%s", err, out)
	}
	must(t, os.WriteFile(dir+"/fstab", fmt.Appendf(nil, "%s %s fuse.capstan noauto,_netdev,ro,x-systemd.automount 0 0\n%s:/pods/one %s capstan defaults,nofail 0 0\n",
		c.Conf(), dir+"/mnt", c.Conf(), dir+"/mnt2"), 0o644))

	// Whatever is mounted in there ends with the name space, also when the script dies.
	script := func(text string) (string, error) {
		real, err := filepath.EvalSymlinks("/sbin")
		must(t, err)
		pre := fmt.Sprintf(`set -u; exec 2>&1
mkdir -p %[1]s/up %[1]s/work; cp -a %[1]s/sbin/. %[1]s/up/
mount -t tmpfs none %[1]s/work && mkdir %[1]s/work/u %[1]s/work/w && cp -a %[1]s/up/. %[1]s/work/u/
mount -t overlay none -o lowerdir=%[2]s,upperdir=%[1]s/work/u,workdir=%[1]s/work/w %[2]s || { echo NO-OVERLAY; exit 77; }
mount --bind %[1]s/fstab /etc/fstab
conf=%[3]s mnt=%[1]s/mnt mnt2=%[1]s/mnt2 bin=%[4]s
`, dir, real, c.Conf(), bin)
		cmd := exec.Command("unshare", "-m", "--propagation", "private", "bash", "-c", pre+text)
		out, err := cmd.Output()
		if strings.Contains(string(out), "NO-OVERLAY") {
			t.Skipf("no private /sbin here: %s", out)
		}
		return string(out), err
	}
	out, err := script(`
say() { echo "[$*]"; }
mount -t fuse.capstan $conf $mnt -o rw,allow_other; say one $? $(cat $mnt/top)
findmnt -n -o SOURCE,FSTYPE $mnt
mount -t fuse.capstan $conf $mnt >/dev/null; say busy $?
echo via-mount > $mnt/made; umount $mnt; say umount $?
mount -f -t fuse.capstan $conf $mnt; say fake $?; mountpoint -q $mnt; say mountpoint $?
mount -t capstan -o subdir=/pods/one $conf $mnt; say two $? $(cat $mnt/f); umount $mnt
mount -t fuse.capstan $conf:/pods/one $mnt; say three $? $(ls $mnt); umount $mnt
mount -t fuse.capstan -o frobnicate $conf $mnt; say unknown $?
mount -s -t fuse.capstan -o frobnicate $conf $mnt; say sloppy $?; umount $mnt
mount -t fuse.capstan -o subdir=/nothing $conf $mnt; say nothing $?
mount -t fuse.capstan /no/such.conf $mnt; say noconf $?
mount $mnt; say fstab $? $(cat $mnt/top); touch $mnt/x; say readonly $?
mount -a; say all $? $(cat $mnt2/f); mount -a; say again $? $(grep -c $mnt2 /proc/self/mountinfo)
umount $mnt $mnt2; say end $?
`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"[one 0 top]", c.Conf() + " fuse.capstan", "[busy 32]", "[umount 0]", "[fake 0]", "[mountpoint 32]|[mountpoint 1]", "[two 0 one]",
		"[three 0 f]", "[unknown 1]", "frobnicate", "[sloppy 0]", "[nothing 32]", "/nothing", "[noconf 32]", "/no/such.conf", "[fstab 0 top]", "[readonly 1]",
		"[all 0 one]", "[again 0 1]", "[end 0]"} {
		ok := false
		for _, w := range strings.Split(want, "|") {
			ok = ok || strings.Contains(out, w)
		}
		if !ok {
			t.Errorf("the script did not say %s", want)
		}
	}
	if b, err := os.ReadFile(m + "/made"); err != nil || string(b) != "via-mount\n" {
		t.Errorf("what was written there: %q, %v", b, err)
	}
	if t.Failed() {
		t.Log(out)
	}
	unix.Unmount(dir+"/mnt", unix.MNT_DETACH)
}
