// Package desk holds what health staff write: the codes that buy an upload.
//
// A short code is 8 random digits and a check digit, read out on the telephone; a long one
// is 16 Crockford characters for slips, sheets and QR. Either is bound to a report type
// and the day of onset, lives an hour (a long one up to a day), buys one upload, and is
// kept only as a keyed hash: who reads the data folder without the seed cannot use a code.
// There are only 10^8 short codes, so at most 500 are alive at once and all wrong ones
// share one hourly budget. When it is spent, short codes pause, long ones go on.
//
// A spent code keeps a keyed hash of the upload it bought, so that a phone that lost the
// reply gets the same answer again and any other upload does not. It keeps no time of
// redemption, and no report type or onset day any longer. The hash covers the code itself,
// which is not kept: with the store alone, even beside the seed, nobody can try out which
// keys belonged together.
//
// Rows, in the store's database:
//
//	c | 16 bytes keyed hash of the code           -> state, kind, expiry, then what the state has
//	o | UTC day u32 | 8 bytes keyed hash of the officer -> codes issued that day u32
//
// The package never sees a diagnosis key.
package desk

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

const (
	// MaxShortAlive bounds the short codes alive at once: the guessing budget divides
	// by them.
	MaxShortAlive = 500
	// MaxCount bounds the codes of one request.
	MaxCount = 1000
	// DefaultCodeCap is how many codes one officer may issue in a UTC day unless the
	// store is opened with another cap.
	DefaultCodeCap = 500
	// ShortTTL is how long a short code lives at most.
	ShortTTL = time.Hour
	// LongTTL is how long a long code lives at most.
	LongTTL = 24 * time.Hour

	minTTL = time.Minute
	// keepExpired is how long an expired row stays, so that a late phone is told that
	// its code is too old and does not look like a guesser.
	keepExpired = time.Hour
)

const day = 86400 // seconds

// Config is what a Desk stands on. All of it must be set.
type Config struct {
	DB  *pebble.DB
	Key [32]byte // keys every hash of this package
	Cap int      // codes an officer may issue in a UTC day
	Now func() time.Time
	// Gate is held for reading around every write of the database and for writing by
	// whoever must see none in progress.
	Gate *sync.RWMutex
}

// Desk issues, revokes and redeems codes. It is safe for concurrent use.
type Desk struct {
	Config
	guesses guesses
	door    guesses

	issuing sync.Mutex // one Issue at a time: the caps are checked and then used

	mu    sync.Mutex
	alive [Door + 1]map[ID]uint32 // by kind: codes that would be accepted until their expiry
}

// ID is the keyed hash under which a code is kept.
type ID [16]byte

// Open reads which codes are alive.
func Open(c Config) (*Desk, error) {
	d := &Desk{Config: c}
	d.alive[Short], d.alive[Long], d.alive[Door] = map[ID]uint32{}, map[ID]uint32{}, map[ID]uint32{}
	it, err := c.DB.NewIter(&pebble.IterOptions{LowerBound: []byte{codeRow}, UpperBound: []byte{codeRow + 1}})
	if err != nil {
		return nil, fmt.Errorf("read codes: %w", err)
	}
	for it.First(); it.Valid(); it.Next() {
		id, r, err := parseCodeRow(it.Key(), it.Value())
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		if r.state == issued {
			d.alive[r.kind][id] = r.expiry
		}
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return nil, fmt.Errorf("read codes: %w", err)
	}
	return d, nil
}

// ID is the keyed hash of a canonical code.
func (d *Desk) ID(canonical string) (id ID) {
	copy(id[:], d.mac("code", canonical))
	return id
}

