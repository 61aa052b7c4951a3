package osd

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

const dedupPrefix = "d/"

// table is the dedup table (I5): what every unretired (instance, tid) was answered. It is a
// function of the log: the base, kept in Meta, is the table at the log's tail, and each entry
// after that changes it the same way at every replica.
type table struct {
	clients map[wire.Instance]*dclient
}

type dclient struct {
	oldest wire.Tid
	newest wire.Tid
	recs   []*wire.LogEntry
}

func newTable() *table { return &table{clients: map[wire.Instance]*dclient{}} }

func (t *table) add(h *wire.LogEntry) {
	c := t.clients[h.Client]
	if c == nil {
		c = &dclient{}
		t.clients[h.Client] = c
	}
	if h.Oldest > c.oldest {
		c.oldest = h.Oldest
		c.recs = slices.DeleteFunc(c.recs, func(r *wire.LogEntry) bool { return r.Tid < h.Oldest })
	}
	c.recs = append(c.recs, h)
	c.newest = max(c.newest, h.Tid)
}

// find returns the record of (i, tid). retired: the client has had its answer long ago.
func (t *table) find(i wire.Instance, tid wire.Tid) (h *wire.LogEntry, retired bool) {
	c := t.clients[i]
	if c == nil || tid > c.newest {
		return nil, false
	}
	if tid < c.oldest {
		return nil, true
	}
	for k := len(c.recs) - 1; k >= 0; k-- {
		if c.recs[k].Tid == tid {
			return c.recs[k], false
		}
	}
	return nil, false
}

func (t *table) clone() *table {
	n := newTable()
	for i, c := range t.clients {
		n.clients[i] = &dclient{c.oldest, c.newest, slices.Clone(c.recs)}
	}
	return n
}

// forget drops instances and returns their Meta keys, sorted.
func (t *table) forget(blocked func(wire.Instance) bool) (keys []string) {
	for i := range t.clients {
		if blocked(i) {
			delete(t.clients, i)
			keys = append(keys, dedupKey(i))
		}
	}
	slices.Sort(keys)
	return keys
}

func dedupKey(i wire.Instance) string {
	return fmt.Sprintf("%s%d.%d.%x", dedupPrefix, i.Kind, i.Num, i.Nonce)
}

func (t *table) client(i wire.Instance) wire.DedupClient {
	c := t.clients[i]
	d := wire.DedupClient{Client: i, Oldest: c.oldest}
	for _, r := range c.recs {
		b, err := wire.Append(nil, r)
		must.NoErr(err, "encode dedup record %v", r.Version)
		d.Recs = append(d.Recs, b)
	}
	return d
}

func (t *table) kv(i wire.Instance) wire.KV {
	d := t.client(i)
	b, err := wire.Append(nil, &d)
	must.NoErr(err, "encode dedup of %v", i)
	return wire.KV{Key: dedupKey(i), Val: b}
}

// export lists all clients in a fixed order.
func (t *table) export() []wire.DedupClient {
	is := slices.SortedFunc(maps.Keys(t.clients), func(a, b wire.Instance) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Num, b.Num), cmp.Compare(a.Nonce, b.Nonce))
	})
	out := make([]wire.DedupClient, 0, len(is))
	for _, i := range is {
		out = append(out, t.client(i))
	}
	return out
}

// take adds an exported client; an error means bytes from a peer or disk that do not decode.
func (t *table) take(d *wire.DedupClient) error {
	c := &dclient{oldest: d.Oldest}
	for _, b := range d.Recs {
		h := new(wire.LogEntry)
		if err := wire.Unmarshal(b, h); err != nil {
			return fmt.Errorf("osd: dedup record of %v: %w", d.Client, err)
		}
		c.recs = append(c.recs, h)
		c.newest = max(c.newest, h.Tid)
	}
	if c.oldest > 0 {
		c.newest = max(c.newest, c.oldest-1)
	}
	t.clients[d.Client] = c
	return nil
}

func loadTable(kvs []wire.KV) *table {
	t := newTable()
	for _, kv := range kvs {
		must.Holdf(strings.HasPrefix(kv.Key, dedupPrefix), "meta key %q", kv.Key)
		d := new(wire.DedupClient)
		must.NoErr(wire.Unmarshal(kv.Val, d), "dedup table %q", kv.Key)
		must.NoErr(t.take(d), "dedup table %q", kv.Key)
	}
	return t
}
