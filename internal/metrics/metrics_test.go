package metrics

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/internal/watch"
)

// docs/metrics.md is what the table says.
func TestDocsAreFresh(t *testing.T) {
	var b bytes.Buffer
	if err := WriteDocs(&b); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, b.Bytes()) {
		t.Error("docs/metrics.md is stale: run make docs")
	}
}

func TestWhatIsPutIsServed(t *testing.T) {
	s, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var h watch.Hist
	h.Add(3e6)
	s.Add("osd.7", func(k *Sink) {
		k.Put("up", 1, "osd")
		k.Hist("osd_op_duration_seconds", &h, "read")
	})
	page := get(t, s)
	for _, want := range []string{`capstan_up{daemon="osd.7",role="osd"} 1`, `capstan_osd_op_duration_seconds_count{daemon="osd.7",op="read"} 1`,
		`capstan_osd_op_duration_seconds_bucket{daemon="osd.7",op="read",le="0.004096"} 1`, `capstan_osd_op_duration_seconds_bucket{daemon="osd.7",op="read",le="0.002048"} 0`, "process_cpu_seconds_total"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	s.Remove("osd.7")
	if strings.Contains(get(t, s), "osd.7") {
		t.Error("a daemon that was removed is still shown")
	}
}

func get(t *testing.T, s *Server) string {
	t.Helper()
	r, err := http.Get("http://" + s.Addr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 {
		t.Fatalf("%v %v", r.Status, err)
	}
	return string(b)
}

// There is no password: what others can reach is refused.
func TestOnlyLoopbackIsServed(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":9000", "10.0.0.1:9000", "[::]:9000", "nonsense"} {
		if s, err := Listen(addr); err == nil {
			s.Close()
			t.Errorf("%s was accepted", addr)
		}
	}
	if s, err := Listen(""); s != nil || err != nil || s.Addr() != "" || s.Close() != nil {
		t.Errorf("off: %v %v", s, err)
	}
}

func TestAnUnknownNameIsABug(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a name that is not in the table was taken")
		}
	}()
	(&Sink{}).Put("nonsense", 1)
}
