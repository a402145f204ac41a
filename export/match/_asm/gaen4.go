package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Layout of gaenIDs in package match.
const (
	idBytes     = 16
	gaenRow     = 144 * idBytes // the IDs of one key
	blocksAhead = 8             // AES blocks in flight, the latency of VAESENC
)

// gaen4 makes the IDs of four keys, one in each 128-bit lane: eight intervals of each at a
// time, so that the AES unit is never idle. No key is ever broadcast.
//
// Z8-Z18 are the round keys, Z19 the next plaintexts, Z20 one in each counter; Z0-Z7 the
// blocks; the rest is scratch.
func gaen4(name string, kind probeKind) {
	sig := "func(ids, rpik *byte, starts *uint32, steps int)"
	if kind != noProbe {
		sig = "func(ids, rpik *byte, starts *uint32, steps int, filter *uint32, shift uint32, masks *byte)"
	}
	TEXT(name, 0, sig)
	Doc(name + " makes steps IDs, a multiple of 8, of each of 4 RPI keys into rows of 144.")
	if kind != noProbe {
		Doc(name+" makes steps IDs, a multiple of 8, of each of 4 RPI keys into rows of 144.",
			"It stores a 16-bit mask for every 4 of them: bit 4*key + interval.")
	}
	Pragma("noescape")
	ids := Load(Param("ids"), GP64())
	rpik := Load(Param("rpik"), GP64())
	starts := Load(Param("starts"), GP64())
	steps := Load(Param("steps"), GP64())
	var masks reg.Register
	p := newProber(kind, zmm[21])
	if p != nil {
		masks = Load(Param("masks"), GP64())
	}

	rk := func(i int) vec { return zmm[8+i] }
	VMOVDQU32(at(rpik, 0), rk(0))
	expandKeys4(rk)

	// The interval number is the last dword of each lane.
	next, one := zmm[19], zmm[20]
	mask := GP32()
	MOVL(U32(0x8888), mask)
	KMOVW(mask, reg.K3)
	VPEXPANDD_Z(at(starts, 0), reg.K3, next)
	VBROADCASTI32X4(rpiText(), zmm[24])
	VPORD(zmm[24], next, next)
	VPBROADCASTD_Z(word(1), reg.K3, one)

	Label("loop")
	for i := range blocksAhead {
		VPXORD(rk(0), next, zmm[i])
		VPADDD(one, next, next)
	}
	for r := 1; r < 10; r++ {
		for i := range blocksAhead {
			VAESENC(rk(r), zmm[i], zmm[i])
		}
	}
	for i := range blocksAhead {
		VAESENCLAST(rk(10), zmm[i], zmm[i])
	}
	for i := range blocksAhead {
		VMOVDQU(zmm[i].AsX(), at(ids, i*idBytes))
		for lane := 1; lane < 4; lane++ {
			VEXTRACTI32X4(imm(lane), zmm[i], at(ids, lane*gaenRow+i*idBytes))
		}
	}
	if p != nil {
		for i := 0; i < blocksAhead; i += 4 {
			b, d0, d1 := zmm[i:i+4], zmm[24], zmm[25]
			VPUNPCKLDQ(b[1], b[0], zmm[26])
			VPUNPCKLDQ(b[3], b[2], zmm[27])
			VPUNPCKLQDQ(zmm[27], zmm[26], d0)
			VPUNPCKHQDQ(zmm[27], zmm[26], d1)
			p.probe(d0, d1, [3]vec(b), at(masks, i/4*2))
		}
		ADDQ(imm(blocksAhead/4*2), masks)
	}
	ADDQ(imm(blocksAhead*idBytes), ids)
	SUBQ(imm(blocksAhead), steps)
	JA(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// expandKeys4 makes the AES-128 key schedule of four keys from rk(0) (FIPS 197 §5.2).
// SubWord is AES's own last round over a block whose four columns are equal, with the
// round constant as its key.
func expandKeys4(rk func(int) vec) {
	rot, t, t2 := zmm[24], zmm[25], zmm[26]
	VBROADCASTI32X4(rotLast(), rot)
	for r := range rcon {
		VPSHUFB(rot, rk(r), t)
		VPBROADCASTD(word(rcon[r]), t2)
		VAESENCLAST(t2, t, t)
		VPSLLDQ(imm(4), rk(r), t2)
		VPXORD(t2, rk(r), rk(r+1))
		VPSLLDQ(imm(8), rk(r+1), t2)
		VPTERNLOGD(imm(ternXor), t, t2, rk(r+1))
	}
}
