package lockcert

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

func readAfterWrite(t *T) {
	w := t.file("f", 3)
	blank := strings.Repeat("-", 13_000)
	w[0].ok(pwrite(0, 0, blank))
	want := []byte(blank)
	for i := range 24 {
		a, b, c := w[i%3], w[(i+1)%3], w[(i+2)%3]
		b.says(string(want), pread(0, 0, 13_000)) // now in whatever cache there is
		off := []int{0, 4090, 5000, 8191, 1}[i%5] // across page borders too
		data := strings.Repeat(string(rune('a'+i)), []int{1, 100, 4096}[i%3])
		a.ok(pwrite(0, int64(off), data))
		copy(want[off:], data)
		b.says(string(want), pread(0, 0, 13_000))
		c.says(string(want[off:off+len(data)]), pread(0, int64(off), int64(len(data))))
		if i%4 == 0 {
			c.says(string(want), readAll("f"))
		}
		if i%6 == 5 { // the same size and time as before: only the bytes differ
			a.ok(Step{Op: "utimes", P: "f", Len: 1_000_000_000})
		}
	}
}

// keptReader gives mounts reason to cache: nobody has the file open for writing while it is
// read, and the readers never do.
func keptReader(t *T) {
	full := []byte(strings.Repeat("-", 9000))
	t.W(0).ok(put("f", string(full)))
	w := []*W{t.W(0), t.W(1), t.W(2)}
	for _, x := range w {
		x.ok(openAs(0, "f", unix.O_RDONLY))
		x.says(string(full), pread(0, 0, 9000))
	}
	for i := range 12 {
		a := w[i%3]
		data := strings.Repeat(string(rune('a'+i)), []int{1, 100, 4096}[i%3])
		off := []int{0, 4000, 4500, 8999 - len(data)}[i%4]
		a.ok(rdwr(1, "f"))
		a.ok(pwrite(1, int64(off), data))
		a.ok(closes(1))
		copy(full[off:], data)
		for _, x := range w {
			x.says(string(full), pread(0, 0, 9000))
		}
		if i%4 == 3 { // the same size and time as before: only the bytes differ
			a.ok(Step{Op: "utimes", P: "f", Len: 1_000_000_000})
		}
	}
}

func truncates(t *T) {
	w := t.file("f", 2)
	full := strings.Repeat("z", 9000)
	t.pair(8, func(i int, m, l *W) {
		m, l = w[m.id], w[l.id]
		m.ok(pwrite(0, 0, full))
		l.says(full, pread(0, 0, 20_000))
		cut := []int{0, 1, 4095, 4096, 5000, 8999, 100, 4097}[i]
		m.ok(Step{Op: "ftruncate", Len: int64(cut)})
		l.says(full[:cut], pread(0, 0, 20_000))
		l.ok(Step{Op: "ftruncate", Len: 9000})
		m.says(full[:cut]+strings.Repeat("\x00", 9000-cut), pread(0, 0, 20_000))
		l.ok(pwrite(0, 12_000, "end"))
		m.says(strings.Repeat("\x00", 3000)+"end", pread(0, 9000, 20_000))
		m.ok(Step{Op: "ftruncate", Len: 0})
		l.says("", pread(0, 0, 100))
	})
}

const (
	blocks    = 4
	blockSize = 512
)

// blockHistory: workers write and read whole blocks, through a handle kept open or a fresh
// one. The first word of a block is the register; not the whole block, since even a local
// file system lets a read overtake half of a write.
func blockHistory(t *T) {
	for i := range raceWorkers {
		t.W(i)
	}
	t.again(func(round int) {
		f := fmt.Sprintf("f%d", round)
		t.W(round % raceWorkers).ok(create(f, string(make([]byte, blocks*blockSize))))
		programs := make([][]Step, raceWorkers)
		for w := range programs {
			t.W(w).ok(rdwr(0, f))
			for i := range 20 {
				off := t.rng.Int64N(blocks) * blockSize
				h := 0
				if t.rng.IntN(4) == 0 {
					h = 1
					programs[w] = append(programs[w], rdwr(1, f))
				}
				if t.rng.IntN(3) == 0 {
					word := binary.LittleEndian.AppendUint64(nil, uint64(w+1)<<32|uint64(i+1))
					programs[w] = append(programs[w], pwrite(h, off, strings.Repeat(string(word), blockSize/8)))
				} else {
					programs[w] = append(programs[w], pread(h, off, blockSize))
				}
				if h == 1 {
					programs[w] = append(programs[w], closes(1))
				}
			}
			programs[w] = append(programs[w], closes(0))
		}
		all := t.race(programs)
		t.trace = t.trace[:0]
		for i, e := range all {
			switch {
			case e.Errno != 0:
				t.blame(all, fmt.Sprintf("%s: %s", e.Step, errnoName(e.Errno)), i)
			case (e.Op == "pread" || e.Op == "pwrite") && e.N != blockSize:
				t.blame(all, fmt.Sprintf("%s moved %d bytes of %d: the size is stale", e.Step, e.N, blockSize), i)
			}
		}
		for b := range int64(blocks) {
			t.judge(model(uint64(0), blockStep), all, func(e *Event) bool {
				return (e.Op == "pread" || e.Op == "pwrite") && e.Off == b*blockSize
			})
		}
	})
}

