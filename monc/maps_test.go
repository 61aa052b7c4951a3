package monc

import (
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// A client that reconnects may have the next map from the old connection when the new one sends
// the change before it. It must say so: the monitor counts what it has sent as had, and such a
// client would never hear of another map.
func TestAChangeThatDoesNotFitIsNotPassedOver(t *testing.T) {
	c := &Client{}
	c.maps.init()
	at := func(e wire.Epoch) *clustermap.OSDMap {
		m := (&clustermap.OSDMap{}).Clone()
		m.Cluster, m.Epoch = wire.UUID{1}, e
		return m.Seal()
	}
	if err := c.takeMaps(&wire.MonMaps{OSDFull: at(5).Encode()}); err != nil {
		t.Fatal(err)
	}
	change := &wire.MonMaps{OSDBase: 5, OSDDelta: at(6).EncodeDelta(at(5))}
	if err := c.takeMaps(change); err != nil || c.OSDMap().Epoch != 6 {
		t.Fatal(err, c.OSDMap().Epoch)
	}
	if err := c.takeMaps(&wire.MonMaps{OSDBase: 5, OSDDelta: at(7).EncodeDelta(at(5))}); err == nil {
		t.Error("the change from 5 to 7 is passed over, and nobody is asked again")
	}
	if err := c.takeMaps(&wire.MonMaps{OSDFull: at(7).Encode()}); err != nil || c.OSDMap().Epoch != 7 {
		t.Error(err, c.OSDMap().Epoch)
	}
}
