//go:build !purego

package match

// bothProbes adds to kernels the forms of the AVX-512 probe that this machine would not
// choose.
func bothProbes(all []*kernels) []*kernels {
	if all[len(all)-1] != &avx512 {
		return all
	}
	gather := avx512Kernels(func() bool { return false })
	scalar := avx512Kernels(func() bool { return true })
	gather.name, scalar.name = "avx512-gather", "avx512-scalar"
	return append(all[:len(all):len(all)], &gather, &scalar)
}
