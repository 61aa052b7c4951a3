package cluster

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/capstan-fs/capstan/objecter"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

var osdStages = map[string]string{"map": "waits for a newer map", "peering": "waits until the PG is active", "min_size": "waits for min_size",
	"queue": "is queued", "lease": "waits for a read lease", "log": "waits for the log", "replica": "waits for replicas"}

// objectsOf are the open operations on objects of an inode, of all when ino is "".
func (s *scene) objectsOf(list []objecter.OpenOp, ino string) (out []*Link) {
	n, err := strconv.ParseUint(ino, 0, 64)
	for i := range list {
		if o := &list[i]; ino == "" || err == nil && aboutInode(o.Object, n) {
			if out = append(out, s.object(o)); len(out) == 8 {
				break
			}
		}
	}
	return out
}

func aboutInode(object string, ino uint64) bool {
	p, _, _ := strings.Cut(wire.DataObject(0, wire.Ino(ino), 0).Name, ".")
	head, _, _ := strings.Cut(object, ".")
	return head == p || strings.Contains(object, fmt.Sprintf("%x", ino)) && ino > 0xffff
}

// object follows an object operation to the OSD.
func (s *scene) object(o *objecter.OpenOp) *Link {
	verb := "read"
	if o.Writes {
		verb = "write"
	}
	l := &Link{At: fmt.Sprintf("pg %s", o.PG), What: fmt.Sprintf("%s of object %q", verb, o.Object), SinceMs: o.SinceMs}
	if o.OSD < 0 {
		l.What += " has no primary that is up"
		l.On = s.members(o.PG)
		return l
	}
	name := fmt.Sprintf("osd.%d", o.OSD)
	l.What += " at its primary " + name
	ops, asked := s.osds[name]
	switch {
	case !asked || ops == nil:
		l.On = s.daemon(name)
		if len(l.On) == 0 {
			l.On = []*Link{{At: name, What: "is not on this machine: ask there, or `capstan pg query " + o.PG + "`"}}
		}
		return l
	}
	for i := range ops {
		if x := &ops[i]; x.Client == o.Me && x.Tid == o.Tid {
			l.On = []*Link{s.osdOp(name, x)}
			return l
		}
	}
	l.On = []*Link{{At: name, What: "does not have it: it is on its way"}}
	if !o.Sent {
		l.On[0].What = "is being connected to, or refused it and is asked again"
		if d := s.daemon(name); len(d) > 0 {
			l.On[0].On = d
		}
	}
	return l
}

// members names the members of a PG without a primary.
func (s *scene) members(pg string) (out []*Link) {
	if s.om == nil {
		return s.monitors()
	}
	for id, cfg := range s.om.PGs {
		if id.String() != pg {
			continue
		}
		for _, m := range cfg.InSync {
			name := fmt.Sprintf("osd.%d", m.ID)
			if d, ok := s.om.OSDs[m.ID]; ok && !d.Up {
				out = append(out, &Link{At: name, What: "a member of it, is down", Do: fmt.Sprintf("start it: `capstan dev up --dir D` or `capstan osd --id %d`", m.ID), On: s.daemon(name)})
			} else {
				out = append(out, &Link{At: "the monitors", What: "are to make " + name + " the primary"})
			}
		}
	}
	return out
}

// osdOp is an operation at an OSD with its owners.
func (s *scene) osdOp(name string, x *osd.OpState) *Link {
	l := &Link{At: name, What: fmt.Sprintf("the operation on %q %s [%s tid %d]", x.Object, osdStages[x.Stage], x.Client, x.Tid), SinceMs: x.SinceMs}
	for _, on := range x.On {
		o := &Link{At: name, What: "waits for " + on.Text}
		switch on.Kind {
		case "osd":
			o.At, o.What = fmt.Sprintf("osd.%d", on.OSD), "is waited for: "+on.Text
			if o.At != name {
				o.On = s.daemon(o.At)
			}
			if s.om != nil {
				if d, ok := s.om.OSDs[on.OSD]; ok && !d.Up {
					o.Do = fmt.Sprintf("start it: `capstan dev up --dir D` or `capstan osd --id %d`", on.OSD)
				}
			}
		case "monitors":
			o.On = s.monitors()
		}
		l.On = append(l.On, o)
	}
	return l
}
