package locker

import (
	"encoding/json"
	"io"
	"strings"
)

// Tables are the four classes, in the order of the reference.
func Tables() []*Table { return []*Table{localTable, simpleTable, scatterTable, fileTable} }

// Dump is what `capstan locks --tables --json` prints. The format is stable: fields are only
// ever added. An empty cell is "-", as in the tables.
type Dump struct {
	Version  int            `json:"version"`
	Locks    []DumpLock     `json:"locks"`
	Classes  []DumpClass    `json:"classes"`
	Policies []DumpPolicy   `json:"policies"`
	Messages []DumpReceived `json:"messages"` // what a replica makes of a lock message
}

// DumpLock is one lock type; Order is its place inside an object, Caps the group it drives.
type DumpLock struct {
	Name  string `json:"name"`
	Class string `json:"class"`
	Order int    `json:"order"`
	Caps  string `json:"caps"`
}

// DumpClass is one table.
type DumpClass struct {
	Name string    `json:"name"`
	Rows []DumpRow `json:"rows"`
}

// DumpRow is one state.
type DumpRow struct {
	State      string `json:"state"`
	Settles    string `json:"settles"` // "." for a steady state
	Replica    string `json:"replica"`
	Get        string `json:"get"`
	Rdlock     string `json:"rdlock"`
	Wrlock     string `json:"wrlock"`
	Xlock      string `json:"xlock"`
	All        string `json:"all"`
	Loner      string `json:"loner"`
	Holder     string `json:"holder"`
	RepClients string `json:"repclients"`
	Next       string `json:"next"`
	Tell       string `json:"tell"`
	Ack        string `json:"ack"`
	Acked      string `json:"acked"`
	Before     string `json:"before"`
	Flush      string `json:"flush"`
}

// DumpPolicy is one line of the evaluation policy.
type DumpPolicy struct {
	Policy string   `json:"policy"`
	From   string   `json:"from"`
	When   []string `json:"when"`
	To     string   `json:"to"`
}

// DumpReceived is one line of §2.7.
type DumpReceived struct {
	Class   string `json:"class"`
	Message string `json:"message"`
	In      string `json:"in"`
	Becomes string `json:"becomes"`
}

// TableDump collects the tables as data.
func TableDump() Dump {
	d := Dump{Version: 1}
	for t := range numTypes {
		ti := &types[t]
		group := "-"
		switch {
		case t == Dn:
			group = "lease"
		case ti.mask != 0:
			group = ti.mask.String()[:1]
		}
		d.Locks = append(d.Locks, DumpLock{Name: ti.name, Class: ti.table.Class, Order: int(t), Caps: group})
	}
	for _, t := range Tables() {
		name := func(s State) string {
			if s == noState {
				return "-"
			}
			return t.Rows[s].Name
		}
		c := DumpClass{Name: t.Class}
		for i := range t.Rows {
			r := &t.Rows[i]
			row := DumpRow{State: r.Name, Settles: name(r.Goal), Replica: name(r.Born),
				Get: r.Get.String(), Rdlock: r.Rd.String(), Wrlock: r.Wr.String(), Xlock: r.X.String(),
				All: r.All.String(), Loner: r.Loner.String(), Holder: r.Holder.String(), RepClients: r.RepClients.String(),
				Next: name(r.Next), Tell: r.Tell.String(), Ack: r.Ack.String(), Acked: name(r.Acked),
				Before: r.Do.String(), Flush: r.Flush.String()}
			if r.Steady {
				row.Settles = "."
			}
			c.Rows = append(c.Rows, row)
		}
		d.Classes = append(d.Classes, c)
		for _, rc := range t.receive {
			m := DumpReceived{Class: t.Class, Message: rc.msg.String(), In: "any", Becomes: "same"}
			if rc.in != noState {
				m.In = name(rc.in)
			}
			if rc.next != noState {
				m.Becomes = name(rc.next)
			}
			d.Messages = append(d.Messages, m)
		}
	}
	for _, f := range textLines(policyText)[1:] {
		d.Policies = append(d.Policies, DumpPolicy{Policy: f[0], From: f[1], When: f[2 : len(f)-1], To: f[len(f)-1]})
	}
	return d
}

// WriteJSON prints the tables as JSON.
func WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(TableDump())
}

// WriteText prints the tables as text, columns aligned.
func WriteText(w io.Writer) error {
	var b strings.Builder
	for _, c := range TableDump().Classes {
		b.WriteString(c.Name + "\n")
		cells := [][]string{columns}
		for _, r := range c.Rows {
			cells = append(cells, r.Cells())
		}
		align(&b, cells)
		b.WriteString("\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Columns are the headings of a table, in order; DumpRow.Cells follows it.
func Columns() []string { return columns }

// Cells is the row as text.
func (r DumpRow) Cells() []string {
	return []string{r.State, r.Settles, r.Replica, r.Get, r.Rdlock, r.Wrlock, r.Xlock, r.All, r.Loner, r.Holder,
		r.RepClients, r.Next, r.Tell, r.Ack, r.Acked, r.Before, r.Flush}
}

func align(b *strings.Builder, cells [][]string) {
	width := make([]int, len(cells[0]))
	for _, row := range cells {
		for i, c := range row {
			width[i] = max(width[i], len(c))
		}
	}
	for _, row := range cells {
		for i, c := range row {
			b.WriteString(c)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-len(c)+2))
			}
		}
		b.WriteString("\n")
	}
}
