package keystore

import (
	"context"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
)

// Declaration is a case as the Bluezone door takes it: a door code, and the day seeds made
// of the record that came with it.
type Declaration struct {
	Code string // as the app sent it
	// Content identifies the case, so that what an app sends twice is one claim. The store
	// keeps a hash of it under a key of its own, and that together with the code: it must
	// hold what cannot be guessed and is not published, so no hash of the seeds.
	Content [32]byte
	// Seeds are the phone's, of whatever days. Their report type and onset do not count: the
	// code says what they are.
	Seeds []diagnosis.Key
}

// Declare stores the seeds and spends the code, in one synced batch. Seeds of days that are
// too old or yet to come are left out. The same content with the same code is answered alike,
// at the same instant and later. The error is a *Refusal for what the phone did wrong or may
// try again; after any other error nobody knows whether the seeds are stored, and the same
// may be sent again.
func (s *Store) Declare(ctx context.Context, d Declaration) error {
	code, err := desk.ParseDoor(d.Code)
	if err != nil {
		return refuseCode(err)
	}
	now := s.opt.Now()
	var seeds []diagnosis.Key
	for i := range d.Seeds {
		r := s.checkOne(&d.Seeds[i], diagnosis.Bluezone, now)
		switch {
		case r == nil:
			seeds = append(seeds, d.Seeds[i])
		case r.Reason != TooOld && r.Reason != Future:
			r.Index = i
			return r
		}
	}
	if len(seeds) == 0 {
		return &Refusal{Reason: TooOld, Field: "keys", Index: -1}
	}
	if r := s.check(seeds, now); r != nil {
		return r
	}

	a := s.accept(seeds)
	var claim desk.Claim
	err = s.write(ctx, append(a.ids, reservation(s.desk.DoorID(code))), func(b *pebble.Batch) error {
		claim, err = s.desk.RedeemDoor(code, d.Content)
		if err != nil {
			return refuseCode(err)
		}
		if claim.Replay {
			return nil
		}
		for i := range a.keys {
			k := &a.keys[i]
			k.Report, k.Onset = claim.Report, k.OnsetOn(claim.OnsetDay)
			*k = s.published(*k)
		}
		if _, err := s.addKeys(b, a); err != nil {
			return err
		}
		return claim.Spend(b, 0)
	})
	if err != nil || claim.Replay {
		return err
	}
	s.desk.Spent(claim)
	s.open.codes.Add(1)
	s.open.uploads.Add(1)
	s.open.keys.Add(uint64(a.fresh))
	return nil
}
