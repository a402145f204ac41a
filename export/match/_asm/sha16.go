package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// SHA-256 of sixteen messages at once, one in each dword of a 512-bit register:
// Z0-Z7 are a to h, Z8-Z23 the sixteen message words in hand, Z24-Z28 scratch.

var zmm = []reg.VecPhysical{
	reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7,
	reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
	reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23,
	reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31,
}

// w is the register of message word t, which takes the place of word t-16.
func w(t int) reg.VecPhysical { return zmm[8+t%16] }

// Truth tables of VPTERNLOGD.
const (
	ternXor    = 0x96 // a ^ b ^ c
	ternChoose = 0xca // a ? b : c
	ternMajor  = 0xe8
)

// rotXor leaves in scratch register t0 the exclusive or of two rotations of x and a third
// rotation, or a shift where last is given negative.
func rotXor(x reg.VecPhysical, r1, r2, last int) reg.VecPhysical {
	t0, t1, t2 := zmm[24], zmm[25], zmm[26]
	VPRORD(imm(r1), x, t0)
	VPRORD(imm(r2), x, t1)
	if last > 0 {
		VPRORD(imm(last), x, t2)
	} else {
		VPSRLD(imm(-last), x, t2)
	}
	VPTERNLOGD(imm(ternXor), t2, t1, t0)
	return t0
}

// round16 is round t. addKW adds message word and round constant to the register it is
// given, which is h of that round.
func round16(t int, addKW func(h reg.VecPhysical)) {
	s := func(i int) reg.VecPhysical { return zmm[(i-t%8+8)%8] }
	a, b, c, d, e, f, g, h := s(0), s(1), s(2), s(3), s(4), s(5), s(6), s(7)
	t3 := zmm[27]
	addKW(h)
	sum := rotXor(e, 6, 11, 25)
	VMOVDQA32(e, t3)
	VPTERNLOGD(imm(ternChoose), g, f, t3)
	VPADDD(sum, h, h)
	VPADDD(t3, h, h)
	VPADDD(h, d, d)
	sum = rotXor(a, 2, 13, 22)
	VMOVDQA32(a, t3)
	VPTERNLOGD(imm(ternMajor), c, b, t3)
	VPADDD(sum, h, h)
	VPADDD(t3, h, h)
}

// messageKW adds message word t, and the constant that k points to.
func messageKW(t int, k Mem) func(reg.VecPhysical) {
	return func(h reg.VecPhysical) {
		t4 := zmm[28]
		VPADDD_BCST(k, w(t), t4)
		VPADDD(t4, h, h)
	}
}

// schedule16 makes message word t+16 in the place of word t.
func schedule16(t int) {
	VPADDD(w(t+9), w(t), w(t))
	VPADDD(rotXor(w(t+1), 7, 18, -3), w(t), w(t))
	VPADDD(rotXor(w(t+14), 17, 19, -10), w(t), w(t))
}

// compress16 runs rounds first to 63 over the message words in Z8-Z23, which it uses up.
// first is a multiple of 16, and k points to the constant of that round; k is moved on.
func compress16(label string, k reg.GPVirtual, first int) {
	n := GP64()
	MOVQ(U32((48-first)/16), n)
	Label(label)
	for t := range 16 {
		round16(t, messageKW(t, at(k, 4*t)))
		schedule16(t)
	}
	ADDQ(imm(64), k)
	DECQ(n)
	JNZ(LabelRef(label))
	for t := range 16 {
		round16(t, messageKW(t, at(k, 4*t)))
	}
}

// transpose4 turns four registers of four rows of four dwords into four registers of
// columns, within each 128-bit lane. Applied again it turns them back. The scratch
// registers are overwritten.
func transpose4(z, t [4]reg.VecPhysical) {
	VPUNPCKLDQ(z[1], z[0], t[0])
	VPUNPCKLDQ(z[3], z[2], t[1])
	VPUNPCKHDQ(z[1], z[0], t[2])
	VPUNPCKHDQ(z[3], z[2], t[3])
	VPUNPCKLQDQ(t[1], t[0], z[0])
	VPUNPCKHQDQ(t[1], t[0], z[1])
	VPUNPCKLQDQ(t[3], t[2], z[2])
	VPUNPCKHQDQ(t[3], t[2], z[3])
}
