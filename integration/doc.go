// Package integration runs whole clusters through real mounts.
//
//	harness/   a cluster of separate processes, its mounts, its watchdog
//	storm/     two mounts against a model that knows every answer
//	posix/     what POSIX promises of one directory
//	*_test.go  the above on Capstan, crashes, real programs, bad input
//
// The short set is part of `make test`; CAPSTAN_REAL=1 (`make real`) adds the long one.
package integration
