package keystore

import (
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

// knownBatch bounds the rows that MarkKnown has in memory.
const knownBatch = 1 << 14

// MarkKnown remembers keys that are public already, as if they had been uploaded here: an
// upload of one of them is accepted and changes nothing. It may be stopped and repeated.
func (s *Store) MarkKnown(keys iter.Seq2[diagnosis.Key, error]) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	b := s.db.NewBatch()
	defer func() { b.Close() }()
	h := s.dedupeHash()
	for k, err := range keys {
		if err == nil {
			err = k.Check()
		}
		if err != nil {
			return fmt.Errorf("mark known keys: %w", err)
		}
		k = s.published(k)
		if k.Scheme.Day(k.Start) < s.firstDay.Load() {
			continue // too old to be accepted again
		}
		if err := b.Set(appendDedupeRow(nil, h, &k), nil, nil); err != nil {
			return fmt.Errorf("mark known keys: %w", err)
		}
		if b.Count() < knownBatch {
			continue
		}
		if err := b.Commit(pebble.NoSync); err != nil { // the last one syncs them all
			return fmt.Errorf("mark known keys: %w", err)
		}
		b.Close()
		b = s.db.NewBatch()
	}
	// A batch without a row would not be synced.
	if err := b.Set(moveKey, nil, nil); err != nil {
		return fmt.Errorf("mark known keys: %w", err)
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("mark known keys: %w", err)
	}
	return nil
}
