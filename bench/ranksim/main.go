// Command ranksim prints how throughput grows from 1 to 128 ranks in the simulator (sim/ranksim): real rank
// cores whose steps are timed on this processor first, one virtual processor each. With -svg it draws it.
//
//	ranksim [-ranks 1,2,4,…] [-span 1.2s] [-frame 40us] [-svg FILE]
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/capstan-fs/capstan/sim/ranksim"
)

// load is a row of the table.
type load struct {
	name string
	l    ranksim.Load
}

func main() {
	ranks := flag.String("ranks", "1,2,4,8,16,32,64,128", "how many ranks, the first is what the others are measured by")
	span := flag.Duration("span", 1200*time.Millisecond, "virtual time that is counted; sums go up the tree once a second")
	frame := flag.Duration("frame", 40*time.Microsecond, "what the daemon around the core spends on a message, in CPU")
	svg := flag.String("svg", "", "a plot")
	costs := flag.Bool("costs", false, "print what the steps cost")
	flag.Parse()
	debug.SetGCPercent(400)
	loads := []load{
		{"creates, a directory for each client", ranksim.Load{Clients: 2, Window: 8}},
		{"stats, a directory for each client", ranksim.Load{Clients: 2, Window: 8, Stat: true}},
		{"creates, one shared directory", ranksim.Load{Clients: 2, Window: 8, Shared: true}},
	}
	p := ranksim.Defaults()
	p.Frame = frame.Nanoseconds()
	p.Costs = measure(p, loads)
	if *costs {
		fmt.Print(p.Costs)
	}
	var points []point
	for _, l := range loads {
		l.l.Warm, l.l.Span = int64(100*time.Millisecond), span.Nanoseconds()
		fmt.Printf("\n%s:\n\n| ranks | operations/s | of as many times one | busiest | mean | steps/op |\n|---|---|---|---|---|---|\n", l.name)
		one := 0.0
		for _, f := range strings.Split(*ranks, ",") {
			n, err := strconv.Atoi(f)
			check(err)
			r, err := ranksim.Run(n, p, l.l)
			check(err)
			if one == 0 {
				one = r.Rate / float64(n)
			}
			e := r.Rate / one / float64(n)
			fmt.Printf("| %d | %.0f | %.0f %% | %.0f %% | %.0f %% | %.2f |\n", n, r.Rate, 100*e, 100*r.Busiest, 100*r.Mean, r.Steps)
			points = append(points, point{l.name, n, e})
			runtime.GC()
		}
	}
	if *svg != "" {
		check(os.WriteFile(*svg, []byte(draw(points)), 0o644))
	}
}

// measure times the steps of each load on one rank and on three.
func measure(p ranksim.Params, loads []load) *ranksim.Costs {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p.Costs = ranksim.NewCosts()
	for _, l := range loads {
		for _, n := range []int{1, 3} {
			l.l.Warm, l.l.Span = int64(100*time.Millisecond), int64(1500*time.Millisecond)
			_, err := ranksim.Run(n, p, l.l)
			check(err)
		}
	}
	p.Costs.Fix()
	return p.Costs
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "ranksim:", err)
		os.Exit(1)
	}
}
