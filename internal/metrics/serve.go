package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/capstan-fs/capstan/internal/watch"
)

// Source puts the present values of one daemon into the sink.
type Source func(*Sink)

// Sink takes the samples of one daemon.
type Sink struct {
	daemon string
	ch     chan<- prometheus.Metric
	Seen   map[string]bool // names put so far
}

func (s *Sink) desc(name string, labels []string) (*Def, *prometheus.Desc) {
	x := byName["capstan_"+name]
	if x == nil || len(labels) != len(x.Labels) {
		panic(fmt.Sprintf("metrics: %s with %d labels is not in the table", name, len(labels)))
	}
	if s.Seen != nil {
		s.Seen[x.Name] = true
	}
	return x, prometheus.NewDesc(x.Name, x.Help, x.Labels, prometheus.Labels{"daemon": s.daemon})
}

// Put shows a counter's or gauge's value under a name of the table, without its prefix.
func (s *Sink) Put(name string, v float64, labels ...string) {
	x, d := s.desc(name, labels)
	t := prometheus.GaugeValue
	if x.Type == Counter {
		t = prometheus.CounterValue
	}
	s.ch <- prometheus.MustNewConstMetric(d, t, v, labels...)
}

// Count is Put for whole numbers.
func (s *Sink) Count(name string, n uint64, labels ...string) { s.Put(name, float64(n), labels...) }

// Hist shows durations.
func (s *Sink) Hist(name string, h *watch.Hist, labels ...string) {
	_, d := s.desc(name, labels)
	buckets := make(map[float64]uint64, watch.Buckets-1)
	var n uint64
	for i, c := range h.N {
		n += c
		if i < watch.Buckets-1 {
			buckets[watch.Bound(i)] = n
		}
	}
	s.ch <- prometheus.MustNewConstHistogram(d, n, float64(h.Sum)/1e9, buckets, labels...)
}

// collector shows all sources of the process.
type collector struct {
	mu      sync.Mutex
	sources map[string]Source
}

// Describe sends nothing: what there is depends on the daemon.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect asks every source.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	all := make(map[string]Source, len(c.sources))
	for n, s := range c.sources {
		all[n] = s
	}
	c.mu.Unlock()
	for name, src := range all {
		src(&Sink{daemon: name, ch: ch})
	}
}

// Server serves the metrics of all daemons of a process on one address. Nil serves nothing.
type Server struct {
	c    *collector
	http *http.Server
	addr string
	done chan struct{}
}

// Listen begins to serve on addr, which must be one of the loopback interface; "" is off, and gives nil.
func Listen(addr string) (*Server, error) {
	if addr == "" {
		return nil, nil
	}
	if err := CheckAddr(addr); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("metrics_listen: %w", err)
	}
	s := &Server{c: &collector{sources: map[string]Source{}}, addr: l.Addr().String(), done: make(chan struct{})}
	reg := prometheus.NewRegistry()
	reg.MustRegister(s.c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(l) // ends with Close
	}()
	return s, nil
}

// CheckAddr says what is wrong with an address to serve metrics on.
func CheckAddr(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("metrics_listen = %q: %w", addr, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("metrics_listen = %q: it has no password, so it takes an address of the loopback interface only, such as 127.0.0.1:0", addr)
	}
	return nil
}

// Addr is where it listens; "" when it does not.
func (s *Server) Addr() string {
	if s == nil {
		return ""
	}
	return s.addr
}

// Add shows one more daemon.
func (s *Server) Add(daemon string, src Source) {
	if s != nil {
		s.c.mu.Lock()
		s.c.sources[daemon] = src
		s.c.mu.Unlock()
	}
}

// Remove ends that. A scrape that is under way may still ask it once.
func (s *Server) Remove(daemon string) {
	if s != nil {
		s.c.mu.Lock()
		delete(s.c.sources, daemon)
		s.c.mu.Unlock()
	}
}

// Close ends the service.
func (s *Server) Close() error {
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	<-s.done
	return err
}