func blockStep(v uint64, e *Event) []uint64 {
	if e.Op == "pwrite" {
		return []uint64{word(e.Data)}
	}
	if word(e.Out) == v {
		return []uint64{v}
	}
	return nil
}

func word(s string) uint64 { return binary.LittleEndian.Uint64([]byte(s[:8])) }

// appends: all workers append records of odd lengths; each must stand in the file exactly
// once, whole, and those of one worker in its order.
func appends(t *T) {
	t.W(0).ok(create("f", ""))
	wrote := make([]int, raceWorkers)
	for i := range raceWorkers {
		t.W(i).ok(openAs(0, "f", unix.O_WRONLY|unix.O_APPEND))
	}
	read := 0
	for i := range raceWorkers {
		t.W(i).ok(openAs(1, "f", unix.O_RDONLY))
	}
	t.again(func(round int) {
		programs := make([][]Step, raceWorkers)
		start := append([]int(nil), wrote...)
		for w := range programs {
			for range 12 {
				programs[w] = append(programs[w], Step{Op: "append", Data: record(w, wrote[w])})
				wrote[w]++
			}
		}
		all := t.race(programs)
		total := 0
		for i, e := range all {
			total += len(e.Data)
			if e.Errno != 0 || e.N != int64(len(e.Data)) {
				t.blame(all, fmt.Sprintf("%s wrote %d of %d bytes: %s", e.Step, e.N, len(e.Data), errnoName(e.Errno)), i)
			}
		}
		t.trace = t.trace[:0]
		for i := range min(raceWorkers, 2*len(t.mounts)) {
			e := t.W(i).ok(pread(1, int64(read), int64(total+1000)))
			if why := checkRecords(e.Out, start, wrote); why != "" {
				t.trace = append(tail(all, 20), *e)
				t.failf("read by worker %c: %s", 'A'+i, why)
			}
		}
		read += total
	})
}

func record(worker, n int) string {
	return fmt.Sprintf("%d:%d:%s\n", worker, n, strings.Repeat(string(rune('a'+worker)), 3+(n*37)%211))
}

func checkRecords(b string, start, wrote []int) string {
	seen := append([]int(nil), start...)
	for i, line := range strings.SplitAfter(b, "\n") {
		if line == "" {
			continue
		}
		var w, n int
		if _, err := fmt.Sscanf(line, "%d:%d:", &w, &n); err != nil || w < 0 || w >= len(wrote) || record(w, n) != line {
			return fmt.Sprintf("record %d is torn: %s", i, brief(line))
		}
		if n != seen[w] {
			return fmt.Sprintf("worker %c: record %d follows %d: lost or out of order", 'A'+w, n, seen[w]-1)
		}
		seen[w]++
	}
	for w := range wrote {
		if seen[w] != wrote[w] {
			return fmt.Sprintf("worker %c wrote %d records, %d are there", 'A'+w, wrote[w]-start[w], seen[w]-start[w])
		}
	}
	return ""
}

func unlinkedOpen(t *T) {
	t.pair(6, func(i int, m, l *W) {
		f, h := fmt.Sprintf("f%d", i), i+1
		m.ok(create(f, "first"))
		l.ok(rdwr(h, f))
		m.ok(unlink(f))
		l.says("first", pread(h, 0, 100))
		l.ok(pwrite(h, 5, " and more"))
		l.says("first and more", pread(h, 0, 100))
		m.ok(create(f, "another"))
		l.says("first and more", pread(h, 0, 100))
		l.says("another", readAll(f))
		e := l.ok(fstat(h))
		l.must(e, e.Stat.Nlink == 0 && e.Stat.Size == 14, "size 14, nlink 0")
		// Replaced by a rename instead.
		l.ok(rdwr(h+100, f))
		m.ok(create(f+".new", "replacement"))
		m.ok(rename(f+".new", f))
		l.says("another", pread(h+100, 0, 100))
		l.says("replacement", readAll(f))
		l.ok(Step{Op: "ftruncate", H: h, Len: 3})
		l.says("fir", pread(h, 0, 100))
		l.ok(closes(h))
		l.ok(closes(h + 100))
		m.says("replacement", readAll(f))
	})
}

func mmapVisible(t *T) {
	w := t.file("f", 2)
	a, b := w[0], w[1]
	a.ok(pwrite(0, 0, strings.Repeat("-", 8192)))
	for _, x := range w {
		x.ok(fstat(0)) // a page fault asks nobody for the size; mmap/grown looks at that
		if e := x.do(Step{Op: "mmap", Len: 8192}); e.Errno != 0 {
			t.failf("%s: a shared mapping: %s", x, errnoName(e.Errno))
		}
	}
	load := func(off, n int64) Step { return Step{Op: "load", Off: off, Len: n} }
	store := func(off int64, s string) Step { return Step{Op: "store", Off: off, Data: s} }
	b.says("---", load(0, 3))
	a.ok(store(0, "abc"))
	b.says("abc", load(0, 3))
	b.says("abc-", pread(0, 0, 4))
	b.ok(pwrite(0, 4096, "xyz"))
	a.says("xyz-", load(4096, 4))
	b.ok(store(100, "q"))
	a.says("-q-", pread(0, 99, 3))
}

func mmapGrown(t *T) {
	w := t.file("f", 2)
	w[0].ok(pwrite(0, 0, strings.Repeat("-", 8192)))
	w[1].ok(Step{Op: "mmap", Len: 8192})
	w[1].says("---", Step{Op: "load", Off: 4096, Len: 3})
}
