package keystore

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

// retiredSetting is the name of the setting that Retire fixes.
const retiredSetting = "retired"

// Retire ends the taking of uploads for ever: those on their way are let in first, every
// later one is refused as Closed. note says why, for Retired; the first one holds. What was
// taken is published and erased as ever.
func (s *Store) Retire(note string) error {
	s.gate.Lock()
	defer s.gate.Unlock()
	if held := s.retired.Load(); held != nil {
		if *held != note {
			return errors.New("retire the store: it is retired already, for another reason")
		}
		return nil
	}
	if err := s.db.Set(retiredKey(), []byte(note), pebble.Sync); err != nil {
		return fmt.Errorf("retire the store: %w", err)
	}
	s.retired.Store(&note)
	return nil
}

// Retired reports whether the store takes no uploads any more, and what Retire was told.
func (s *Store) Retired() (note string, ok bool) {
	if held := s.retired.Load(); held != nil {
		return *held, true
	}
	return "", false
}

func (s *Store) loadRetired() error {
	v, err := s.get(retiredKey())
	if err != nil || v == nil {
		return err
	}
	note := string(v)
	s.retired.Store(&note)
	return nil
}

func retiredKey() []byte { return append([]byte{fixedRow}, retiredSetting...) }

// Unpublished reports whether the store holds keys that are not published, and the newest
// of their buckets. In a store that takes uploads others may come in meanwhile.
func (s *Store) Unpublished() (newest time.Time, some bool, err error) {
	for _, scheme := range diagnosis.Schemes {
		all, err := s.buckets(scheme, s.chain(scheme).through, math.MaxUint32)
		if err != nil {
			return time.Time{}, false, fmt.Errorf("look for unpublished %s keys: %w", scheme, err)
		}
		if len(all) == 0 {
			continue
		}
		if last := instant(all[len(all)-1]); !some || last.After(newest) {
			newest, some = last, true
		}
	}
	return newest, some, nil
}
