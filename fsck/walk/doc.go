// Package walk is the shell of fsck: it reads the objects of a rank, has package fsck judge
// them, and writes what a repair changes, its old bytes first.
//
//	list pools ─▶ read directories, index ─▶ list data ─▶ Check
//	     └── the journal's tail is followed all the while ──▶
//
// Start at read.go, then run.go, undo.go, flush.go.
package walk
