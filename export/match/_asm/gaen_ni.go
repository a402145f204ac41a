package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// gaenNI makes the IDs of one key on AES-NI, eight at a time. X0-X7 are the blocks, X8
// the next plaintext, X9 scratch, X10-X15 the round keys 0 to 5; the others come from the
// frame.
//
// The probe is by scalar loads: processors that stop at this tier are those whose gather
// is slow or absent.
func gaenNI(name string, probe bool) {
	sig := "func(ids, rpik *byte, start uint32, steps int)"
	if probe {
		sig = "func(ids, rpik *byte, start uint32, steps int, filter *uint32, shift uint32, masks *byte, lane uint32)"
	}
	TEXT(name, 0, sig)
	Pragma("noescape")
	doc := []string{name + " makes steps IDs, a multiple of 8, of an RPI key."}
	if probe {
		doc = append(doc, "It adds 4 bits, shifted by 4*lane, to the 16-bit mask of every 4 of them.")
	}
	Doc(doc...)

	frame := AllocLocal(16 * 12)
	ids := Load(Param("ids"), GP64())
	rpik := Load(Param("rpik"), GP64())
	steps := Load(Param("steps"), GP64())
	next, tmp := reg.X8, reg.X9
	roundKey := func(r int) Op {
		if r <= 5 {
			return xmm[10+r]
		}
		return frame.Offset(16 * r)
	}

	// The key schedule, as expandKeys4 does it.
	VMOVDQU(at(rpik, 0), reg.X0)
	VMOVDQA(reg.X0, xmm[10])
	for r := range rcon {
		VPSHUFB(rotLast(), reg.X0, reg.X1)
		VAESENCLAST(quad(rcon[r]), reg.X1, reg.X1)
		VPSLLDQ(imm(4), reg.X0, tmp)
		VPXOR(tmp, reg.X0, reg.X0)
		VPSLLDQ(imm(8), reg.X0, tmp)
		VPXOR(tmp, reg.X0, reg.X0)
		VPXOR(reg.X1, reg.X0, reg.X0)
		if k, ok := roundKey(r + 1).(vec); ok {
			VMOVDQA(reg.X0, k)
		} else {
			VMOVDQU(reg.X0, roundKey(r+1))
		}
	}
	start := Load(Param("start"), GP32())
	VMOVDQU(rpiText(), next)
	VPINSRD(imm(3), start, next, next)

	var filter, masks, lane reg.Register
	shift := frame // 16 bytes at the place of round key 0, which is in X10
	if probe {
		filter = Load(Param("filter"), GP64())
		masks = Load(Param("masks"), GP64())
		count := Load(Param("shift"), GP32())
		VMOVD(count, tmp)
		VMOVDQU(tmp, shift)
		lane = reg.RCX
		Load(Param("lane"), reg.ECX)
		SHLL(imm(2), reg.ECX)
	}

	Label("loop")
	for i := range blocksAhead {
		VPXOR(roundKey(0), next, xmm[i])
		VPADDD(words("oneLast", 0, 0, 0, 1), next, next)
	}
	for r := 1; r < 10; r++ {
		for i := range blocksAhead {
			VAESENC(roundKey(r), xmm[i], xmm[i])
		}
	}
	for i := range blocksAhead {
		VAESENCLAST(roundKey(10), xmm[i], xmm[i])
	}
	for i := range blocksAhead {
		VMOVDQU(xmm[i], at(ids, i*idBytes))
	}
	if probe {
		for i := 0; i < blocksAhead; i += 4 {
			probe4(xmm[i:i+4], tmp, filter, shift, at(masks, i/4*2), lane)
		}
		ADDQ(imm(blocksAhead/4*2), masks)
	}
	ADDQ(imm32(blocksAhead*idBytes), ids)
	SUBQ(imm(blocksAhead), steps)
	JA(LabelRef("loop"))
	RET()
}

var xmm = []vec{
	reg.X0, reg.X1, reg.X2, reg.X3, reg.X4, reg.X5, reg.X6, reg.X7,
	reg.X8, reg.X9, reg.X10, reg.X11, reg.X12, reg.X13, reg.X14, reg.X15,
}

// probe4 tests the IDs in four blocks, which it overwrites, and adds the four bits of the
// answer, shifted by the low byte of lane, to mask.
func probe4(b []vec, tmp vec, filter reg.Register, shift, mask Mem, lane reg.Register) {
	VPUNPCKLDQ(b[1], b[0], b[0])
	VPUNPCKLDQ(b[3], b[2], b[2])
	VPUNPCKHQDQ(b[2], b[0], b[1]) // d1
	VPUNPCKLQDQ(b[2], b[0], b[0]) // d0
	d0, d1, held, bits := b[0], b[1], b[2], b[3]

	VPSRLD(shift, d0, d0)
	lo, hi := GP64(), GP64()
	VMOVQ(d0, lo)
	VPEXTRQ(imm(1), d0, hi)
	index := GP64()
	word := func(i reg.Register) Mem { return Mem{Base: filter, Index: i, Scale: 4} }
	MOVL(lo.As32(), index.As32())
	SHRQ(imm(32), lo)
	VMOVD(word(index), held)
	VPINSRD(imm(1), word(lo), held, held)
	MOVL(hi.As32(), index.As32())
	SHRQ(imm(32), hi)
	VPINSRD(imm(2), word(index), held, held)
	VPINSRD(imm(3), word(hi), held, held)

	VPAND(quad(31), d1, bits)
	VMOVDQU(quad(1), tmp)
	VPSLLVD(bits, tmp, bits)
	for _, s := range []int{5, 10} {
		VPSRLD(imm(s), d1, d0)
		VPAND(quad(31), d0, d0)
		VPSLLVD(d0, tmp, d0)
		VPOR(d0, bits, bits)
	}
	VPANDN(bits, held, bits) // bits that the filter's word lacks
	VPXOR(tmp, tmp, tmp)
	VPCMPEQD(tmp, bits, bits)
	answer := GP32()
	VMOVMSKPS(bits, answer)
	SHLL(reg.CL, answer)
	ORW(answer.As16(), mask)
}
