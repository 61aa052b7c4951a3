package integration

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
)

// sh runs a shell script in dir and returns its output; a failing command fails the test.
func sh(t testing.TB, dir, script string, args ...string) string {
	t.Helper()
	cmd := exec.Command("bash", append([]string{"-euo", "pipefail", "-c", script, "bash"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@t", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@t", "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v in %s:\n%s\n%s", err, dir, script, tail(out))
	}
	return string(out)
}

func tail(b []byte) []byte { return b[max(0, len(b)-4000):] }

func need(t testing.TB, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Skipf("%s is not installed (.ci/run installs it)", tool)
	}
}

// tree hashes every file, link and mode below dir.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		fi, err := e.Info()
		if err != nil {
			return err
		}
		switch {
		case fi.Mode().IsRegular():
			f, err := os.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			h := sha256.New()
			if _, err := io.Copy(h, f); err != nil {
				return err
			}
			m[rel] = fmt.Sprintf("%v %x", fi.Mode(), h.Sum(nil))
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			m[rel] = "-> " + to
		default:
			m[rel] = fi.Mode().String()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func sameTree(t testing.TB, got, want map[string]string) {
	t.Helper()
	n := 0
	for p, w := range want {
		if got[p] != w {
			t.Errorf("%s: %q, want %q", p, got[p], w)
			if n++; n > 10 {
				t.FailNow()
			}
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
}

// A large part of GOROOT/src goes in, comes back byte for byte through a fresh mount, and a
// real package is built and tested inside.
func TestSourceTree(t *testing.T) {
	c := harness.Up(t, harness.Limit(8*time.Minute))
	m := c.Mount()
	src := filepath.Join(runtime.GOROOT(), "src")
	parts := []string{"archive", "bufio", "bytes", "compress", "container", "context", "crypto", "database", "encoding", "errors", "go", "net", "strings", "text"}
	if long() {
		parts = []string{"."}
	}
	dst := mkdir(t, filepath.Join(m, "src"))
	start := time.Now()
	for _, p := range parts {
		sh(t, src, `cp -a --parents "$1" "$2"`, p, dst)
	}
	took := time.Since(start)
	want := map[string]string{}
	for _, p := range parts {
		for k, v := range tree(t, filepath.Join(src, p)) {
			want[filepath.Join(p, k)] = v
		}
	}
	c.Unmount(m)
	m = c.Mount()
	got := map[string]string{}
	for _, p := range parts {
		for k, v := range tree(t, filepath.Join(m, "src", p)) {
			got[filepath.Join(p, k)] = v
		}
	}
	sameTree(t, got, want)
	t.Logf("%d entries copied in %v", len(want), took.Round(time.Millisecond))

	mod := mkdir(t, filepath.Join(m, "mod"))
	sh(t, mod, `cp -a "$1"/text/tabwriter . && cd tabwriter && rm -f example_test.go && go mod init example.com/tabwriter && GOCACHE=$PWD/../cache GOFLAGS=-mod=mod go build ./... && GOCACHE=$PWD/../cache go test ./...`, src)
}

func TestGit(t *testing.T) {
	need(t, "git")
	c := harness.Up(t)
	m := c.Mount()
	sh(t, m, `
git init -q repo; cd repo
for i in $(seq 1 200); do mkdir -p d$((i%10)); echo "file $i" > d$((i%10))/f$i; done
git add -A; git commit -qm one
for i in $(seq 1 50); do echo more >> d$((i%10))/f$i; done
git commit -qam two
git mv d1 renamed; git commit -qm three
git tag v1; git branch side; git checkout -q side; echo side > side; git add side; git commit -qm side
git checkout -q -; git merge -q --no-edit side
git repack -adq; git fsck --full --strict
cd ..; git clone -q repo clone; git -C clone fsck --full
diff -r --exclude=.git repo clone
test "$(git -C clone log --oneline | wc -l)" -ge 4`)
}

func TestSQLiteFromTwoProcesses(t *testing.T) {
	need(t, "sqlite3")
	c := harness.Up(t)
	m := c.Mount()
	for _, mode := range []string{"WAL", "DELETE"} {
		t.Run(mode, func(t *testing.T) {
			d := mkdir(t, filepath.Join(m, mode))
			sh(t, d, `sqlite3 db "PRAGMA journal_mode=`+mode+`; CREATE TABLE t(w INTEGER, n INTEGER, PRIMARY KEY(w,n));" >/dev/null`)
			var wg sync.WaitGroup
			outs := make([][]byte, 2)
			errs := make([]error, 2)
			for w := range 2 {
				wg.Add(1)
				go func() {
					defer wg.Done()
					var sql strings.Builder
					sql.WriteString(".timeout 60000\n")
					for n := range 60 {
						fmt.Fprintf(&sql, "BEGIN IMMEDIATE; INSERT INTO t VALUES(%d,%d); UPDATE t SET n=n WHERE w=%d; COMMIT;\n", w, n, 1-w)
					}
					cmd := exec.Command("sqlite3", "-bail", "db")
					cmd.Dir = d
					cmd.Stdin = strings.NewReader(sql.String())
					outs[w], errs[w] = cmd.CombinedOutput()
				}()
			}
			wg.Wait()
			for w := range errs {
				if errs[w] != nil {
					t.Fatalf("process %d: %v\n%s", w, errs[w], outs[w])
				}
			}
			got := sh(t, d, `sqlite3 db "SELECT count(*) FROM t; PRAGMA integrity_check;"`)
			if got != "120\nok\n" {
				t.Fatalf("got %q", got)
			}
		})
	}
}

// Archives go round: hard links, xattrs, sparse files, times, modes.
func TestTarAndRsyncRoundTrips(t *testing.T) {
	need(t, "rsync")
	need(t, "setfattr")
	c := harness.Up(t)
	m := c.Mount()
	local := t.TempDir()
	sh(t, local, `
mkdir -p s/d; cd s
echo one > a; ln a d/b; ln -s ../a d/link; ln -s nowhere dangling
dd if=/dev/zero of=sparse bs=1 count=1 seek=10M status=none; echo end >> sparse
mkfifo fifo; chmod 4755 a; chmod 2750 d
setfattr -n user.colour -v green a
touch -d '1999-12-31 23:59:59.123456789' a; touch -hd '2001-01-01' d/link; touch -d '1998-07-06' d`)
	sh(t, m, `
mkdir in rs; tar -C "$1" --xattrs --sparse -cf - s | tar -C in --xattrs -xpf -
rsync -aHAXS "$1"/s rs/`, local)
	for _, d := range []string{"in/s", "rs/s"} {
		got := sh(t, filepath.Join(m, d), `
stat -c '%n %f %h %s %Y' a d d/b sparse fifo; test a -ef d/b; readlink d/link dangling
getfattr --only-values -n user.colour a; stat -c %.9Y a; test $(stat -c %b sparse) -lt 2048; sha256sum sparse`)
		want := sh(t, filepath.Join(local, "s"), `
stat -c '%n %f %h %s %Y' a d d/b sparse fifo; test a -ef d/b; readlink d/link dangling
getfattr --only-values -n user.colour a; stat -c %.9Y a; test $(stat -c %b sparse) -lt 2048; sha256sum sparse`)
		// A directory's size is the file system's own.
		if cut(got) != cut(want) {
			t.Errorf("%s:\n%s\nwant\n%s", d, got, want)
		}
	}
	// And out again.
	back := t.TempDir()
	sh(t, back, `rsync -aHAXS "$1"/rs/s . ; tar -C "$1"/in --xattrs --sparse -cf t.tar s`, m)
	sameTree(t, tree(t, filepath.Join(back, "s")), tree(t, filepath.Join(local, "s")))
}

// cut drops the size column of directories.
func cut(s string) string {
	var out []string
	for _, l := range strings.Split(s, "\n") {
		if f := strings.Fields(l); len(f) == 5 && f[0] == "d" {
			l = strings.Join([]string{f[0], f[1], f[2], f[4]}, " ")
		}
		out = append(out, l)
	}
	return strings.Join(out, "\n")
}

// ---- the long set: make real -------------------------------------------------------------

func needLong(t *testing.T) {
	t.Helper()
	if !long() {
		t.Skip("part of the long set: make real")
	}
}

func TestLongLargeFile(t *testing.T) {
	needLong(t)
	c := harness.Up(t, harness.Limit(15*time.Minute), harness.Args("--osd-size", "4GiB"))
	m := c.Mount()
	sum := func(p string) string { return strings.Fields(sh(t, m, `sha256sum "$1"`, p))[0] }
	local := filepath.Join(t.TempDir(), "big")
	sh(t, m, `head -c 2147483648 /dev/urandom > "$1" && cp "$1" big`, local)
	want := sum(local)
	c.Unmount(m)
	m = c.Mount()
	if got := sum("big"); got != want {
		t.Fatalf("sha256 %s, want %s", got, want)
	}
}

func TestLongHundredThousandFiles(t *testing.T) {
	needLong(t)
	c := harness.Up(t, harness.Limit(20*time.Minute))
	a, b := c.Mount(), c.Mount()
	d := mkdir(t, filepath.Join(a, "d"))
	const n = 100_000
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := w; i < n; i += 2 {
				if err := os.WriteFile(filepath.Join(d, fmt.Sprint(i)), nil, 0o644); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for listing := true; listing; {
		select {
		case <-done:
			listing = false
		case <-time.After(200 * time.Millisecond):
		}
		before := countNames(t, filepath.Join(a, "d"))
		got := countNames(t, filepath.Join(b, "d"))
		if got < before {
			t.Fatalf("mount B lists %d names, mount A listed %d before", got, before)
		}
	}
	if got := countNames(t, filepath.Join(b, "d")); got != n {
		t.Fatalf("%d names, want %d", got, n)
	}
}

// countNames lists dir and fails on a name seen twice.
func countNames(t *testing.T, dir string) int {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := f.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool, len(l))
	for _, s := range l {
		if seen[s] {
			t.Fatalf("%s is listed twice", s)
		}
		seen[s] = true
	}
	return len(l)
}

func TestLongGitGC(t *testing.T) {
	needLong(t)
	need(t, "git")
	c := harness.Up(t, harness.Limit(15*time.Minute))
	m := c.Mount()
	sh(t, m, `git init -q r; cd r; cp -a "$1"/src/net . ; git add -A; git commit -qm net; for i in $(seq 20); do echo $i >> net/net.go; git commit -qam $i; done; git gc -q --aggressive --prune=now; git fsck --full`, runtime.GOROOT())
}
