package keystore

import (
	"bytes"
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

// Sequence numbers are what groups rows in files: the rows of a batch have consecutive
// ones, in the log and in every table, until a compaction at the bottom of the database
// sets them to zero. A table with nothing below it is moved there as it is, so a
// compaction alone is not enough. But a table that some newer one overlaps must be
// rewritten, and one row is enough for that: so each table that has numbers gets a row
// written again as it is, and then everything is compacted.

const maxRounds = 16

// Ungroup makes every row written so far forget which others it was written with, in all
// files of the store, and checks it. Uploads may go on meanwhile; theirs is the next
// window.
func (s *Store) Ungroup(ctx context.Context) error {
	if err := s.ungroup(ctx); err != nil {
		return fmt.Errorf("ungroup: %w", err)
	}
	return nil
}

func (s *Store) ungroup(ctx context.Context) error {
	seal, err := s.sequence()
	if err != nil {
		return err
	}
	logs, err := s.files(isLog)
	if err != nil {
		return err
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	for round := 0; ; round++ {
		rows, err := s.grouped(seal)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			break
		}
		if round == maxRounds {
			return fmt.Errorf("%d tables still have sequence numbers after %d rounds", len(rows), round)
		}
		if seal, err = s.touch(rows); err != nil {
			return err
		}
		if err := s.compact(ctx, everyRow, noRow); err != nil {
			return err
		}
	}
	return s.settle(ctx, logs)
}

// sequence is a number above those of all rows whose commit has returned.
func (s *Store) sequence() (pebble.SeqNum, error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	b := s.db.NewBatch()
	defer b.Close()
	if err := b.Set(moveKey, nil, nil); err != nil {
		return 0, err
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return 0, err
	}
	return b.SeqNum(), nil
}

// grouped is, of each table with numbers below seal, its first row.
func (s *Store) grouped(seal pebble.SeqNum) (rows [][]byte, err error) {
	levels, err := s.db.SSTables()
	if err != nil {
		return nil, err
	}
	for _, level := range levels {
		for _, t := range level {
			if t.LargestSeqNum > 0 && t.SmallestSeqNum < seal {
				rows = append(rows, t.Smallest.UserKey)
			}
		}
	}
	return rows, nil
}

// touch writes rows again as they are, and returns a number above theirs. Nobody else
// writes meanwhile: a code just spent must not come back. A row that stays comes with them:
// the database may drop a table of nothing but marks of removals by itself, just then, and
// move the one with the marks written again to where that was.
func (s *Store) touch(rows [][]byte) (pebble.SeqNum, error) {
	s.gate.Lock()
	defer s.gate.Unlock()
	b := s.db.NewBatch()
	defer b.Close()
	for _, row := range rows {
		v, err := s.get(row)
		switch {
		case err != nil:
			return 0, err
		case v == nil: // it marks a removal
			err = b.Delete(row, nil)
		default:
			err = b.Set(row, v, nil)
		}
		if err != nil {
			return 0, err
		}
	}
	if err := b.Set(moveKey, nil, nil); err != nil {
		return 0, err
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return 0, err
	}
	return b.SeqNum() + pebble.SeqNum(b.Count()), nil
}

func (s *Store) flush(ctx context.Context) error {
	done, err := s.db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flush: %w", ctx.Err())
	}
}

// compact brings the rows from one name to another down to the bottom.
func (s *Store) compact(ctx context.Context, from, to []byte) error {
	if err := s.flush(ctx); err != nil {
		return err
	}
	if err := s.db.Compact(ctx, from, to, false); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	return nil
}

// Scrub removes from the store's files what earlier commits erased. It does nothing if
// nothing was erased since the last time, and may be interrupted and called again.
func (s *Store) Scrub(ctx context.Context) error {
	pending, err := s.has(eraseState)
	if err != nil || !pending {
		return err
	}
	if err := s.scrub(ctx); err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	if err := s.db.Delete(eraseState, pebble.Sync); err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	return nil
}

func (s *Store) scrub(ctx context.Context) error {
	logs, err := s.files(isLog)
	if err != nil {
		return err
	}
	chains := s.allChains()
	for _, scheme := range diagnosis.Schemes {
		if err := s.scrubRange(ctx, schemeRow(keyRow, scheme, 0), schemeRow(keyRow, scheme, chains[scheme].erased)); err != nil {
			return err
		}
		if err := s.scrubRange(ctx, schemeRow(dedupeRow, scheme, 0), schemeRow(dedupeRow, scheme, s.firstDay.Load())); err != nil {
			return err
		}
	}
	return s.settle(ctx, logs)
}

func (s *Store) scrubRange(ctx context.Context, from, to []byte) error {
	if bytes.Equal(from, to) {
		return nil
	}
	for round := 0; ; round++ {
		if err := s.compact(ctx, from, to); err != nil {
			return err
		}
		rows, err := s.erasedIn(from, to)
		if err != nil || len(rows) == 0 {
			return err
		}
		if round == maxRounds {
			return fmt.Errorf("%d tables still hold erased rows after %d rounds", len(rows), round)
		}
		if _, err := s.touch(rows); err != nil {
			return err
		}
	}
}

// erasedIn is a row of each table that begins or ends within an erased range.
func (s *Store) erasedIn(from, to []byte) (rows [][]byte, err error) {
	levels, err := s.db.SSTables(pebble.WithKeyRangeFilter(from, to))
	if err != nil {
		return nil, err
	}
	within := func(row []byte) bool { return bytes.Compare(row, from) >= 0 && bytes.Compare(row, to) < 0 }
	for _, level := range levels {
		for _, t := range level {
			switch {
			case within(t.Smallest.UserKey):
				rows = append(rows, t.Smallest.UserKey)
			case within(t.Largest.UserKey):
				rows = append(rows, t.Largest.UserKey)
			}
		}
	}
	return rows, nil
}
