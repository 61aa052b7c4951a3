package main

import (
	"fmt"
	"math"
	"strings"
)

// point is one run: its share of what as many single ranks would do.
type point struct {
	load  string
	ranks int
	share float64
}

const (
	width, height = 640, 360
	left, bottom  = 56, 44
	top, right    = 20, 20
)

var colours = []string{"#1b6ca8", "#2e8b57", "#b5483a", "#7b5aa6"}

// draw is efficiency over the number of ranks, which doubles from step to step.
func draw(points []point) string {
	most := 1
	for _, p := range points {
		most = max(most, p.ranks)
	}
	x := func(n int) float64 {
		return left + (width-left-right)*math.Log2(float64(n))/max(1, math.Log2(float64(most)))
	}
	y := func(share float64) float64 { return height - bottom - (height-bottom-top)*min(share, 1.2)/1.2 }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	for s := 0.0; s <= 1.01; s += 0.25 {
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%.0f %%</text>`+"\n", left, y(s), width-right, left-6, y(s)+4, 100*s)
	}
	for n := 1; n <= most; n *= 2 {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%d</text>`+"\n", x(n), height-bottom+18, n)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">ranks</text>`+"\n", (left+width-right)/2, height-8)
	for i := 0; len(points) > 0; i++ {
		var line []point
		var rest []point
		for _, p := range points {
			if p.load == points[0].load {
				line = append(line, p)
			} else {
				rest = append(rest, p)
			}
		}
		points = rest
		c := colours[i%len(colours)]
		var at []string
		for _, p := range line {
			at = append(at, fmt.Sprintf("%.1f,%.1f", x(p.ranks), y(p.share)))
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x(p.ranks), y(p.share), c)
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`+"\n", strings.Join(at, " "), c)
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", left+12, height-bottom-60+16*i, c, line[0].load)
	}
	return b.String() + "</svg>\n"
}
