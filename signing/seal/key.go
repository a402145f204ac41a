package seal

import (
	"crypto/hpke"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// SeedLen is the length of the seed of a sealing key in bytes.
const SeedLen = 32

const (
	day      = 24 * time.Hour
	slack    = time.Hour // clocks of phones differ
	lifetime = 48 * time.Hour
)

// DayAt is the UTC day of t, counted from the Unix epoch. Times before 1970 give 0.
func DayAt(t time.Time) uint32 { return uint32(max(0, t.Unix()) / 86400) }

func dayStart(d uint32) time.Time { return time.Unix(int64(d)*86400, 0).UTC() }

// AnnounceBy is the latest time at which the log may record a keyring that has the first
// keys of day d: 24 hours before the first of them can be used, which for a sealing key is
// an hour before its day.
func AnnounceBy(d uint32) time.Time { return dayStart(d).Add(-slack - day) }

// PrivateKey is the sealing key of one day. Goroutines may share it. It prints redacted.
type PrivateKey struct {
	redacted
	origin string
	day    uint32
	public *PublicKey
	key    hpke.PrivateKey
}

// NewPrivateKey draws the sealing key of an origin for the UTC day d. It derives from
// nothing else that is kept, so that destroying it destroys it.
func NewPrivateKey(origin string, d uint32) (*PrivateKey, error) {
	var seed [SeedLen]byte
	rand.Read(seed[:])
	defer Wipe(seed[:])
	return LoadPrivateKey(origin, d, seed[:])
}

// LoadPrivateKey makes a sealing key of the seed that Seed gave. It keeps a copy; the
// caller wipes its own.
func LoadPrivateKey(origin string, d uint32, seed []byte) (*PrivateKey, error) {
	if len(seed) != SeedLen {
		return nil, fmt.Errorf("seed of a sealing key has %d bytes, want %d", len(seed), SeedLen)
	}
	key, err := kem.NewPrivateKey(seed)
	if err != nil {
		return nil, fmt.Errorf("sealing key of day %d: %w", d, err)
	}
	public, err := ParsePublicKey(origin, key.PublicKey().Bytes())
	if err != nil {
		return nil, err
	}
	return &PrivateKey{origin: origin, day: d, public: public, key: key}, nil
}

// Day is the UTC day that the key is for, counted from the Unix epoch.
func (k *PrivateKey) Day() uint32 { return k.day }

// Public is the public half.
func (k *PrivateKey) Public() *PublicKey { return k.public }

// Seed is a copy of the secret that the key derives from, to be kept where no backup
// reaches, and overwritten when the key is destroyed. It is taken before the key goes on a
// ring, which may destroy it at any time.
func (k *PrivateKey) Seed() ([]byte, error) {
	own, err := k.key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("seed of a sealing key: %w", err)
	}
	return append([]byte(nil), own...), nil
}

// Accepts reports whether requests to the key are opened at the time t: on its day and an
// hour either side.
func (k *PrivateKey) Accepts(t time.Time) bool {
	start := dayStart(k.day)
	return !t.Before(start.Add(-slack)) && t.Before(start.Add(day+slack))
}

// DestroyBy is when the key must be gone: 48 hours after its day began.
func (k *PrivateKey) DestroyBy() time.Time { return dayStart(k.day).Add(lifetime) }

// ErrSealed means that a request cannot be opened: it was altered, or not sealed to the
// key it names. Its sender gets NoReply.
var ErrSealed = errors.New("the request does not open")

// open opens a request of RequestLen bytes that names this key.
func (k *PrivateKey) open(request []byte) (*Opened, error) {
	enc, ciphertext := request[keyIDLen:keyIDLen+encLen], request[keyIDLen+encLen:]
	recipient, err := hpke.NewRecipient(enc, k.key, kdf, aead, info(k.origin, k.public.id))
	if err != nil {
		return nil, ErrSealed
	}
	plain, err := recipient.Open(nil, ciphertext)
	if err != nil {
		return nil, ErrSealed
	}
	// Exported only now: a context exists for altered requests, too.
	secret, err := recipient.Export(labelReply, 32)
	if err != nil {
		return nil, fmt.Errorf("opening a request: %w", err)
	}
	return &Opened{replyKeys{secret: secret, enc: append([]byte(nil), enc...)}, plain}, nil
}

// destroy overwrites the seed. What was expanded from it is beyond reach and goes with the
// garbage; it is never written anywhere.
func (k *PrivateKey) destroy() {
	if own, err := k.key.Bytes(); err == nil {
		Wipe(own) // the slice is the key's own
	}
}

// Wipe overwrites a secret with zeros.
func Wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(b)
}

// checkName takes what may stand in labels and on a line of the keyring.
func checkName(s string) error {
	bad := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }
	if s == "" || len(s) > 255 || !utf8.ValidString(s) || strings.ContainsFunc(s, bad) {
		return fmt.Errorf("%.300q: want 1 to 255 bytes of UTF-8 without space and control characters", s)
	}
	return nil
}

// redacted keeps the values it is embedded in out of every print and log.
type redacted struct{}

func (redacted) String() string               { return "[redacted]" }
func (redacted) GoString() string             { return "[redacted]" }
func (redacted) LogValue() slog.Value         { return slog.StringValue("[redacted]") }
func (redacted) Format(f fmt.State, _ rune)   { fmt.Fprint(f, "[redacted]") }
func (redacted) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }
