// Package must asserts invariants of our own memory.
//
// A broken invariant is a bug of ours and nothing that follows can be trusted, so it is a
// panic that names the object. Bytes from a peer or a disk are never a reason to call this
// package: those are errors.
package must

import "fmt"

// Holdf panics with the formatted message when cond is false. The arguments are evaluated
// by the caller either way, so keep them cheap on hot paths.
func Holdf(cond bool, format string, args ...any) {
	if !cond {
		panic("invariant broken: " + fmt.Sprintf(format, args...))
	}
}

// NoErr panics when err is not nil; for calls that fail only if this program is wrong
// (encoding a struct of our own, parsing a table compiled in).
func NoErr(err error, format string, args ...any) {
	if err != nil {
		panic("invariant broken: " + fmt.Sprintf(format, args...) + ": " + err.Error())
	}
}
