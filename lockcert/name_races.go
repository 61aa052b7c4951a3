package lockcert

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// winners has all workers do the same to each of some names: exactly one may succeed.
func winners(op string) func(*T) {
	lost := map[string]syscall.Errno{"create": syscall.EEXIST, "mkdir": syscall.EEXIST, "link": syscall.EEXIST, "unlink": syscall.ENOENT, "rename": syscall.ENOENT}[op]
	const names = 12
	return func(t *T) {
		a := t.W(0)
		for i := range raceWorkers {
			t.W(i).ok(create(fmt.Sprintf("own%d", i), ""))
		}
		t.again(func(round int) {
			name := func(i int) string { return fmt.Sprintf("r%d-%d", round, i) }
			if op == "unlink" || op == "rename" {
				for i := range names {
					a.ok(create(name(i), ""))
				}
			}
			programs := make([][]Step, raceWorkers)
			for w := range programs {
				for i := range names {
					s := Step{Op: op, P: name(i)}
					switch op {
					case "create":
						s.Data = fmt.Sprintf("by %d", w)
					case "link":
						s.P, s.Q = fmt.Sprintf("own%d", w), name(i)
					case "rename":
						s.Q = fmt.Sprintf("%s-of-%d", name(i), w)
					}
					programs[w] = append(programs[w], s)
				}
			}
			all := t.race(programs)
			for i := range names {
				var won, seen []int
				for j, e := range all {
					if e.P != name(i) && e.Q != name(i) {
						continue
					}
					seen = append(seen, j)
					switch e.Errno {
					case 0:
						won = append(won, j)
					case lost:
					default:
						t.blame(all, fmt.Sprintf("%s answered %s, must be ok or %s", e.Step, errnoName(e.Errno), errnoName(lost)), j)
					}
				}
				if len(won) != 1 {
					if len(won) == 0 {
						won = seen
					}
					t.blame(all, fmt.Sprintf("%d of %d succeeded with %s of %q, must be one", min(len(won), len(seen)), len(seen), op, name(i)), won...)
				}
				if op == "create" {
					r := t.W((i + round) % raceWorkers)
					r.says(all[won[0]].Data, readAll(name(i)))
				}
			}
			t.trace = t.trace[:0]
		})
	}
}

const nameCount = 3

// names is the state of a few names: which token (a symlink's target, set with the name in
// one step) each leads to.
type names [nameCount]string

func nameOf(i int) string { return []string{"d0/x", "d0/y", "d1/x"}[i] }

func nameIndex(p string) int {
	for i := range nameCount {
		if p != "" && strings.HasSuffix(p, "/"+nameOf(i)) {
			return i
		}
	}
	return 0
}

// nameStep lists the states e may lead to.
//
// A rename or exchange that succeeded may have changed nothing although both names exist: the
// kernel looks them up one after the other, and when another host moves the file from the
// first to the second in between, it finds one inode under both names and returns success
// without asking the file system (POSIX: names of one file are left alone). No server can
// prevent that.
func nameStep(s names, e *Event) []names {
	a, b := nameIndex(e.P), nameIndex(e.Q)
	ok, next := nameServed(s, e, a, b)
	twoNames := e.Op == "rename" && e.Flags != unix.RENAME_NOREPLACE && e.Errno == 0 && a != b && s[b] != ""
	switch {
	case ok && twoNames:
		return []names{next, s}
	case ok:
		return []names{next}
	case twoNames:
		return []names{s}
	}
	return nil
}

