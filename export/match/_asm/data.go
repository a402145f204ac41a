package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// words makes a read-only table of dwords, once for each name.
func words(name string, v ...uint32) Mem {
	if m, ok := tables[name]; ok {
		return m
	}
	m := GLOBL(name, attr.RODATA|attr.NOPTR)
	for i, w := range v {
		DATA(4*i, U32(w))
	}
	tables[name] = m
	return m
}

var tables = map[string]Mem{}

// word makes a read-only dword, once for each value.
func word(v uint32) Mem { return words("w"+hex8(v), v) }

// bytesTable makes a read-only table of bytes, a multiple of four of them.
func bytesTable(name string, b ...byte) Mem {
	var w []uint32
	for i := 0; i < len(b); i += 4 {
		w = append(w, uint32(b[i])|uint32(b[i+1])<<8|uint32(b[i+2])<<16|uint32(b[i+3])<<24)
	}
	return words(name, w...)
}

func four(v ...uint32) (w []uint32) {
	for range 4 {
		w = append(w, v...)
	}
	return w
}

// imm is an immediate of the smallest size that holds v, imm32 one of four bytes.
func imm(v int) Op   { return Imm(uint64(v)) }
func imm32(v int) Op { return U32(uint32(v)) }

// at is the memory disp bytes after base.
func at(base reg.Register, disp int) Mem { return Mem{Base: base, Disp: disp} }

// pointer puts the address of a table into a register.
func pointer(table Mem) reg.GPVirtual {
	p := GP64()
	LEAQ(table, p)
	return p
}

// Tables that both AVX-512 and NI kernels use.
func kTable() Mem { return words("k256", sha256K[:]...) }

// swapWords turns the bytes of each dword round.
func swapWords() Mem {
	return bytesTable("swapWords", 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12)
}

// rotLast broadcasts the last dword of a block, rotated by a byte: RotWord of AES's key
// schedule (FIPS 197 §5.2) in all four columns, where ShiftRows leaves it as it is.
func rotLast() Mem {
	return bytesTable("rotLast", 13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15, 12)
}

var rcon = [10]uint32{1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x1b, 0x36}

// rpiText is the constant part of an RPI's plaintext; its last dword is the interval.
func rpiText() Mem {
	return bytesTable("rpiText", 'E', 'N', '-', 'R', 'P', 'I', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
}

func hex8(v uint32) string { return fmt.Sprintf("%08x", v) }
