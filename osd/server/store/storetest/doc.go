// Package storetest is the conformance test of osd.Store: every implementation runs it, so
// that what the simulation proves with a store in memory holds with the one on disk.
//
// Model is a store as simple as one can be written; Gen makes random transactions; Diff
// compares everything that a store can be asked with what the model says.
package storetest
