package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Layout of bluezoneIDs in package match: three rows of sixteen dwords for a step.
const bluezoneStep = 3 * 64

// bluezone16 runs sixteen chains of SHA-256, a sub-key to the next. The sub-keys stay in
// registers as message words; only the bytes that go on the air are stored.
//
// Every message is a digest and the same padding, and starts from the same state, so the
// first rounds and message words are partly constant: shortRounds.
func bluezone16(name string, kind probeKind) {
	sig := "func(ids *uint32, seeds *byte, steps int)"
	if kind != noProbe {
		sig = "func(ids *uint32, seeds *byte, steps int, filter *uint32, shift uint32, masks *byte)"
	}
	TEXT(name, 0, sig)
	Doc(name + " makes steps IDs of each of 16 seeds, 32 bytes each.")
	if kind != noProbe {
		Doc(name+" makes steps IDs of each of 16 seeds, 32 bytes each.",
			"It stores a 16-bit mask for each step: bit = seed.")
	}
	Pragma("noescape")
	ids := Load(Param("ids"), GP64())
	seeds := Load(Param("seeds"), GP64())
	steps := Load(Param("steps"), GP64())
	var masks reg.Register
	p := newProber(kind, zmm[31])
	if p != nil {
		masks = Load(Param("masks"), GP64())
	}
	k := GP64()

	// Word i of the sixteen seeds, every 32 bytes.
	var stride []uint32
	for i := range uint32(16) {
		stride = append(stride, 32*i)
	}
	VMOVDQU32(words("stride32", stride...), zmm[24])
	VBROADCASTI32X4(swapWords(), zmm[25])
	for i := range 8 {
		KXNORW(reg.K1, reg.K1, reg.K1)
		VPXORD(w(i), w(i), w(i))
		VPGATHERDD(at(seeds, 4*i).Idx(zmm[24], 1), reg.K1, w(i))
		VPSHUFB(zmm[25], w(i), w(i))
	}

	Label("step")
	d := [3]vec{zmm[5], zmm[6], zmm[7]}
	pickFirst(d[0])
	pickSecond(d[1], 4)
	pickSecond(d[2], 6)
	for i := range d {
		VMOVDQU32(d[i], at(ids, 64*i))
	}
	if p != nil {
		p.probe(d[0], d[1], [3]vec{zmm[0], zmm[1], zmm[2]}, at(masks, 0))
		ADDQ(imm(2), masks)
	}
	ADDQ(imm(bluezoneStep), ids)
	DECQ(steps)
	JZ(LabelRef("done"))

	shortRounds()
	LEAQ(kTable().Offset(4*16), k)
	compress16("rounds", k, 16)
	for i, v := range sha256IV {
		VPADDD_BCST(word(v), zmm[i], w(i))
	}
	JMP(LabelRef("step"))

	Label("done")
	VZEROUPPER()
	RET()
}

const ternSelect = ternChoose // mask ? b : c

// pickFirst puts bytes 0, 4, 8 and 12 of a sub-key into the dword z: the top bytes of its
// first four words.
func pickFirst(z vec) {
	t := zmm[0]
	VPSRLD(imm(24), w(0), z)
	for i, keep := range []uint32{0xff, 0xffff, 0xffffff} {
		// What is kept of z, and above it word i+1, whose top byte is moved next to it.
		from := w(i + 1)
		if shift := 16 - 8*i; shift > 0 {
			VPSRLD(imm(shift), from, t)
			from = t
		}
		mergeBelow(z, from, keep)
	}
}

// pickSecond puts bytes 0 and 2 of word i and of word i+1 into the dword z.
func pickSecond(z vec, i int) {
	t := zmm[0]
	VPSRLD(imm(24), w(i), z)
	mergeBelow(z, w(i), 0xff)
	VPSRLD(imm(8), w(i+1), t)
	mergeBelow(z, t, 0xffff)
	VPSLLD(imm(16), w(i+1), t)
	mergeBelow(z, t, 0xffffff)
}

// mergeBelow keeps the bits of z that are in the mask and takes the others from x.
func mergeBelow(z, x vec, mask uint32) {
	m := zmm[1]
	VPBROADCASTD(word(mask), m)
	VPTERNLOGD(imm(ternSelect), x, z, m)
	VMOVDQA32(m, z)
}

// shortRounds is rounds 0 to 15 of a message whose last eight words are the padding of a
// 32-byte digest and whose state is SHA-256's initial one. It leaves message words 16 to
// 31. About one operation in twenty of a compression falls away.
func shortRounds() {
	block := make([]byte, 64)
	block[32], block[62] = 0x80, 1 // 256 bits
	pad := schedule(block)         // words 8 to 15 are right
	iv := sha256IV

	// Round 0 meets constants only, but for its message word.
	t1 := iv[7] + bigSigma1(iv[4]) + (iv[4]&iv[5] ^ ^iv[4]&iv[6]) + sha256K[0]
	t2 := bigSigma0(iv[0]) + (iv[0]&iv[1] ^ iv[0]&iv[2] ^ iv[1]&iv[2])
	VPADDD_BCST(word(iv[3]+t1), w(0), zmm[3])
	VPADDD_BCST(word(t1+t2), w(0), zmm[7])
	for _, i := range []int{0, 1, 2, 4, 5} {
		VPBROADCASTD(word(iv[i]), zmm[i])
	}
	// h of rounds 1, 2 and 3 is a constant, which joins that of the round.
	for t := 1; t < 16; t++ {
		round16(t, func(h vec) {
			switch {
			case t < 4:
				VPADDD_BCST(word(iv[7-t]+sha256K[t]), w(t), h)
			case t < 8:
				messageKW(t, word(sha256K[t]))(h)
			default:
				VPADDD_BCST(word(sha256K[t]+pad[t]), h, h)
			}
		})
	}
	for t := range 16 {
		shortSchedule(t, pad)
	}
}

// shortSchedule is schedule16 where some of the words are constant: word t+16 =
// w[t] + σ0(w[t+1]) + w[t+9] + σ1(w[t+14]).
func shortSchedule(t int, pad [64]uint32) {
	known := func(t int) bool { return t >= 8 && t < 16 }
	var constant uint32
	var started bool
	add := func(z vec) {
		if started {
			VPADDD(z, w(t), w(t))
		} else if z != w(t) {
			VMOVDQA32(z, w(t))
		}
		started = true
	}
	if known(t) {
		constant += pad[t]
	} else {
		add(w(t))
	}
	if known(t + 9) {
		constant += pad[t+9]
	} else {
		add(w(t + 9))
	}
	if known(t + 1) {
		constant += smallSigma0(pad[t+1])
	} else {
		add(rotXor(w(t+1), 7, 18, -3))
	}
	if known(t + 14) {
		constant += smallSigma1(pad[t+14])
	} else {
		add(rotXor(w(t+14), 17, 19, -10))
	}
	if constant != 0 {
		VPADDD_BCST(word(constant), w(t), w(t))
	}
}
