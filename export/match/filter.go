package match

import "math/bits"

// filter is a register-blocked Bloom filter: an ID selects one 32-bit word and three bits
// of it, so that a probe costs one load. IDs are output of AES or SHA-256, uniform as they
// are; the first four bytes (little-endian, d0) select the word by their top bits, the
// next four (d1) the bits, five bits of d1 each.
//
// Whoever broadcasts an ID chooses its bytes, so a stranger can pack many IDs into one
// word. That makes the other words emptier and lets through no more: a key that hits the
// filled word must be found by search, one try in as many as there are words.
type filter struct {
	words []uint32
	shift uint32 // d0 >> shift is the word
}

// Sizes of a filter. Sixteen bytes an ID let about one ID in 10,000 through. What counts
// is that fewer than one key in three sends an ID to the exact table, because each one
// costs a mispredicted branch; beyond that, a filter that stays in the second-level cache
// beats one that lets less through.
const (
	minFilterBytes   = 4 << 10
	idBytes          = 16
	cacheFilterBytes = 1 << 20 // half the second-level cache of a server core
	crowdedIDBytes   = 4       // an ID, where that does not fit
)

// newFilter makes a filter for n different IDs.
func newFilter(n int) filter {
	size := max(min(ceilPow2(n*idBytes), cacheFilterBytes), ceilPow2(n*crowdedIDBytes), minFilterBytes)
	words := size / 4
	return filter{words: make([]uint32, words), shift: uint32(33 - bits.Len(uint(words)))}
}

func ceilPow2(n int) int { return 1 << bits.Len(uint(n-1)) }

func filterBits(d1 uint32) uint32 { return 1<<(d1&31) | 1<<(d1>>5&31) | 1<<(d1>>10&31) }

func (f *filter) add(d0, d1 uint32) { f.words[d0>>f.shift] |= filterBits(d1) }

func (f *filter) has(d0, d1 uint32) bool {
	b := filterBits(d1)
	return f.words[d0>>f.shift]&b == b
}
