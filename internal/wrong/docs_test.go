package wrong

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the table into docs/conformance.md")

// The page shows the table that the tests try.
func TestDocsShowTheTable(t *testing.T) {
	const page, from, to = "../../docs/conformance.md", "<!-- internal/wrong: the table -->\n", "<!-- end -->\n"
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), from)
	old, after, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		t.Fatalf("%s lacks %q or %q", page, from, to)
	}
	switch {
	case old == Docs():
	case *rewrite:
		if err := os.WriteFile(page, []byte(before+from+Docs()+to+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatalf("%s is stale: run `make docs`", page)
	}
}
