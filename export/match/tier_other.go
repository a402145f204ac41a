//go:build !amd64 || purego

package match

func machineTiers() []*kernels { return nil }
