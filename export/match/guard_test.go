//go:build linux

package match

import (
	"fmt"
	"syscall"
	"testing"
	"unsafe"

	"bluekey/keystore/diagnosis"
)

// guarded gives n bytes between two pages that nothing may touch: flush with the page
// after them if high, else with the page before. The kernel that reads or writes one byte
// too many dies. Their address is as odd as n makes it.
func guarded(t *testing.T, n int, high bool) unsafe.Pointer {
	t.Helper()
	page := syscall.Getpagesize()
	inner := (n + page - 1) / page * page
	all, err := syscall.Mmap(-1, 0, inner+2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(all) })
	for _, guard := range [][]byte{all[:page], all[page+inner:]} {
		if err := syscall.Mprotect(guard, syscall.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	at := page
	if high {
		at = page + inner - n
	}
	return unsafe.Pointer(&all[at])
}

func guardedValue[T any](t *testing.T, high bool) *T {
	return (*T)(guarded(t, int(unsafe.Sizeof(*new(T))), high))
}

// TestGuardPages runs each kernel with every buffer against a guard page, on either side.
func TestGuardPages(t *testing.T) {
	forKernels(t, func(t *testing.T, k *kernels) {
		for _, high := range []bool{true, false} {
			r := rng(30)
			f := newFilter(1)
			words := unsafe.Slice((*uint32)(guarded(t, 4*len(f.words), high)), len(f.words))
			f.words = words
			for i := range f.words {
				f.words[i] = r.Uint32()
			}
			teks, rpik := guardedValue[secrets16](t, high), guardedValue[secrets16](t, high)
			ids, starts := guardedValue[gaenIDs](t, high), guardedValue[[groupKeys]uint32](t, high)
			masks := guardedValue[gaenMasks](t, high)
			keys := randomKeys(r, diagnosis.GAEN, groupKeys)
			for i := range keys {
				keys[i].Count = gaenSteps
				teks[lanes-groupKeys+i] = [16]byte(keys[i].Secret[:16])
				starts[i] = uint32(keys[i].Start)
			}
			k.rpiKeys(rpik, teks, lanes)
			group := (*[groupKeys][16]byte)(rpik[lanes-groupKeys:])
			k.expandGAEN(ids, group, starts, groupKeys, gaenSteps)
			k.probeGAEN(ids, group, starts, groupKeys, gaenSteps, &f, masks)
			for i := range keys {
				for j, want := range reference(&keys[i]) {
					if ids[i][j] != want {
						t.Fatalf("GAEN ID %d of key %d", j, i)
					}
				}
			}

			seeds, chains := guardedValue[secrets32](t, high), guardedValue[bluezoneIDs](t, high)
			bits := guardedValue[bluezoneMasks](t, high)
			keys = wholeKeys(diagnosis.Bluezone, lanes)
			for i := range keys {
				seeds[i] = [32]byte(keys[i].Secret)
			}
			k.expandBluezone(chains, seeds, lanes, bluezoneMax)
			k.probeBluezone(chains, seeds, lanes, bluezoneMax, &f, bits)
			for i := range keys {
				for j, want := range reference(&keys[i]) {
					if chains.id(i, j) != want {
						t.Fatalf("Bluezone ID %d of seed %d", j, i)
					}
				}
			}
		}
	})
}

// TestUnaligned runs each kernel at addresses that are a multiple of nothing.
func TestUnaligned(t *testing.T) {
	forKernels(t, func(t *testing.T, k *kernels) {
		r := rng(31)
		for _, off := range []uintptr{1, 4, 13, 31, 63} {
			raw := make([]byte, unsafe.Sizeof(gaenIDs{})+unsafe.Sizeof(bluezoneIDs{})+4096)
			place := func(n uintptr) unsafe.Pointer {
				p := unsafe.Pointer(&raw[off])
				raw = raw[n:]
				return p
			}
			teks := (*secrets16)(place(256 + off))
			rpik := (*secrets16)(place(256))
			gaen := (*gaenIDs)(place(unsafe.Sizeof(gaenIDs{})))
			starts := new([groupKeys]uint32)
			key := randomKey(r, diagnosis.GAEN)
			key.Count = gaenSteps
			teks[3] = [16]byte(key.Secret[:16])
			starts[3] = uint32(key.Start)
			k.rpiKeys(rpik, teks, 4)
			k.expandGAEN(gaen, (*[groupKeys][16]byte)(rpik[:]), starts, groupKeys, gaenSteps)
			if got, want := fmt.Sprintf("%x", gaen[3][:]), fmt.Sprintf("%x", reference(&key)); got != want {
				t.Errorf("offset %d: GAEN IDs differ", off)
			}

			seeds := (*secrets32)(place(512))
			key = wholeKeys(diagnosis.Bluezone, 1)[0]
			seeds[15] = [32]byte(key.Secret)
			chains := new(bluezoneIDs)
			k.expandBluezone(chains, seeds, lanes, bluezoneMax)
			for j, want := range reference(&key) {
				if chains.id(15, j) != want {
					t.Fatalf("offset %d: Bluezone ID %d", off, j)
				}
			}
		}
	})
}
