package keystore

import (
	"bytes"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

// DueKeys are the keys of a scheme that are not published and in buckets below end, in
// ascending order of secret and start. Their order tells nothing of when they came. After
// an error there is no further key. CloseWindow must have closed end: otherwise keys may
// be missing.
func (s *Store) DueKeys(scheme diagnosis.Scheme, end time.Time) iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		if err := s.scan(scheme, s.chain(scheme).through, seconds(end), yield); err != nil {
			yield(diagnosis.Key{}, fmt.Errorf("read due %s keys: %w", scheme, err))
		}
	}
}

// PublishedKeys are the keys of a scheme in buckets from <= bucket < to, whether published
// or not, in the order of DueKeys: those that a window published, if from and to are where
// the windows before it and it itself went through.
func (s *Store) PublishedKeys(scheme diagnosis.Scheme, from, to time.Time) iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		if err := s.scan(scheme, seconds(from), seconds(to), yield); err != nil {
			yield(diagnosis.Key{}, fmt.Errorf("read published %s keys: %w", scheme, err))
		}
	}
}

// scan yields the keys of from <= bucket < to. A bucket is in order already; several are
// merged.
func (s *Store) scan(scheme diagnosis.Scheme, from, to uint32, yield func(diagnosis.Key, error) bool) error {
	buckets, err := s.buckets(scheme, from, to)
	if err != nil {
		return err
	}
	var m merge
	defer func() { m.close() }() // m itself changes below
	for _, b := range buckets {
		it, err := s.db.NewIter(keyRange(scheme, b, b+1))
		if err != nil {
			return err
		}
		if it.First() {
			m = append(m, it)
		} else if err := errors.Join(it.Error(), it.Close()); err != nil {
			return err
		}
	}
	heap.Init(&m)
	for len(m) > 0 {
		it := m[0]
		k, _, err := parseKeyRow(scheme, it.Key(), it.Value())
		if err != nil {
			return err
		}
		if !yield(k, nil) {
			return nil
		}
		switch {
		case it.Next():
			if len(m) > 1 {
				heap.Fix(&m, 0)
			}
		default:
			heap.Pop(&m)
			if err := errors.Join(it.Error(), it.Close()); err != nil {
				return err
			}
		}
	}
	return nil
}

// buckets lists the buckets that hold keys.
func (s *Store) buckets(scheme diagnosis.Scheme, from, to uint32) (list []uint32, err error) {
	it, err := s.db.NewIter(keyRange(scheme, from, to))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for it.First(); it.Valid(); {
		b := binary.BigEndian.Uint32(it.Key()[2:])
		list = append(list, b)
		it.SeekGE(schemeRow(keyRow, scheme, b+1))
	}
	return list, it.Error()
}

// merge is a heap of iterators, that at the smallest secret and start first.
type merge []*pebble.Iterator

func (m merge) Len() int           { return len(m) }
func (m merge) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m merge) Less(i, j int) bool { return bytes.Compare(m[i].Key()[6:], m[j].Key()[6:]) < 0 }
func (m *merge) Push(x any)        { *m = append(*m, x.(*pebble.Iterator)) }
func (m *merge) Pop() any {
	last := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return last
}

// close ends what is left of an interrupted scan. Its errors tell of rows nobody asked for.
func (m merge) close() {
	for _, it := range m {
		it.Close()
	}
}
