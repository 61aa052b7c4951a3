// Package storm drives one file system through several mounts at once and checks every
// answer against a model, so that a stale, lost or torn result cannot pass unseen.
//
//	seq.go    one operation at a time, each on a mount drawn at random: the model knows the
//	          one right answer (errno, attributes, bytes, listing) of every call
//	names.go  many workers at once on few names: histories with invocation and return times,
//	          checked for linearizability (porcupine)
//	blocks.go the same for 512-byte blocks of shared files, through handles kept open and
//	          through fresh ones
//	append.go O_APPEND from all mounts: no record lost, torn or doubled
//
// It knows nothing of Capstan: any directory seen under two paths will do. Start at Run.
package storm
