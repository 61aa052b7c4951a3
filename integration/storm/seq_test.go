package storm

import (
	"context"
	"testing"
	"time"
)

// The local file system is the reference: a difference here is an error of the model.
func TestSequentialModelAgreesWithTheLocalFileSystem(t *testing.T) {
	dir := t.TempDir()
	for seed := uint64(1); seed <= 20; seed++ {
		n, err := Sequential(context.Background(), Config{Dirs: []string{dir, dir}, Seed: seed, Steps: 3000, Duration: time.Minute})
		if err != nil {
			t.Fatalf("after %d steps: %v", n, err)
		}
	}
}

// Two directories that are not the same file system stand for a cluster that is never
// coherent: the storm must notice at once.
func TestSequentialCatchesIncoherentMounts(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	if _, err := Sequential(context.Background(), Config{Dirs: []string{a, b}, Seed: 1, Steps: 3000}); err == nil {
		t.Fatal("two unrelated directories passed for one file system")
	}
}
