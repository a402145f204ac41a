package match

import (
	"fmt"
	"strings"
)

// kernels is one tier: the inner loops of both schemes. n is the number of lanes that
// hold a key, steps how many IDs to make of each; a kernel may make those of all lanes
// all the same. Probes also expand.
type kernels struct {
	name string

	// rpiKeys makes the RPI keys of TEKs.
	rpiKeys func(rpik, teks *secrets16, n int)
	// expandGAEN makes the IDs of up to four keys; steps is a multiple of stepRound.
	expandGAEN func(ids *gaenIDs, rpik *[groupKeys][16]byte, starts *[groupKeys]uint32, n, steps int)
	probeGAEN  func(ids *gaenIDs, rpik *[groupKeys][16]byte, starts *[groupKeys]uint32, n, steps int, f *filter, masks *gaenMasks)

	expandBluezone func(ids *bluezoneIDs, seeds *secrets32, n, steps int)
	probeBluezone  func(ids *bluezoneIDs, seeds *secrets32, n, steps int, f *filter, masks *bluezoneMasks)
}

// Names of the tiers, slowest first.
const (
	PureGo  = "purego"  // everywhere, on the standard library
	NISHANI = "nishani" // amd64 with AES-NI, SHA-NI and AVX2
	AVX512  = "avx512"  // amd64 with AVX-512 (F, BW, VL, DQ) and VAES
)

// Tiers lists the tiers that this machine and build can run, slowest first. The build
// tag "purego" leaves the first only.
func Tiers() (names []string) {
	for _, k := range tiers {
		names = append(names, k.name)
	}
	return names
}

// tiers is the table, filled once at start from what the processor offers.
var tiers = append([]*kernels{&pureGo}, machineTiers()...)

// kernelsOf finds a tier by name; empty means the last, the fastest.
func kernelsOf(name string) (*kernels, error) {
	if name == "" {
		return tiers[len(tiers)-1], nil
	}
	for _, k := range tiers {
		if k.name == name {
			return k, nil
		}
	}
	return nil, fmt.Errorf("match: tier %q is not available here: want one of %s", name, strings.Join(Tiers(), ", "))
}
