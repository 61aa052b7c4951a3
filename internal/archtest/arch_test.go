package archtest

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/capstan-fs/capstan/"

// allowed lists, for each package, which of ours it may import besides internal/must. A
// package that is missing here may import nothing of ours; those of `anything` may import all.
var allowed = map[string][]string{
	"caps":               {},
	"crush":              {},
	"wire":               {"caps"},
	"locker":             {"caps", "wire"},
	"clustermap":         {"crush", "wire"},
	"journal":            {"wire"},
	"mds":                {"locker", "caps", "journal", "clustermap", "wire", "mds/filelock", "internal/wrong", "internal/watch"}, // wrong: seeded bugs, a value in the configuration of whoever has them
	"mds/filelock":       {"wire", "internal/wrong"},
	"osd":                {"journal", "clustermap", "wire", "internal/watch"},
	"mon":                {"clustermap", "crush", "wire"}, // crush: it builds the CRUSH tree that clustermap carries
	"msgr":               {"wire"},
	"monc":               {"clustermap", "msgr", "wire"}, // the line to the monitors that daemons and clients share
	"objecter":           {"clustermap", "msgr", "wire", "monc", "internal/watch"},
	"client":             {"caps", "clustermap", "objecter", "monc", "msgr", "wire", "internal/watch", "internal/wrong", "internal/boottime"}, // monc: it dials the monitors itself
	"fuse":               {"client", "wire", "internal/wrong"},
	"fsck":               {"mds", "journal", "wire"},                                                                                                                      // mds: the records of a rank's objects
	"fsck/walk":          {"fsck", "mds", "journal", "clustermap", "wire"},                                                                                                // mds, clustermap: it lets a rank's core bring the journal into the objects
	"mds/server":         {"mds", "objecter", "monc", "msgr", "wire", "clustermap", "journal", "internal/admin", "internal/watch", "internal/wrong", "internal/boottime"}, // journal: it does the core's I/O on the rank's journal objects
	"osd/server":         {"osd", "osd/server/store", "objecter", "monc", "msgr", "wire", "clustermap", "internal/admin", "internal/watch", "internal/boottime"},
	"osd/server/store":   {"osd", "journal", "wire", "internal/crashdisk", "internal/watch"}, // osd: the Store interface it implements
	"mon/server":         {"mon", "msgr", "wire", "clustermap", "internal/admin"},
	"internal/must":      {},
	"internal/watch":     {}, // histograms and slow operations: plain values that a core may fill
	"internal/metrics":   {"internal/watch"},
	"internal/scene":     {},
	"internal/conf":      {"wire", "internal/wrong"}, // the UUID's text form; names of seeded bugs
	"internal/wrong":     {},
	"internal/admin":     {},
	"internal/boottime":  {},
	"internal/crashdisk": {},
	"internal/lean":      {},
	"internal/archtest":  {},
	"lockcert":           {}, // knows no file system, ours included
}

// anything: assembly, whole-cluster tests and their tools. internal/cluster is cmd's assembly
// of daemons, shared with integration tests. storetest is a conformance test of any
// osd.Store, fakerank a rank to test the client against.
var anything = []string{"cmd/", "integration", "osd/server/store/storetest", "client/fakerank", "sim", "bench/", "internal/cluster", "explore", "locker/explore"}

// cores are pure: no sockets, files, clocks or goroutines. wire may use time for
// conversions; so may they, for time.Duration and constants (see noClock).
var cores = []string{"mds", "mds/filelock", "osd", "mon", "locker", "caps", "crush", "journal", "clustermap", "fsck"}

var impure = []string{"net", "os", "os/exec", "syscall", "math/rand", "math/rand/v2", "crypto/rand", "io/ioutil",
	"golang.org/x/sys/unix", "sync/atomic", "github.com/rs/zerolog", "log", "log/slog"}

// exempt files sit in a core package but are not part of the core.
var exempt = map[string]string{
	"osd/memstore.go": "a store for tests and sim, which may run a goroutine of its own",
}

type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,GoFiles,Imports", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
		all = append(all, p)
	}
	return all
}

func TestImportsPointDownward(t *testing.T) {
	for _, p := range packages(t) {
		if slices.ContainsFunc(anything, func(a string) bool { return strings.HasPrefix(p.ImportPath, a) }) {
			continue
		}
		edges, known := allowed[p.ImportPath]
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if !ours || to == "internal/must" || slices.Contains(edges, to) {
				continue
			}
			t.Errorf("%s imports %s: not an edge of DESIGN §1", p.ImportPath, to)
		}
		if !known {
			t.Errorf("%s is a new package: give it a row in internal/archtest", p.ImportPath)
		}
	}
}

// noClock are the names of package time that look at a clock or wait for one.
var noClock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}

func TestCoresArePure(t *testing.T) {
	for _, p := range packages(t) {
		if !slices.Contains(cores, p.ImportPath) {
			continue
		}
		for _, name := range p.GoFiles {
			if exempt[p.ImportPath+"/"+name] == "" {
				pureFile(t, filepath.Join(p.Dir, name), p.ImportPath+"/"+name)
			}
		}
	}
}

func pureFile(t *testing.T, path, name string) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return
	}
	for _, imp := range f.Imports {
		if what, _ := strconv.Unquote(imp.Path.Value); slices.Contains(impure, what) || strings.HasPrefix(what, "net/") {
			t.Errorf("%s imports %s: a core opens nothing and draws nothing", name, what)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		at := func() string { return name + ":" + strconv.Itoa(fset.Position(n.Pos()).Line) }
		switch n := n.(type) {
		case *ast.GoStmt:
			t.Errorf("%s: a goroutine in a core", at())
		case *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
			t.Errorf("%s: a channel in a core", at())
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			switch {
			case !ok:
			case x.Name == "time" && slices.Contains(noClock, n.Sel.Name):
				t.Errorf("%s: time.%s in a core: time comes in with events", at(), n.Sel.Name)
			case x.Name == "sync" && n.Sel.Name != "Pool" && n.Sel.Name != "Once" && n.Sel.Name != "OnceValue":
				t.Errorf("%s: sync.%s in a core: the shell holds the lock", at(), n.Sel.Name)
			}
		}
		return true
	})
}
