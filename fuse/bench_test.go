package fuse_test

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkWarmOpen is open, read and close of a file that the kernel and the client know all of; bench/warm.sh
// compares that with another file system. cpu-ns/op is what counts: of both sides of the mount.
func BenchmarkWarmOpen(b *testing.B) {
	m := mount(b)
	must(b, os.Mkdir(m.path("d"), 0o755))
	must(b, os.WriteFile(m.path("d/f"), make([]byte, 4096), 0o644))
	buf := make([]byte, 4096)
	round := func() {
		fd, err := unix.Open(m.path("d/f"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		must(b, err)
		_, err = unix.Read(fd, buf)
		must(b, err)
		must(b, unix.Close(fd))
	}
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		round()
	}
	begin := cpu()
	for b.Loop() {
		round()
	}
	b.ReportMetric(float64(cpu()-begin)/float64(b.N), "cpu-ns/op")
}

func cpu() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts)
	return ts.Nano()
}
