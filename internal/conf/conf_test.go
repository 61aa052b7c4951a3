package conf

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestEveryDefaultIsInItsRange(t *testing.T) {
	c := Default()
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	seen := map[any]string{}
	for i := range Knobs {
		k := &Knobs[i]
		p := k.field(c)
		if other := seen[p]; other != "" {
			t.Errorf("%s and %s share a field", k.Name, other)
		}
		seen[p] = k.Name
		if k.Doc == "" || k.Group == "" {
			t.Errorf("%s is not explained", k.Name)
		}
	}
	if n := reflect.TypeFor[Config]().NumField(); n != len(Knobs) {
		t.Errorf("%d fields, %d rows", n, len(Knobs))
	}
}

func TestWhatIsSavedIsRead(t *testing.T) {
	c := Default()
	c.Cluster[3] = 7
	c.MonAddrs, c.MonRaftAddrs = []string{"127.0.0.1:1", "h:2", "i:3"}, []string{"127.0.0.1:4", "h:5", "i:6"}
	c.OSDSize = 3 << 30
	c.SessionValidity = 2500 * time.Millisecond * 2
	c.MonData = `a "quoted" dir`
	path := filepath.Join(t.TempDir(), "capstan.conf")
	if err := c.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, c) {
		t.Errorf("got  %+v\nwant %+v", got, c)
	}
}

// A message must name the key, what is allowed, and what was probably meant.
func TestMistakesAreExplained(t *testing.T) {
	for text, want := range map[string]string{
		`osd_sise = 5`:                    `osd_sise: no such setting; did you mean osd_size?`,
		`frobnicate = true`:               `frobnicate: no such setting (`,
		`osd_size = "1MiB"`:               `osd_size = "1MiB": should be a size in bytes, like 4096 or "64MiB" between 64MiB and 64TiB`,
		`session_validity = "soon"`:       `session_validity = "soon": should be a time`,
		`session_validity = 1`:            `between 3s and 5m`,
		`osds = -1`:                       `osds = -1: should be a number of daemons between 1 and 16`,
		`log_level = "loud"`:              `should be one of trace, debug`,
		`mon_addrs = [1]`:                 `should be a list of strings`,
		`cluster = "x"`:                   `should be a UUID`,
		"osds = 3\nosds":                  `line 2`,
		`pool_min_size = 4`:               `more than pool_size = 3`,
		`metrics_listen = "0.0.0.0:9000"`: `loopback interface only`,
		`slow_op = "1ms"`:                 `between 10ms and 10m`,
		`[osd]`:                           `osd: no such setting`,
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

func TestFlagsWinOverTheFile(t *testing.T) {
	var o Overrides
	fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
	o.Flags(fs, "osds", "osd_size")
	if err := fs.Parse([]string{"--osds", "5"}); err != nil {
		t.Fatal(err)
	}
	c, err := Parse("osds = 2\nosd_size = '2GiB'")
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Apply(c); err != nil {
		t.Fatal(err)
	}
	if c.OSDs != 5 || c.OSDSize != 2<<30 || !o.Given("osds") || o.Given("osd_size") {
		t.Errorf("%+v", c)
	}
	if err := fs.Parse([]string{"--osds", "100"}); err == nil {
		t.Error("100 OSDs accepted")
	}
}

func TestDocsAreFresh(t *testing.T) {
	got, err := os.ReadFile("../../docs/config.md")
	if err != nil || string(got) != Docs() {
		t.Errorf("docs/config.md is stale (%v): run `go run ./cmd/capstan config --docs > docs/config.md`", err)
	}
}
