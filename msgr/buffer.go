package msgr

import (
	"math/bits"
	"sync"
)

// Data buffers come in powers of two from 4 KiB to 16 MiB, pooled by size.
const (
	minBufferBits = 12
	maxBufferBits = 24
)

var bufferPools [maxBufferBits - minBufferBits + 1]sync.Pool

// Buffer returns a slice of n bytes with arbitrary contents, from the pools when it can.
func Buffer(n int) []byte {
	c := max(bits.Len(uint(max(n, 1)-1)), minBufferBits)
	if c > maxBufferBits {
		return make([]byte, n)
	}
	if p, _ := bufferPools[c-minBufferBits].Get().(*[]byte); p != nil {
		return (*p)[:n]
	}
	return make([]byte, n, 1<<c)
}

// Recycle gives a slice that came from Buffer or Frame.Retain back. Whoever calls it must be
// the last one who knows the slice; a slice of any other size is left to the collector.
func Recycle(b []byte) {
	c := cap(b)
	if c < 1<<minBufferBits || c > 1<<maxBufferBits || c&(c-1) != 0 {
		return
	}
	b = b[:0]
	bufferPools[bits.Len(uint(c))-1-minBufferBits].Put(&b)
}

// A chunk is where headers, fronts and small data segments are written one after the other.
type chunk struct{ buf []byte }

const chunkSize = 32 << 10

var chunkPool = sync.Pool{New: func() any { return &chunk{buf: make([]byte, 0, chunkSize)} }}
