package keystore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

// Window is one span of a scheme's chain, from the end of the one before.
type Window struct {
	Scheme     diagnosis.Scheme
	Start, End time.Time // whole seconds, UTC
	Entry      uint64    // log index of its entry
	Published  bool      // false: it was empty, or its keys were held back
	Through    time.Time // buckets below this are published by it or an earlier one
}

// Due tells what a closed window could publish.
type Due struct {
	Count  int       // keys due and not published
	Oldest time.Time // their oldest bucket, from which on they have waited; zero without any
}

// WindowStart is where the next window of the scheme starts: at the end of the last one,
// and in a new store at the start of the period of the first start.
func (s *Store) WindowStart(scheme diagnosis.Scheme) time.Time { return instant(s.chain(scheme).end) }

func (s *Store) chain(scheme diagnosis.Scheme) chain {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chains[scheme]
}

// CloseWindow ends the scheme's open window at end. Uploads on their way are let in first;
// all later ones fall into later windows, so that what is due below end stays as it is.
// Closing again, at the same end or a later one, is what a retry does.
func (s *Store) CloseWindow(ctx context.Context, scheme diagnosis.Scheme, end time.Time) (Due, error) {
	from := s.chain(scheme)
	if end.Unix() <= int64(from.end) || end.After(s.opt.Now()) || end.Nanosecond() != 0 {
		return Due{}, fmt.Errorf("close %s window: %v is not after %v and up to now: is the clock right?",
			scheme, end.UTC(), instant(from.end))
	}
	if err := s.closeGate(scheme, seconds(end)); err != nil {
		return Due{}, err
	}
	d, err := s.countDue(ctx, scheme, from.through, seconds(end))
	if err != nil {
		return Due{}, fmt.Errorf("count due %s keys: %w", scheme, err)
	}
	return d, nil
}

func (s *Store) closeGate(scheme diagnosis.Scheme, end uint32) error {
	s.gate.Lock()
	defer s.gate.Unlock()
	if end < s.closed[scheme] {
		return fmt.Errorf("close %s window: it is closed already at %v", scheme, instant(s.closed[scheme]))
	}
	s.closed[scheme] = end
	s.sealed.set(&s.open)
	return nil
}

func (s *Store) countDue(ctx context.Context, scheme diagnosis.Scheme, from, to uint32) (d Due, err error) {
	it, err := s.db.NewIter(keyRange(scheme, from, to))
	if err != nil {
		return Due{}, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for it.First(); it.Valid(); it.Next() {
		if d.Count == 0 {
			_, bucket, err := parseKeyRow(scheme, it.Key(), it.Value())
			if err != nil {
				return Due{}, err
			}
			d.Oldest = instant(bucket)
		}
		if d.Count++; d.Count%(1<<16) == 0 && ctx.Err() != nil {
			return Due{}, ctx.Err()
		}
	}
	return d, it.Error()
}

// keyRange spans the key rows of a scheme with from <= bucket < to.
func keyRange(scheme diagnosis.Scheme, from, to uint32) *pebble.IterOptions {
	return &pebble.IterOptions{LowerBound: schemeRow(keyRow, scheme, from), UpperBound: schemeRow(keyRow, scheme, to)}
}

// AddPadding stores made-up keys into the closed window as if phones had uploaded them.
// There is no mark on them. As all of them come last, the keys held back from earlier
// windows move up to where they are: then no bucket holds only real ones.
func (s *Store) AddPadding(ctx context.Context, keys []diagnosis.Key) error {
	b := s.db.NewBatch()
	defer b.Close()
	s.gate.RLock()
	defer s.gate.RUnlock()
	h := s.dedupeHash()
	var moved [len(schemes)]bool
	for i, k := range keys {
		if err := k.Check(); err != nil {
			return fmt.Errorf("padding: %w", err)
		}
		k = s.published(k)
		start := s.chain(k.Scheme).end
		bucket := s.bucket(&k, start)
		if bucket >= s.closed[k.Scheme] {
			return fmt.Errorf("padding: key %d is not due in the closed %s window", i, k.Scheme)
		}
		if err := setKey(b, nil, appendDedupeRow(nil, h, &k), &k, bucket); err != nil {
			return fmt.Errorf("padding: %w", err)
		}
		if !moved[k.Scheme] {
			moved[k.Scheme] = true
			if err := s.moveHeld(ctx, b, k.Scheme, start); err != nil {
				return fmt.Errorf("padding: %w", err)
			}
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("padding: %w", err)
	}
	return nil
}

// moveHeld moves the unpublished keys in buckets below start into bucket start.
func (s *Store) moveHeld(ctx context.Context, b *pebble.Batch, scheme diagnosis.Scheme, start uint32) (err error) {
	it, err := s.db.NewIter(keyRange(scheme, s.chain(scheme).through, start))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for it.First(); it.Valid(); it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		k, _, err := parseKeyRow(scheme, it.Key(), it.Value())
		if err != nil {
			return err
		}
		if err := errors.Join(
			b.Delete(it.Key(), nil),
			b.Set(appendKeyRow(nil, &k, start), it.Value(), nil),
		); err != nil {
			return err
		}
	}
	return it.Error()
}