// mac is HMAC-SHA256 under the desk's key over the parts, each with its length before it.
func (d *Desk) mac(parts ...string) []byte {
	h := hmac.New(sha256.New, d.Key[:])
	for _, p := range parts {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return h.Sum(nil)
}

// Status is what staff may know about all codes together.
type Status struct {
	ShortAlive, LongAlive int
	// Paused tells that too many wrong short codes came in: until PausedUntil no short
	// code is accepted. Long ones are.
	Paused      bool
	PausedUntil time.Time
	Door        DoorStatus
}

// Status counts the codes alive and tells whether short ones pause.
func (d *Desk) Status() Status {
	now := d.Now()
	short, long := d.count(Short, now), d.count(Long, now)
	until := d.guesses.pausedUntil(now, max(short, 1))
	return Status{ShortAlive: short, LongAlive: long, Paused: !until.IsZero(), PausedUntil: until, Door: d.doorStatus(now)}
}

func (d *Desk) count(kind Kind, now time.Time) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, expiry := range d.alive[kind] {
		if int64(expiry) <= now.Unix() {
			delete(d.alive[kind], id)
		}
	}
	return len(d.alive[kind])
}

// Sweep adds to b the removal of codes that expired a while ago and of the officers'
// counts of earlier days.
func (d *Desk) Sweep(b *pebble.Batch) error {
	now := d.Now().Unix()
	it, err := d.DB.NewIter(&pebble.IterOptions{LowerBound: []byte{codeRow}, UpperBound: []byte{codeRow + 1}})
	if err != nil {
		return fmt.Errorf("sweep codes: %w", err)
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		_, r, err := parseCodeRow(it.Key(), it.Value())
		if err != nil {
			return err
		}
		if int64(r.expiry)+int64(keepExpired/time.Second) < now {
			if err := b.Delete(it.Key(), nil); err != nil {
				return fmt.Errorf("sweep codes: %w", err)
			}
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("sweep codes: %w", err)
	}
	today := officerRowKey(uint32(now/day), nil)
	if err := b.DeleteRange([]byte{officerRow}, today, nil); err != nil {
		return fmt.Errorf("sweep officers' counts: %w", err)
	}
	return nil
}

const (
	codeRow    = 'c'
	officerRow = 'o'
)

type state uint8

const (
	issued  state = 1
	spent   state = 2
	revoked state = 3
)

// row is one code. Of report, onset, upload and answer only those of its state are kept.
type row struct {
	state  state
	kind   Kind
	expiry uint32 // Unix seconds

	report diagnosis.ReportType // issued, spent
	onset  uint32               // issued; UTC day

	upload [32]byte // spent: keyed hash of the code and of what it was spent on
	answer uint32   // spent: what that was answered
}

func codeRowKey(id ID) []byte { return append([]byte{codeRow}, id[:]...) }

func officerRowKey(today uint32, hash []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{officerRow}, today), hash...)
}

func (r *row) encode() []byte {
	b := binary.BigEndian.AppendUint32([]byte{byte(r.state), byte(r.kind)}, r.expiry)
	switch r.state {
	case issued:
		b = binary.BigEndian.AppendUint32(append(b, byte(r.report)), r.onset)
	case spent:
		b = binary.BigEndian.AppendUint32(append(append(b, byte(r.report)), r.upload[:]...), r.answer)
	}
	return b
}

var errRow = errors.New("a code's row is damaged")

func parseCodeRow(key, v []byte) (id ID, r row, err error) {
	if len(key) != 1+len(id) || len(v) < 6 || Kind(v[1]) < Short || Kind(v[1]) > Door {
		return id, r, errRow
	}
	copy(id[:], key[1:])
	r = row{state: state(v[0]), kind: Kind(v[1]), expiry: binary.BigEndian.Uint32(v[2:])}
	v = v[6:]
	switch {
	case r.state == issued && len(v) == 5:
		r.report, r.onset = diagnosis.ReportType(v[0]), binary.BigEndian.Uint32(v[1:])
	case r.state == spent && len(v) == 37:
		r.report, r.upload, r.answer = diagnosis.ReportType(v[0]), [32]byte(v[1:33]), binary.BigEndian.Uint32(v[33:])
	case r.state == revoked && len(v) == 0:
	default:
		return id, r, errRow
	}
	return id, r, nil
}

// read looks a code up. The second result is false for one that was never issued, or
// whose row was swept.
func (d *Desk) read(id ID) (row, bool, error) {
	key := codeRowKey(id)
	v, closer, err := d.DB.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return row{}, false, nil
	}
	if err != nil {
		return row{}, false, fmt.Errorf("look up a code: %w", err)
	}
	defer closer.Close()
	_, r, err := parseCodeRow(key, v)
	return r, err == nil, err
}
