package lockcert

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Status of a check in a placement.
const (
	Pass = "ok"
	Fail = "FAIL"
	Skip = "skipped"
)

// disturber stands in an event for who restarted the server.
const disturber = -1

// Result is what one check found in one placement.
type Result struct {
	Check     string  `json:"check"`
	Promise   string  `json:"promise"`
	Place     string  `json:"placement"`
	Status    string  `json:"status"`
	Apart     bool    `json:"apart,omitempty"` // reported, does not count
	Detail    string  `json:"detail,omitempty"`
	Trace     []Event `json:"counterExample,omitempty"`
	Rounds    int     `json:"rounds,omitempty"`
	Calls     int     `json:"calls"`
	Undecided int     `json:"undecided,omitempty"` // histories too large to decide in time
	Seconds   float64 `json:"seconds"`
}

// counts reports whether the result makes the file system not conformant.
func (r *Result) counts() bool { return r.Status == Fail && !r.Apart }

// Report is a whole run.
type Report struct {
	Dirs    []string  `json:"dirs"`
	Seed    uint64    `json:"seed"`
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	Places  []string  `json:"placements"`
	Results []Result  `json:"results"`
}

// add files a result; a later lap's goes into the first one's.
func (r *Report) add(n Result) {
	if i := r.find(n.Check, n.Place); i >= 0 {
		old := &r.Results[i]
		n.Rounds += old.Rounds
		n.Calls += old.Calls
		n.Undecided += old.Undecided
		n.Seconds += old.Seconds
		*old = n
		return
	}
	r.Results = append(r.Results, n)
}

func (r *Report) find(check, place string) int {
	return slices.IndexFunc(r.Results, func(x Result) bool { return x.Check == check && x.Place == place })
}

func (r *Report) failed(check, place string) bool {
	i := r.find(check, place)
	return i >= 0 && r.Results[i].Status == Fail
}

func (r *Report) end() *Report {
	r.Seconds = time.Since(r.Began).Seconds()
	return r
}

// Failures are the results that count against the file system.
func (r *Report) Failures() (f []Result) {
	for _, x := range r.Results {
		if x.counts() {
			f = append(f, x)
		}
	}
	return f
}

// Conformant reports whether every promise that counts was kept.
func (r *Report) Conformant() bool { return len(r.Failures()) == 0 }

func (x *Result) word() string {
	switch {
	case x.Status == Fail && x.Apart:
		return "differs"
	case x.Status == Pass && x.Undecided > 0:
		return fmt.Sprintf("ok (%d undecided)", x.Undecided)
	}
	return x.Status
}

