package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// hkdf16 makes sixteen RPI keys. Five of the six compressions share one rolled body, and
// phase says what comes after it:
//
//	0  first HMAC, inner:  TEK            from the state after the inner pad of a zero key
//	1  first HMAC, outer:  digest of 0    from the state after the outer pad  -> PRK
//	2  second HMAC:        PRK ^ 0x5c..   -> outer state, kept
//	3  second HMAC:        PRK ^ 0x36..   -> inner state, then the info block, whose
//	                       schedule is constant, in a loop of its own
//	4  second HMAC, outer: that digest    from the outer state -> RPI key
func hkdf16() {
	TEXT("rpiKeys16", 0, "func(rpik, teks *byte)")
	Doc("rpiKeys16 makes 16 RPI keys of 16 TEKs, 256 bytes each.")
	Pragma("noescape")
	// Sixteen 64-byte words of PRK and of outer state, and the state that a compression
	// is added to.
	const regBytes = 64
	frame := AllocLocal(3 * 8 * regBytes)
	init := func(i int) Mem { return frame.Offset(regBytes * i) }
	prk := func(i int) Mem { return frame.Offset(regBytes * (8 + i)) }
	outer := func(i int) Mem { return frame.Offset(regBytes * (16 + i)) }

	src := Load(Param("teks"), GP64())
	k, phase := GP64(), GP64()
	zeroWords := func(from, to int) {
		for t := from; t < to; t++ {
			VPXORD(w(t), w(t), w(t))
		}
	}
	// digestPad ends a block that holds a digest after one block of pad.
	digestPad := func() {
		VPBROADCASTD(word(0x80000000), w(8))
		zeroWords(9, 15)
		VPBROADCASTD(word(digestBits), w(15))
	}
	loadState := func(name string, s state) {
		t := words(name, s[:]...)
		for i := range 8 {
			VPBROADCASTD(t.Offset(4*i), zmm[i])
		}
	}

	VBROADCASTI32X4(swapWords(), zmm[28])
	teks := [4]int{8, 9, 10, 11}
	for i, z := range teks {
		VMOVDQU32(at(src, 64*i), zmm[z])
		VPSHUFB(zmm[28], zmm[z], zmm[z])
	}
	transpose4([4]vec{zmm[8], zmm[9], zmm[10], zmm[11]}, [4]vec{zmm[24], zmm[25], zmm[26], zmm[27]})
	VPBROADCASTD(word(0x80000000), w(4))
	zeroWords(5, 15)
	VPBROADCASTD(word(tekBits), w(15))
	loadState("zeroInner", zeroInner)
	XORQ(phase, phase)

	Label("compress")
	LEAQ(kTable(), k)
	for i := range 8 {
		VMOVDQU32(zmm[i], init(i))
	}
	compress16("rounds", k, 0)
	for i := range 8 {
		VPADDD(init(i), zmm[i], zmm[i])
	}
	INCQ(phase)
	CMPQ(phase, imm(2))
	JE(LabelRef("outerPad"))
	CMPQ(phase, imm(3))
	JE(LabelRef("innerPad"))
	CMPQ(phase, imm(4))
	JE(LabelRef("info"))
	CMPQ(phase, imm(5))
	JE(LabelRef("done"))

	for i := range 8 {
		VMOVDQA32(zmm[i], w(i))
	}
	digestPad()
	loadState("zeroOuter", zeroOuter)
	JMP(LabelRef("compress"))

	Label("outerPad")
	for i := range 8 {
		VMOVDQU32(zmm[i], prk(i))
		VPXORD_BCST(word(0x5c5c5c5c), zmm[i], w(i))
		VPBROADCASTD(word(0x5c5c5c5c), w(8+i))
	}
	loadState("iv", sha256IV)
	JMP(LabelRef("compress"))

	Label("innerPad")
	for i := range 8 {
		VMOVDQU32(zmm[i], outer(i))
		VMOVDQU32(prk(i), w(i))
		VPXORD_BCST(word(0x36363636), w(i), w(i))
		VPBROADCASTD(word(0x36363636), w(8+i))
	}
	loadState("iv", sha256IV)
	JMP(LabelRef("compress"))

	Label("info")
	for i := range 8 {
		VMOVDQU32(zmm[i], init(i))
	}
	kw := infoKW()
	LEAQ(words("infoKW", kw[:]...), k)
	n := GP64()
	MOVQ(U32(64/8), n)
	Label("infoRounds")
	for t := range 8 {
		round16(t, func(h vec) { VPADDD_BCST(at(k, 4*t), h, h) })
	}
	ADDQ(imm(4*8), k)
	DECQ(n)
	JNZ(LabelRef("infoRounds"))
	for i := range 8 {
		VPADDD(init(i), zmm[i], w(i))
		VMOVDQU32(outer(i), zmm[i])
	}
	digestPad()
	JMP(LabelRef("compress"))

	Label("done")
	dst := Load(Param("rpik"), GP64())
	transpose4([4]vec{zmm[0], zmm[1], zmm[2], zmm[3]}, [4]vec{zmm[24], zmm[25], zmm[26], zmm[27]})
	VBROADCASTI32X4(swapWords(), zmm[28])
	for i := range 4 {
		VPSHUFB(zmm[28], zmm[i], zmm[i])
		VMOVDQU32(zmm[i], at(dst, 64*i))
	}
	VZEROUPPER()
	RET()
}
