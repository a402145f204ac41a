package main

import (
	"encoding/binary"
	"math/bits"
)

// SHA-256 at generation time: constants, and whatever of a compression is the same for
// every key (FIPS 180-4).

var sha256K = [64]uint32{
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}

type state = [8]uint32

var sha256IV = state{
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
}

func ror(x uint32, n int) uint32 { return bits.RotateLeft32(x, -n) }

func bigSigma0(x uint32) uint32   { return ror(x, 2) ^ ror(x, 13) ^ ror(x, 22) }
func bigSigma1(x uint32) uint32   { return ror(x, 6) ^ ror(x, 11) ^ ror(x, 25) }
func smallSigma0(x uint32) uint32 { return ror(x, 7) ^ ror(x, 18) ^ x>>3 }
func smallSigma1(x uint32) uint32 { return ror(x, 17) ^ ror(x, 19) ^ x>>10 }

// schedule is the 64 message words of a block.
func schedule(block []byte) (w [64]uint32) {
	for i := range 16 {
		w[i] = binary.BigEndian.Uint32(block[4*i:])
	}
	for t := 16; t < 64; t++ {
		w[t] = w[t-16] + smallSigma0(w[t-15]) + w[t-7] + smallSigma1(w[t-2])
	}
	return w
}

func compress(s state, block []byte) state {
	w := schedule(block)
	a, b, c, d, e, f, g, h := s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]
	for t := range 64 {
		t1 := h + bigSigma1(e) + (e&f ^ ^e&g) + sha256K[t] + w[t]
		t2 := bigSigma0(a) + (a&b ^ a&c ^ b&c)
		a, b, c, d, e, f, g, h = t1+t2, a, b, c, d+t1, e, f, g
	}
	for i, v := range [8]uint32{a, b, c, d, e, f, g, h} {
		s[i] += v
	}
	return s
}

func filled(b byte) []byte {
	p := make([]byte, 64)
	for i := range p {
		p[i] = b
	}
	return p
}

// HKDF-SHA256 without salt (RFC 5869 §2.2): HMAC's key is 32 zero bytes, so the states
// after its two pads are the same for every key.
var (
	zeroInner = compress(sha256IV, filled(0x36))
	zeroOuter = compress(sha256IV, filled(0x5c))
)

// Lengths, in bits, that end the blocks of the second part of each HMAC.
const (
	tekBits    = (64 + 16) * 8
	digestBits = (64 + 32) * 8
)

// infoBlock is the second block of the inner hash of HKDF's expansion: the same for every
// key (GAEN cryptography specification v1.2: info "EN-RPIK"; RFC 5869: block number 1).
func infoBlock() []byte {
	const info = "EN-RPIK\x01"
	b := make([]byte, 64)
	copy(b, info)
	b[len(info)] = 0x80
	binary.BigEndian.PutUint64(b[56:], uint64(64+len(info))*8)
	return b
}

// infoKW is K[t]+W[t] of that block.
func infoKW() (kw [64]uint32) {
	w := schedule(infoBlock())
	for t := range kw {
		kw[t] = sha256K[t] + w[t]
	}
	return kw
}
