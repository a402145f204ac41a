package bluezone

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strconv"
	"time"

	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
)

// record is what InfoF says. The app writes
//
//	{"base_id":"<64 hex>","time":<s>,"daily_key":"<64 hex>","time_start":<s>}
//
// where base_id is the key that the phone made at its first start, time the UTC midnight of
// that day, daily_key the key of the day two weeks ago or, in a younger install, base_id
// again, and time_start the midnight of that. The fields come in any order, as iOS takes them
// from a dictionary, and times may have a decimal point, as it takes them from a double.
//
// It is read from bytes into arrays, without encoding/json, so that no string keeps a key.
type record struct {
	base, daily  [32]byte
	first, start uint32 // UTC days of base and daily, counted from the epoch
}

const (
	daySeconds = 86400
	// firstDay is 2020-01-01: no phone has a base key from before there was an app.
	firstDay = 18262
	// keptDays is how many days before today are looked at. One that ended up to 15 days
	// ago is accepted; the store decides.
	keptDays = uint32(keystore.MaxAge / (24 * time.Hour))
)

var errRecord = errors.New("not a case record")

func (r *record) wipe() { *r = record{} }

// parse reads InfoF and checks that daily follows from base, on a day up to today. The error
// does not repeat what was sent. In any case r is to be wiped.
func (r *record) parse(info []byte, now time.Time) error {
	if !r.scan(info) {
		return errRecord
	}
	if r.first < firstDay || r.start < r.first || r.start > uint32(now.Unix()/daySeconds) {
		return errRecord
	}
	daily := r.base
	defer clear(daily[:])
	for range r.start - r.first {
		daily = diagnosis.NextDailyKey(daily)
	}
	if daily != r.daily {
		return errRecord
	}
	return nil
}

func (r *record) scan(info []byte) bool {
	s := scanner{rest: info}
	var base, daily, first, start int // how often each comes
	s.byte('{')
	for i := range 4 {
		if i > 0 {
			s.byte(',')
		}
		name := s.text()
		s.byte(':')
		switch string(name) {
		case "base_id":
			base++
			s.key(&r.base)
		case "daily_key":
			daily++
			s.key(&r.daily)
		case "time":
			first++
			r.first = s.day()
		case "time_start":
			start++
			r.start = s.day()
		}
	}
	s.byte('}')
	s.space()
	return !s.bad && len(s.rest) == 0 && base == 1 && daily == 1 && first == 1 && start == 1
}

// claim identifies the case: the phone, by what only it knows. Whatever day it is, the same
// phone gives the same.
func (r *record) claim() [32]byte {
	h := sha256.New()
	h.Write([]byte("bluekey bluezone claim v1\n"))
	h.Write(r.base[:])
	h.Write(binary.BigEndian.AppendUint32(nil, r.first))
	return [32]byte(h.Sum(nil))
}

// seeds are those of the record's days up to today that may still be accepted.
func (r *record) seeds(now time.Time) (seeds []diagnosis.Key) {
	today := uint32(now.Unix() / daySeconds)
	daily := r.daily
	defer clear(daily[:])
	for day := r.start; day <= today; day++ {
		if today-day <= keptDays {
			seeds = append(seeds, daySeed(daily, day))
		}
		daily = diagnosis.NextDailyKey(daily)
	}
	return seeds
}

func daySeed(daily [32]byte, day uint32) diagnosis.Key {
	perDay := diagnosis.Bluezone.PerDay()
	return diagnosis.Key{
		Secret: diagnosis.DaySeed(daily),
		Start:  diagnosis.Interval(day) * perDay,
		Scheme: diagnosis.Bluezone,
		Count:  uint8(perDay),
	}
}

// scanner reads the few forms of JSON that InfoF has. After anything else it is bad, and stays
// so.
type scanner struct {
	rest []byte
	bad  bool
}

func (s *scanner) space() { s.rest = bytes.TrimLeft(s.rest, " \t\r\n") }

// byte reads one byte that stands alone.
func (s *scanner) byte(want byte) {
	s.space()
	if len(s.rest) == 0 || s.rest[0] != want {
		s.bad = true
		return
	}
	s.rest = s.rest[1:]
}

// text reads a string without escapes.
func (s *scanner) text() []byte {
	s.byte('"')
	text, rest, closed := bytes.Cut(s.rest, []byte{'"'})
	if s.bad || !closed || bytes.IndexByte(text, '\\') >= 0 {
		s.bad = true
		return nil
	}
	s.rest = rest
	return text
}

// key reads 32 bytes in hex.
func (s *scanner) key(dst *[32]byte) {
	text := s.text()
	if len(text) != hex.EncodedLen(len(dst)) {
		s.bad = true
		return
	}
	if _, err := hex.Decode(dst[:], text); err != nil {
		s.bad = true
	}
}

// day reads a UTC midnight in seconds since the epoch.
func (s *scanner) day() uint32 {
	s.space()
	end := len(s.rest) - len(bytes.TrimLeft(s.rest, "0123456789"))
	digits := string(s.rest[:end])
	s.rest = s.rest[end:]
	if len(s.rest) > 0 && s.rest[0] == '.' {
		zeros := bytes.TrimLeft(s.rest[1:], "0")
		s.bad = s.bad || len(zeros) == len(s.rest)-1
		s.rest = zeros
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || digits != strconv.FormatUint(n, 10) || n%daySeconds != 0 {
		s.bad = true
	}
	return uint32(n / daySeconds)
}
