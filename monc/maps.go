package monc

import (
	"context"
	"fmt"
	"sync"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// mapState orders the taking in of maps and the calls that tell of them.
type mapState struct {
	mu        sync.Mutex // held while callbacks run: they see maps in order
	callbacks []func(*clustermap.OSDMap, *clustermap.FSMap)

	first   chan struct{} // closed with the first maps
	waitMu  sync.Mutex
	changed chan struct{} // closed and replaced when the OSDMap changes
}

func (s *mapState) init() {
	s.first, s.changed = make(chan struct{}), make(chan struct{})
}

// OnMaps registers f, which is called at once with the newest maps, and then after every
// change with the newest of both, in order. It runs on the connection's reader: it must not
// block, nor call OnMaps; Call from inside would wait for itself.
func (c *Client) OnMaps(f func(*clustermap.OSDMap, *clustermap.FSMap)) {
	c.maps.mu.Lock()
	defer c.maps.mu.Unlock()
	c.maps.callbacks = append(c.maps.callbacks, f)
	if o := c.OSDMap(); o != nil {
		f(o, c.FSMap())
	}
}

// takeMaps brings the maps up to date with what a monitor sent; older ones are ignored, for
// a monitor that has just become leader may still send what an earlier one sent before.
func (c *Client) takeMaps(m *wire.MonMaps) error {
	c.maps.mu.Lock()
	defer c.maps.mu.Unlock()
	osd, fs := c.OSDMap(), c.FSMap()
	first := osd == nil
	if first {
		osd, fs = (&clustermap.OSDMap{}).Clone(), (&clustermap.FSMap{}).Clone()
	}
	nextOSD, nextFS := osd, fs
	var err error
	switch {
	case len(m.OSDFull) > 0:
		nextOSD, err = clustermap.DecodeOSDMap(m.OSDFull)
	case len(m.OSDDelta) > 0 && m.OSDBase == osd.Epoch:
		nextOSD, err = osd.ApplyDelta(m.OSDDelta)
	case len(m.OSDDelta) > 0:
		// A map has come by another connection since this one was subscribed. To the monitor we have
		// what it sent here: without a word it would go on from there for ever.
		err = fmt.Errorf("a change of osdmap %d, and %d is here", m.OSDBase, osd.Epoch)
	}
	if err != nil {
		return fmt.Errorf("monc: %w", err)
	}
	if len(m.FSMap) > 0 {
		if nextFS, err = clustermap.DecodeFSMap(m.FSMap); err != nil {
			return fmt.Errorf("monc: %w", err)
		}
	}
	if len(m.MonMap) > 0 {
		if mm, err := clustermap.DecodeMonMap(m.MonMap); err == nil {
			c.mon.Store(mm)
		}
	}
	if !osd.Cluster.IsZero() && nextOSD.Cluster != osd.Cluster {
		return fmt.Errorf("monc: map of cluster %v, this process belongs to %v", nextOSD.Cluster, osd.Cluster)
	}
	if nextOSD.Epoch < osd.Epoch {
		nextOSD = osd
	}
	if nextFS.Epoch < fs.Epoch {
		nextFS = fs
	}
	if nextOSD == osd && nextFS == fs && !first {
		return nil
	}
	c.fs.Store(nextFS)
	c.osd.Store(nextOSD)
	for _, f := range c.maps.callbacks {
		f(nextOSD, nextFS)
	}
	c.maps.waitMu.Lock()
	close(c.maps.changed)
	c.maps.changed = make(chan struct{})
	c.maps.waitMu.Unlock()
	if first {
		close(c.maps.first)
	}
	return nil
}

// WaitOSDEpoch returns an OSDMap of epoch e or newer, asking the monitor when it must wait.
func (c *Client) WaitOSDEpoch(ctx context.Context, e wire.Epoch) (*clustermap.OSDMap, error) {
	asked := false
	for {
		c.maps.waitMu.Lock()
		changed := c.maps.changed
		c.maps.waitMu.Unlock()
		if m := c.OSDMap(); m.Epoch >= e {
			return m, nil
		}
		if !asked {
			asked = true
			c.mu.Lock()
			conn := c.conn
			c.mu.Unlock()
			if conn != nil {
				c.subscribe(conn)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("monc: wait for osdmap %d, have %d: %w", e, c.OSDMap().Epoch, ctx.Err())
		case <-c.ctx.Done():
			return nil, fmt.Errorf("monc: wait for osdmap %d: %w", e, ErrClosed)
		}
	}
}
