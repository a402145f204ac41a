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

// Permit is what lets an upload in: see package permit. Whoever calls has checked that it is
// of this service and that E signed the upload.
type Permit struct {
	Spent [32]byte // hash of the output, under which a used permit is remembered
	E     [32]byte // the key it is bound to
	Epoch uint32   // UTC day it was issued on
	First bool     // it may be used for the first time still; else only for late keys
}

// Upload is what a phone hands over. Its keys are of one scheme, and carry the permit's
// report type and the phone's word on the onset.
type Upload struct {
	Permit Permit
	Keys   []diagnosis.Key
}

// Receipt answers an upload that is on the disk.
type Receipt struct {
	// PublishBy is when all its keys are public at the latest.
	PublishBy time.Time
}

// Upload stores the keys and notes how many the permit has brought, in one synced batch. The
// error is a *Refusal for what the phone did wrong or may try again; after any other error
// nobody knows whether the upload is stored, and the same upload may be sent again. Keys that
// are known already are accepted, stay as they are and do not count: an upload sent again is
// answered as before.
func (s *Store) Upload(ctx context.Context, u Upload) (r Receipt, err error) {
	if r := s.check(u.Keys, s.opt.Now()); r != nil {
		return Receipt{}, r
	}
	a := s.accept(u.Keys)
	err = s.write(ctx, append(a.ids, reservation(u.Permit.Spent[:16])), func(b *pebble.Batch) error {
		row, err := s.permitted(&u.Permit)
		if err != nil {
			return err
		}
		fresh, err := s.addKeys(b, a)
		if err != nil {
			return err
		}
		if fresh > 0 || row.by == 0 {
			row.by = seconds(s.publishBy(a.keys))
		}
		if row.keys += fresh; row.keys > MaxKeys {
			return &Refusal{Reason: Full, Field: "keys", Index: -1}
		}
		r.PublishBy = instant(row.by)
		return b.Set(permitRowKey(&u.Permit), row.encode(), nil)
	})
	if err != nil {
		return Receipt{}, err
	}
	s.open.uploads.Add(1)
	s.open.keys.Add(uint64(a.fresh))
	return r, nil
}

// permitted is what is known of a permit that lets an upload in.
func (s *Store) permitted(p *Permit) (permitState, error) {
	v, err := s.get(permitRowKey(p))
	if err != nil {
		return permitState{}, err
	}
	if v == nil && p.First {
		return permitState{e: p.E}, nil
	}
	row, err := parsePermit(v)
	if v == nil || err == nil && row.e != p.E {
		err = &Refusal{Reason: BadPermit, Field: "permit", Index: -1}
	}
	return row, err
}

// Redemption is a code on its way to becoming a permit.
type Redemption struct {
	Code    string   // as typed, or canonical
	Blinded [32]byte // the blinded element it comes with
	Epoch   uint32   // the UTC day now
}

// Purchase is what a code buys: an evaluation under this public info.
type Purchase struct {
	Report   diagnosis.ReportType
	Epoch    uint32 // the recorded one if the code was redeemed before
	OnsetDay uint32 // UTC day, a hint to the phone; 0 if nobody knows, or when asked again
}

// Redeem spends a code on the evaluation of one blinded element, in a synced batch. With the
// same element it is answered again while the code lasts; with another the code is spent.
// The error is a *Refusal, or one of the disk, after which the same may be sent again.
func (s *Store) Redeem(ctx context.Context, r Redemption) (p Purchase, err error) {
	code, kind, err := desk.Parse(r.Code)
	if err != nil {
		return Purchase{}, refuseCode(err)
	}
	var claim desk.Claim
	err = s.write(ctx, []reservation{reservation(s.desk.ID(code))}, func(b *pebble.Batch) error {
		claim, err = s.desk.Redeem(code, kind, r.Blinded)
		if err != nil {
			return refuseCode(err)
		}
		if claim.Replay {
			p = Purchase{Report: claim.Report, Epoch: claim.Answer}
			return scratchCode(b)
		}
		p = Purchase{Report: claim.Report, Epoch: r.Epoch, OnsetDay: claim.OnsetDay}
		return claim.Spend(b, r.Epoch)
	})
	if err != nil {
		return Purchase{}, err
	}
	if !claim.Replay {
		s.desk.Spent(claim)
		s.open.codes.Add(1)
	}
	return p, nil
}

// write commits what fill puts into a batch, synced. While fill looks and until the commit
// is done, nobody else has one of ids in hand and nothing is being closed. A *Refusal of
// fill comes back as it is.
func (s *Store) write(ctx context.Context, ids []reservation, fill func(*pebble.Batch) error) error {
	if err := s.takeSlot(ctx); err != nil {
		return err
	}
	defer func() { <-s.slots }()
	release, err := s.reserved.take(ctx, ids)
	if err != nil {
		return err
	}
	defer release()
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.retired.Load() != nil {
		return &Refusal{Reason: Closed, Index: -1}
	}
	b := s.db.NewBatchWithSize(256 + len(ids)*96)
	defer b.Close()
	if err := fill(b); err != nil {
		if r := (*Refusal)(nil); errors.As(err, &r) {
			return r
		}
		return fmt.Errorf("store upload: %w", err)
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("store upload: %w", err)
	}
	return nil
}

// acceptance is an upload in the form it is stored in.
type acceptance struct {
	keys  []diagnosis.Key
	rows  []byte        // of each key the name of the row that remembers it
	ids   []reservation // of those rows
	fresh int           // how many were not known, once addKeys has looked
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

// addKeys adds the keys that are not known to b, and counts them. It is called from write.
func (s *Store) addKeys(b *pebble.Batch, a *acceptance) (fresh int, err error) {
	var name [64]byte
	for i := range a.keys {
		k := &a.keys[i]
		row := a.rows[i*dedupeRowLen : (i+1)*dedupeRowLen]
		known, err := s.has(row)
		if err != nil {
			return 0, err
		}
		if known {
			if err := junkKey(b, k); err != nil {
				return 0, err
			}
			continue
		}
		if err := setKey(b, name[:0], row, k, s.bucket(k, s.closed[k.Scheme])); err != nil {
			return 0, err
		}
		a.fresh++
	}
	return a.fresh, nil
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

// reservation names a code, a permit or a key that an upload has in hand between looking it up and
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
