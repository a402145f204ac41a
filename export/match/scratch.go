package match

import (
	"encoding/binary"

	"bluekey/keystore/diagnosis"
)

const (
	lanes       = 16 // keys that a kernel takes at a time
	groupKeys   = 4  // of them in one AES pass
	gaenSteps   = 144
	bluezoneMax = 96
	stepRound   = 8 // GAEN kernels make a multiple of this many IDs of a key
)

// gaenIDs are the IDs of four GAEN keys.
type gaenIDs [groupKeys][gaenSteps][16]byte

// bluezoneIDs are the IDs of sixteen Bluezone seeds. That of seed l at step s is made of
// the words [s][0][l], [s][1][l] and [s][2][l], each little-endian.
type bluezoneIDs [bluezoneMax][3][lanes]uint32

// id is one ID as a Sighting spells it.
func (b *bluezoneIDs) id(lane, step int) (id [16]byte) {
	for i := range 3 {
		binary.LittleEndian.PutUint32(id[4*i:], b[step][i][lane])
	}
	return id
}

type (
	secrets16 [lanes][16]byte // TEKs, or the RPI keys made of them
	secrets32 [lanes][32]byte // Bluezone seeds

	// gaenMasks: one little-endian uint16 for four intervals, bit 4*key + interval.
	gaenMasks [gaenSteps / 4 * 2]byte
	// bluezoneMasks: one little-endian uint16 for each interval, bit = key.
	bluezoneMasks [bluezoneMax * 2]byte
)

// scratch is what kernels read and write. It is larger than 32 kB, so that the allocator
// starts it on a page and the fields that kernels write in whole vectors lie on 64-byte
// borders; nothing but speed depends on that.
type scratch struct {
	bluezone      bluezoneIDs
	gaen          gaenIDs
	teks, rpik    secrets16
	seeds         secrets32
	starts        [groupKeys]uint32
	gaenMasks     gaenMasks
	bluezoneMasks bluezoneMasks
	_             [4 << 10]byte
}

// loadTEKs lays the secrets of GAEN keys side by side. Lanes without a key keep what they
// held; whoever reads results drops those lanes.
func (s *scratch) loadTEKs(keys []diagnosis.Key) {
	for i := range keys {
		s.teks[i] = [16]byte(keys[i].Secret[:16])
	}
}

// loadStarts gives the kernel the first intervals of up to four keys, and returns how many
// IDs it must make of each.
func (s *scratch) loadStarts(group []diagnosis.Key) (steps int) {
	for i := range group {
		s.starts[i] = uint32(group[i].Start)
		steps = max(steps, int(group[i].Count))
	}
	return (steps + stepRound - 1) / stepRound * stepRound
}

// group is the RPI keys from lane g on.
func (s *scratch) group(g int) *[groupKeys][16]byte {
	return (*[groupKeys][16]byte)(s.rpik[g:])
}

// loadSeeds lays Bluezone seeds side by side, and returns how many IDs the kernel must
// make of each.
func (s *scratch) loadSeeds(keys []diagnosis.Key) (steps int) {
	for i := range keys {
		s.seeds[i] = [32]byte(keys[i].Secret)
		steps = max(steps, int(keys[i].Count))
	}
	return steps
}