func nameServed(s names, e *Event, a, b int) (bool, names) {
	there := func(want syscall.Errno) (bool, names) { return e.Errno == want, s }
	switch e.Op {
	case "symlink":
		if s[a] != "" {
			return there(syscall.EEXIST)
		}
		s[a] = e.Data
	case "unlink":
		if s[a] == "" {
			return there(syscall.ENOENT)
		}
		s[a] = ""
	case "rename":
		switch {
		case s[a] == "", e.Flags == unix.RENAME_EXCHANGE && s[b] == "":
			return there(syscall.ENOENT)
		case e.Flags == unix.RENAME_NOREPLACE && s[b] != "":
			return there(syscall.EEXIST)
		case e.Flags == unix.RENAME_EXCHANGE:
			s[a], s[b] = s[b], s[a]
		case a != b:
			s[b], s[a] = s[a], ""
		}
	case "readlink":
		if s[a] == "" {
			return there(syscall.ENOENT)
		}
		return e.Errno == 0 && e.Out == s[a], s
	}
	return e.Errno == 0, s
}

// nameHistory races calls on three names in two directories.
func nameHistory(t *T) {
	exchange := t.flagsWork()
	t.again(func(round int) {
		dir := fmt.Sprintf("n%d", round)
		a := t.W(round % raceWorkers)
		a.ok(mkdir(dir))
		a.ok(mkdir(dir + "/d0"))
		a.ok(mkdir(dir + "/d1"))
		programs := make([][]Step, raceWorkers)
		for w := range programs {
			for i := range 14 {
				programs[w] = append(programs[w], drawName(t, dir, fmt.Sprintf("t%d.%d", w, i), exchange))
			}
		}
		all := t.race(programs)
		t.trace = t.trace[:0]
		t.judge(model(names{}, nameStep), all, nil)
	})
}

// flagsWork finds out whether renameat2's flags are offered at all: NFS has none.
func (t *T) flagsWork() bool {
	a := t.W(0)
	a.ok(create("flag-a", ""))
	a.ok(create("flag-b", ""))
	e := a.do(Step{Op: "rename", P: "flag-a", Q: "flag-b", Flags: unix.RENAME_EXCHANGE})
	return e.Errno == 0
}

func drawName(t *T, dir, tok string, flags bool) Step {
	p := dir + "/" + nameOf(t.rng.IntN(nameCount))
	s := Step{P: p}
	switch k := t.rng.IntN(11); {
	case k < 3:
		s.Op, s.Data = "symlink", tok
	case k < 5:
		s.Op = "unlink"
	case k < 8:
		s.Op = "rename"
		for s.Q = p; s.Q == p; {
			s.Q = dir + "/" + nameOf(t.rng.IntN(nameCount))
		}
		if flags {
			s.Flags = []int{0, 0, unix.RENAME_EXCHANGE, unix.RENAME_NOREPLACE}[t.rng.IntN(4)]
		}
	default:
		s.Op = "readlink"
	}
	return s
}

// replace: one worker renames new versions over a name, the others read it all the time.
func replace(t *T) {
	writer := t.W(0)
	writer.ok(create("f", version(0)))
	next := 1
	t.again(func(int) {
		programs := make([][]Step, raceWorkers)
		first := next
		for range 12 {
			tmp := fmt.Sprintf("tmp%d", next)
			programs[0] = append(programs[0], create(tmp, version(next)), rename(tmp, "f"))
			next++
		}
		for w := 1; w < raceWorkers; w++ {
			for range 30 {
				programs[w] = append(programs[w], readAll("f"))
			}
		}
		all := t.race(programs)
		checkReplace(t, all, first)
	})
}

func version(n int) string { return fmt.Sprintf("version %d %s", n, strings.Repeat("x", n%97)) }

func versionOf(s string) int {
	n, err := strconv.Atoi(strings.Fields(s + " - -")[1])
	if err != nil || s != version(n) {
		return -1
	}
	return n
}

