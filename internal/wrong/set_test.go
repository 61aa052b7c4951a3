package wrong

import "testing"

func TestEveryFaultHasARowAndAName(t *testing.T) {
	seen := map[string]bool{}
	for i, f := range Faults {
		if f.Name == "" || f.Does == "" || f.Check == "" || f.Where != "rank" && f.Where != "mount" {
			t.Errorf("fault %d: %+v", i, f)
		}
		if seen[f.Name] {
			t.Errorf("%s twice", f.Name)
		}
		seen[f.Name] = true
		s, err := Parse([]string{f.Name})
		if err != nil || s != Of(Fault(i)) || !s.Has(Fault(i)) || s.String() != f.Name {
			t.Errorf("%s: %v, %v", f.Name, s, err)
		}
	}
	if numFaults > 64 {
		t.Error("a Set has 64 places")
	}
}

func TestUnknownNamesAreRefused(t *testing.T) {
	if _, err := Parse([]string{"two-writers", "nosuch"}); err == nil {
		t.Fatal("nosuch was taken")
	}
	if s, err := Parse(nil); s != 0 || err != nil {
		t.Fatal(s, err)
	}
}
