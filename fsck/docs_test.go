package fsck

import (
	"bytes"
	"os"
	"testing"
)

// docs/fsck.md has the table of codes as it is: `capstan fsck --docs` prints it.
func TestDocsAreFresh(t *testing.T) {
	var b bytes.Buffer
	if err := WriteCodes(&b); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/fsck.md")
	if err != nil || !bytes.Contains(page, b.Bytes()) {
		t.Errorf("docs/fsck.md lacks the table of codes as it is (%v)", err)
	}
}
