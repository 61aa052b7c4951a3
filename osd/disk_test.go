package osd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// What a newer program left in a store is refused when the OSD starts, by PG and version:
// an OSD that skips a log entry, a dedup record or the mark of a half-filled copy would
// become a primary that lies.
func TestRecordsOfANewerProgramAreRefusedByName(t *testing.T) {
	v := wire.Version{Interval: 3, N: 7}
	h := &wire.LogEntry{Version: v, Object: "o", After: v, Client: wire.Instance{Kind: wire.KindClient, Nonce: 5}, Tid: 1}
	rec, _ := wire.Append(nil, h)
	tab := newTable()
	tab.add(h)
	kv := tab.kv(h.Client)
	l := learner{state: learnGoing}
	newer := func(b []byte) []byte { return append([]byte{b[0] + 8}, b[1:]...) }
	inner := *h
	for _, c := range []struct {
		name string
		t    Txn
		says []string
	}{
		{"nothing wrong", Txn{Append: []LogRec{{v, rec}}, Meta: []wire.KV{kv, l.kv()}}, nil},
		{"log entry", Txn{Append: []LogRec{{v, newer(rec)}}}, []string{"osd.1", "pg 1.0", "3'7", "version 9"}},
		{"log entry cut", Txn{Append: []LogRec{{v, rec[:len(rec)-1]}}}, []string{"pg 1.0", "3'7"}},
		{"dedup record", Txn{Meta: []wire.KV{{Key: kv.Key, Val: newer(kv.Val)}}}, []string{kv.Key, "version 9"}},
		{"entry in a dedup record", Txn{Meta: []wire.KV{dedupOf(inner.Client, newer(rec))}}, []string{kv.Key, "version 9"}},
		{"learner's mark", Txn{Meta: []wire.KV{{Key: learnKey, Val: newer(l.kv().Val)}}}, []string{"pg 1.0", "learn"}},
		{"no pg_num", Txn{Append: []LogRec{{v, rec}}}, []string{"pg 1.0", "pg_num"}},
		{"learner's mark cut", Txn{Meta: []wire.KV{{Key: learnKey, Val: []byte{1}}}}, []string{"pg 1.0", "learn"}},
	} {
		st := NewMemStore(wire.UUID{2})
		c.t.PG = testPG
		if c.name != "no pg_num" {
			c.t.Meta = append(c.t.Meta, pgNumKV(1))
		}
		st.Submit(&c.t, func(error) {})
		st.Commit(-1)
		got := func() (s string) {
			defer func() {
				if r := recover(); r != nil {
					s = fmt.Sprint(r)
				}
			}()
			New(Config{ID: 1, Instance: inst(1), Stored: func(wire.PGID, uint64, error) {}}, st, 0)
			return ""
		}()
		if (got == "") != (c.says == nil) {
			t.Errorf("%s: %q", c.name, got)
		}
		for _, w := range c.says {
			if !strings.Contains(got, w) {
				t.Errorf("%s: %q does not say %q", c.name, got, w)
			}
		}
	}
}

func dedupOf(i wire.Instance, rec []byte) wire.KV {
	b, _ := wire.Append(nil, &wire.DedupClient{Client: i, Recs: [][]byte{rec}})
	return wire.KV{Key: dedupKey(i), Val: b}
}

func FuzzDedupRecord(f *testing.F) {
	v := wire.Version{Interval: 3, N: 7}
	tab := newTable()
	tab.add(&wire.LogEntry{Version: v, Object: "o", After: v, Client: inst(1), Tid: 4, Oldest: 2})
	f.Add(tab.kv(inst(1)).Val)
	f.Fuzz(func(t *testing.T, b []byte) {
		d := new(wire.DedupClient)
		if wire.Unmarshal(b, d) != nil || newTable().take(d) != nil {
			return
		}
		tab := newTable()
		tab.take(d)
		tab.find(d.Client, 3)
		if again := new(wire.DedupClient); wire.Unmarshal(tab.kv(d.Client).Val, again) != nil {
			t.Fatal("what was read cannot be read again")
		}
	})
}
