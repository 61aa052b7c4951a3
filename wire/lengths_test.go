package wire

import (
	"errors"
	"testing"
)

// A count is believed only as far as the record reaches.
func TestWildCountsAreRefusedBeforeAllocation(t *testing.T) {
	good, err := Append(nil, &OSDStats{ID: 1, PGs: make([]PGStat, 40)})
	if err != nil {
		t.Fatal(err)
	}
	if err := Unmarshal(good, &OSDStats{}); err != nil {
		t.Fatal(err)
	}
	for _, wild := range [][]byte{
		{1, 0xdd, 0xff, 0xff, 0xff, 0xff},                         // array
		{1, 0x96, 1, 1, 1, 1, 1, 0xdd, 0x7f, 0xff, 0xff, 0xff, 0}, // array inside
		{1, 0xdf, 0xff, 0xff, 0xff, 0xff},                         // map
		{1, 0xc6, 0xff, 0xff, 0xff, 0xff},                         // bytes
		{1, 0xdb, 0xff, 0xff, 0xff, 0xff},                         // string
		{1, 0xdc, 0xff},                                           // cut short
	} {
		if err := Unmarshal(wild, &OSDStats{}); !errors.Is(err, errLengths) {
			t.Errorf("%x: %v", wild, err)
		}
	}
}

// Whatever the encoder makes, the walk must let pass.
func TestEveryMessagePassesTheLengthCheck(t *testing.T) {
	for typ, mk := range Types() {
		b, err := Append(nil, mk())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(typ, b); err != nil {
			t.Errorf("%v: %v", typ, err)
		}
	}
}
