// Package idset writes and reads ID sets: the IDs that the keys of an export stand for,
// made beforehand, so that a phone can match without expanding a key. The format is the
// section "ID set" of FORMAT.md beside package export.
//
// An ID set holds no key and no ID. Each ID is hashed together with the interval in which
// it was broadcast, and the set of hashes is stored as sorted, Golomb-Rice coded
// differences, f + 1.6 bits each. Whoever has heard an ID at a time can ask whether the
// set may hold it; the answer is wrong, as "yes", once in 2^f. Since a phone asks many
// times, one "yes" counts for nothing: a match is two of them, for different IDs of
// neighbouring intervals.
//
// Hashes are keyed by what the set belongs to, the digest of its keys included, so that
// nobody can look for IDs that hit a set before it is published; afterwards it is too
// late to broadcast them, because the interval is part of the hash.
//
// The set is cut into shards of four hours, so that a phone reads those for which it has
// sightings. The bytes are canonical: the same keys give the same file on every machine,
// and a file that holds the same hashes in another spelling is refused. An auditor who
// has the keys writes the set again and compares.
package idset

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"bluekey/keystore/diagnosis"
)

const (
	magic      = "bluekey-id-set1\n"
	headerSize = len(magic) + 1 + 1 + 8 + 8 + 32
	entrySize  = 4 + 4 + 8 // of the directory
	countSize  = 4         // the number of its entries, at the very end

	// ShardSeconds is the length of a shard: four hours, counted from the epoch.
	ShardSeconds = 4 * 3600

	// DefaultF makes one false "yes" in 2^28 questions. A phone with 100,000 sightings
	// of GAEN IDs in two weeks asks 2.5 million questions, 1,240 for each interval: one
	// false "yes" in a hundred sets, and two in neighbouring intervals in about one set
	// of twenty million.
	DefaultF = 28
	// MinF and MaxF bound f. Below 9 the end of a block could be taken for a difference.
	MinF, MaxF = 9, 32

	// blockBits: a block of the set spans 2^(f+8) hashes, 256 of them on average.
	blockBits = 8
)

// Params say what a set belongs to. They are its header, but for Origin and Region, which
// the manifest states and the hash key contains.
type Params struct {
	Origin, Region string // at most 255 bytes each
	Scheme         diagnosis.Scheme
	Start, End     int64    // the window, Unix seconds
	KeySet         [32]byte // SHA-256 of the canonical key set
	F              int      // DefaultF if 0
}

func (p *Params) check() error {
	switch {
	case !p.Scheme.Valid():
		return fmt.Errorf("ID set: unknown scheme %d", p.Scheme)
	case p.F < MinF || p.F > MaxF:
		return fmt.Errorf("ID set: f is %d, want %d to %d", p.F, MinF, MaxF)
	case p.Start < 0 || p.End <= p.Start:
		return fmt.Errorf("ID set: window from %d to %d", p.Start, p.End)
	case len(p.Origin) > 255 || len(p.Region) > 255:
		return fmt.Errorf("ID set: origin or region is longer than 255 bytes")
	}
	return nil
}

// header is the first bytes of the file.
func (p *Params) header() []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, magic...)
	b = append(b, byte(p.Scheme), byte(p.F))
	b = binary.LittleEndian.AppendUint64(b, uint64(p.Start))
	b = binary.LittleEndian.AppendUint64(b, uint64(p.End))
	return append(b, p.KeySet[:]...)
}

// hashKey is the key of the set's hashes: the header and who publishes it, hashed.
func (p *Params) hashKey() hashKey {
	b := p.header()
	b = append(b, byte(len(p.Origin)))
	b = append(b, p.Origin...)
	b = append(b, byte(len(p.Region)))
	b = append(b, p.Region...)
	sum := sha256.Sum256(b)
	return hashKey{binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:])}
}

// perShard is the number of intervals of a shard.
func perShard(s diagnosis.Scheme) uint64 {
	return uint64(ShardSeconds / s.IntervalSeconds())
}

// blocks is the number of blocks of a shard of n hashes.
func blocks(n uint32) int { return int((uint64(n) + 1<<blockBits - 1) >> blockBits) }
