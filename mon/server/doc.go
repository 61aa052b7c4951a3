// Package server is the shell around the monitor's core: raft, its files, sockets and clock.
//
//	connections ──▶ mon.Leader (under one lock) ──▶ proposals ──▶ raft ──▶ fsm: State.Apply
//	     ▲                     ▲                                    │
//	     │ maps                └──────────── committed ─────────────┤
//	     └──────────────── pusher ◀──────────── newest state ───────┘
//
// Only the leading monitor serves; the others send whoever comes to it. A leader's memory
// begins empty when it is elected and is thrown away when it is not any more.
//
// In a larger quorum a monitor with an empty directory first asks the others whether there is
// a cluster (quorum.go): only if all say no it is one of the founders; else it has lost its
// store, and joins under a new identity, for the old one may have voted.
//
// Locks: Daemon.admitting before Daemon.mu before fsm.mu.
//
// Start at server.go; serve.go is the conversation, fsm.go what raft calls, raft.go its set-up.
package server
