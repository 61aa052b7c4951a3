// Package posix checks what POSIX and Linux promise of one directory, through system calls
// only. It knows nothing of Capstan: its own test runs it on the local file system, which is
// the reference, and package integration runs it on a mount.
//
// Each check gets a fresh directory. Start at Checks.
package posix
