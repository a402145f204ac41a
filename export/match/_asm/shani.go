package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// SHA-256 of two messages at once on the SHA instructions, whose latency one stream alone
// would wait for. They exist in the old encoding only, with X0 as a hidden operand; all
// else is VEX, and nothing here touches an upper half.

// stream is one message: its state in the order of the instructions (ABEF and CDGH, A in
// the top dword), the sixteen message words in hand, and scratch.
type stream struct {
	abef, cdgh vec
	m          [4]vec
	tmp        vec
}

var streams = [2]stream{
	{reg.X1, reg.X2, [4]vec{reg.X3, reg.X4, reg.X5, reg.X6}, reg.X7},
	{reg.X8, reg.X9, [4]vec{reg.X10, reg.X11, reg.X12, reg.X13}, reg.X14},
}

// abefWords and cdghWords are a state as the registers hold it.
func abefWords(s state) []uint32 { return []uint32{s[5], s[4], s[1], s[0]} }
func cdghWords(s state) []uint32 { return []uint32{s[7], s[6], s[3], s[2]} }

func quad(v uint32) Mem { return words("q"+hex8(v), v, v, v, v) }

// loadStates sets both states to s.
func loadStates(name string, s state) {
	for _, st := range streams {
		VMOVDQU(words(name+"ABEF", abefWords(s)...), st.abef)
		VMOVDQU(words(name+"CDGH", cdghWords(s)...), st.cdgh)
	}
}

// compressNI runs the 64 rounds of both streams, and adds the states they began with,
// which it keeps in frame (64 bytes). k points to the round constants.
func compressNI(k reg.Register, frame Mem) {
	saved := func(i, half int) Mem { return frame.Offset(32*i + 16*half) }
	for i, s := range streams {
		VMOVDQU(s.abef, saved(i, 0))
		VMOVDQU(s.cdgh, saved(i, 1))
	}
	for q := range 16 { // four rounds each
		for half := range 2 {
			for _, s := range streams {
				if half == 0 {
					VPADDD(at(k, 16*q), s.m[q%4], s.tmp)
					VMOVDQA(s.tmp, reg.X0)
					SHA256RNDS2(reg.X0, s.abef, s.cdgh)
				} else {
					VPSHUFD(imm(0x0e), s.tmp, reg.X0)
					SHA256RNDS2(reg.X0, s.cdgh, s.abef)
				}
			}
		}
		for _, s := range streams {
			now, before, after := s.m[q%4], s.m[(q+3)%4], s.m[(q+1)%4]
			if q >= 3 && q <= 14 {
				VPALIGNR(imm(4), before, now, s.tmp)
				VPADDD(s.tmp, after, after)
				SHA256MSG2(now, after)
			}
			if q >= 1 && q <= 12 {
				SHA256MSG1(now, before)
			}
		}
	}
	for i, s := range streams {
		VPADDD(saved(i, 0), s.abef, s.abef)
		VPADDD(saved(i, 1), s.cdgh, s.cdgh)
	}
}

// digestWords makes the state of s the first eight words of its message.
func (s *stream) digestWords() {
	VPSHUFD(imm(0x1b), s.abef, s.m[0])         // A B E F
	VPSHUFD(imm(0xb1), s.cdgh, s.tmp)          // G H C D
	VPALIGNR(imm(8), s.m[0], s.tmp, s.m[1])    // E F G H
	VPBLENDW(imm(0xf0), s.tmp, s.m[0], s.m[0]) // A B C D
}

// pad ends a message of eight words, n bits with all that was hashed before it.
func (s *stream) pad(n uint32) {
	VMOVDQU(words("end80", 0x80000000, 0, 0, 0), s.m[2])
	VMOVDQU(words("bits"+hex8(n), 0, 0, 0, n), s.m[3])
}

