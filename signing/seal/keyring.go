package seal

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxKeyring is the size in bytes beyond which a keyring is not read: several weeks of keys.
const MaxKeyring = 64 << 10

const keyringFirst = "bluekey keyring v1"

// Keyring is the file /keyring: the public keys of the service for the days around now.
// The log records its digest 24 hours before a key is used, so every phone and every
// auditor has the same.
type Keyring struct {
	Origin, Region string
	Permits        []PermitKey // ascending by day, one a day
	Seals          []SealKey   // ascending by day, one a day
}

// PermitKey is the public key of an epoch of permits.
type PermitKey struct {
	Day uint32 // UTC day, counted from the Unix epoch
	Key [32]byte
}

// SealKey is the public sealing key of a day.
type SealKey struct {
	Day uint32
	Key [PublicLen]byte
}

func (k PermitKey) day() uint32   { return k.Day }
func (k PermitKey) bytes() []byte { return k.Key[:] }
func (k SealKey) day() uint32     { return k.Day }
func (k SealKey) bytes() []byte   { return k.Key[:] }

// dated is what the two kinds of keys have in common.
type dated interface {
	comparable
	day() uint32
	bytes() []byte
}

// Format gives the text of the keyring. It refuses what ParseKeyring would.
func (k *Keyring) Format() ([]byte, error) {
	if err := k.check(); err != nil {
		return nil, fmt.Errorf("formatting a keyring: %w", err)
	}
	b := fmt.Appendf(nil, "%s\norigin %s\nregion %s\n", keyringFirst, k.Origin, k.Region)
	b = appendKeys(b, "permit", k.Permits)
	b = appendKeys(b, "seal", k.Seals)
	if len(b) > MaxKeyring {
		return nil, fmt.Errorf("formatting a keyring: %d bytes, more than the %d allowed", len(b), MaxKeyring)
	}
	return b, nil
}

func appendKeys[K dated](b []byte, kind string, keys []K) []byte {
	for _, k := range keys {
		b = fmt.Appendf(b, "%s %d ", kind, k.day())
		b = append(base64.StdEncoding.AppendEncode(b, k.bytes()), '\n')
	}
	return b
}

func (k *Keyring) check() error {
	if err := checkName(k.Origin); err != nil {
		return fmt.Errorf("origin: %w", err)
	}
	if err := checkName(k.Region); err != nil {
		return fmt.Errorf("region: %w", err)
	}
	if err := checkDays("permit", k.Permits); err != nil {
		return err
	}
	if err := checkDays("seal", k.Seals); err != nil {
		return err
	}
	for _, s := range k.Seals {
		if _, err := ParsePublicKey(k.Origin, s.Key[:]); err != nil {
			return fmt.Errorf("day %d: %w", s.Day, err)
		}
	}
	return nil
}

func checkDays[K dated](kind string, keys []K) error {
	if len(keys) == 0 {
		return fmt.Errorf("no %s key", kind)
	}
	for i := 1; i < len(keys); i++ {
		if keys[i-1].day() >= keys[i].day() {
			return fmt.Errorf("%s key of day %d after that of day %d", kind, keys[i].day(), keys[i-1].day())
		}
	}
	return nil
}

// ParseKeyring reads a keyring in the one form that Format writes.
func ParseKeyring(text []byte) (*Keyring, error) {
	k, err := parseKeyring(text)
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	return k, nil
}

func parseKeyring(text []byte) (*Keyring, error) {
	if len(text) > MaxKeyring {
		return nil, fmt.Errorf("%d bytes, more than the %d allowed", len(text), MaxKeyring)
	}
	body, ok := strings.CutSuffix(string(text), "\n")
	lines := strings.Split(body, "\n")
	if !ok || len(lines) < 3 || lines[0] != keyringFirst {
		return nil, fmt.Errorf("want lines that end in LF, the first %q", keyringFirst)
	}
	k := new(Keyring)
	var okOrigin, okRegion bool
	k.Origin, okOrigin = strings.CutPrefix(lines[1], "origin ")
	k.Region, okRegion = strings.CutPrefix(lines[2], "region ")
	if !okOrigin || !okRegion {
		return nil, errors.New("want the lines origin and region")
	}
	for _, line := range lines[3:] {
		kind, rest, _ := strings.Cut(line, " ")
		switch {
		case kind == "permit" && len(k.Seals) == 0:
			var p PermitKey
			if err := parseKey(rest, &p.Day, p.Key[:]); err != nil {
				return nil, fmt.Errorf("permit key: %w", err)
			}
			k.Permits = append(k.Permits, p)
		case kind == "seal":
			var s SealKey
			if err := parseKey(rest, &s.Day, s.Key[:]); err != nil {
				return nil, fmt.Errorf("sealing key: %w", err)
			}
			k.Seals = append(k.Seals, s)
		default:
			return nil, fmt.Errorf("unexpected line %.40q", line)
		}
	}
	if err := k.check(); err != nil {
		return nil, err
	}
	return k, nil
}

// parseKey reads the day and the key of a line into what is to hold them.
func parseKey(rest string, day *uint32, key []byte) error {
	number, b64, _ := strings.Cut(rest, " ")
	d, err := strconv.ParseUint(number, 10, 32)
	if err != nil || strconv.FormatUint(d, 10) != number {
		return fmt.Errorf("day %.20q: want a decimal number without leading zeros", number)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(b64)
	// The decoder skips CR, which a line can hold.
	if err != nil || len(raw) != len(key) || strings.Contains(b64, "\r") {
		return fmt.Errorf("day %d: want %d bytes in canonical base64", d, len(key))
	}
	*day = uint32(d)
	copy(key, raw)
	return nil
}

// Permit gives the key of an epoch of permits.
func (k *Keyring) Permit(day uint32) (key [32]byte, ok bool) {
	for _, p := range k.Permits {
		if p.Day == day {
			return p.Key, true
		}
	}
	return key, false
}

// Seal gives the key that seals requests on a day.
func (k *Keyring) Seal(day uint32) (*PublicKey, error) {
	for _, s := range k.Seals {
		if s.Day == day {
			return ParsePublicKey(k.Origin, s.Key[:])
		}
	}
	return nil, fmt.Errorf("the keyring has no sealing key for day %d", day)
}

// Contradicts reports, as an error, that two keyrings of a service have different keys for
// one day. Phones that were given them can be told apart; it is never an accident.
func (k *Keyring) Contradicts(other *Keyring) error {
	if k.Origin != other.Origin || k.Region != other.Region {
		return fmt.Errorf("keyrings of %s %s and %s %s", k.Origin, k.Region, other.Origin, other.Region)
	}
	if d, ok := twice(k.Permits, other.Permits); ok {
		return fmt.Errorf("two permit keys for day %d", d)
	}
	if d, ok := twice(k.Seals, other.Seals); ok {
		return fmt.Errorf("two sealing keys for day %d", d)
	}
	return nil
}

func twice[K dated](a, b []K) (day uint32, found bool) {
	for _, x := range a {
		for _, y := range b {
			if x.day() == y.day() && x != y {
				return x.day(), true
			}
		}
	}
	return 0, false
}
