package scene

import (
	"fmt"
	"strings"
	"testing"
)

type echo struct{}

func (echo) Do(c Command) ([]string, error) {
	switch c.Name {
	case "quiet":
		return nil, nil
	case "fail":
		return nil, fmt.Errorf("no")
	}
	return []string{fmt.Sprintf("%s %v by=%s list=%v", c.Name, c.Args, c.Opt("by"), c.List("list"))}, nil
}

func TestPlayKeepsTextAndReplacesOutput(t *testing.T) {
	in := "# why\nquiet\n\nsay a by=c3 b list=(x y)\n----\nold\nlines\n\n# more\nsay\n----\n"
	want := "# why\nquiet\n\nsay a by=c3 b list=(x y)\n----\nsay [a b] by=c3 list=[x y]\n\n# more\nsay\n----\nsay [] by= list=[]\n"
	got, err := Play(in, echo{})
	if err != nil || got != want {
		t.Fatalf("%v\n%s", err, diff(want, got))
	}
	if again, _ := Play(got, echo{}); again != got {
		t.Fatalf("not stable:\n%s", diff(got, again))
	}
}

func TestOutputNobodyExpectedIsShown(t *testing.T) {
	if got, _ := Play("say\n", echo{}); !strings.Contains(got, "----\nsay") {
		t.Fatal(got)
	}
}

func TestErrorsNameTheLine(t *testing.T) {
	if _, err := Play("quiet\n\nfail x\n", echo{}); err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Fatal(err)
	}
	if _, err := Play("say list=(a b\n", echo{}); err == nil || !strings.Contains(err.Error(), "not closed") {
		t.Fatal(err)
	}
}
