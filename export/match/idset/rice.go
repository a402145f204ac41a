package idset

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// A block is the values from base to base + 2^(f+8), base not included in the file.
// Each is stored as its distance from the least value it could have (base, or one more
// than the value before) in a Golomb-Rice code with f-1 bits of remainder: as many one
// bits as the quotient, a zero bit, the remainder. Bits fill bytes from the least
// significant; what is left of the last byte is zero. The end needs no mark: too few bits
// are left for another value.

// appendBlock encodes sorted, distinct values of the block at base.
func appendBlock(dst []byte, values []uint64, base uint64, f int) []byte {
	k := f - 1
	var acc uint64 // the bits not yet in dst
	var n int      // how many, below 8 between values
	for _, v := range values {
		d := v - base
		base = v + 1
		q := d >> k
		for ; q >= 16; q -= 16 { // rare: a gap of eight mean distances
			acc |= (1<<16 - 1) << n
			dst = append(dst, byte(acc), byte(acc>>8))
			acc >>= 16
		}
		acc |= ((1<<q - 1) | (d&(1<<k-1))<<(q+1)) << n
		n += int(q) + 1 + k // at most 7 + 16 + 32
		if n >= 32 {
			dst = binary.LittleEndian.AppendUint32(dst, uint32(acc))
			acc >>= 32
			n -= 32
		}
		for n >= 8 {
			dst = append(dst, byte(acc))
			acc >>= 8
			n -= 8
		}
	}
	if n > 0 {
		dst = append(dst, byte(acc))
	}
	return dst
}

var errBlock = errors.New("a block is not in its one right form")

// readBlock appends to dst the values of the block from base to end. The last readAhead
// bytes of src are not the block's: they may be read and mean nothing.
func readBlock(dst []uint64, src []byte, base, end uint64, f int) ([]uint64, error) {
	k := f - 1
	src, padded := src[:len(src)-readAhead], src
	total := 8 * len(src)
	at := 0
	for total-at > k {
		q := 0
		for {
			ones := bits.TrailingZeros64(^(binary.LittleEndian.Uint64(padded[at>>3:]) >> (at & 7)))
			// At most 57 bits of the word are the file's.
			ones = min(ones, 56)
			q += ones
			at += ones
			if ones < 56 {
				break
			}
			if at >= total {
				return nil, errBlock
			}
		}
		at++ // the zero
		if at+k > total {
			return nil, errBlock
		}
		r := binary.LittleEndian.Uint64(padded[at>>3:]) >> (at & 7) & (1<<k - 1)
		at += k
		v := base + (uint64(q)<<k | r)
		if v >= end {
			return nil, errBlock
		}
		dst = append(dst, v)
		base = v + 1
	}
	// What is left is less than a byte, and zero.
	left := total - at
	if left > 7 || left > 0 && src[len(src)-1]>>(8-left) != 0 {
		return nil, errBlock
	}
	return dst, nil
}

// readAhead lets readBlock take whole words.
const readAhead = 8
