package keystore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
)

const (
	// maxCommits bounds the uploads being stored at once. Up to there they share fsyncs;
	// beyond, each waits longer and none is done sooner.
	maxCommits = 64
	// maxWaiting bounds those that wait for their turn; at any rate worth having it is
	// passed in a second or so.
	maxWaiting = 4096
)

// Upload is what a phone hands over. Report and Onset of its keys are ignored: the code
// says what they are.
type Upload struct {
	Code string
	Keys []diagnosis.Key // of one scheme
}

// Receipt answers an upload that is on the disk.
type Receipt struct {
	// PublishBy is when all its keys are public at the latest.
	PublishBy time.Time
}

// Upload stores the keys and spends the code, in one synced batch. The error is a *Refusal
// for what the phone did wrong or may try again; after any other error nobody knows
// whether the upload is stored, and the same upload may be sent again. The same keys with
// the same code are answered as before while the code lasts.
func (s *Store) Upload(ctx context.Context, u Upload) (Receipt, error) {
	if r := s.check(u.Keys, s.opt.Now()); r != nil {
		return Receipt{}, r
	}
	code, kind, err := desk.Parse(u.Code)
	if err != nil {
		return Receipt{}, refuseCode(err)
	}
	a := s.accept(u.Keys)

	if err := s.takeSlot(ctx); err != nil {
		return Receipt{}, err
	}
	defer func() { <-s.slots }()
	release, err := s.reserved.take(ctx, append(a.ids, reservation(s.desk.ID(code))))
	if err != nil {
		return Receipt{}, err
	}
	defer release()
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.retired.Load() != nil {
		return Receipt{}, &Refusal{Reason: Closed, Index: -1}
	}

	claim, err := s.desk.Redeem(code, kind, digest(u.Keys))
	if err != nil {
		return Receipt{}, refuseCode(err)
	}
	if claim.Replay {
		return Receipt{instant(claim.Answer)}, nil
	}
	by := s.publishBy(a.keys)
	fresh, err := s.store(a, &claim, seconds(by))
	if err != nil {
		return Receipt{}, fmt.Errorf("store upload: %w", err)
	}
	s.desk.Spent(claim)
	s.open.add(fresh)
	return Receipt{by}, nil
}

// acceptance is an upload in the form it is stored in.
type acceptance struct {
	keys []diagnosis.Key
	rows []byte        // of each key the name of the row that remembers it
	ids  []reservation // of those rows
}

func (s *Store) accept(keys []diagnosis.Key) *acceptance {
	a := &acceptance{
		keys: make([]diagnosis.Key, len(keys)),
		rows: make([]byte, 0, len(keys)*dedupeRowLen),
		ids:  make([]reservation, len(keys), len(keys)+1),
	}
	h := s.dedupeHash()
	for i, k := range keys {
		k = s.published(k)
		a.keys[i] = k
		a.rows = appendDedupeRow(a.rows, h, &k)
		copy(a.ids[i][:], a.rows[i*dedupeRowLen:])
	}
	return a
}

// published is k with the metadata it is published under.
func (s *Store) published(k diagnosis.Key) diagnosis.Key {
	if s.opt.Exact {
		return k
	}
	return Coarse(k)
}

// store commits an upload and returns how many of its keys were new. The gate is held for
// reading, and no other upload has one of these keys or this code in hand.
func (s *Store) store(a *acceptance, claim *desk.Claim, answer uint32) (fresh int, err error) {
	b := s.db.NewBatchWithSize(256 + len(a.keys)*96)
	defer b.Close()
	var name [64]byte
	for i, k := range a.keys {
		row := a.rows[i*dedupeRowLen : (i+1)*dedupeRowLen]
		known, err := s.has(row)
		if err != nil {
			return 0, err
		}
		if known {
			continue
		}
		k.Report, k.Onset = claim.Report, k.OnsetOn(claim.OnsetDay)
		k = s.published(k)
		if err := setKey(b, name[:0], row, &k, s.bucket(&k, s.closed[k.Scheme])); err != nil {
			return 0, err
		}
		fresh++
	}
	if err := claim.Spend(b, answer); err != nil {
		return 0, err
	}
	return fresh, b.Commit(pebble.Sync)
}

