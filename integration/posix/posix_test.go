package posix

import (
	"os"
	"testing"
)

// The local file system is the reference: what fails here is an error of the check.
func TestTheLocalFileSystemPasses(t *testing.T) {
	d, err := os.MkdirTemp("/var/tmp", "posix")
	ok(t, err)
	defer os.RemoveAll(d)
	ok(t, os.Chmod(d, 0o755))
	Run(t, d, Checks)
}
