package mds

import (
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// Conversations with other ranks. What is said to one is an effect like any other: it carries the
// journal position that it rests on, and leaves in order (ES, ES4). The shell opens a session toward
// a rank when there is something to say, and says PeerUp whenever it begins anew: then everything
// that waits for an answer of that rank is said again, since what was said before may be lost with
// the life of the peer that heard it.

// peer is another rank as this one speaks to it.
type peer struct {
	rank wire.Rank
	out  outQueue
}

// tellPeer queues m for a rank. With nothing queued and a durable stamp it leaves in this step.
func (r *Rank) tellPeer(to wire.Rank, stamp journal.Pos, m wire.Message) {
	var p *peer
	for _, x := range r.peers {
		if x.rank == to {
			p = x
		}
	}
	if p == nil {
		p = &peer{rank: to}
		r.peers = append(r.peers, p)
	}
	p.out.items = append(p.out.items, queued{stamp: stamp, msg: m})
	r.drainPeer(p)
}

func (r *Rank) drainPeer(p *peer) {
	o := &p.out
	for !o.empty() && o.items[o.head].stamp <= r.durablePos {
		r.eff.Peers = append(r.eff.Peers, PeerSend{p.rank, o.items[o.head].msg})
		o.items[o.head] = queued{}
		o.head++
	}
	if o.empty() {
		o.items, o.head = o.items[:0], 0
	}
}

func (r *Rank) drainPeers() {
	for _, p := range r.peers {
		r.drainPeer(p)
	}
}

// peersWait reports whether something for another rank waits for the journal.
func (r *Rank) peersWait() bool {
	for _, p := range r.peers {
		if !p.out.empty() {
			return true
		}
	}
	return false
}

// fromPeer takes a message of another rank. Before the journal has been read nothing can be
// answered, and nothing new is begun before the rank is active.
func (r *Rank) fromPeer(ev *Event) {
	starts := false
	switch ev.Msg.(type) {
	case *wire.Export, *wire.GiveBack, *wire.Sums:
		starts = true
	}
	if r.jw == nil || r.state < stateReconnect || starts && r.state != stateActive {
		if r.state <= stateActive {
			r.earlyPeers = append(r.earlyPeers, *ev)
		}
		return
	}
	switch m := ev.Msg.(type) {
	case *wire.Export:
		r.onExport(ev.Rank, m)
	case *wire.Imported:
		r.onImported(ev.Rank, m)
	case *wire.ExportEnd:
		r.onExportEnd(ev.Rank, m)
	case *wire.ExportAsk:
		r.onExportAsk(ev.Rank, m)
	case *wire.ImportEnded:
		r.onImportEnded(ev.Rank, m)
	case *wire.GiveBack:
		r.onGiveBack(ev.Rank, m)
	case *wire.Kept:
		r.onKept(m)
	case *wire.Sums:
		r.onSums(ev.Rank, m)
	case *wire.SumsTaken:
		r.onSumsTaken(m)
	default:
		r.logf(LogWarn, "mds.%d: unexpected %v", ev.Rank, ev.Msg.WireType())
	}
}

// replayPeers takes what came too early, once it may be taken.
func (r *Rank) replayPeers() {
	if len(r.earlyPeers) == 0 || r.state < stateReconnect {
		return
	}
	list := r.earlyPeers
	r.earlyPeers = nil
	for i := range list {
		r.fromPeer(&list[i])
	}
}

// peerUp says everything again that waits for an answer of a rank.
func (r *Rank) peerUp(to wire.Rank) {
	if r.jw == nil || r.state < stateReconnect {
		return // asked when the journal has been read
	}
	for _, p := range r.peers {
		if p.rank == to { // what was queued is said again by what follows, or is an answer to a life that is over
			p.out = outQueue{}
		}
	}
	for _, x := range r.sortedExports() {
		if x.to == to && x.attempt != 0 && !x.acked {
			r.offer(x)
		}
	}
	for _, m := range r.sortedMoves() {
		if m.Rank != to {
			continue
		}
		switch {
		case m.State == movePending && !m.ending:
			r.tellPeer(to, r.jw.End(), &wire.Imported{Ino: m.Ino, Attempt: m.Attempt})
			r.tellPeer(to, r.jw.End(), &wire.ExportAsk{Ino: m.Ino, Attempt: m.Attempt})
		case m.State == moveGiven && !m.settled:
			r.tellPeer(to, r.jw.End(), &wire.ExportEnd{Ino: m.Ino, Attempt: m.Attempt, Won: true})
		case m.State == moveTaken && m.told != nil:
			r.tellPeer(to, r.jw.End(), m.told)
		}
		if m.State == moveGiven && len(m.waiters) > 0 {
			r.tellPeer(to, 0, &wire.GiveBack{Ino: m.Ino})
		}
	}
}

// askEnds is peerUp for what a replay found undecided: the ranks it came from are asked.
func (r *Rank) askEnds() {
	asked := map[wire.Rank]bool{}
	for _, m := range r.sortedMoves() {
		if (m.State == movePending || m.State == moveGiven && !m.Named) && !asked[m.Rank] {
			asked[m.Rank] = true
			r.peerUp(m.Rank)
		}
	}
}
