package idset

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// shardWriter writes one shard: its blocks, then their lengths.
type shardWriter struct {
	*builder
	shard   uint64
	size    uint64 // of the blocks so far
	lengths []byte
}

func (b *builder) begin(shard uint64) *shardWriter {
	return &shardWriter{builder: b, shard: shard}
}

// add writes the blocks of the values from low to high, which it sorts. Equal values are
// stored once: two IDs may meet in a hash, and a set of keys may hold one secret twice.
func (s *shardWriter) add(values []uint64, low, high uint64) error {
	width := uint64(1) << (s.F + blockBits)
	return s.sorter.sort(values, low, high, s.F, func(base uint64, part []uint64) error {
		part = slices.Compact(part)
		s.data = s.data[:0]
		for end := min(base+width<<partitionBits, high); base < end; base += width {
			n := 0
			for n < len(part) && part[n] < base+width {
				n++
			}
			before := len(s.data)
			s.data = appendBlock(s.data, part[:n], base, s.F)
			part = part[n:]
			length := len(s.data) - before
			if length > math.MaxUint16 {
				return fmt.Errorf("a block of %d bytes: its hashes are not random", length)
			}
			s.lengths = binary.LittleEndian.AppendUint16(s.lengths, uint16(length))
		}
		s.size += uint64(len(s.data))
		return s.write(s.data)
	})
}

// finish ends the shard and enters it in the directory.
func (s *shardWriter) finish() error {
	s.directory = binary.LittleEndian.AppendUint32(s.directory, uint32(s.shard))
	s.directory = binary.LittleEndian.AppendUint32(s.directory, s.counts[s.shard])
	s.directory = binary.LittleEndian.AppendUint64(s.directory, s.size)
	return s.write(s.lengths)
}