// hkdfNI makes two RPI keys, by the phases of hkdf16, with the info block as one more:
// 0 TEK, 1 digest -> PRK, 2 PRK^0x5c, 3 PRK^0x36, 4 info, 5 digest -> RPI key.
func hkdfNI() {
	TEXT("rpiKeysNI", 0, "func(rpik, teks *byte)")
	Doc("rpiKeysNI makes 2 RPI keys of 2 TEKs, 32 bytes each.")
	Pragma("noescape")
	frame := AllocLocal(64 * 3)
	prk := func(i, j int) Mem { return frame.Offset(64 + 32*i + 16*j) }
	outer := func(i, j int) Mem { return frame.Offset(128 + 32*i + 16*j) }
	src := Load(Param("teks"), GP64())
	k, phase := GP64(), GP64()
	LEAQ(kTable(), k)
	XORQ(phase, phase)

	for i, s := range streams {
		VMOVDQU(at(src, 16*i), s.m[0])
		VPSHUFB(swapWords(), s.m[0], s.m[0])
		VMOVDQU(words("end80", 0x80000000, 0, 0, 0), s.m[1])
		VPXOR(s.m[2], s.m[2], s.m[2])
		VMOVDQU(words("bits"+hex8(tekBits), 0, 0, 0, tekBits), s.m[3])
	}
	loadStates("zeroInner", zeroInner)

	Label("compress")
	compressNI(k, frame)
	INCQ(phase)
	CMPQ(phase, imm(2))
	JE(LabelRef("outerPad"))
	CMPQ(phase, imm(3))
	JE(LabelRef("innerPad"))
	CMPQ(phase, imm(4))
	JE(LabelRef("info"))
	CMPQ(phase, imm(6))
	JE(LabelRef("done"))
	for _, s := range streams {
		s.digestWords()
		s.pad(digestBits)
	}
	CMPQ(phase, imm(5))
	JE(LabelRef("last"))
	loadStates("zeroOuter", zeroOuter)
	JMP(LabelRef("compress"))

	Label("outerPad")
	for i, s := range streams {
		s.digestWords()
		for j := range 2 {
			VMOVDQU(s.m[j], prk(i, j))
			VPXOR(quad(0x5c5c5c5c), s.m[j], s.m[j])
			VMOVDQU(quad(0x5c5c5c5c), s.m[2+j])
		}
	}
	loadStates("iv", sha256IV)
	JMP(LabelRef("compress"))

	Label("innerPad")
	for i, s := range streams {
		VMOVDQU(s.abef, outer(i, 0))
		VMOVDQU(s.cdgh, outer(i, 1))
		for j := range 2 {
			VMOVDQU(prk(i, j), s.m[j])
			VPXOR(quad(0x36363636), s.m[j], s.m[j])
			VMOVDQU(quad(0x36363636), s.m[2+j])
		}
	}
	loadStates("iv", sha256IV)
	JMP(LabelRef("compress"))

	Label("info")
	info := schedule(infoBlock())
	for _, s := range streams {
		for j := range 4 {
			VMOVDQU(words("info"+hex8(uint32(j)), info[4*j:4*j+4]...), s.m[j])
		}
	}
	JMP(LabelRef("compress"))

	Label("last")
	for i, s := range streams {
		VMOVDQU(outer(i, 0), s.abef)
		VMOVDQU(outer(i, 1), s.cdgh)
	}
	JMP(LabelRef("compress"))

	Label("done")
	dst := Load(Param("rpik"), GP64())
	for i, s := range streams {
		s.digestWords()
		VPSHUFB(swapWords(), s.m[0], s.m[0])
		VMOVDQU(s.m[0], at(dst, 16*i))
	}
	RET()
}

// bluezoneNI runs two chains into two neighbouring lanes of bluezoneIDs.
func bluezoneNI() {
	TEXT("expandBluezoneNI", 0, "func(ids *uint32, seeds *byte, steps int)")
	Doc("expandBluezoneNI makes steps IDs of each of 2 seeds, 32 bytes each, into 2 lanes.")
	Pragma("noescape")
	frame := AllocLocal(64)
	ids := Load(Param("ids"), GP64())
	seeds := Load(Param("seeds"), GP64())
	steps := Load(Param("steps"), GP64())
	k := GP64()
	LEAQ(kTable(), k)
	for i, s := range streams {
		for j := range 2 {
			VMOVDQU(at(seeds, 32*i+16*j), s.m[j])
			VPSHUFB(swapWords(), s.m[j], s.m[j])
		}
	}

	Label("step")
	// On the air go bytes 0, 4, 8, 12 of the first half and every second byte of the
	// other; the words lie here in the machine's byte order.
	first := bytesTable("pickFirst", 3, 7, 11, 15, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80)
	second := bytesTable("pickSecond", 3, 1, 7, 5, 11, 9, 15, 13, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80)
	for i, s := range streams {
		VPSHUFB(first, s.m[0], s.tmp)
		VMOVD(s.tmp, at(ids, 4*i))
		VPSHUFB(second, s.m[1], s.tmp)
		VMOVD(s.tmp, at(ids, 64+4*i))
		VPEXTRD(imm(1), s.tmp, at(ids, 128+4*i))
	}
	ADDQ(imm32(bluezoneStep), ids)
	DECQ(steps)
	JZ(LabelRef("done"))
	loadStates("iv", sha256IV)
	for _, s := range streams {
		s.pad(256)
	}
	compressNI(k, frame)
	for i := range streams {
		streams[i].digestWords()
	}
	JMP(LabelRef("step"))

	Label("done")
	RET()
}
