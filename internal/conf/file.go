package conf

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// SystemFile is read when neither --conf nor $CAPSTAN_CONF names a file.
const SystemFile = "/etc/capstan/capstan.conf"

// Find says which file to read: the flag's, else the environment's, else the system's.
func Find(flag string) string {
	if flag != "" {
		return flag
	}
	if env := os.Getenv("CAPSTAN_CONF"); env != "" {
		return env
	}
	return SystemFile
}

// Load reads a file over the defaults.
func Load(path string) (*Config, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no configuration at %s: name one with --conf FILE or $CAPSTAN_CONF (`capstan dev up --dir D` writes D/capstan.conf)", path)
	}
	if err != nil {
		return nil, err
	}
	c, err := Parse(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Parse reads the text of a file over the defaults. All mistakes are reported at once.
func Parse(text string) (*Config, error) {
	var raw map[string]any
	if _, err := toml.Decode(text, &raw); err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return nil, fmt.Errorf("line %d: %s", pe.Position.Line, pe.Message)
		}
		return nil, err
	}
	c := Default()
	keys := make([]string, 0, len(raw))
	for key := range raw {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	var errs []error
	for _, key := range keys {
		k, err := Lookup(key)
		if err == nil {
			err = k.Set(c, raw[key])
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, c.Check()
}

// Check looks at what settings say together.
func (c *Config) Check() error {
	if c.PoolMinSize > c.PoolSize {
		return fmt.Errorf("pool_min_size = %d is more than pool_size = %d: no write would ever be allowed", c.PoolMinSize, c.PoolSize)
	}
	if n := len(c.MonAddrs); n > 1 && len(c.MonRaftAddrs) != n {
		return fmt.Errorf("mon_addrs has %d monitors, mon_raft_addrs has %d: name one address of each kind for every monitor", n, len(c.MonRaftAddrs))
	}
	if n := max(c.Mons, len(c.MonAddrs)); n%2 == 0 && n > 0 {
		return fmt.Errorf("%d monitors bear no more losses than %d: choose an odd number", n, n-1)
	}
	// Known and checked, but nothing reads them yet: better a refusal than a setting without effect.
	if c.RecoveryBudget != 5*time.Second {
		return fmt.Errorf("mds_recovery_budget = %v: only the default, 5s, works so far", c.RecoveryBudget)
	}
	if host, _, err := net.SplitHostPort(c.MetricsListen); c.MetricsListen != "" {
		if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("metrics_listen = %q: it has no password, so it takes an address of the loopback interface only, such as 127.0.0.1:0", c.MetricsListen)
		}
	}
	_, err := wrong.Parse(c.Wrong)
	return err
}

// Lookup finds a knob by name; the error for a wrong name suggests a right one.
func Lookup(name string) (*Knob, error) {
	best, bestDistance := "", len(name)/3+2
	for i := range Knobs {
		if Knobs[i].Name == name {
			return &Knobs[i], nil
		}
		if d := distance(name, Knobs[i].Name); d < bestDistance {
			best, bestDistance = Knobs[i].Name, d
		}
	}
	if best == "" {
		return nil, fmt.Errorf("%s: no such setting (`capstan config --docs` lists them)", name)
	}
	return nil, fmt.Errorf("%s: no such setting; did you mean %s?", name, best)
}

// distance counts the insertions, deletions and replacements between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Text writes the settings that differ from the defaults as a file.
func (c *Config) Text() string {
	def := Default()
	var b strings.Builder
	for i := range Knobs {
		k := &Knobs[i]
		if v := k.text(c); v != k.text(def) {
			fmt.Fprintf(&b, "%s = %s\n", k.Name, v)
		}
	}
	return b.String()
}

// All writes every setting with its value.
func (c *Config) All() string {
	var b strings.Builder
	for i := range Knobs {
		fmt.Fprintf(&b, "%s = %s\n", Knobs[i].Name, Knobs[i].text(c))
	}
	return b.String()
}

// text is the knob's value as TOML.
func (k *Knob) text(c *Config) string {
	switch f := k.field(c).(type) {
	case *string:
		return fmt.Sprintf("%q", *f)
	case *[]string:
		q := make([]string, len(*f))
		for i, s := range *f {
			q[i] = fmt.Sprintf("%q", s)
		}
		return "[" + strings.Join(q, ", ") + "]"
	case *wire.UUID:
		return fmt.Sprintf("%q", f.String())
	case *time.Duration:
		return fmt.Sprintf("%q", f.String())
	case *bool:
		return fmt.Sprint(*f)
	case *int:
		return fmt.Sprint(*f)
	case *uint64:
		for _, u := range byteUnits[:4] {
			if *f >= u.n && *f%u.n == 0 {
				return fmt.Sprintf("\"%d%s\"", *f/u.n, u.name)
			}
		}
		return fmt.Sprint(*f)
	}
	panic("conf: a knob of unknown type: " + k.Name)
}

// Save writes the file so that a crash leaves the old one or the new one.
func (c *Config) Save(path string) error {
	text := "# Settings of this cluster. `capstan config --docs` explains each; what is not here has its default.\n" + c.Text()
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Docs is docs/config.md.
func Docs() string {
	var b strings.Builder
	b.WriteString("# Settings\n\n")
	b.WriteString("This page is written by `capstan config --docs` from the table in internal/conf/knobs.go.\n\n")
	b.WriteString("Settings are TOML keys in one file, given by `--conf FILE`, else `$CAPSTAN_CONF`, else `" + SystemFile + "`.\n")
	b.WriteString("Each is a flag too (`osd_size` is `--osd-size`) where the verb uses it, and the flag wins. Times are written `\"500ms\"`, `\"15s\"`,\n")
	b.WriteString("`\"2m\"`; sizes `4096`, `\"64MiB\"`, `\"2GiB\"` (powers of 1024).\n")
	var groups []string
	for _, k := range Knobs {
		if !slices.Contains(groups, k.Group) {
			groups = append(groups, k.Group)
		}
	}
	for _, g := range groups {
		fmt.Fprintf(&b, "\n## %s\n\n| setting | default | range | what it does |\n|---|---|---|---|\n", g)
		for _, k := range Knobs {
			if k.Group != g {
				continue
			}
			def, rng := "–", "–"
			if k.Def != "" {
				def = "`" + k.Def + "`"
			}
			if k.Min != "" {
				rng = k.Min + " … " + k.Max
			}
			if len(k.OneOf) > 0 {
				rng = strings.Join(k.OneOf, ", ")
			}
			unit := ""
			if k.Unit != "" && k.Unit != "s" && k.Unit != "bytes" {
				unit = " " + k.Unit
			}
			fmt.Fprintf(&b, "| `%s` | %s%s | %s | %s |\n", k.Name, def, unit, rng, k.Doc)
		}
	}
	return b.String()
}
