package crush

import "math/bits"

// logBits is how many leading bits of a mantissa index the table; the rest interpolates.
const (
	logBits  = 12
	fracBits = 40
)

// logTable[i] = log2(1+i/2^logBits) with fracBits fractional bits, by repeated squaring:
// integers only, so every machine and every compiler computes the same table.
var logTable = func() (t [1<<logBits + 1]uint64) {
	for i := range t[:1<<logBits] {
		m := uint64(1<<63) + uint64(i)<<(63-logBits) // mantissa 1.f with 63 fractional bits
		for b := range fracBits {
			hi, lo := bits.Mul64(m, m) // 2.126 bits: [1,4)
			if hi>>63 == 1 {
				t[i] |= 1 << (fracBits - 1 - b)
				m = hi
			} else {
				m = hi<<1 | lo>>63
			}
		}
	}
	t[1<<logBits] = 1 << fracBits
	return t
}()

// negLog2 is -log2((u+1)/2^32) with fracBits fractional bits: 0 for the largest u.
func negLog2(u uint32) uint64 {
	v := uint64(u) + 1
	e := uint(bits.Len64(v) - 1) // v = 2^e · 1.f
	f := v << (63 - e) & (1<<63 - 1)
	i := f >> (63 - logBits)
	rest := f << (1 + logBits) >> (1 + logBits) >> (63 - logBits - 20) // 20 bits of what is between two entries
	lo, hi := logTable[i], logTable[i+1]
	log := uint64(e)<<fracBits + lo + (hi-lo)*rest>>20
	return 32<<fracBits - log
}

// straw is what one device draws: the longest is the one with the smallest cost/weight.
type straw struct {
	item   int32 // the device
	of     int32 // the candidate that it stands for: itself, or a bucket above it
	cost   uint64
	weight uint64
}

// longer reports whether s beats t; exact, without a division, and a total order of devices.
func (s straw) longer(t straw) bool {
	sh, sl := bits.Mul64(s.cost, t.weight)
	th, tl := bits.Mul64(t.cost, s.weight)
	if sh != th {
		return sh < th
	}
	if sl != tl {
		return sl < tl
	}
	return s.item < t.item
}

// hash mixes x, an item and an attempt into 64 bits (the finalizer of splitmix64, thrice).
func hash(x uint64, item int32, r uint32) uint64 {
	h := mix(x + 0x9e3779b97f4a7c15)
	h = mix(h ^ uint64(uint32(item))*0xd6e8feb86659fd93)
	return mix(h + uint64(r)*0xa0761d6478bd642f)
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func draw(x uint64, item int32, r uint32, weight uint64) straw {
	return straw{item, item, negLog2(uint32(hash(x, item, r) >> 32)), weight}
}