// WriteMatrix prints the matrix and the first counter-example of each failure.
func (r *Report) WriteMatrix(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	heads := map[string]string{Same: "SAME MOUNT", Across: "ACROSS MOUNTS"}
	line := "FEATURE\tCHECK"
	for _, p := range r.Places {
		line += "\t" + heads[p]
	}
	fmt.Fprintln(tw, line)
	last := ""
	for _, x := range r.Results {
		if x.Place != r.Places[0] {
			continue
		}
		feature, check, _ := strings.Cut(x.Check, "/")
		show := feature
		if feature == last {
			show = ""
		}
		last = feature
		line = show + "\t" + check
		for _, p := range r.Places {
			word := "-"
			if i := r.find(x.Check, p); i >= 0 {
				word = r.Results[i].word()
			}
			line += "\t" + word
		}
		fmt.Fprintln(tw, line)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, x := range r.Results {
		if x.Status == Fail {
			fmt.Fprintln(w)
			x.write(w)
		}
	}
	for _, x := range r.Results {
		if x.Status == Skip && x.Place == r.Places[0] {
			fmt.Fprintf(w, "\n%s was skipped: %s\n", x.Check, x.Detail)
		}
	}
	calls := 0
	for _, x := range r.Results {
		calls += x.Calls
	}
	verdict := "CONFORMANT"
	if f := r.Failures(); len(f) > 0 {
		verdict = fmt.Sprintf("NOT CONFORMANT: %d failed", len(f))
	}
	_, err := fmt.Fprintf(w, "\n%s. %d checks, %d calls, %.0f s, seed %d.\n", verdict, len(r.Results), calls, r.Seconds, r.Seed)
	return err
}

func (x *Result) write(w io.Writer) {
	note := ""
	if x.Apart {
		note = " (reported apart: does not count)"
	}
	where := map[string]string{Same: "on one mount", Across: "across mounts"}[x.Place]
	fmt.Fprintf(w, "%s, %s%s\n  promise: %s\n  found:   %s\n", x.Check, where, note, x.Promise, x.Detail)
	for _, l := range Timeline(x.Trace) {
		fmt.Fprintln(w, "  "+l)
	}
}

// Timeline renders events: when each call began and returned, in ms since the first, as
// numbers and as a bar, who made it on which mount, and what came back.
func Timeline(evs []Event) []string {
	if len(evs) == 0 {
		return nil
	}
	const bar = 20
	from, to := evs[0].Call, evs[0].Call+1
	for _, e := range evs {
		from, to = min(from, e.Call), max(to, e.Ret, e.Call)
	}
	at := func(ns int64) int { return int((ns - from) * (bar - 1) / (to - from)) }
	ms := func(ns int64) string { return fmt.Sprintf("%.3f", float64(ns-from)/1e6) }
	lines := []string{fmt.Sprintf("%10s %10s  %-*s  who  call → answer", "ms", "ms", bar, "time")}
	for _, e := range evs {
		ret, a, b := "…", at(e.Call), bar-1
		if e.Ret != 0 {
			ret, b = ms(e.Ret), at(e.Ret)
		}
		track := []byte(strings.Repeat(".", bar))
		for i := a; i <= b; i++ {
			track[i] = '='
		}
		if e.Ret == 0 {
			track[bar-1] = '>'
		}
		answer := " → " + e.result()
		if e.Call == e.Ret { // something done to the worker
			answer = ""
		}
		if e.mark != "" {
			answer += "   ◀ " + e.mark
		}
		who := fmt.Sprintf("%c@%d", 'A'+e.Worker, e.Mount)
		if e.Worker == disturber {
			who, answer = " * ", ""
		}
		lines = append(lines, fmt.Sprintf("%10s %10s  %s  %s  %s%s", ms(e.Call), ret, track, who, e.Step, answer))
	}
	return lines
}

// WriteTAP prints the results in the Test Anything Protocol, version 13. What is reported
// apart is a TODO, which no harness counts as a failure.
func (r *Report) WriteTAP(w io.Writer) error {
	fmt.Fprintf(w, "TAP version 13\n1..%d\n# seed %d\n", len(r.Results), r.Seed)
	for i, x := range r.Results {
		word, tag := "ok", ""
		switch {
		case x.Status == Skip:
			tag = " # SKIP " + x.Detail
		case x.Status == Fail:
			word = "not ok"
			if x.Apart {
				tag = " # TODO left open by POSIX"
			}
		}
		fmt.Fprintf(w, "%s %d - %s %s%s\n", word, i+1, x.Check, x.Place, tag)
		if x.Status == Fail {
			fmt.Fprintf(w, "# %s\n", x.Detail)
			for _, l := range Timeline(x.Trace) {
				fmt.Fprintln(w, "# "+l)
			}
		}
	}
	return nil
}

// WriteJSON prints the whole report; docs/conformance.md describes it.
func (r *Report) WriteJSON(w io.Writer) error {
	type result struct {
		Result
		Timeline []string `json:"timeline,omitempty"`
	}
	out := struct {
		*Report
		Conformant bool     `json:"conformant"`
		Results    []result `json:"results"`
	}{Report: r, Conformant: r.Conformant()}
	for _, x := range r.Results {
		out.Results = append(out.Results, result{x, Timeline(x.Trace)})
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}

// WriteList prints the checks with their promises.
func WriteList(w io.Writer, checks []Check) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, c := range checks {
		note := map[string]string{"across": " (across mounts: reported apart)", "always": " (reported apart)"}[c.Apart]
		fmt.Fprintf(tw, "%s\t%s%s\n", c.Name, c.Promise, note)
	}
	return tw.Flush()
}
