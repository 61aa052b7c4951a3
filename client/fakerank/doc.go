// Package fakerank is a rank and an object store for tests of client/ and fuse/: an
// in-memory tree that grants one client nearly everything, and hooks that make it do what a
// scene needs: park a request, revoke bits, hold the watermark back, die and come back.
//
// It speaks wire/mds.go and keeps no rule that only a cluster of several clients needs.
package fakerank
