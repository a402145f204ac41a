package desk

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

// What keeps a code from being redeemed. A mistyped one fails earlier, in Parse.
var (
	ErrUnknown = errors.New("no such code")
	ErrSpent   = errors.New("the code was used for something else")
	ErrExpired = errors.New("the code's time is over")
	ErrPaused  = errors.New("short codes pause: too many wrong ones this hour")
)

// Claim is a code about to be spent, or one that was spent on the very same upload.
type Claim struct {
	Report   diagnosis.ReportType
	OnsetDay uint32 // UTC day since the epoch; 0 of a replay, which keeps no date

	Replay bool   // spent already, on this very content: Answer is what it was answered
	Answer uint32 // meaning set by the caller of Spend

	id  ID
	row row
}

// Redeem looks at a code on behalf of an upload, of which content is a digest. The caller
// holds Gate for reading, lets nobody else redeem the same ID meanwhile, and then either
// commits what Spend writes and calls Spent, or drops the claim: looking alone changes
// nothing but the guessing budget.
func (d *Desk) Redeem(canonical string, kind Kind, content [32]byte) (Claim, error) {
	now, id, cost := d.Now(), d.ID(canonical), 0
	if kind == Short {
		cost = max(d.count(Short, now), 1)
	}
	r, err := d.try(&d.guesses, cost, id, now)
	if err != nil {
		return Claim{}, err
	}
	upload := [32]byte(d.mac("upload", canonical, string(content[:])))
	switch {
	case r.state == revoked:
		return Claim{}, ErrUnknown
	case int64(r.expiry) <= now.Unix():
		return Claim{}, ErrExpired
	case r.state == issued:
		r.upload = upload
		return Claim{Report: r.report, OnsetDay: r.onset, id: id, row: r}, nil
	case r.upload == upload:
		return Claim{Report: r.report, Replay: true, Answer: r.answer}, nil
	default:
		return Claim{}, ErrSpent
	}
}

// Spend adds to b that c is spent and was answered so.
func (c *Claim) Spend(b *pebble.Batch, answer uint32) error {
	c.row.state, c.row.answer = spent, answer
	if err := b.Set(codeRowKey(c.id), c.row.encode(), nil); err != nil {
		return fmt.Errorf("spend a code: %w", err)
	}
	return nil
}

// Spent tells that the batch of c is committed.
func (d *Desk) Spent(c Claim) { d.forget(c.row.kind, c.id) }
