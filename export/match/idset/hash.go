package idset

import (
	"encoding/binary"
	"math/bits"

	"bluekey/keystore/diagnosis"
)

// hashKey keys SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF").
type hashKey [2]uint64

// sum hashes an ID and its interval: the message is the ID as it was on the air, 12 or
// 16 bytes, and the interval in four bytes, little-endian.
func (k hashKey) sum(s diagnosis.Scheme, id *[16]byte, i uint32) uint64 {
	lo, hi := binary.LittleEndian.Uint64(id[:]), binary.LittleEndian.Uint64(id[8:])
	if s == diagnosis.Bluezone {
		return k.sip(lo, hi&(1<<32-1)|uint64(i)<<32, 16<<56)
	}
	return k.sip(lo, hi, 20<<56|uint64(i))
}

// sip is SipHash-2-4 of a message of three words, the last with its length on top.
func (k hashKey) sip(m0, m1, m2 uint64) uint64 {
	v0, v1 := k[0]^0x736f6d6570736575, k[1]^0x646f72616e646f6d
	v2, v3 := k[0]^0x6c7967656e657261, k[1]^0x7465646279746573
	v3 ^= m0
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= m0
	v3 ^= m1
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= m1
	v3 ^= m2
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= m2
	v2 ^= 0xff
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	return v0 ^ v1 ^ v2 ^ v3
}

func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v0 = bits.RotateLeft64(v0, 32)
	v2 += v3
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 += v3
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v2 += v1
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	v2 = bits.RotateLeft64(v2, 32)
	return v0, v1, v2, v3
}

// place scales a hash to [0, n*2^f): the values that a shard of n hashes holds.
func place(hash uint64, n uint32, f int) uint64 {
	hi, _ := bits.Mul64(hash, uint64(n)<<f)
	return hi
}
