package store

// The checksum of a read of whole blocks follows from those of the blocks, without a look at the
// bytes: crc32c is linear, and to append a block is to move the sum so far over 4096 bytes of
// zeros, which is a map from 32 bits to 32 bits (as zlib's crc32_combine, for one length).

// overBlock is that map, a table for each byte of the sum.
var overBlock = func() (t [4][256]uint32) {
	for k := range t {
		for bit := range 8 {
			// A sum with a single bit set, moved over a block of zeros.
			v := uint32(1) << (8*k + bit)
			for range BlockBytes {
				v = castagnoli[byte(v)] ^ v>>8
			}
			for i := range 256 {
				if i>>bit&1 == 1 {
					t[k][i] ^= v
				}
			}
		}
	}
	return t
}()

// appendBlockCRC is the crc32c of bytes with sum crc and a block with sum block behind them.
func appendBlockCRC(crc, block uint32) uint32 {
	return overBlock[0][byte(crc)] ^ overBlock[1][byte(crc>>8)] ^ overBlock[2][byte(crc>>16)] ^ overBlock[3][crc>>24] ^ block
}
