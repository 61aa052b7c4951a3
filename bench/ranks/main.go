// Command ranks makes files in several directories at once, one worker each, round by round over sets
// of directories in turn, and prints the medians of each set's creates per second and its ratio to
// the first set's: what a further rank brings, or costs, is seen in one run.
//
//	ranks [-files N] [-rounds R] NAME=DIR,DIR… …
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

func main() {
	files := flag.Int("files", 1000, "files of each worker in a round")
	rounds := flag.Int("rounds", 5, "rounds")
	flag.Parse()
	rates := make([][]float64, flag.NArg())
	for round := range *rounds {
		for i, arg := range flag.Args() {
			_, list, ok := strings.Cut(arg, "=")
			if !ok {
				fail(fmt.Errorf("%q is not NAME=DIR,DIR", arg))
			}
			rates[i] = append(rates[i], create(strings.Split(list, ","), round, *files))
		}
	}
	for i, arg := range flag.Args() {
		name, _, _ := strings.Cut(arg, "=")
		slices.Sort(rates[i])
		m := rates[i][len(rates[i])/2]
		if i == 0 {
			fmt.Printf("%-12s %8.0f creates/s\n", name, m)
			continue
		}
		fmt.Printf("%-12s %8.0f creates/s  %.2f of the first\n", name, m, m/rates[0][len(rates[0])/2])
	}
}

// create has one worker per directory make files in it, and returns how many were made a second.
func create(dirs []string, round, files int) float64 {
	var wg sync.WaitGroup
	began := time.Now()
	for _, d := range dirs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range files {
				f, err := os.OpenFile(filepath.Join(d, fmt.Sprintf("%d.%d", round, i)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
				if err != nil {
					fail(err)
				}
				f.Close()
			}
		}()
	}
	wg.Wait()
	return float64(files*len(dirs)) / time.Since(began).Seconds()
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "ranks:", err)
	os.Exit(1)
}
