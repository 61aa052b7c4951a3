package locker

import (
	"fmt"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/internal/scene"
)

// page is written by `make diagrams` (this test with -rewrite).
const page = "../docs/locks.md"

func TestLocksPageIsFresh(t *testing.T) {
	want := renderPage(TableDump())
	if scene.Rewriting() {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have, err := os.ReadFile(page); err != nil || string(have) != want {
		t.Fatalf("%s does not show the tables (%v): run `make diagrams` and read the diff", page, err)
	}
}

func TestDocsShowEveryState(t *testing.T) {
	text := renderPage(TableDump())
	for _, c := range Tables() {
		for _, r := range c.Rows {
			if !strings.Contains(text, "| "+r.Name+" |") && !strings.Contains(text, "**"+r.Name+"**") {
				t.Errorf("%s %s is missing", c.Class, r.Name)
			}
		}
	}
}

// pageAbout says what each class is for.
var pageAbout = map[string]string{
	"local":   "Orders the versions of one object. Auth only: nothing is told, nothing gathers.",
	"simple":  "What many read and one changes: a dentry's link, an inode's mode, its xattrs. For `dn` read `s` as a dentry lease.",
	"scatter": "Aggregates over directory fragments: in `mix` every rank adds to a delta of its own, so nobody reads.",
	"file":    "Scatter with an xlock and caps: size, mtime and data of a file; the set of entries of a directory.",
}

const pageHead = `# Locks

Generated from the tables in the text of locker/ by ` + "`make diagrams`" + `; do not edit.

Each part of an inode or dentry has a lock, each lock a class, each class a table. A state is
steady, or in transit between two steady ones (` + "`sync>lock`" + `), which it leaves when nobody holds
anything any more that its goal forbids. ` + "`capstan locks --tables`" + ` prints the same tables;
` + "`--json`" + ` gives them in a stable format (below).

Reading a row: *any* is every rank, *auth* the authoritative one, *sole* auth for the loner's own
requests, *holder* auth for the xlock holder's. Cap letters are totals per audience: all clients, the
loner, the xlock holder, clients of a replica. ` + "`a`" + ` travels with ` + "`w`" + `, ` + "`l`" + ` with ` + "`r`" + ` or ` + "`w`" + `.

`

const pageCaps = `## What the cap letters allow

| group | bit | lets the client |
|---|---|---|
| – | p | keep the inode; trust number, type, device, symlink target |
| A, L, X | s | trust mode and owner; link count; xattrs and ACLs |
| A, L, X | x | change them locally and flush later |
| F | s | trust size and times; of a directory: its entries, missing names, a complete listing |
| F | x | sole user: own size and times |
| F | c | keep clean pages |
| F | r | read from the store |
| F | w | write to the store, within the write range |
| F | b | buffer dirty data |
| F | a | extend the end of file |
| F | l | I/O outside coherence, asked for by the application |

`

func renderPage(d Dump) string {
	var b strings.Builder
	b.WriteString(pageHead)
	b.WriteString("## The locks, in the order in which one object's are taken\n\n| order | lock | class | caps |\n|---|---|---|---|\n")
	for _, l := range d.Locks {
		fmt.Fprintf(&b, "| %d | %s | %s | %s |\n", l.Order, l.Name, l.Class, l.Caps)
	}
	b.WriteString("\n" + pageCaps)
	for _, c := range d.Classes {
		fmt.Fprintf(&b, "## %s\n\n%s\n\n", strings.ToUpper(c.Name[:1])+c.Name[1:], pageAbout[c.Name])
		pagePermissions(&b, c)
		if len(c.Rows) > 1 {
			pageDiagram(&b, c)
			pageMoves(&b, c)
		}
	}
	pagePolicy(&b, d)
	pageMessages(&b, d)
	more, err := os.ReadFile("testdata/locks_page.md")
	if err != nil {
		panic(err)
	}
	b.WriteString(strings.NewReplacer("{{explored}}", pageExplored(), "{{faults}}", pageFaults()).Replace(string(more)))
	return b.String()
}

// pageExplored lists the explored worlds with their counts, which TestExplore holds true.
func pageExplored() string {
	var b strings.Builder
	b.WriteString("| | world | states | transitions | reference |\n|---|---|---:|---:|---:|\n")
	for i := range configs {
		c := &configs[i]
		mark, states, moves, ref := "", "not counted", "", ""
		if c.short {
			mark = "●"
		}
		if c.states != 0 {
			states, moves = thousands(c.states), thousands(c.moves)
		}
		if c.reference != 0 {
			ref = thousands(c.reference)
		}
		fmt.Fprintf(&b, "| %s | %v | %s | %s | %s |\n", mark, c, states, moves, ref)
	}
	return strings.TrimRight(b.String(), "\n")
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// pageFaults lists what is seeded and the rule that catches it.
func pageFaults() string {
	var b strings.Builder
	b.WriteString("| fault | lock | caught by |\n|---|---|---|\n")
	for _, f := range faults {
		fmt.Fprintf(&b, "| %s | %v | %s |\n", f.name, f.typ, f.want)
	}
	for _, f := range crowdFaults {
		fmt.Fprintf(&b, "| %s | several | %s |\n", f.fault, f.rule)
	}
	return strings.TrimRight(b.String(), "\n")
}

func pagePermissions(b *strings.Builder, c DumpClass) {
	b.WriteString("| state | settles | get | rdlock | wrlock | xlock | all | loner | holder | repclients |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range c.Rows {
		name := r.State
		if r.Settles == "." {
			name = "**" + name + "**"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", name, r.Settles, r.Get, r.Rdlock, r.Wrlock, r.Xlock,
			r.All, r.Loner, r.Holder, r.RepClients)
	}
	b.WriteString("\n")
}

// pageDiagram draws the steady states and the ways between them; the label says what is recalled.
func pageDiagram(b *strings.Builder, c DumpClass) {
	rows := map[string]DumpRow{}
	for _, r := range c.Rows {
		rows[r.State] = r
	}
	b.WriteString("```mermaid\nstateDiagram-v2\n")
	for _, r := range c.Rows {
		from, to, ok := strings.Cut(r.State, ">")
		if !ok || strings.HasSuffix(to, "2") || strings.HasSuffix(to, "_acked") || to == "xlock" {
			continue
		}
		fmt.Fprintf(b, "    %s --> %s : %s\n", from, to, moveLabel(rows[from], rows[to]))
	}
	if _, ok := rows["prexlock"]; ok {
		b.WriteString("    lock --> prexlock : reserve, drain\n    prexlock --> xlock : the request takes it\n")
		b.WriteString("    xlock --> lock : applied and submitted\n    xlock --> xlockdone : kept (truncate)\n    xlockdone --> lock : done\n")
	}
	b.WriteString("```\n\n")
}

// moveLabel says which caps a move takes from whom, and what replicas hear.
func moveLabel(from, to DumpRow) string {
	var parts []string
	less := func(a, b string) string {
		var out []rune
		for _, r := range a {
			if r != '-' && !strings.ContainsRune(b, r) {
				out = append(out, r)
			}
		}
		return string(out)
	}
	all, loner := less(from.All, to.All), less(from.Loner, to.Loner)
	switch {
	case all != "" && all == loner:
		parts = append(parts, "recall "+all)
	case all != "":
		parts = append(parts, "recall "+all+" from others")
		if loner != "" {
			parts = append(parts, loner+" from the loner")
		}
	case loner != "":
		parts = append(parts, "recall "+loner+" from the loner")
	}
	if more := less(to.Loner, from.Loner); more != "" {
		who := "all"
		if less(to.All, from.All) != more {
			who = "the loner"
			if a := less(to.All, from.All); a != "" {
				parts = append(parts, "grant "+a+" to all")
			}
		}
		parts = append(parts, "grant "+more+" to "+who)
	}
	if len(parts) == 0 {
		return "drain holds"
	}
	return strings.Join(parts, ", ")
}

func pageMoves(b *strings.Builder, c DumpClass) {
	b.WriteString("Moves with replicas: what auth tells on entry and does on leaving, what a replica answers once drained.\n\n")
	b.WriteString("| state | replica is born in | next stage | tell | before leaving | flush | replica answers | and becomes |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range c.Rows {
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", r.State, r.Replica, r.Next, r.Tell, r.Before, r.Flush, r.Ack, r.Acked)
	}
	b.WriteString("\n")
}

func pagePolicy(b *strings.Builder, d Dump) {
	b.WriteString("## Where a steady lock goes\n\nThe first line that fits wins; one that leads where the lock is means stay. `need…` is the request whose turn it is.\n\n")
	byName := map[string][]DumpPolicy{}
	for _, p := range d.Policies {
		byName[p.Policy] = append(byName[p.Policy], p)
	}
	var names []string
	for n := range byName {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		fmt.Fprintf(b, "| %s: from | when | to |\n|---|---|---|\n", n)
		for _, p := range byName[n] {
			fmt.Fprintf(b, "| %s | %s | %s |\n", p.From, strings.Join(p.When, " "), p.To)
		}
		b.WriteString("\n")
	}
}

func pageMessages(b *strings.Builder, d Dump) {
	b.WriteString("## What a replica makes of a lock message\n\n`+` means that the published value comes along. Any other pair is a protocol error.\n\n| class | message | in | becomes |\n|---|---|---|---|\n")
	for _, m := range d.Messages {
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", m.Class, m.Message, m.In, m.Becomes)
	}
}