// setKey adds both rows of a key. scratch is reused for its name.
func setKey(b *pebble.Batch, scratch, dedupe []byte, k *diagnosis.Key, bucket uint32) error {
	meta := keyMeta(k)
	if err := b.Set(appendKeyRow(scratch, k, bucket), meta[:], nil); err != nil {
		return err
	}
	return b.Set(dedupe, nil, nil)
}

// due is when k may be published: its validity has ended, on slow clocks too.
func due(k *diagnosis.Key) int64 { return k.EndTime().Add(ClockSkew).Unix() }

// bucket is the bucket of a key that is stored when windows up to closed are closed: the
// start of the period in which it falls due, or the window that is open if that is later.
func (s *Store) bucket(k *diagnosis.Key, closed uint32) uint32 {
	return max(uint32(due(k)/s.period()*s.period()), closed)
}

// renderTime is what a window has after its end until its files must be public.
const renderTime = 5 * time.Second

// publishBy is when keys stored now are public at the latest. The gate is held for reading.
//
// A key in bucket b is public with the first window that ends more than hold after b: by
// then it no longer waits for a crowd. Windows end at multiples of the period, the next one
// after now even if the store has missed some. As b is at most the later of now and the
// time the key falls due, this is never later than that time + period + hold + renderTime.
func (s *Store) publishBy(keys []diagnosis.Key) time.Time {
	latest := s.opt.Now().Unix()
	for i := range keys {
		k := &keys[i]
		waits := int64(s.bucket(k, s.closed[k.Scheme])) + int64(s.opt.Hold/time.Second)
		latest = max(latest, waits)
	}
	return time.Unix((latest/s.period()+1)*s.period(), 0).Add(renderTime).UTC()
}

func (s *Store) takeSlot(ctx context.Context) error {
	select {
	case s.slots <- struct{}{}:
		return nil
	default:
	}
	if s.waiting.Add(1) > maxWaiting {
		s.waiting.Add(-1)
		return &Refusal{Reason: Busy, Field: "keys", Index: -1, Retry: true}
	}
	defer s.waiting.Add(-1)
	select {
	case s.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait to store upload: %w", ctx.Err())
	}
}

func refuseCode(err error) error {
	r := &Refusal{Field: "code", Index: -1}
	switch {
	case errors.Is(err, desk.ErrForm), errors.Is(err, desk.ErrUnknown):
		r.Reason = BadCode
	case errors.Is(err, desk.ErrSpent):
		r.Reason = SpentCode
	case errors.Is(err, desk.ErrExpired):
		r.Reason = ExpiredCode
	case errors.Is(err, desk.ErrPaused):
		r.Reason, r.Retry = Paused, true
	default:
		return fmt.Errorf("redeem code: %w", err)
	}
	return r
}

// reservation names a code or a key that an upload has in hand between looking it up and
// committing it.
type reservation [16]byte

// reservations keeps two uploads from having the same thing in hand.
type reservations struct {
	mu   sync.Mutex
	held map[reservation]chan struct{} // closed when it is given back
}

// take waits until none of ids is held, then holds them all. It holds nothing while it
// waits, so that two uploads never wait for each other.
func (r *reservations) take(ctx context.Context, ids []reservation) (release func(), err error) {
	mine := make(chan struct{})
	for {
		busy := r.tryTake(ids, mine)
		if busy == nil {
			return func() { r.giveBack(ids, mine) }, nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a like upload: %w", ctx.Err())
		}
	}
}

func (r *reservations) tryTake(ids []reservation, mine chan struct{}) (busy <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if other, ok := r.held[id]; ok {
			return other
		}
	}
	if r.held == nil {
		r.held = map[reservation]chan struct{}{}
	}
	for _, id := range ids {
		r.held[id] = mine
	}
	return nil
}

func (r *reservations) giveBack(ids []reservation, mine chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		delete(r.held, id)
	}
	close(mine)
}
