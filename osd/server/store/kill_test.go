package store

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

const killNames = 7

// killTxn is transaction n: it writes one of a few objects and says so in a value.
func killTxn(n int) *osd.Txn {
	tx := put(fmt.Sprint("o", n%killNames), uint64(n), 0, fill(100+n*977%20_000, byte('a'+n%26)))
	tx.Objs[0].Replace = true
	tx.Objs[0].Muts = append(tx.Objs[0].Muts, wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: []wire.KV{{Key: "n", Val: []byte(strconv.Itoa(n))}}})
	tx.Meta = []wire.KV{{Key: "n", Val: []byte(strconv.Itoa(n))}}
	return tx
}

// TestMain is also the child that TestKill9 kills: it writes and prints what is durable.
func TestMain(m *testing.M) {
	dir := os.Getenv("CAPSTAN_STORE_CHILD")
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := Open(dir, tight())
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	n := 0
	if kvs := s.Meta(pgA, "n"); len(kvs) == 1 {
		n, _ = strconv.Atoi(string(kvs[0].Val))
	}
	slots := make(chan struct{}, 5)
	var out sync.Mutex
	for {
		n++
		k := n
		slots <- struct{}{}
		s.Submit(killTxn(k), func(err error) {
			out.Lock()
			fmt.Println("durable", k, err)
			out.Unlock()
			<-slots
		})
	}
}

// The real disk and the real bbolt: a process is killed in the middle of commits and
// checkpoints, many times over. What it said was durable is there.
func TestKill9(t *testing.T) {
	dir := t.TempDir()
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CAPSTAN_STORE_CHILD="+dir)
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acked, lines := 0, 0
		for sc := bufio.NewScanner(pipe); sc.Scan(); {
			f := strings.Fields(sc.Text())
			if len(f) != 3 || f[2] != "<nil>" {
				if lines > 50+round*37 {
					break // cut by the kill
				}
				t.Errorf("child says %q", sc.Text())
				break
			}
			acked, _ = strconv.Atoi(f[1])
			if lines++; lines == 50+round*37 {
				cmd.Process.Kill()
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
		s := mustOpen(t, dir, tight())
		last, _ := strconv.Atoi(string(s.Meta(pgA, "n")[0].Val))
		if last < acked {
			t.Errorf("round %d: %d was durable, the store is at %d", round, acked, last)
		}
		for k := max(1, last-killNames+1); k <= last; k++ {
			want := killTxn(k).Objs[0]
			b := make([]byte, 30_000)
			n, err := s.Read(pgA, want.Name, 0, b)
			kvs, _, oerr := s.OmapRange(pgA, want.Name, "", 10)
			if err != nil || oerr != nil || !bytes.Equal(b[:n], want.Muts[0].Data) || len(kvs) != 1 || string(kvs[0].Val) != strconv.Itoa(k) {
				t.Errorf("round %d: %s of %d..%d: %d bytes, omap %v, %v %v", round, want.Name, k, last, n, kvs, err, oerr)
			}
		}
		if err := s.verify(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
