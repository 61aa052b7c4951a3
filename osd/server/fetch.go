package server

import (
	"sync"

	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/osd"
)

// maxFetchers is how many reads wait for the disk at the same time. Each has a buffer.
const maxFetchers = 16

// fetcher carries reads out beside the core: a goroutine for each that waits, up to maxFetchers,
// none when nobody reads. They hand over what they have read and go on; they never wait for the
// core, which may wait, in Submit, for a checkpoint that waits for them.
type fetcher struct {
	mu      sync.Mutex
	queue   []osd.Fetch
	running int
	got     []osd.Event // EvFetched, for arrivals
	kick    chan struct{}
}

// fetch queues reads; called with mu held.
func (d *Daemon) fetch(list []osd.Fetch) {
	if len(list) == 0 {
		return
	}
	f := &d.fetcher
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue = append(f.queue, list...)
	for range list {
		if f.running == maxFetchers {
			return
		}
		f.running++
		d.wg.Add(1)
		go d.fetchLoop()
	}
}

// fetchLoop reads until there is nothing to read.
func (d *Daemon) fetchLoop() {
	defer d.wg.Done()
	f := &d.fetcher
	for {
		f.mu.Lock()
		if len(f.queue) == 0 {
			f.running--
			f.mu.Unlock()
			return
		}
		x := f.queue[0]
		f.queue[0] = osd.Fetch{}
		f.queue = f.queue[1:]
		f.mu.Unlock()

		ev := osd.Event{Kind: osd.EvFetched, Seq: x.ID}
		for _, l := range x.Read {
			if ev.Bad || d.ctx.Err() != nil {
				l.Drop()
				continue
			}
			b, crc, err := l.Fetch(msgr.Buffer)
			if err != nil {
				ev.Bad = true
				d.log.Warn().Err(err).Int32("osd", int32(d.cfg.ID)).Msg("read")
				continue
			}
			ev.Got, ev.CRC = append(ev.Got, b), crc
		}
		if d.ctx.Err() != nil {
			continue
		}
		f.mu.Lock()
		f.got = append(f.got, ev)
		first := len(f.got) == 1
		f.mu.Unlock()
		if first {
			select {
			case f.kick <- struct{}{}:
			default:
			}
		}
	}
}

// arrivals tells the core what was read, all that has gathered at once.
func (d *Daemon) arrivals() {
	defer d.wg.Done()
	f := &d.fetcher
	var spare []osd.Event
	for {
		select {
		case <-f.kick:
		case <-d.ctx.Done():
			return
		}
		f.mu.Lock()
		list := f.got
		f.got = spare[:0]
		f.mu.Unlock()
		d.enter(func(at int64) {
			for i := range list {
				list[i].Now = at
				d.core.Step(&list[i])
			}
		})
		clear(list)
		spare = list
	}
}
