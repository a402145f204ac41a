package keystore

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

// Cover requests, refused ones and keys that are known already leave in the log of the database what real ones leave, as
// many bytes in as many rows with the same sync, so that neither its growth nor the time of
// a reply tells them apart. The rows mean nothing; the next publication drops them.

// Scratch does for keys what Upload does, looking them up included, and stores junk in their
// place. The error is a *Refusal with Busy or Closed, or one of the disk.
func (s *Store) Scratch(ctx context.Context, keys []diagnosis.Key) error {
	a := s.accept(keys)
	return s.write(ctx, a.ids, func(b *pebble.Batch) error {
		for i := range a.keys {
			if _, err := s.has(a.rows[i*dedupeRowLen : (i+1)*dedupeRowLen]); err != nil {
				return err
			}
			if err := junkKey(b, &a.keys[i]); err != nil {
				return err
			}
		}
		return junk(b, len(permitRowKey(&Permit{})), permitStateLen)
	})
}

// ScratchCode does for nothing what Redeem does.
func (s *Store) ScratchCode(ctx context.Context) error {
	return s.write(ctx, nil, scratchCode)
}

// scratchCode is as large as a row of package desk for a code that is spent.
func scratchCode(b *pebble.Batch) error { return junk(b, 1+16, 6+1+32+4) }

// junkKey is as large as both rows of a key.
func junkKey(b *pebble.Batch, k *diagnosis.Key) error {
	return errors.Join(junk(b, 6+k.Scheme.SecretLen()+4, keyRowMeta), junk(b, dedupeRowLen, 0))
}

// junk adds a row with a name and a value of so many bytes.
func junk(b *pebble.Batch, name, value int) error {
	row := make([]byte, name+value)
	rand.Read(row)
	row[0] = junkRow
	return b.Set(row[:name], row[name:], nil)
}
