package wire

import (
	"encoding/binary"
	"errors"
)

// errLengths is what a record gets whose counts promise more than there is.
var errLengths = errors.New("counts or lengths exceed the record")

// checkLengths walks over a msgpack record before it is decoded. The decoder makes a slice of
// as many elements as its count says before it reads the first one, without a limit (v5.4.1,
// growSliceValue), so thirty bytes from a peer could ask for all memory. Every element is at
// least one byte and is in one container only: in a sound record all counts together are
// less than its length.
func checkLengths(b []byte) error {
	budget := len(b)
	for i := 0; i < len(b); {
		c := b[i]
		i++
		count, skip, width := 0, 0, 0
		switch {
		case c < 0x80 || c >= 0xe0 || c >= 0xc0 && c <= 0xc3: // small ints, nil, bool
			continue
		case c < 0x90:
			count = 2 * int(c&0xf)
		case c < 0xa0:
			count = int(c & 0xf)
		case c < 0xc0:
			skip = int(c & 0x1f)
		case c <= 0xc6: // bin 8, 16, 32
			width = 1 << (c - 0xc4)
		case c <= 0xc9: // ext 8, 16, 32: one more byte for its type
			width, skip = 1<<(c-0xc7), 1
		case c <= 0xcb: // float 32, 64
			skip = 4 << (c - 0xca)
		case c <= 0xcf: // uint 8 to 64
			skip = 1 << (c - 0xcc)
		case c <= 0xd3: // int 8 to 64
			skip = 1 << (c - 0xd0)
		case c <= 0xd8: // fixext 1 to 16
			skip = 1 + 1<<(c-0xd4)
		case c <= 0xdb: // str 8, 16, 32
			width = 1 << (c - 0xd9)
		default: // array 16, 32, map 16, 32
			width = 2 << ((c - 0xdc) & 1)
		}
		if width > 0 {
			if len(b)-i < width {
				return errLengths
			}
			var n int
			switch width {
			case 1:
				n = int(b[i])
			case 2:
				n = int(binary.BigEndian.Uint16(b[i:]))
			case 4:
				n = int(binary.BigEndian.Uint32(b[i:]))
			}
			i += width
			switch {
			case c < 0xdc:
				skip += n
			case c < 0xde:
				count = n
			default:
				count = 2 * n
			}
		}
		budget -= count
		if budget < 0 || skip > len(b)-i {
			return errLengths
		}
		i += skip
	}
	return nil
}
