package wire

import (
	"encoding/json"
	"testing"
)

// A UUID is shown to people as they write it, and nothing else is taken for one.
func TestUUIDsInJSON(t *testing.T) {
	in := UUID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0xff}
	b, err := json.Marshal(in)
	if err != nil || string(b) != `"`+in.String()+`"` {
		t.Fatalf("%s %v", b, err)
	}
	var out UUID
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("%v %v", out, err)
	}
	for _, bad := range []string{`"x"`, `""`, `"0102030405060708090a0b0c0d0e0f"`, `"0102030405060708090a0b0c0d0e0f1011"`, `7`} {
		if json.Unmarshal([]byte(bad), &out) == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}
