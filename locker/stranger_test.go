package locker_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/locker"
)

// A stranger's checker: it knows the rules of the lock classes and what docs/locks.md says of
// the JSON that `capstan locks --tables --json` prints, and nothing of this package. From the
// steady rows it works every row in transit out again.
//
//	G1 caps are those of both ends      E1 leaving mix drains every wrlock
//	G2 holds likewise                   E2 leaving mix takes two stages
//	G3 get is that of the start         E3 *_acked rows grant what both ends do, and wait
//	G4 nobody takes an xlock

type strangerTables struct {
	Version int `json:"version"`
	Locks   []struct {
		Name, Class, Caps string
		Order             int
	} `json:"locks"`
	Classes []struct {
		Name string              `json:"name"`
		Rows []map[string]string `json:"rows"`
	} `json:"classes"`
	Messages []struct{ Class, Message, In, Becomes string } `json:"messages"`
}

type strangerRows map[string]map[string]string

// meetCell is the weaker of two permissions.
func meetCell(a, b string) string {
	switch {
	case a == b || b == "any":
		return a
	case a == "any":
		return b
	case a == "auth" && b == "sole" || a == "sole" && b == "auth":
		return "sole"
	}
	return "-"
}

// meetCaps are the letters that both have, in the order s x c r w b.
func meetCaps(a, b string) string {
	both := ""
	for _, c := range "sxcrwb" {
		if strings.ContainsRune(a, c) && strings.ContainsRune(b, c) {
			both += string(c)
		}
	}
	if both == "" {
		return "-"
	}
	return both
}

// strangerComplains checks tables as printed.
func strangerComplains(text []byte) (out []string) {
	var tables strangerTables
	if err := json.Unmarshal(text, &tables); err != nil {
		return []string{err.Error()}
	}
	if tables.Version != 1 {
		return []string{fmt.Sprintf("version %d", tables.Version)}
	}
	known := map[string]strangerRows{}
	transits := 0
	for _, c := range tables.Classes {
		rows := strangerRows{}
		for _, r := range c.Rows {
			rows[r["state"]] = r
		}
		known[c.Name] = rows
		for _, r := range c.Rows {
			for _, why := range strangerRow(rows, r, &transits) {
				out = append(out, c.Name+" "+r["state"]+": "+why)
			}
		}
	}
	if transits < 30 {
		out = append(out, fmt.Sprintf("only %d rows in transit", transits))
	}
	for _, l := range tables.Locks {
		if known[l.Class] == nil {
			out = append(out, "lock "+l.Name+" of no class")
		}
	}
	for _, m := range tables.Messages {
		rows := known[m.Class]
		if m.In != "any" && rows[m.In] == nil || m.Becomes != "same" && rows[m.Becomes] == nil {
			out = append(out, "message "+m.Message+" between no rows")
		}
	}
	return out
}

func strangerRow(rows strangerRows, r map[string]string, transits *int) (out []string) {
	bad := func(rule, column, want string) {
		if r[column] != want {
			out = append(out, fmt.Sprintf("%s: %s is %q, want %q", rule, column, r[column], want))
		}
	}
	for _, column := range []string{"settles", "replica", "next", "acked"} {
		if s := r[column]; s != "." && s != "-" && rows[s] == nil {
			out = append(out, column+" leads nowhere")
		}
	}
	name := r["state"]
	from, to, ok := strings.Cut(name, ">")
	if !ok || to == "xlock" {
		return out
	}
	if end, acked := strings.CutSuffix(to, "_acked"); acked {
		bad("E3", "settles", end)
		bad("E3", "repclients", meetCaps(rows[from]["repclients"], rows[end]["repclients"]))
		for _, column := range []string{"get", "rdlock", "wrlock", "xlock", "tell", "ack", "next"} {
			bad("E3", column, "-")
		}
		return out
	}
	*transits++
	to, second := strings.CutSuffix(to, "2")
	a, b := rows[from], rows[to]
	bad("goal", "settles", to)
	for _, audience := range []string{"all", "loner", "holder", "repclients"} {
		bad("G1", audience, meetCaps(a[audience], b[audience]))
	}
	bad("G2", "rdlock", meetCell(a["rdlock"], b["rdlock"]))
	wr := meetCell(a["wrlock"], b["wrlock"])
	if from == "mix" {
		wr = "-"
		next := "-"
		if !second {
			next = name + "2"
		}
		bad("E2", "next", next)
		bad("E1", "wrlock", wr)
	} else {
		bad("G2", "wrlock", wr)
		bad("E2", "next", "-")
	}
	bad("G3", "get", a["get"])
	bad("G4", "xlock", "-")
	return out
}

func printed(t *testing.T) []byte {
	var b bytes.Buffer
	if err := locker.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAStrangerCanCheckTheTablesThatRun(t *testing.T) {
	for _, why := range strangerComplains(printed(t)) {
		t.Error(why)
	}
}

// Any one wrong permission, cap or goal in a row in transit is noticed from the JSON alone.
func TestAStrangerNoticesAWrongCell(t *testing.T) {
	var doc map[string]any
	if err := json.Unmarshal(printed(t), &doc); err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, c := range doc["classes"].([]any) {
		for _, r := range c.(map[string]any)["rows"].([]any) {
			row := r.(map[string]any)
			state := row["state"].(string)
			if !strings.Contains(state, ">") || state == "lock>xlock" {
				continue
			}
			for column, wrong := range map[string]string{"settles": "lock>sync", "get": "sole", "rdlock": "holder", "wrlock": "holder",
				"xlock": "holder", "all": "b", "loner": "xw", "holder": "b", "repclients": "w", "next": "sync", "replica": "nowhere"} {
				if strings.HasSuffix(state, "_acked") && (column == "all" || column == "loner" || column == "holder") {
					continue
				}
				old := row[column]
				row[column] = wrong
				text, err := json.Marshal(doc)
				if err != nil {
					t.Fatal(err)
				}
				if len(strangerComplains(text)) == 0 {
					t.Errorf("%s: %s %v → %s passes", state, column, old, wrong)
				}
				row[column] = old
				tried++
			}
		}
	}
	if tried < 400 {
		t.Fatalf("only %d cells tried", tried)
	}
}

// The format is stable: these names are what a stranger may rely on. More may come.
func TestTheTablesKeepTheirFormat(t *testing.T) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(printed(t), &doc); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"version", "locks", "classes", "policies", "messages"} {
		if doc[key] == nil {
			t.Errorf("no %s", key)
		}
	}
	var first []struct{ Rows []map[string]string }
	if err := json.Unmarshal(doc["classes"], &first); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"state", "settles", "replica", "get", "rdlock", "wrlock", "xlock", "all", "loner", "holder", "repclients",
		"next", "tell", "ack", "acked", "before", "flush"} {
		for _, c := range first {
			for _, r := range c.Rows {
				if r[key] == "" {
					t.Errorf("%s: no %s", r["state"], key)
				}
			}
		}
	}
}
