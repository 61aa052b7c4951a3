// Freeze measures how long a directory with contents stands still while it is handed from rank to rank
// (docs/ranks.md): it makes files below a directory, has the mount hold caps of all of them, and pins the
// directory to and fro while a second thread makes and removes a file below it. What that one waits longest
// is the freeze as a user feels it. See bench/freeze.sh.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	files := flag.Int("files", 10_000, "inodes below the directory, 100 in each of its directories")
	rounds := flag.Int("rounds", 5, "hand-overs each way")
	held := flag.Bool("held", true, "look at every file before each hand-over, so that the mount holds caps of all")
	flag.Parse()
	log.SetFlags(0)
	top := filepath.Join(flag.Arg(0), "freeze")
	var paths []string
	for i := range *files / 100 {
		d := filepath.Join(top, fmt.Sprintf("d%03d", i))
		must(os.MkdirAll(d, 0o755))
		for j := range 99 {
			p := filepath.Join(d, fmt.Sprintf("f%02d", j))
			must(os.WriteFile(p, []byte("x"), 0o644))
			paths = append(paths, p)
		}
	}
	var total, longest []time.Duration
	for r := range 2 * *rounds {
		if *held {
			for _, p := range paths {
				_, err := os.Stat(p)
				must(err)
			}
		}
		stop, worst := make(chan struct{}), make(chan time.Duration)
		go probe(filepath.Join(top, "d000", "probe"), stop, worst)
		time.Sleep(200 * time.Millisecond)
		began := time.Now()
		must(unix.Setxattr(top, "ceph.dir.pin", []byte([]string{"1", "-1"}[r%2]), 0))
		took := time.Since(began)
		close(stop)
		w := <-worst
		fmt.Printf("%-4s %8.1f ms in all, a create waited %8.1f ms\n", []string{"pin", "back"}[r%2], ms(took), ms(w))
		total, longest = append(total, took), append(longest, w)
	}
	fmt.Printf("median of %d: %.1f ms in all, a create waited %.1f ms (%d inodes, caps held: %v)\n", len(total), ms(median(total)), ms(median(longest)), *files, *held)
}

// probe makes and removes a file until it is stopped, and says how long one such pair took at most.
func probe(p string, stop chan struct{}, worst chan time.Duration) {
	var most time.Duration
	for {
		began := time.Now()
		must(os.WriteFile(p, nil, 0o644))
		must(os.Remove(p))
		most = max(most, time.Since(began))
		select {
		case <-stop:
			worst <- most
			return
		default:
		}
	}
}

func median(list []time.Duration) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
