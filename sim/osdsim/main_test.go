package osdsim

import (
	"os"
	"runtime/debug"
	"testing"
)

// A run makes garbage and keeps little: the collector's usual eagerness is a sixth of the time.
func TestMain(m *testing.M) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(800)
	}
	os.Exit(m.Run())
}
