// Command killosd kills one OSD of a dev cluster under writers, lets it come back with an empty
// disk, and prints how long writes stood still, what became of acknowledged ones, how fast the OSD
// was filled and what the writers felt meanwhile. bench/killosd.sh runs it.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	capstan = flag.String("capstan", "capstan", "the binary")
	dir     = flag.String("dir", "", "of the dev cluster, which runs")
	mnt     = flag.String("mnt", "", "a mount of it")
	osd     = flag.Int("osd", 2, "which OSD is killed")
	writers = flag.Int("writers", 16, "writers, each with a file of its own")
	fill    = flag.Int("fill", 512, "MiB that are in the cluster before")
	before  = flag.Duration("before", 8*time.Second, "of writing before the kill")
	after   = flag.Duration("after", 12*time.Second, "of writing after it, before the OSD comes back")
)

const record = 4096

// write is one acknowledged record: a durable pwrite.
type write struct{ begin, end time.Time }

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "killosd:", err)
		os.Exit(1)
	}
}

func run() error {
	if err := filled(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	var stop atomic.Bool
	acked := make([][]write, *writers)
	errs := make([]error, *writers)
	for i := range *writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			acked[i], errs[i] = writer(i, &stop)
		}()
	}
	ended := func() error {
		stop.Store(true)
		wg.Wait()
		for i, err := range errs {
			if err != nil {
				return fmt.Errorf("writer %d: %w", i, err)
			}
		}
		return nil
	}
	time.Sleep(*before)
	killed := time.Now()
	if err := kill(); err != nil {
		return err
	}
	time.Sleep(*after)
	store := filepath.Join(*dir, fmt.Sprintf("osd.%d", *osd), "store")
	if err := os.RemoveAll(store); err != nil {
		return err
	}
	back := time.Now()
	if out, err := exec.Command(*capstan, "dev", "up", "--dir", *dir).CombinedOutput(); err != nil {
		return fmt.Errorf("dev up: %w: %s", err, out)
	}
	if err := clean(); err != nil {
		return err
	}
	whole := time.Now()
	used, err := usedBytes(store)
	if err != nil {
		return err
	}
	if err := ended(); err != nil {
		return err
	}
	lost, total, err := check(acked)
	if err != nil {
		return err
	}
	none, one := stalls(acked, killed, back)
	fmt.Printf("kill -9 of osd.%d of four, %d writers of durable %d-byte records:\n", *osd, *writers, record)
	fmt.Printf("  %.2f s without any write answered; the longest that one write took: %.2f s\n", none.Seconds(), one.Seconds())
	fmt.Printf("  %d of %d acknowledged writes lost\n", lost, total)
	fmt.Printf("  back with an empty disk: %d MiB in %.1f s until all PGs were whole, %.1f MiB/s\n", used>>20, whole.Sub(back).Seconds(), float64(used)/(1<<20)/whole.Sub(back).Seconds())
	p50, p99, n := quantiles(acked, killed.Add(-*before/2), killed)
	fmt.Printf("  writes before:          %6.0f/s, p50 %5.1f ms, p99 %6.1f ms\n", n/(*before/2).Seconds(), p50, p99)
	p50, p99, n = quantiles(acked, back, whole)
	fmt.Printf("  writes during recovery: %6.0f/s, p50 %5.1f ms, p99 %6.1f ms\n", n/whole.Sub(back).Seconds(), p50, p99)
	if lost > 0 {
		return fmt.Errorf("%d acknowledged writes are lost", lost)
	}
	return nil
}

