// Package scene runs tests that are written as scenes: text files that say why the scene
// matters, give commands, and list everything that then happened.
//
//	# Two clients cache the mode and a third changes it.
//	given iauth state=sync issued=(c1:s c2:s)
//
//	xlock iauth by=c3
//	----
//	iauth sync>lock
//	send c1 revoke s
//
// A block of commands runs to its ---- line; what the world printed must equal the lines
// that follow, up to an empty one. A block without ---- must print nothing. Lines that begin
// with # are comments. `go test -rewrite` writes what really happened into the files: read
// that diff as code.
package scene

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
)

var rewrite = flag.Bool("rewrite", false, "write the real output of scenes into their files")

// Rewriting reports whether -rewrite was given; pages that come out of tables obey it too.
func Rewriting() bool { return *rewrite }

// Command is one line: a name, plain words, and key=value words. A list is key=(a b c).
type Command struct {
	Name string
	Args []string
	Opts map[string]string
	Line int
}

// Opt is the value of key, or "" when the command does not have it.
func (c Command) Opt(key string) string { return c.Opts[key] }

// List is the value of key=(a b c) as words.
func (c Command) List(key string) []string { return strings.Fields(c.Opts[key]) }

// Has reports whether the plain word is among the arguments.
func (c Command) Has(word string) bool {
	for _, a := range c.Args {
		if a == word {
			return true
		}
	}
	return false
}

// World runs commands. It returns what happened, a line each; an error ends the scene.
type World interface {
	Do(Command) ([]string, error)
}

// Run runs every file that matches pattern in a world of its own, as a sub-test named after
// the file.
func Run(t *testing.T, pattern string, start func(t *testing.T) World) {
	t.Helper()
	each(t, pattern, func(t *testing.T, text string) (string, error) { return Play(text, start(t)) })
}

// RunInBubbles is Run for worlds with goroutines and timers of their own: each file plays in
// a synctest bubble, whose clock moves only when everybody in it waits.
func RunInBubbles(t *testing.T, pattern string, start func(t *testing.T) World) {
	t.Helper()
	each(t, pattern, func(t *testing.T, text string) (got string, err error) {
		synctest.Test(t, func(t *testing.T) { got, err = Play(text, start(t)) })
		return got, err
	})
}

func each(t *testing.T, pattern string, run func(t *testing.T, text string) (string, error)) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("scene: no files match %s (%v)", pattern, err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) { play(t, f, run) })
	}
}

func play(t *testing.T, file string, run func(t *testing.T, text string) (string, error)) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got, err := run(t, string(text))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if got == string(text) {
		return
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s: another story (go test -rewrite accepts it):\n%s", file, diff(string(text), got))
}

// Play runs the commands of text in w and returns text with the output that it gave.
func Play(text string, w World) (string, error) {
	var out strings.Builder
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := 0; i < len(lines); {
		var printed []string
		block := false
		for ; i < len(lines) && lines[i] != "" && lines[i] != "----"; i++ {
			out.WriteString(lines[i] + "\n")
			if strings.HasPrefix(lines[i], "#") {
				continue
			}
			cmd, err := parse(lines[i], i+1)
			if err != nil {
				return "", err
			}
			block = true
			p, err := w.Do(cmd)
			if err != nil {
				return "", fmt.Errorf("line %d, %q: %w", i+1, lines[i], err)
			}
			printed = append(printed, p...)
		}
		expected := i < len(lines) && lines[i] == "----"
		if expected {
			for ; i < len(lines) && lines[i] != ""; i++ {
			}
		}
		if block && (expected || len(printed) > 0) {
			out.WriteString("----\n")
			for _, p := range printed {
				out.WriteString(p + "\n")
			}
		}
		for ; i < len(lines) && lines[i] == ""; i++ {
			out.WriteString("\n")
		}
	}
	return out.String(), nil
}

func parse(line string, n int) (Command, error) {
	c := Command{Line: n, Opts: map[string]string{}}
	rest := strings.TrimSpace(line)
	for rest != "" {
		end := strings.IndexByte(rest, ' ')
		if open := strings.Index(rest, "=("); open >= 0 && (end < 0 || open < end) {
			shut := strings.IndexByte(rest, ')')
			if shut < open {
				return c, fmt.Errorf("line %d: list is not closed: %q", n, line)
			}
			c.Opts[rest[:open]] = rest[open+2 : shut]
			rest = strings.TrimSpace(rest[shut+1:])
			continue
		}
		word := rest
		if end >= 0 {
			word = rest[:end]
		}
		rest = strings.TrimSpace(rest[len(word):])
		if k, v, ok := strings.Cut(word, "="); ok {
			c.Opts[k] = v
		} else if c.Name == "" {
			c.Name = word
		} else {
			c.Args = append(c.Args, word)
		}
	}
	return c, nil
}

// diff marks the lines that differ, without cleverness: scenes are short.
func diff(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out strings.Builder
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			fmt.Fprintf(&out, "  %s\n", a[i])
			i++
			j++
		case i < len(a) && !contains(b[j:], a[i]):
			fmt.Fprintf(&out, "- %s\n", a[i])
			i++
		case j < len(b):
			fmt.Fprintf(&out, "+ %s\n", b[j])
			j++
		default:
			fmt.Fprintf(&out, "- %s\n", a[i])
			i++
		}
	}
	return out.String()
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
