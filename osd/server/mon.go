package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// boot announces this life (R2) and waits for the answer.
func (d *Daemon) boot(ctx context.Context) error {
	for {
		wait, err := d.bootOnce(ctx)
		if wait == 0 {
			return err
		}
		d.log.Warn().Err(err).Dur("wait", wait).Msg("kept down")
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// bootOnce asks once; wait: the monitors want to be asked again after that.
func (d *Daemon) bootOnce(ctx context.Context) (wait time.Duration, err error) {
	total, used := d.store.Space()
	r, err := d.mon.Call(ctx, &wire.OSDBoot{ID: d.cfg.ID, UUID: d.store.UUID(), Instance: d.self.Instance, Addr: d.self.Addr,
		Host: d.cfg.Host, Rack: d.cfg.Rack, Class: d.cfg.Class, Total: total, Used: used})
	if err != nil {
		return 0, fmt.Errorf("osd.%d: boot: %w", d.cfg.ID, err)
	}
	b, ok := r.(*wire.OSDBooted)
	if !ok {
		return 0, fmt.Errorf("osd.%d: boot: the monitors answered %v", d.cfg.ID, r.WireType())
	}
	if b.WaitMs > 0 {
		return time.Duration(b.WaitMs) * time.Millisecond, errors.New(b.Text)
	}
	if b.Errno != 0 {
		return 0, fmt.Errorf("osd.%d: the monitors refuse this store (uuid %v): %s", d.cfg.ID, d.store.UUID(), b.Text)
	}
	return 0, nil
}

// boots announces it again whenever a map shows it down.
func (d *Daemon) boots() {
	defer d.wg.Done()
	for {
		select {
		case <-d.reboot:
			if err := d.boot(d.ctx); err != nil && d.ctx.Err() == nil {
				d.log.Warn().Err(err).Msg("boot")
			}
		case <-d.ctx.Done():
			return
		}
	}
}

func (d *Daemon) newMap(m *clustermap.OSDMap) {
	d.enter(func(at int64) {
		if m.Epoch <= d.m.Epoch {
			return
		}
		d.m = m
		// The life that is down is this one, or an earlier one of this very store whose word came late.
		if o, ok := m.OSD(d.cfg.ID); ok && o.UUID == d.store.UUID() && !o.Up {
			select {
			case d.reboot <- struct{}{}:
			default:
			}
		}
		d.core.Step(&osd.Event{Kind: osd.EvMap, Now: at, Map: m})
	})
}

// want fetches a newer map; called with mu held.
func (d *Daemon) want(e wire.Epoch) {
	if e <= d.wanted || e <= d.m.Epoch {
		return
	}
	d.wanted = e
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		ctx, cancel := context.WithTimeout(d.ctx, 5*time.Second)
		_, err := d.mon.WaitOSDEpoch(ctx, e)
		cancel()
		if err != nil {
			d.mu.Lock()
			if d.wanted == e {
				d.wanted = 0
			}
			d.mu.Unlock()
		}
	}()
}

// propose turns the core's wish into the monitors' words; one at a time per PG.
func (d *Daemon) propose(p osd.Proposal) {
	cfg, ok := d.m.Config(p.PG)
	if !ok || cfg.Interval != p.Expected || d.casBusy[p.PG] {
		return
	}
	m := p.CAS(cfg, d.cfg.ID, d.self.Instance)
	d.casBusy[p.PG] = true
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		ctx, cancel := context.WithTimeout(d.ctx, 3*time.Second)
		r, err := d.mon.Call(ctx, m)
		cancel()
		if a, ok := r.(*wire.PGCASReply); err == nil && ok && a.Errno != 0 {
			d.log.Debug().Stringer("pg", p.PG).Str("reason", p.Reason).Str("answer", a.Text).Msg("proposal refused")
		} else if err == nil && ok {
			d.log.Info().Stringer("pg", p.PG).Str("reason", p.Reason).Msg("configuration changed")
		}
		d.mu.Lock()
		delete(d.casBusy, p.PG)
		d.mu.Unlock()
	}()
}

func (d *Daemon) reportFailure(id wire.OSDID) {
	o, ok := d.m.OSD(id)
	if !ok {
		return
	}
	p := d.peers[id]
	m := &wire.OSDFailure{Reporter: d.cfg.ID, Target: id, Instance: o.Instance, SilentMs: 4000, Refused: p != nil && p.refused}
	go d.mon.Send(m)
}

// sendStats is the sign of life.
func (d *Daemon) sendStats() {
	total, used := d.store.Space()
	m := &wire.OSDStats{ID: d.cfg.ID, Instance: d.self.Instance, Total: total, Used: used}
	d.mu.Lock()
	m.Epoch = d.m.Epoch
	for _, s := range d.core.Query(now()) {
		if s.Role != "primary" {
			continue
		}
		st := wire.PGStat{Interval: s.Interval, State: "active", Waits: strings.Join(s.Waits, "; "), Objects: uint64(s.Objects), Bytes: s.Bytes, Missing: uint64(s.Missing), Healed: s.Healed + s.Scrub.Mended, Broken: uint64(s.Broken), BrokenNames: s.BrokenNames}
		if _, err := fmt.Sscanf(s.PG, "%d.%x", &st.PG.Pool, &st.PG.Num); err != nil {
			continue
		}
		if !s.Active {
			st.State = "reconciling"
		} else if len(s.Waits) > 0 {
			st.State = "waiting"
		}
		m.PGs = append(m.PGs, st)
	}
	d.mu.Unlock()
	d.mon.Send(m)
}
