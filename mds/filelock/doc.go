// Package filelock keeps the flock and fcntl locks of one inode (4.13): who holds which
// range, who waits, in which order they are served.
//
//	Lock ──▶ granted | conflict | queued        Unlock, Cancel, Drop… ──▶ woken waiters
//
// Every grant and every waiter has a ticket, drawn by the caller from one rising counter;
// waiters are served in ticket order and a request never overtakes an earlier waiter that it
// conflicts with. fcntl ranges of one owner split and merge; flock has a name space of its
// own. A Graph joins the tables of all files of a rank: the search for deadlocks runs over it.
//
// Pure values: nothing is sent, journaled or timed here. Start at table.go; deadlocks are in
// graph.go, the return after a failover in redeclare.go.
package filelock
