package lockcert

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Check is one thing the kit looks at.
type Check struct {
	Name    string // feature/what
	Promise string // what a conformant file system does, in one sentence
	// Apart names the placements whose failures are reported but do not count: what
	// POSIX and Linux leave open. Values: "", "across", "always".
	Apart   string
	disturb bool // needs Config.Disturb
	race    bool // takes its slice of time, and is repeated with --minutes
	run     func(*T)
}

// Checks are all checks, by feature.
var Checks = buildChecks()

func buildChecks() (all []Check) {
	add := func(name string, run func(*T), promise string) {
		all = append(all, Check{Name: name, Promise: promise, run: run})
	}
	race := func(name string, run func(*T), promise string) {
		all = append(all, Check{Name: name, Promise: promise, race: true, run: run})
	}
	apart := func(where string) { all[len(all)-1].Apart = where }

	for _, k := range kinds {
		add(k.name+"/exclusion", k.exclusion, "an exclusive lock keeps others out, shared ones admit each other, an unlock frees")
		add(k.name+"/convert", k.convert, "a downgrade lets readers in; an upgrade waits for the other readers")
		add(k.name+"/blocking", k.blocking, "a blocked request waits and is granted by the unlock in its way, not before")
		add(k.name+"/wake-all", k.wakeAll, "one unlock grants all readers that wait")
		add(k.name+"/fifo", k.fifo, "exclusive requests are granted in the order in which they came")
		add(k.name+"/interrupt", k.interrupt, "a signal ends the wait with EINTR and nothing of the request stays; under SA_RESTART it goes on")
		add(k.name+"/kill-waiter", k.killWaiter, "a killed process leaves no waiter behind")
		add(k.name+"/kill-holder", k.killHolder, "a killed or ended process holds nothing, and who waited for it is granted")
		add(k.name+"/close", k.closes, "locks go at the close their owner rule names: flock and OFD with the open file, POSIX with any close of the file")
		add(k.name+"/unlinked", k.unlinked, "locks of a renamed or unlinked file work on")
		race(k.name+"/history", k.history, "a history of random lock calls is one that a register of holders can explain")
		race(k.name+"/counter", k.counter, "a counter that is read and written under the lock loses no step")
	}
	for _, k := range kinds {
		add(k.name+"/failover", k.failover, "through a restart of what serves the file system a lock stays held, who waits stays in the queue, and keeps the place")
		all[len(all)-1].disturb = true
	}
	add("flock/fork", flockFork, "a lock is held until the last process with the open file has closed it")
	add("posix/own", posixOwn, "locks of one process never conflict; other processes' do")
	add("ofd/own", ofdOwn, "two open files of one process conflict with each other and with POSIX locks")
	add("posix/mode", posixMode, "a shared lock needs a readable handle, an exclusive one a writable one: else EBADF")
	for _, k := range kinds[1:] {
		add(k.name+"/ranges", k.ranges, "ranges split and merge byte by byte; length 0 reaches to the end of any file")
		add(k.name+"/upgrade-kept", k.upgradeKept, "an upgrade that is refused keeps the shared lock")
	}
	add("posix/whence", posixWhence, "a range relative to the end of the file is taken at the end that a stat would show")
	add("posix/getlk", posixGetlk, "F_GETLK names a lock in the way: type, pid and exact range; and none where there is none")
	add("ofd/getlk", ofdGetlk, "F_OFD_GETLK finds locks in the way, of both kinds; OFD ones have pid -1")
	add("ofd/getlk-pid", ofdGetlkPid, "both kinds of GETLK say pid -1 of an OFD lock and the pid of a POSIX one")
	apart("always")
	add("posix/deadlock", posixDeadlock, "who closes a cycle of waits, over two files or three, gets EDEADLK; nobody else does")
	add("locks/independent", independent, "flock and fcntl locks of one file know nothing of each other")
	add("flock/barging", func(t *T) { kinds[0].barging(t) }, "a reader that comes later does not pass a writer that waits")
	apart("always")
	add("posix/barging", func(t *T) { kinds[1].barging(t) }, "a reader that comes later does not pass a writer that waits")
	apart("always")

	race("names/excl", winners("create"), "of those that create one name with O_EXCL exactly one succeeds")
	race("names/mkdir", winners("mkdir"), "of those that make one directory exactly one succeeds")
	race("names/link", winners("link"), "of those that link to one name exactly one succeeds")
	race("names/unlink", winners("unlink"), "of those that unlink one name exactly one succeeds")
	race("names/rename-source", winners("rename"), "of those that move one name away exactly one succeeds")
	race("names/history", nameHistory, "creates, unlinks, renames, exchanges and lookups of a few names have one order")
	race("names/replace", replace, "a name that is renamed over is never absent, and leads to files in the order they were moved there")
	add("names/negative", negative, "a name found absent is there as soon as its create, link, mkdir or rename returned")
	add("names/gone", gone, "a name is gone as soon as its unlink, rmdir or rename returned")
	add("names/rename", renames, "renames, also of directories and over an existing file, are seen by all at once")
	add("names/rmdir", rmdirs, "rmdir knows of names that others made; nothing is made in a removed directory")
	add("names/nlink", nlinks, "links and unlinks of others show in the link count")

	race("dir/list", listRace, "a listing has every name that was there all the time and none that never was")
	add("dir/coherent", listCoherent, "a listing that starts after a change shows it")

	add("attr/size", attrSize, "the size after writes, truncates and O_TRUNC of others, by name and by open file")
	add("attr/seek-end", seekEnd, "lseek to the end of a file that others have made longer or shorter finds its end")
	add("attr/mode-times", attrModeTimes, "mode and mtime after changes of others, by name and by open file")
	add("attr/xattr", attrXattr, "extended attributes after changes of others")

	add("data/read-after-write", readAfterWrite, "a read that starts after a write returned sees it, through handles opened long before")
	add("data/reader", keptReader, "a handle that only reads, kept open, sees what others write through handles they open later")
	add("data/truncate", truncates, "bytes cut off are gone, and a file that grows again reads as zeros there")
	race("data/history", blockHistory, "reads and writes of single blocks have one order")
	race("data/append", appends, "O_APPEND writes of many processes: every record whole, once, in its writer's order")
	add("data/unlinked", unlinkedOpen, "an unlinked or replaced file lives on for those that have it open")

	add("mmap/same-file", mmapVisible, "stores through a shared mapping and writes to the file see each other")
	apart("across")
	add("mmap/grown", mmapGrown, "a mapping of a file that another process has just made longer can be read: no SIGBUS")
	apart("across")
	features := map[string]int{} // of one feature stand together, in the order of its first
	for _, c := range all {
		f, _, _ := strings.Cut(c.Name, "/")
		if _, ok := features[f]; !ok {
			features[f] = len(features)
		}
	}
	slices.SortStableFunc(all, func(a, b Check) int {
		fa, _, _ := strings.Cut(a.Name, "/")
		fb, _, _ := strings.Cut(b.Name, "/")
		return features[fa] - features[fb]
	})
	return all
}

func create(p, data string) Step     { return Step{Op: "create", P: p, Data: data} }
func put(p, data string) Step        { return Step{Op: "put", P: p, Data: data} }
func readAll(p string) Step          { return Step{Op: "read", P: p} }
func stat(p string) Step             { return Step{Op: "stat", P: p} }
func unlink(p string) Step           { return Step{Op: "unlink", P: p} }
func rename(p, q string) Step        { return Step{Op: "rename", P: p, Q: q} }
func mkdir(p string) Step            { return Step{Op: "mkdir", P: p} }
func list(p string) Step             { return Step{Op: "list", P: p} }
func closes(h int) Step              { return Step{Op: "close", H: h} }
func fstat(h int) Step               { return Step{Op: "fstat", H: h} }
func pread(h int, off, n int64) Step { return Step{Op: "pread", H: h, Off: off, Len: n} }
func pwrite(h int, off int64, data string) Step {
	return Step{Op: "pwrite", H: h, Off: off, Data: data}
}
func openAs(h int, p string, flags int) Step { return Step{Op: "open", H: h, P: p, Flags: flags} }
func rdwr(h int, p string) Step              { return openAs(h, p, unix.O_RDWR) }
