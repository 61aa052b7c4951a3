// Package fsck judges a file system by the objects of its rank: it takes facts about objects,
// in any order, and finds what cannot be.
//
//	directory objects ─▶ ┌───────┐
//	journal entries   ─▶ │ Model │ ─▶ Check: findings (code, subject, what)
//	index lines       ─▶ │       │ ─▶ Repair: the model mended, then Changes of objects
//	data objects      ─▶ └───────┘
//
// The journal makes the picture sharp. Directory objects are read one after the other while a
// rank may write them, so together they show no single moment. But every record carries its
// directory's version, no object shows what the journal has not, and the journal is read from
// before the first object to after the last one. The newest record of each name is then the tree
// as it was at the end of that reading: a fuzzy copy and its redo log. What no journal speaks of
// (data objects, index lines) may race with a living rank and is judged only where the journal
// is silent, and by several readings (walk).
//
// The package is pure. Package walk reads objects, writes changes, keeps the undo log.
//
// Words: home (the name that embeds an inode), remote (another name of it, its home in a links
// directory), stray (an inode without a name), base (the directory of root, links and strays).
//
// Start at model.go, then check.go, codes.go, repair.go.
package fsck