// filled writes what recovery will have to copy.
func filled() error {
	b := bytes.Repeat([]byte("capstan "), 1<<17)
	for n := 0; n < *fill; n += 16 {
		f, err := os.Create(filepath.Join(*mnt, fmt.Sprint("fill", n)))
		if err != nil {
			return err
		}
		for range 16 {
			if _, err := f.Write(b); err != nil {
				return err
			}
		}
		if err := f.Sync(); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// recordOf is what writer i writes as its k-th.
func recordOf(i, k int) []byte {
	b := make([]byte, record)
	for at := 0; at < record; at += 16 {
		binary.LittleEndian.PutUint64(b[at:], uint64(i))
		binary.LittleEndian.PutUint64(b[at+8:], uint64(k))
	}
	return b
}

func writer(i int, stop *atomic.Bool) (done []write, err error) {
	f, err := os.OpenFile(filepath.Join(*mnt, fmt.Sprint("writer", i)), os.O_CREATE|os.O_WRONLY|syscall.O_DSYNC, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for k := 0; !stop.Load(); k++ {
		w := write{begin: time.Now()}
		if _, err := f.WriteAt(recordOf(i, k), int64(k)*record); err != nil {
			return done, err
		}
		w.end = time.Now()
		done = append(done, w)
	}
	return done, nil
}

// kill ends the process as a crash would.
func kill() error {
	out, err := exec.Command(*capstan, "dev", "status", "--dir", *dir).Output()
	if err != nil {
		return fmt.Errorf("dev status: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		var name, state string
		var pid int
		if n, _ := fmt.Sscan(line, &name, &state, &pid); n == 3 && name == fmt.Sprintf("osd.%d", *osd) {
			return syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return fmt.Errorf("dev status names no process of osd.%d:\n%s", *osd, out)
}

// clean waits until every PG has all its replicas.
func clean() error {
	for end := time.Now().Add(10 * time.Minute); ; {
		out, err := exec.Command(*capstan, "status", "--conf", filepath.Join(*dir, "capstan.conf"), "--json").Output()
		if err != nil {
			return fmt.Errorf("status: %w", err)
		}
		var st struct{ PGs struct{ Total, Clean int } }
		if err := json.Unmarshal(out, &st); err != nil {
			return err
		}
		if st.PGs.Total > 0 && st.PGs.Clean == st.PGs.Total {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not clean after ten minutes: %s", out)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// usedBytes is what the store takes on the disk: all of it was copied.
func usedBytes(store string) (int64, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(store, "block"), &st); err != nil {
		return 0, fmt.Errorf("%s: %w", store, err)
	}
	return st.Blocks * 512, nil
}

// check reads every acknowledged record back.
func check(acked [][]write) (lost, total int, err error) {
	for i := range acked {
		b, err := os.ReadFile(filepath.Join(*mnt, fmt.Sprint("writer", i)))
		if err != nil {
			return 0, 0, err
		}
		for k := range acked[i] {
			total++
			if at := k * record; len(b) < at+record || !bytes.Equal(b[at:at+record], recordOf(i, k)) {
				lost++
			}
		}
	}
	return lost, total, nil
}

// stalls finds, between the kill and the return, the longest time without any answer and the
// longest write.
func stalls(acked [][]write, from, to time.Time) (none, one time.Duration) {
	var ends []time.Time
	for _, ws := range acked {
		for _, w := range ws {
			if w.end.After(from) && w.begin.Before(to) {
				ends = append(ends, w.end)
				one = max(one, w.end.Sub(w.begin))
			}
		}
	}
	slices.SortFunc(ends, time.Time.Compare)
	for last, i := from, 0; i < len(ends); i++ {
		none = max(none, ends[i].Sub(last))
		last = ends[i]
	}
	return none, one
}

// quantiles of the writes that began between from and to, in milliseconds, and how many there were.
func quantiles(acked [][]write, from, to time.Time) (p50, p99, n float64) {
	var took []time.Duration
	for _, ws := range acked {
		for _, w := range ws {
			if w.begin.After(from) && w.begin.Before(to) {
				took = append(took, w.end.Sub(w.begin))
			}
		}
	}
	if len(took) == 0 {
		return 0, 0, 0
	}
	slices.Sort(took)
	ms := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))]) / 1e6 }
	return ms(0.5), ms(0.99), float64(len(took))
}
