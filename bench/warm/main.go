// Command warm compares what warm operations cost through several mounts: CPU time of itself
// and of each mount's process, in rounds that alternate, so that a busy machine hurts all alike.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

type peer struct {
	name, dir string
	pid       int
	files     []string
	cost      map[string][]float64 // µs of CPU per operation, by round
	rate      map[string][]float64
}

func main() {
	rounds := flag.Int("rounds", 5, "`rounds` per operation; the median counts")
	files := flag.Int("files", 200, "`files` that are touched in turn")
	span := flag.Duration("span", 300*time.Millisecond, "`time` of one round")
	flag.Parse()
	var peers []*peer
	for _, a := range flag.Args() {
		f := strings.Split(a, "=")
		if len(f) != 3 {
			fatal(fmt.Errorf("want NAME=DIR=PID, not %q", a))
		}
		pid, err := strconv.Atoi(f[2])
		fatal(err)
		p := &peer{name: f[0], dir: filepath.Join(f[1], "warm/sub"), pid: pid, cost: map[string][]float64{}, rate: map[string][]float64{}}
		fatal(os.MkdirAll(p.dir, 0o755))
		for i := range *files {
			n := filepath.Join(p.dir, fmt.Sprint("f", i))
			fatal(os.WriteFile(n, make([]byte, 4096), 0o644))
			p.files = append(p.files, n)
		}
		peers = append(peers, p)
	}
	time.Sleep(6 * time.Second) // closed writers let their wishes go
	buf := make([]byte, 4096)
	ops := []struct {
		name string
		run  func(string)
	}{
		{"stat", func(n string) { var st unix.Stat_t; fatal(unix.Lstat(n, &st)) }},
		{"open+close", func(n string) { unix.Close(open(n)) }},
		{"open+read+close", func(n string) {
			fd := open(n)
			if k, err := unix.Read(fd, buf); err != nil || k != len(buf) {
				fatal(fmt.Errorf("%s: read %d: %v", n, k, err))
			}
			unix.Close(fd)
		}},
	}
	for _, op := range ops {
		for r := -1; r < *rounds; r++ { // one to warm up
			for _, p := range peers {
				cpu, begin, n := p.cpu(), time.Now(), 0
				for time.Since(begin) < *span {
					for _, f := range p.files {
						op.run(f)
					}
					n += len(p.files)
				}
				took := time.Since(begin)
				if r >= 0 {
					p.cost[op.name] = append(p.cost[op.name], float64(p.cpu()-cpu)/1e3/float64(n))
					p.rate[op.name] = append(p.rate[op.name], float64(n)/took.Seconds())
				}
			}
		}
	}
	fmt.Println("| operation | mount | CPU µs/op | op/s | rate by CPU against the first |")
	fmt.Println("|---|---|---:|---:|---:|")
	for _, op := range ops {
		first := median(peers[0].cost[op.name])
		for _, p := range peers {
			c := median(p.cost[op.name])
			fmt.Printf("| %s | %s | %.2f | %.0f | %.0f %% |\n", op.name, p.name, c, median(p.rate[op.name]), 100*first/c)
		}
	}
}

func open(n string) int {
	fd, err := unix.Open(n, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	fatal(err)
	return fd
}

// cpu is the CPU time of this process and of the mount's, in ns.
func (p *peer) cpu() int64 {
	var ts unix.Timespec
	fatal(unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts))
	own := ts.Nano()
	clock := int32(^p.pid<<3 | 2) // clock_getcpuclockid(3)
	fatal(unix.ClockGettime(clock, &ts))
	return own + ts.Nano()
}

func median(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	return s[len(s)/2]
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "warm:", err)
		os.Exit(1)
	}
}
