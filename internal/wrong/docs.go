package wrong

import (
	"fmt"
	"strings"
)

// Docs is the table of docs/conformance.md.
func Docs() string {
	var b strings.Builder
	b.WriteString("| `--wrong` | in | what goes wrong | found by | on one mount too |\n|---|---|---|---|---|\n")
	for _, f := range Faults {
		same := ""
		if f.Same {
			same = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", f.Name, f.Where, f.Does, f.Check, same)
	}
	return b.String()
}
