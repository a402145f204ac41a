//go:build !purego

package match

import (
	"sync"
	"time"

	"golang.org/x/sys/cpu"
)

//go:generate go run -C _asm . -group cpu -pkg match -out ../cpu_amd64.s -stubs ../cpu_amd64.go
//go:generate go run -C _asm . -group nishani -pkg match -out ../nishani_amd64.s -stubs ../nishani_amd64.go
//go:generate go run -C _asm . -group avx512 -pkg match -out ../avx512_amd64.s -stubs ../avx512_amd64.go

// machineTiers lists the tiers of this processor, slowest first. golang.org/x/sys/cpu
// answers only for what the operating system saves, too.
func machineTiers() (tiers []*kernels) {
	x := &cpu.X86
	if x.HasAES && x.HasAVX2 && x.HasBMI2 && hasSHA() {
		tiers = append(tiers, &nishani)
	}
	if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512DQ && x.HasAVX512VAES {
		tiers = append(tiers, &avx512)
	}
	return tiers
}

// hasSHA reads the flag of the SHA instructions: CPUID leaf 7, EBX bit 29. The leaf
// exists on every processor with AVX2.
func hasSHA() bool { return cpuid7()&(1<<29) != 0 }

var nishani = kernels{
	name: NISHANI,
	rpiKeys: func(rpik, teks *secrets16, n int) {
		for i := 0; i < n; i += 2 {
			rpiKeysNI(&rpik[i][0], &teks[i][0])
		}
	},
	expandGAEN: func(ids *gaenIDs, rpik *[groupKeys][16]byte, starts *[groupKeys]uint32, n, steps int) {
		for i := range n {
			expandGAENNI(&ids[i][0][0], &rpik[i][0], starts[i], steps)
		}
	},
	probeGAEN: func(ids *gaenIDs, rpik *[groupKeys][16]byte, starts *[groupKeys]uint32, n, steps int, f *filter, masks *gaenMasks) {
		clear(masks[:])
		for i := range n {
			probeGAENNI(&ids[i][0][0], &rpik[i][0], starts[i], steps, &f.words[0], f.shift, &masks[0], uint32(i))
		}
	},
	expandBluezone: expandBluezonePairs,
	// Beside 60 ns for an ID, a probe in Go costs next to nothing.
	probeBluezone: func(ids *bluezoneIDs, seeds *secrets32, n, steps int, f *filter, masks *bluezoneMasks) {
		expandBluezonePairs(ids, seeds, n, steps)
		probeBluezoneIDs(ids, n, steps, f, masks)
	},
}

func expandBluezonePairs(ids *bluezoneIDs, seeds *secrets32, n, steps int) {
	for i := 0; i < n; i += 2 {
		expandBluezoneNI(&ids[0][0][i], &seeds[i][0], steps)
	}
}

// avx512 chooses its way of probing at its first probe.
var avx512 = avx512Kernels(gatherIsSlow)

func avx512Kernels(scalar func() bool) kernels {
	return kernels{
		name: AVX512,
		rpiKeys: func(rpik, teks *secrets16, _ int) {
			rpiKeys16(&rpik[0][0], &teks[0][0])
		},
		expandGAEN: func(ids *gaenIDs, rpik *[groupKeys][16]byte, starts *[groupKeys]uint32, _, steps int) {
			expandGAEN4(&ids[0][0][0], &rpik[0][0], &starts[0], steps)
		},
		probeGAEN: func(ids *gaenIDs, rpik *[groupKeys][16]byte, starts *[groupKeys]uint32, _, steps int, f *filter, masks *gaenMasks) {
			probe := probeGAEN4Gather
			if scalar() {
				probe = probeGAEN4Scalar
			}
			probe(&ids[0][0][0], &rpik[0][0], &starts[0], steps, &f.words[0], f.shift, &masks[0])
		},
		expandBluezone: func(ids *bluezoneIDs, seeds *secrets32, _, steps int) {
			expandBluezone16(&ids[0][0][0], &seeds[0][0], steps)
		},
		probeBluezone: func(ids *bluezoneIDs, seeds *secrets32, _, steps int, f *filter, masks *bluezoneMasks) {
			probe := probeBluezone16Gather
			if scalar() {
				probe = probeBluezone16Scalar
			}
			probe(&ids[0][0][0], &seeds[0][0], steps, &f.words[0], f.shift, &masks[0])
		},
	}
}

// gatherIsSlow reports whether this processor collects sixteen dwords faster one by one
// than with its gather instruction. Some run it from microcode (Zen 4), some pay for the
// mitigation of Downfall, and neither shows in a feature flag: so both are timed, once,
// for about a tenth of a millisecond. Either gives the same answers.
var gatherIsSlow = sync.OnceValue(func() bool {
	s, f := new(scratch), newFilter(1000)
	best := func(probe func(ids, rpik *byte, starts *uint32, steps int, filter *uint32, shift uint32, masks *byte)) time.Duration {
		fastest := time.Hour
		for range 60 {
			start := time.Now()
			probe(&s.gaen[0][0][0], &s.rpik[0][0], &s.starts[0], gaenSteps, &f.words[0], f.shift, &s.gaenMasks[0])
			fastest = min(fastest, time.Since(start))
		}
		return fastest
	}
	return best(probeGAEN4Scalar) < best(probeGAEN4Gather)
})
