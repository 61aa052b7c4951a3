package msgr

import (
	"context"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

func benchNetworks(b *testing.B, fn func(b *testing.B, n Network, addr string)) {
	b.Run("tcp", func(b *testing.B) { fn(b, TCP(), "127.0.0.1:0") })
	b.Run("mem", func(b *testing.B) { fn(b, NewMemory(), "mem:") })
}

// One request at a time: what a synchronous metadata operation pays for the network.
func BenchmarkPingPong(b *testing.B) {
	benchNetworks(b, func(b *testing.B, n Network, addr string) {
		req, rep := &wire.Renew{Seq: 1}, &wire.RenewAck{Seq: 1}
		s := serve(b, n, addr, func(*Conn) Handler {
			return funcs{frames: func(c *Conn, batch []Frame) {
				for i := range batch {
					_ = c.Send(batch[i].Tid, rep)
				}
			}}
		}, Options{})
		back := make(chan struct{}, 1)
		c, err := DialSession(context.Background(), n, s.Addr(), clientSelf,
			funcs{frames: func(*Conn, []Frame) { back <- struct{}{} }}, Options{})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		b.ReportAllocs()
		for b.Loop() {
			_ = c.SendNow(1, req)
			<-back
		}
	})
}

// A window of requests with 4 KiB and 1 MiB of data, acknowledged by the last.
func BenchmarkOneWay(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"front", 0}, {"4k", 4 << 10}, {"1m", 1 << 20}} {
		b.Run(size.name, func(b *testing.B) {
			benchNetworks(b, func(b *testing.B, n Network, addr string) {
				const window = 32
				s := serve(b, n, addr, func(*Conn) Handler {
					return funcs{frames: func(c *Conn, batch []Frame) {
						for i := range batch {
							if batch[i].Tid == 1 {
								_ = c.Send(1, &wire.RenewAck{})
							}
						}
					}}
				}, Options{})
				back := make(chan struct{}, 1)
				c, err := Dial(context.Background(), n, s.Addr(), clientSelf, funcs{frames: func(*Conn, []Frame) { back <- struct{}{} }})
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				data := make([]byte, size.n)
				b.SetBytes(int64(size.n))
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					if i++; i%window == 0 {
						_ = c.SendNow(1, &wire.Renew{}, data)
						<-back
					} else {
						_ = c.Send(0, &wire.Renew{}, data)
						if i%4 == 0 {
							c.Flush()
						}
					}
				}
			})
		})
	}
}
