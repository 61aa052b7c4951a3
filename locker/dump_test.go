package locker

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestDumpIsTheTables(t *testing.T) {
	var b bytes.Buffer
	if err := WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var d Dump
	if err := json.Unmarshal(b.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	// The dump must parse back to the very tables it was made of.
	for i, c := range d.Classes {
		text := strings.Join(columns, " ") + "\n"
		for _, r := range c.Rows {
			text += strings.Join(r.Cells(), " ") + "\n"
		}
		again := mustTable(c.Name, text, "")
		for s, r := range Tables()[i].Rows {
			if again.Rows[s] != r {
				t.Errorf("%s %s came back as %+v", c.Name, r.Name, again.Rows[s])
			}
		}
	}
	var txt bytes.Buffer
	if err := WriteText(&txt); err != nil || !strings.Contains(txt.String(), "\nsync>lock ") {
		t.Fatalf("%v\n%s", err, txt.String())
	}
}
