package desk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

// A door code is the six digits that a Bluezone app has a field for. There are only 10^6 of
// them and no digit checks the others, so they are scarcer than any other code: alive for
// ten minutes, five at a time, and after twenty wrong ones in an hour the door takes none at
// all. Somebody who guesses day and night then finds less than one a year.
//
// Its row is that of any code, under a hash of its own: a door code opens nothing but the
// door, and no other code opens that. The app sends everything twice, side by side, and
// again if a reply is lost; so a spent one is good for the same case until its row is swept.

// Door is the kind of code that the Bluezone door takes: 6 random digits, to be read out.
const Door Kind = 3

const (
	// DoorTTL is how long a door code lives.
	DoorTTL = 10 * time.Minute
	// MaxDoorAlive bounds the door codes alive at once.
	MaxDoorAlive = 5
	// MaxDoorGuesses is how many wrong door codes an hour may bring before the door pauses.
	MaxDoorGuesses = 20

	doorDigits = 6
	doorCodes  = 1_000_000
	doorCost   = guessBudget / MaxDoorGuesses
)

// ErrDoorFull means that MaxDoorAlive door codes would be alive.
var ErrDoorFull = fmt.Errorf("%d door codes wait to be used: wait until one is used, at most %d minutes", MaxDoorAlive, int(DoorTTL/time.Minute))

// DoorStatus is what staff may know about the door codes together.
type DoorStatus struct {
	Alive int
	// Paused tells that too many wrong codes came in: until PausedUntil the door takes none.
	Paused      bool
	PausedUntil time.Time
}

func (d *Desk) doorStatus(now time.Time) DoorStatus {
	until := d.door.pausedUntil(now, doorCost)
	return DoorStatus{Alive: d.count(Door, now), Paused: !until.IsZero(), PausedUntil: until}
}

// ParseDoor checks the form of a door code as an app sends it: it has one spelling. The
// error is ErrForm.
func ParseDoor(sent string) (canonical string, err error) {
	if len(sent) != doorDigits {
		return "", ErrForm
	}
	for _, c := range []byte(sent) {
		if c < '0' || c > '9' {
			return "", ErrForm
		}
	}
	return sent, nil
}

// DoorID is the keyed hash of a canonical door code.
func (d *Desk) DoorID(canonical string) (id ID) {
	copy(id[:], d.mac("door code", canonical))
	return id
}

// IssueDoor makes a door code. It is nowhere else: the store keeps a hash. onset is the UTC
// day of the first symptoms, as in a Request. The error is ErrRequest, ErrOfficerCap,
// ErrDoorFull or one of the disk.
func (d *Desk) IssueDoor(ctx context.Context, officer string, report diagnosis.ReportType, onset uint32) (code string, err error) {
	d.issuing.Lock()
	defer d.issuing.Unlock()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	now := d.Now()
	r := Request{Officer: officer, Report: report, OnsetDay: onset, Count: 1, TTL: DoorTTL}
	made, err := r.row(now)
	if err != nil {
		return "", err
	}
	made.kind = Door
	if d.count(Door, now) >= MaxDoorAlive {
		return "", ErrDoorFull
	}
	code, id, err := d.newDoorCode()
	if err != nil {
		return "", err
	}

	b := d.DB.NewBatch()
	defer b.Close()
	if err := d.charge(b, r, now); err != nil {
		return "", err
	}
	if err := b.Set(codeRowKey(id), made.encode(), nil); err != nil {
		return "", fmt.Errorf("store a door code: %w", err)
	}
	d.Gate.RLock()
	err = b.Commit(pebble.Sync)
	d.Gate.RUnlock()
	if err != nil {
		return "", fmt.Errorf("store a door code: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alive[Door][id] = made.expiry
	return code, nil
}

// newDoorCode draws a code that has no row yet. Every one of them is equally likely.
func (d *Desk) newDoorCode() (code string, id ID, err error) {
	for {
		n, err := rand.Int(rand.Reader, big.NewInt(doorCodes))
		if err != nil {
			return "", id, fmt.Errorf("draw a door code: %w", err)
		}
		code = fmt.Sprintf("%0*d", doorDigits, n)
		id = d.DoorID(code)
		if _, known, err := d.read(id); err != nil || !known {
			return code, id, err
		}
	}
}

// RevokeDoor withdraws a door code that was not used yet. It reports whether there was one.
// The error for a text that is no door code is ErrForm.
func (d *Desk) RevokeDoor(ctx context.Context, typed string) (bool, error) {
	code, err := ParseDoor(typed)
	if err != nil {
		return false, err
	}
	return d.revoke(ctx, d.DoorID(code))
}

// RedeemDoor looks at a door code on behalf of a case, which content identifies. Caller and
// claim are as with Redeem. Only a code that nobody ever issued counts as a guess.
func (d *Desk) RedeemDoor(canonical string, content [32]byte) (Claim, error) {
	now, id := d.Now(), d.DoorID(canonical)
	r, err := d.try(&d.door, doorCost, id, now)
	if err != nil {
		return Claim{}, err
	}
	claimed := [32]byte(d.mac("door case", canonical, string(content[:])))
	switch {
	case r.state == spent && r.upload == claimed:
		return Claim{Report: r.report, Replay: true, Answer: r.answer}, nil
	case r.state == spent:
		return Claim{}, ErrSpent
	case r.state == revoked:
		return Claim{}, ErrUnknown
	case int64(r.expiry) <= now.Unix():
		return Claim{}, ErrExpired
	}
	r.upload = claimed
	return Claim{Report: r.report, OnsetDay: r.onset, id: id, row: r}, nil
}

// IssueDoor makes a door code as the desk does and writes who did it into the journal before
// it gives the code away: if that fails, it is revoked.
func (o *Office) IssueDoor(ctx context.Context, officer string, report diagnosis.ReportType, onset uint32) (string, error) {
	code, err := o.desk.IssueDoor(ctx, officer, report, onset)
	if err != nil {
		return "", err
	}
	err = o.write(func(b *pebble.Batch) error {
		return o.note(b, officer, "issue", fmt.Sprintf("1 door %s", report))
	}, nil)
	if err != nil {
		_, undo := o.desk.RevokeDoor(context.WithoutCancel(ctx), code)
		return "", errors.Join(err, undo)
	}
	return code, nil
}

// RevokeDoor ends a door code as the desk does and writes that into the journal.
func (o *Office) RevokeDoor(ctx context.Context, who, typed string) (bool, error) {
	revoked, err := o.desk.RevokeDoor(ctx, typed)
	if err != nil || !revoked {
		return revoked, err
	}
	return true, o.write(func(b *pebble.Batch) error { return o.note(b, who, "revoke", "1 door") }, nil)
}
