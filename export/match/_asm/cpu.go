package main

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// cpuid is for the one feature flag that golang.org/x/sys/cpu does not have.
func cpuid() {
	TEXT("cpuid7", attr.NOSPLIT, "func() (ebx uint32)")
	Doc("cpuid7 is EBX of CPUID leaf 7, subleaf 0; the leaf must exist.")
	MOVL(U32(7), reg.EAX)
	XORL(reg.ECX, reg.ECX)
	CPUID()
	Store(reg.EBX, ReturnIndex(0))
	RET()
}