// checkReplace: a read has a whole version, no older than the last that was in place when the
// read began and no newer than the newest whose rename had begun when it ended.
func checkReplace(t *T, all []Event, first int) {
	moved := map[int]int{} // version -> its rename
	for i, e := range all {
		if e.Errno != 0 {
			t.blame(all, fmt.Sprintf("%s by worker %c: %s", e.Step, 'A'+e.Worker, errnoName(e.Errno)), i)
		}
		if e.Op == "rename" {
			n, _ := strconv.Atoi(strings.TrimPrefix(e.P, "tmp"))
			moved[n] = i
		}
	}
	for i, e := range all {
		if e.Op != "read" {
			continue
		}
		n := versionOf(e.Out)
		if n < 0 {
			t.blame(all, fmt.Sprintf("worker %c read %s: no version that was written", 'A'+e.Worker, brief(e.Out)), i)
		}
		if after, ok := moved[n+1]; ok && all[after].Ret < e.Call {
			all[after].mark = "had returned"
			t.blame(all, fmt.Sprintf("worker %c read version %d after %d was in place", 'A'+e.Worker, n, n+1), after, i)
		}
		if by, ok := moved[n]; ok && all[by].Call > e.Ret || !ok && n != first-1 {
			t.blame(all, fmt.Sprintf("worker %c read version %d, which was not in place", 'A'+e.Worker, n), i)
		}
	}
}

// listRace: some names stay, some come and go; every listing is compared with what was
// certainly there and what certainly was not.
func listRace(t *T) {
	a := t.W(0)
	var stay map[string]bool
	dir := ""
	t.again(func(round int) {
		if round%8 == 0 { // else the directory that has grown so far
			dir, stay = fmt.Sprintf("l%d", round), map[string]bool{}
			a.ok(mkdir(dir))
		}
		programs := make([][]Step, raceWorkers)
		for w := range programs {
			for i := range 12 {
				name := func(i int) string { return fmt.Sprintf("%s/a-rather-long-name-%d-%d-%d", dir, round, w, i) }
				if w%2 == 0 {
					programs[w] = append(programs[w], create(name(i), ""))
					if i%3 > 0 {
						programs[w] = append(programs[w], unlink(name(i-i%2)))
					}
				} else {
					programs[w] = append(programs[w], list(dir))
				}
			}
		}
		all := t.race(programs)
		t.trace = t.trace[:0]
		for n, l := range checkListings(t, dir, stay, all) {
			if l.going == never {
				stay[n] = true
			}
		}
	})
}

// life is a name's: when its create was called and returned, its unlink was called and returned.
type life struct{ making, made, going, gone int64 }

const never = 1 << 62

func checkListings(t *T, dir string, stay map[string]bool, all []Event) map[string]*life {
	lives := map[string]*life{}
	for _, e := range all {
		n := strings.TrimPrefix(e.P, dir+"/")
		switch {
		case e.Op == "create" && e.Errno == 0:
			lives[n] = &life{e.Call, e.Ret, never, never}
		case e.Op == "unlink" && e.Errno == 0 && lives[n] != nil:
			lives[n].going, lives[n].gone = e.Call, e.Ret
		}
	}
	for i, e := range all {
		if e.Op != "list" {
			continue
		}
		if e.Errno != 0 {
			t.blame(all, "a listing failed: "+errnoName(e.Errno), i)
		}
		for j := 1; j < len(e.Names); j++ {
			if e.Names[j] == e.Names[j-1] {
				t.blame(all, fmt.Sprintf("%q is listed twice", e.Names[j]), i)
			}
		}
		for n := range stay {
			if !slices.Contains(e.Names, n) {
				t.blame(all, fmt.Sprintf("%q was there all the time and is not listed", n), i)
			}
		}
		for n, l := range lives {
			listed := slices.Contains(e.Names, n)
			if !listed && l.made < e.Call && l.going > e.Ret {
				t.blame(all, fmt.Sprintf("%q was made before the listing began and is not in it", n), i)
			}
			if listed && (l.making > e.Ret || l.gone < e.Call) {
				t.blame(all, fmt.Sprintf("%q did not exist during the listing and is in it", n), i)
			}
		}
		for _, n := range e.Names {
			if !stay[n] && lives[n] == nil {
				t.blame(all, fmt.Sprintf("%q is listed and was never made", n), i)
			}
		}
	}
	return lives
}
