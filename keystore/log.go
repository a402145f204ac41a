package keystore

import (
	"fmt"
	"math/bits"
)

// LogSize is the number of entries of the transparency log.
func (s *Store) LogSize() uint64 { return s.logSize.Load() }

// Entry is the log entry of an index below LogSize.
func (s *Store) Entry(i uint64) ([]byte, error) {
	v, err := s.get(indexRow(entryRow, i))
	if err == nil && v == nil {
		err = fmt.Errorf("log entry %d: there are %d", i, s.LogSize())
	}
	return v, err
}

// Checkpoint is the log's checkpoint as signed and committed last; nil before the first.
func (s *Store) Checkpoint() ([]byte, error) { return s.get(noteState) }

// ReadHashes are the stored hashes of the log's tree, numbered as tlog does.
func (s *Store) ReadHashes(indexes []int64) ([][32]byte, error) {
	hashes := make([][32]byte, len(indexes))
	for n, i := range indexes {
		v, err := s.get(indexRow(hashRow, uint64(i)))
		if err != nil {
			return nil, err
		}
		if len(v) != 32 {
			return nil, fmt.Errorf("stored hash %d: there is none", i)
		}
		hashes[n] = [32]byte(v)
	}
	return hashes, nil
}

// storedHashes is how many hashes tlog stores for a tree of size n: one for each entry and
// one for each complete subtree, the sum of n/2^i. That is 2n minus the number of ones in n.
func storedHashes(n uint64) uint64 { return 2*n - uint64(bits.OnesCount64(n)) }
