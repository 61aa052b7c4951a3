package server

import (
	"time"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// Sessions between ranks. Each rank opens one toward a rank that its core has something to say to,
// and keeps it from then on: one way each, so that nobody must decide whose it is. The first frame
// says which rank this is and the FSMap that made it so; what comes from a daemon that does not hold
// that rank by a map at least as new is dropped. A session that begins anew is told to the cores of
// both sides, which say again what has no answer.

// peerLine is the session toward one rank.
type peerLine struct {
	conn *msgr.Session
	rank wire.Rank
}

// sendPeers hands messages to the sessions toward other ranks; the lock is held. Without one they
// are lost, and a session is begun.
func (d *Daemon) sendPeers(list []mds.PeerSend) {
	for i := range list {
		p := &list[i]
		line := d.lines[p.To]
		if line == nil {
			line = &peerLine{rank: p.To}
			d.lines[p.To] = line
			d.wg.Add(1)
			go d.keepLine(line)
		}
		if line.conn == nil {
			continue
		}
		if err := line.conn.Send(0, p.Msg); err != nil {
			d.log.Warn().Err(err).Int32("rank", int32(p.To)).Stringer("type", p.Msg.WireType()).Msg("send to a rank")
			go line.conn.Close()
			continue
		}
		d.touch(line.conn)
	}
}

// keepLine keeps a session with whoever holds a rank.
func (d *Daemon) keepLine(line *peerLine) {
	defer d.wg.Done()
	back := msgr.Backoff{Min: 20 * time.Millisecond, Max: time.Second}
	for d.ctx.Err() == nil {
		if d.talk(line) {
			back.Reset()
		}
		if !back.Wait(d.ctx) {
			return
		}
	}
}

// lineHandler is the receiving end of our sessions toward ranks: nothing is said on them.
type lineHandler struct{ done chan error }

func (h *lineHandler) Frames(*msgr.Conn, []msgr.Frame) {}
func (h *lineHandler) Closed(_ *msgr.Conn, err error) {
	select {
	case h.done <- err:
	default:
	}
}

// talk is one session with one holder; it returns when that ends, or another daemon holds the rank.
func (d *Daemon) talk(line *peerLine) (begun bool) {
	f := d.mon.FSMap()
	in := f.Ranks[line.rank]
	if in.Daemon.Addr == "" || in.State == clustermap.RankNone || in.State == clustermap.RankFailed || in.State == clustermap.RankStopped {
		return false
	}
	h := &lineHandler{done: make(chan error, 1)}
	conn, err := msgr.DialSession(d.ctx, d.cfg.Net, in.Daemon.Addr, d.self, h, msgr.Options{Log: d.log})
	if err != nil {
		d.log.Debug().Err(err).Int32("rank", int32(line.rank)).Msg("no session with a rank")
		return false
	}
	defer conn.Close()
	if conn.Peer().Instance != in.Daemon.Instance {
		return false // another life at that address: the map will tell of it
	}
	d.mu.Lock()
	if d.ended || d.rank == nil {
		d.mu.Unlock()
		return false
	}
	line.conn = conn
	err = conn.Send(0, &wire.PeerHello{Rank: d.num, Epoch: d.assigned})
	if err == nil {
		d.touch(conn)
		d.event(mds.Event{Kind: mds.PeerUp, Rank: line.rank})
	}
	touched := d.takeTouched()
	d.mu.Unlock()
	flush(touched, nil)
	tick := time.NewTicker(lineLook)
	defer tick.Stop()
	for held := err == nil; held; {
		select {
		case <-h.done:
			held = false
		case <-d.ctx.Done():
			held = false
		case <-tick.C:
			held = d.mon.FSMap().Ranks[line.rank].Daemon.Instance == in.Daemon.Instance
		}
	}
	d.mu.Lock()
	line.conn = nil
	d.mu.Unlock()
	return err == nil
}

// lineLook is how often a session looks whether its rank has another holder.
const lineLook = 100 * time.Millisecond

// peerFrames takes what a daemon that holds another rank says.
func (d *Daemon) peerFrames(c *msgr.Conn, batch []msgr.Frame) {
	for i := range batch {
		if hello, is := batch[i].Msg.(*wire.PeerHello); is {
			if !d.greeted(c, hello) {
				go c.Close()
				return
			}
			d.enter(mds.Event{Kind: mds.PeerUp, Rank: hello.Rank})
			continue
		}
		rank, known := c.User().(wire.Rank)
		if !known || d.mon.FSMap().Ranks[rank].Daemon.Instance != c.Peer().Instance {
			go c.Close() // deposed, or never a rank's
			return
		}
		d.enter(mds.Event{Kind: mds.FromPeer, Rank: rank, Instance: c.Peer().Instance, Msg: batch[i].Msg})
	}
}

// greeted waits for the map that the other side goes by. It blocks that session's reader alone.
func (d *Daemon) greeted(c *msgr.Conn, hello *wire.PeerHello) bool {
	for end := time.Now().Add(mapWait); d.mon.FSMap().Epoch < hello.Epoch; {
		if d.ctx.Err() != nil || time.Now().After(end) {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
	in, there := d.mon.FSMap().Ranks[hello.Rank]
	if !there || in.Daemon.Instance != c.Peer().Instance {
		return false
	}
	c.SetUser(hello.Rank)
	return true
}

const mapWait = 10 * time.Second
