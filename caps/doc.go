// Package caps is the algebra of capabilities: the bits a client may be given on one inode,
// and the ledger in which a rank remembers what it gave.
//
//	rank ── Tell ──▶ Record{pending, issued, seq} ◀── Answer ── client
//	                       │
//	                    Ledger (one inode, by client) ──▶ unions, ideal loner
//
// Words: pending is what the client was told last; issued is the upper bound of what it may
// still be using; a revoke is unanswered exactly while issued holds a bit that pending does
// not. The sequence rules Q-a..Q-j and the bound B0 are methods of Record and tests of the
// same names. Values in, values out: nothing here sends, waits or reads a clock.
//
// Start at bits.go, then record.go, ledger.go, loner.go.
package caps
