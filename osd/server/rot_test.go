package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/mon"
	"github.com/capstan-fs/capstan/objecter"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// An object whose record has rotted in the metadata is not an object that does not exist: nobody is
// told so, the OSD stops, and another answers.
func TestARottenRecordIsNoAbsentObject(t *testing.T) {
	set := mon.Defaults()
	set.Cold = int64(time.Second)
	c := newClusterWith(t, 3, set, osd.Config{})
	o, maps := c.client(1)
	const name = "an_object_whose_record_rots"
	write(t, o, name, []byte("content"))
	until(t, "all replicas", func() bool { return full(maps.OSDMap()) })
	pg := maps.OSDMap().PGOf(wire.ObjectID{Pool: 2, Name: name})
	i := int(maps.OSDMap().UpSet(pg)[0])
	if err := c.osds[i].Close(); err != nil { // its cache goes, and the record is in meta.db
		t.Fatal(err)
	}
	c.start(i)
	if t.Failed() {
		return
	}
	until(t, "primary again", func() bool { return full(maps.OSDMap()) && maps.OSDMap().PGs[pg].Primary == wire.OSDID(i) })
	f, err := os.OpenFile(fmt.Sprintf("%s/osd.%d/meta.db", c.dir, i), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	key := append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, pg.Pool), pg.Num), name...)
	rotten := 0
	for at := 0; ; rotten++ { // old pages have it too
		k := bytes.Index(b[at:], key)
		if k < 0 {
			break
		}
		at += k + len(key)
		if _, err := f.WriteAt([]byte{b[at+10] ^ 1}, int64(at+10)); err != nil {
			t.Fatal(err)
		}
	}
	if rotten == 0 {
		t.Fatal("the record is not in meta.db")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	r, err := o.Do(ctx, wire.ObjectID{Pool: 2, Name: name}, []wire.ObjOp{{Kind: wire.ObjRead, Len: 100}}, objecter.Options{})
	if err != nil || r.Errno != 0 || string(r.Ops[0].Data) != "content" {
		t.Errorf("read: %+v, %v", r, err)
	}
	select {
	case <-c.osds[i].Failed():
	case <-ctx.Done():
		t.Error("the OSD goes on with metadata that it cannot read")
	}
}
