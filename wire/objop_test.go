package wire

import (
	"reflect"
	"testing"
)

func TestExtents(t *testing.T) {
	ex := func(v ...uint64) (es []Extent) {
		for i := 0; i < len(v); i += 2 {
			es = append(es, Extent{Off: v[i], Len: v[i+1]})
		}
		return es
	}
	in := ex(0, 4096, 8192, 1, 1<<20, 3<<20)
	got, err := Extents(PutExtents(in))
	if err != nil || !reflect.DeepEqual(got, in) {
		t.Fatalf("%v, %v", got, err)
	}
	for _, bad := range [][]Extent{ex(0, 0), ex(4096, 4096, 0, 1), ex(0, 10, 5, 10), ex(MaxObjectBytes, 1)} {
		if es, err := Extents(PutExtents(bad)); err == nil {
			t.Errorf("%v is taken as %v", bad, es)
		}
	}
	if _, err := Extents(make([]byte, 9)); err == nil {
		t.Error("9 bytes are taken")
	}
}
