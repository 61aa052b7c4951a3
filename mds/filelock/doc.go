// Package filelock keeps the flock and fcntl locks of one inode (4.13): who holds which
// range, who waits, in which order they are served.
//
//	Lock ──▶ granted | conflict | queued | …     Unlock, Cancel, Drop… ──▶ woken waiters
//
// Tickets come from one rising counter of the Graph. A waiter's ticket is its place in the
// queue: a request never overtakes an earlier waiter that it conflicts with. Each grant has a
// ticket of its own, drawn when it is given, so that of two conflicting grants the later one
// has the higher number whoever queued first: it is a fencing token. fcntl ranges of one owner
// split and merge; flock has a name space of its own. The Graph joins the tables of all files
// of a rank: the search for deadlocks runs over it, and the count per client.
//
// Pure values: nothing is sent, journaled or timed here. Start at table.go; the queue is in
// queue.go, ranges are in ranges.go, deadlocks in graph.go, the return after a failover in
// redeclare.go.
package filelock
