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
// Start at server.go; serve.go is the conversation, fsm.go what raft calls, raft.go its set-up.
package server
