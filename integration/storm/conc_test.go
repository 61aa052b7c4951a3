package storm

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/anishathalye/porcupine"
)

func TestNamesOnTheLocalFileSystem(t *testing.T) {
	d := t.TempDir()
	if n, err := Names(context.Background(), Config{Dirs: []string{d, d}, Seed: 3, Steps: 30}, 2); err != nil {
		t.Fatalf("after %d rounds: %v", n, err)
	}
}

func TestBlocksOnTheLocalFileSystem(t *testing.T) {
	d := t.TempDir()
	if n, err := Blocks(context.Background(), Config{Dirs: []string{d, d}, Seed: 3, Steps: 30}, 2); err != nil {
		t.Fatalf("after %d rounds: %v", n, err)
	}
}

func TestAppendsOnTheLocalFileSystem(t *testing.T) {
	d := t.TempDir()
	if n, err := Appends(context.Background(), Config{Dirs: []string{d, d}, Seed: 3, Steps: 300}, 2); err != nil || n != 1200 {
		t.Fatalf("%d records: %v", n, err)
	}
}

// A stale name: unlinked, the unlink returned, and still found.
func TestNameModelCatchesAStaleName(t *testing.T) {
	hist := []porcupine.Operation{
		{ClientId: 0, Input: nameIn{op: "create", tok: "x"}, Output: nameOut{}, Call: 1, Return: 2},
		{ClientId: 0, Input: nameIn{op: "unlink"}, Output: nameOut{}, Call: 3, Return: 4},
		{ClientId: 1, Input: nameIn{op: "look"}, Output: nameOut{tok: "x"}, Call: 5, Return: 6},
	}
	if judge(nameModel, hist) == nil {
		t.Fatal("a name found after its unlink returned passed")
	}
}

func TestBlockModelCatchesAStaleRead(t *testing.T) {
	hist := []porcupine.Operation{
		{ClientId: 0, Input: blockIn{write: true, val: 7}, Output: uint64(0), Call: 1, Return: 2},
		{ClientId: 1, Input: blockIn{}, Output: uint64(0), Call: 3, Return: 4},
	}
	if judge(blockModel, hist) == nil {
		t.Fatal("a read of the old value after the write returned passed")
	}
}

func TestAppendCheckCatchesLossAndTears(t *testing.T) {
	whole := record(0, 0) + record(1, 0) + record(0, 1)
	if err := checkAppends([]byte(whole), []int{2, 1}); err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string]string{
		"lost": record(0, 0) + record(0, 1), "torn": record(0, 0)[:4] + record(1, 0) + record(0, 1),
		"doubled": record(0, 0) + whole, "overwritten": record(1, 0) + record(0, 1),
	} {
		if checkAppends([]byte(b), []int{2, 1}) == nil {
			t.Errorf("%s passed", what)
		}
	}
}

func TestSequentialNeedsADirectory(t *testing.T) {
	if _, err := Sequential(context.Background(), Config{Dirs: []string{filepath.Join(os.TempDir(), "no-such-dir-of-storm")}, Steps: 1}); err == nil {
		t.Fatal("a missing directory passed")
	}
}
