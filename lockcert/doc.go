// Package lockcert is a conformance kit for shared file systems: given one or more mounts of
// one file system it finds out whether processes on them see what POSIX and Linux promise of
// locks, names, data and attributes.
//
//	Run ──▶ check ──▶ T ──▶ worker process on mount 0 ──▶ Ops ──▶ system calls
//	          │        ├──▶ worker process on mount 1 ──▶ Ops ──▶ system calls
//	          │        ▼
//	          │      events: what was called, what came back, when (CLOCK_MONOTONIC)
//	          ▼
//	        verdict: expectations of a scene, a model (porcupine), or a direct checker
//
// A check is a *scene*, played one call at a time with one right answer each, or a *race*,
// in which the workers run programs of their own and the history is judged afterwards. Every
// check runs with all workers on one mount, and again with the workers spread over all of
// them. What POSIX leaves open is reported apart and never fails a file system.
//
// The package knows no file system. Start at checks.go, which lists what is checked; scene.go
// and race.go are how; wrong.go holds the faults with which the kit is tested itself.
package lockcert
