package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

type vec = reg.VecPhysical

type probeKind int

const (
	noProbe probeKind = iota
	gatherProbe
	scalarProbe // for processors whose gather is slow, by microcode or a mitigation
)

// prober tests sixteen IDs against the filter (filter.go of package match).
type prober struct {
	kind  probeKind
	words reg.Register   // the filter
	shift reg.VecVirtual // its shift, as VPSRLD takes it
	ones  vec
	index Mem // 64 bytes for the scalar form
}

// newProber loads the parameters filter and shift. ones is a register that stays its own.
func newProber(kind probeKind, ones vec) *prober {
	if kind == noProbe {
		return nil
	}
	p := &prober{kind: kind, ones: ones}
	p.words = Load(Param("filter"), GP64())
	p.shift = XMM()
	s := Load(Param("shift"), GP32())
	VMOVD(s, p.shift)
	VPBROADCASTD(word(1), ones)
	if kind == scalarProbe {
		p.index = AllocLocal(64)
	}
	return p
}

// probe stores at mask one bit for each dword of d0 and d1: whether the filter may hold
// that ID. It overwrites d0, d1 and the scratch registers t, which are of Z0-Z15.
func (p *prober) probe(d0, d1 vec, t [3]vec, mask Mem) {
	VPSRLD(p.shift, d0, d0)
	switch p.kind {
	case gatherProbe:
		KXNORW(reg.K1, reg.K1, reg.K1)
		VPXORD(t[0], t[0], t[0])
		VPGATHERDD(Mem{Base: p.words, Index: d0, Scale: 4}, reg.K1, t[0])
	case scalarProbe:
		VMOVDQU32(d0, p.index)
		at := GP64()
		for i := range 4 {
			x := t[min(i, 1)] // the first quarter grows in place
			for j := range 4 {
				MOVL(p.index.Offset(16*i+4*j), at.As32())
				load := Mem{Base: p.words, Index: at, Scale: 4}
				if j == 0 {
					VMOVD(load, x.AsX())
				} else {
					VPINSRD(imm(j), load, x.AsX(), x.AsX())
				}
			}
			if i > 0 {
				VINSERTI32X4(imm(i), x.AsX(), t[0], t[0])
			}
		}
	}
	VPROLVD(d1, p.ones, t[1])
	VPSRLD(imm(5), d1, t[2])
	VPROLVD(t[2], p.ones, t[2])
	VPSRLD(imm(10), d1, d1)
	VPROLVD(d1, p.ones, d1)
	VPTERNLOGD(imm(0xfe), t[2], t[1], d1)
	VPANDND(d1, t[0], d1)
	VPTESTNMD(d1, d1, reg.K2)
	KMOVW(reg.K2, mask)
}
