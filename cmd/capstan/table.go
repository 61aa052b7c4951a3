package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// field is one pair of a JSON object, in the order in which it was written.
type field struct {
	key   string
	value json.RawMessage
}

// fields splits a JSON object; nil when it is none.
func fields(v json.RawMessage) []field {
	dec := json.NewDecoder(bytes.NewReader(v))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	var out []field
	for dec.More() {
		k, err := dec.Token()
		if err != nil {
			return nil
		}
		var val json.RawMessage
		if dec.Decode(&val) != nil {
			return nil
		}
		out = append(out, field{k.(string), val})
	}
	return out
}

// cell is a value on one line: texts bare, lists with commas, objects as key=value.
func cell(v json.RawMessage) string {
	var s string
	if json.Unmarshal(v, &s) == nil {
		return s
	}
	var list []json.RawMessage
	if json.Unmarshal(v, &list) == nil {
		parts := make([]string, len(list))
		for i := range list {
			parts[i] = cell(list[i])
		}
		return strings.Join(parts, ",")
	}
	if fs := fields(v); fs != nil {
		parts := make([]string, len(fs))
		for i, f := range fs {
			parts[i] = f.key + "=" + cell(f.value)
		}
		return strings.Join(parts, " ")
	}
	return string(v)
}

// text lays JSON out for people: an array of objects is a table, an object is one line per
// key, with its own arrays of objects as tables below.
func text(v json.RawMessage) string {
	var b strings.Builder
	writeText(&b, v)
	return b.String()
}

func writeText(b *strings.Builder, v json.RawMessage) {
	var list []json.RawMessage
	if fs := fields(v); fs != nil {
		w := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
		var tables []field
		for _, f := range fs {
			if isTable(f.value) {
				tables = append(tables, f)
				continue
			}
			fmt.Fprintf(w, "%s\t%s\n", f.key, cell(f.value))
		}
		w.Flush()
		for _, t := range tables {
			fmt.Fprintf(b, "\n%s\n", t.key)
			writeText(b, t.value)
		}
		return
	}
	if json.Unmarshal(v, &list) != nil {
		fmt.Fprintln(b, cell(v))
		return
	}
	if len(list) == 0 {
		b.WriteString("none\n")
		return
	}
	// The columns are the keys of all rows, in the order in which they first come.
	var keys []string
	seen := map[string]int{}
	rows := make([][]field, len(list))
	for i, r := range list {
		rows[i] = fields(r)
		for _, f := range rows[i] {
			if _, ok := seen[f.key]; !ok {
				seen[f.key] = len(keys)
				keys = append(keys, f.key)
			}
		}
	}
	if len(keys) == 0 {
		for _, r := range list {
			fmt.Fprintln(b, cell(r))
		}
		return
	}
	w := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	for i, k := range keys {
		keys[i] = strings.ToUpper(strings.ReplaceAll(k, "_", " "))
	}
	fmt.Fprintln(w, strings.Join(keys, "\t"))
	for _, r := range rows {
		line := make([]string, len(keys))
		for _, f := range r {
			line[seen[f.key]] = cell(f.value)
		}
		fmt.Fprintln(w, strings.Join(line, "\t"))
	}
	w.Flush()
}

func isTable(v json.RawMessage) bool {
	var list []json.RawMessage
	return json.Unmarshal(v, &list) == nil && len(list) > 0 && fields(list[0]) != nil
}

// show prints an answer as JSON or for people.
func show(cmd *cobra.Command, v json.RawMessage, asJSON bool) error {
	if asJSON {
		return printJSON(cmd, v)
	}
	_, err := fmt.Fprint(cmd.OutOrStdout(), text(v))
	return err
}
