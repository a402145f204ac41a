package phone

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

// State is what an App stores between runs, as text:
//
//	bluekey phone v1
//	next <time>                                  the scheduled request; 0: none drawn yet
//	pending <time> <code> <base64>               a Redeem without its reply, first sent then
//	held <onset day> <time> <base64>             a permit; keys that ended by then are in
//	publish_by <time>                            when the keys are public
//	keyring <base64>                             the keyring as read
//	notices <entry> <time> <origin> <base64>     the notices as read, and the entry of which log
//
// Times are Unix seconds, base64 is padded. A line is absent if there is nothing to say,
// but for next. The text is secret: it holds the code and what pays for an upload. It
// prints redacted.
type State struct {
	Next time.Time // of the next Visit; zero: at once

	Code    string          // in canonical form; empty without Pending
	Pending *permit.Pending // bought with Code, reply not seen; forgotten a day after Asked
	Asked   time.Time

	Held  *permit.Held // forgotten on the third day after its epoch if unused, else on the fifth
	Onset uint32       // UTC day of the first symptoms as staff noted it; 0: unknown
	Until time.Time    // end of the last key handed in under Held; zero: none yet

	PublishBy time.Time // of the last upload; zero: none of late

	Keyring *seal.Keyring // nil: never read
	Notices *Notices      // nil: none were ever seen
}

const (
	stateFirst = "bluekey phone v1"
	maxState   = 512 << 10 // bytes: keyring and notices in base64, and a little
)

// Bytes is the text of the State.
func (s State) Bytes() ([]byte, error) {
	b := fmt.Appendf(nil, "%s\nnext %d\n", stateFirst, seconds(s.Next))
	if s.Pending != nil {
		b = fmt.Appendf(b, "pending %d %s %s\n", seconds(s.Asked), s.Code, base64.StdEncoding.EncodeToString(s.Pending.Bytes()))
	}
	if s.Held != nil {
		b = fmt.Appendf(b, "held %d %d %s\n", s.Onset, seconds(s.Until), base64.StdEncoding.EncodeToString(s.Held.Bytes()))
	}
	if !s.PublishBy.IsZero() {
		b = fmt.Appendf(b, "publish_by %d\n", seconds(s.PublishBy))
	}
	if s.Keyring != nil {
		text, err := s.Keyring.Format()
		if err != nil {
			return nil, err
		}
		b = fmt.Appendf(b, "keyring %s\n", base64.StdEncoding.EncodeToString(text))
	}
	if n := s.Notices; n != nil {
		b = fmt.Appendf(b, "notices %d %d %s %s\n", n.Entry, seconds(n.Time), n.Origin, base64.StdEncoding.EncodeToString(n.text))
	}
	return b, nil
}

// ParseState reads what Bytes gave, and nothing else. The zero State is that of a phone
// that has just been installed.
func ParseState(text []byte) (State, error) {
	s, err := parseState(text)
	if err == nil {
		// Every value has one spelling.
		var again []byte
		if again, err = s.Bytes(); err == nil && string(again) != string(text) {
			err = errors.New("not in the form in which it is written")
		}
	}
	if err != nil {
		return State{}, fmt.Errorf("stored state of the phone: %w", err)
	}
	return s, nil
}

func parseState(text []byte) (s State, err error) {
	if len(text) > maxState {
		return s, fmt.Errorf("%d bytes, more than the %d allowed", len(text), maxState)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if lines[0] != stateFirst {
		return s, fmt.Errorf("want a first line %q", stateFirst)
	}
	for _, line := range lines[1:] {
		words := strings.Split(line, " ")
		if err := s.line(words[0], words[1:]); err != nil {
			return s, fmt.Errorf("line %q: %w", words[0], err)
		}
	}
	return s, nil
}

var errWords = errors.New("wrong number of words")

// line reads one line. What repeats, is missing or stands elsewhere shows when the State is
// written again.
func (s *State) line(name string, words []string) (err error) {
	want, known := map[string]int{"next": 1, "pending": 3, "held": 3, "publish_by": 1, "keyring": 1, "notices": 4}[name]
	if !known {
		return errors.New("unknown")
	}
	if len(words) != want {
		return errWords
	}
	var data []byte
	if last := words[want-1]; name == "pending" || name == "held" || name == "keyring" || name == "notices" {
		if data, err = base64.StdEncoding.DecodeString(last); err != nil {
			return errors.New("not base64") // the text itself stays out
		}
	}
	switch name {
	case "next":
		s.Next, err = readTime(words[0])
	case "pending":
		if s.Asked, err = readTime(words[0]); err != nil {
			return err
		}
		if s.Code, err = ParseCode(words[1]); err != nil {
			return err
		}
		s.Pending, err = permit.ParsePending(data)
	case "held":
		onset, err := strconv.ParseUint(words[0], 10, 32)
		if err != nil {
			return errors.New("not a day")
		}
		if s.Until, err = readTime(words[1]); err != nil {
			return err
		}
		s.Onset = uint32(onset)
		s.Held, err = permit.ParseHeld(data)
		return err
	case "publish_by":
		s.PublishBy, err = readTime(words[0])
	case "keyring":
		s.Keyring, err = seal.ParseKeyring(data)
	case "notices":
		entry, err := strconv.ParseUint(words[0], 10, 63)
		if err != nil || words[2] == "" {
			return errors.New("not an entry of a log")
		}
		at, err := readTime(words[1])
		if err != nil {
			return err
		}
		s.Notices, err = newNotices(words[2], entry, at, data)
		return err
	}
	return err
}

// seconds is a time as written; the zero time is 0.
func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func readTime(word string) (time.Time, error) {
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil || n < 0 || n > math.MaxUint32 {
		return time.Time{}, errors.New("not a time")
	}
	if n == 0 {
		return time.Time{}, nil
	}
	return time.Unix(n, 0).UTC(), nil
}

const redactedState = "[state of a phone]"

func (State) String() string             { return redactedState }
func (State) GoString() string           { return redactedState }
func (State) LogValue() slog.Value       { return slog.StringValue(redactedState) }
func (State) Format(f fmt.State, _ rune) { fmt.Fprint(f, redactedState) }

// MarshalText keeps JSON handlers and encoders from showing it, too.
func (State) MarshalText() ([]byte, error) { return []byte(redactedState), nil }
