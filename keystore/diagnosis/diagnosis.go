// Package diagnosis holds the diagnosis key: what a confirmed case hands over so that
// other phones can recognise the IDs its phone has broadcast.
//
// One Key type serves two schemes. A scheme is a row of a table: how long its secret is,
// how long an interval lasts, and how a secret expands into IDs.
//
//	GAEN      16-byte temporary exposure key, 10-minute intervals counted from the epoch,
//	          AES-128 (Exposure Notification, Cryptography Specification v1.2)
//	Bluezone  32-byte day seed S[d][start], 15-minute intervals counted from the epoch,
//	          a SHA-256 chain that ends with its UTC day
//
// The package imports the standard library only, and its derivations are the plain
// reference that every faster one is compared with. It never holds a Bluezone daily key
// beyond the call that turns it into a day seed: who knows a daily key knows every later
// day of that phone.
//
// A Key prints redacted. Its secret leaves only through Bytes and Expand.
package diagnosis

import (
	"fmt"
	"log/slog"
	"time"
)

// Scheme says which of the two ID schemes a key belongs to. The zero Scheme is none.
// The numbers are stored, sent and published: they never change.
type Scheme uint8

const (
	GAEN     Scheme = 1
	Bluezone Scheme = 2
)

// Schemes lists every scheme, in the order in which they are published.
var Schemes = [...]Scheme{GAEN, Bluezone}

// Sizes that hold for every scheme.
const (
	MaxSecretLen = 32  // bytes, Bluezone's
	MaxIDLen     = 16  // bytes, GAEN's
	MaxCount     = 144 // intervals of one key, GAEN's
)

// scheme is one row of the table.
type scheme struct {
	name      string
	secretLen int
	idLen     int
	interval  int64 // seconds
	maxCount  int
	wholeDays bool // a key lasts to the end of the UTC day it starts in
	expand    func(dst []byte, k *Key) []byte
}

var table = [...]scheme{
	GAEN:     {name: "gaen", secretLen: 16, idLen: 16, interval: 600, maxCount: 144, expand: expandGAEN},
	Bluezone: {name: "bluezone", secretLen: 32, idLen: 12, interval: 900, maxCount: 96, wholeDays: true, expand: expandBluezone},
}

// Valid reports whether s is a scheme of the table.
func (s Scheme) Valid() bool { return s > 0 && int(s) < len(table) }

// String is the scheme's name as commands, files and the log spell it.
func (s Scheme) String() string {
	if !s.Valid() {
		return fmt.Sprintf("scheme(%d)", uint8(s))
	}
	return table[s].name
}

// ParseScheme is the inverse of String.
func ParseScheme(name string) (Scheme, error) {
	for _, s := range Schemes {
		if table[s].name == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("unknown scheme %q: want gaen or bluezone", name)
}

// SecretLen is the length of a secret in bytes.
func (s Scheme) SecretLen() int { return table[s].secretLen }

// IDLen is the length of a broadcast ID in bytes.
func (s Scheme) IDLen() int { return table[s].idLen }

// IntervalSeconds is the length of one interval.
func (s Scheme) IntervalSeconds() int64 { return table[s].interval }

// PerDay is the number of intervals of a UTC day.
func (s Scheme) PerDay() Interval { return Interval(86400 / table[s].interval) }

// MaxCount is the largest number of intervals of one key.
func (s Scheme) MaxCount() int { return table[s].maxCount }

// Interval numbers the intervals of a scheme since the Unix epoch.
type Interval uint32

// IntervalAt is the interval of s that holds t. Times before the epoch give 0.
func (s Scheme) IntervalAt(t time.Time) Interval {
	return Interval(max(0, t.Unix()) / table[s].interval)
}

// Time is the start of interval i in scheme s, in UTC.
func (s Scheme) Time(i Interval) time.Time {
	return time.Unix(int64(i)*table[s].interval, 0).UTC()
}

// Day is the UTC day, counted from the epoch, in which interval i of s starts.
func (s Scheme) Day(i Interval) uint32 { return uint32(i / s.PerDay()) }

// ReportType says what a diagnosis rests on. The numbers are those of the GAEN export
// format, TemporaryExposureKey.report_type.
type ReportType uint8

const (
	ReportUnknown     ReportType = 0
	ConfirmedTest     ReportType = 1
	ConfirmedClinical ReportType = 2
	SelfReport        ReportType = 3
	Recursive         ReportType = 4
	Revoked           ReportType = 5
)

var reportNames = [...]string{"unknown", "confirmed-test", "clinical", "self-report", "recursive", "revoked"}

// String is the name that commands and pages use.
func (r ReportType) String() string {
	if int(r) >= len(reportNames) {
		return fmt.Sprintf("report(%d)", uint8(r))
	}
	return reportNames[r]
}

// Issuable reports whether staff may issue a code of this type.
func (r ReportType) Issuable() bool { return r >= ConfirmedTest && r <= SelfReport }

// ParseReportType reads the name of a type that staff may issue.
func ParseReportType(name string) (ReportType, error) {
	for r := ConfirmedTest; r <= SelfReport; r++ {
		if reportNames[r] == name {
			return r, nil
		}
	}
	return 0, fmt.Errorf("unknown report type %q: want confirmed-test, clinical or self-report", name)
}

// DaysSinceOnset counts from the day symptoms began to the day the key was in use;
// negative before the onset.
type DaysSinceOnset int8

const (
	// OnsetUnknown stands for a key that names no onset, as archives of other servers may.
	OnsetUnknown DaysSinceOnset = -128
	// MaxOnset bounds a known value on both sides (GAEN reference server, 14 days).
	MaxOnset DaysSinceOnset = 14
)

// MaxRisk is the largest transmission risk level (GAEN, TemporaryExposureKey).
const MaxRisk = 8

// Secret is the secret of a key: its first SecretLen bytes, the rest zero. It prints
// redacted.
type Secret [MaxSecretLen]byte

func (Secret) String() string       { return "[secret]" }
func (Secret) GoString() string     { return "[secret]" }
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// Format keeps every verb, %x and %d included, from showing the bytes.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[secret]") }

// Key is one diagnosis key. A Key made by New or Parse has a valid shape; age and overlap
// are the store's business.
type Key struct {
	Secret Secret
	Start  Interval // first interval in which its IDs were broadcast
	Scheme Scheme
	Count  uint8 // intervals it was valid for
	Report ReportType
	Onset  DaysSinceOnset
	Risk   uint8 // transmission risk level, 0 to MaxRisk
}

// ShapeError names the field of a key that cannot be right in any situation.
type ShapeError struct {
	Field   string // key, start, count, report, onset, risk or scheme
	Problem string
}

func (e *ShapeError) Error() string { return "diagnosis key: " + e.Field + ": " + e.Problem }

// New makes a key and checks its shape. The error is a *ShapeError.
func New(s Scheme, secret []byte, start Interval, count int) (Key, error) {
	if !s.Valid() {
		return Key{}, &ShapeError{"scheme", "unknown"}
	}
	if len(secret) != s.SecretLen() {
		return Key{}, &ShapeError{"key", fmt.Sprintf("%d bytes, want %d", len(secret), s.SecretLen())}
	}
	k := Key{Scheme: s, Start: start}
	copy(k.Secret[:], secret)
	if count < 1 || count > s.MaxCount() {
		return Key{}, &ShapeError{"count", fmt.Sprintf("%d, want 1 to %d", count, s.MaxCount())}
	}
	k.Count = uint8(count)
	return k, k.Check()
}

// Check verifies the shape of k. The error is a *ShapeError.
func (k *Key) Check() error {
	if !k.Scheme.Valid() {
		return &ShapeError{"scheme", "unknown"}
	}
	row := &table[k.Scheme]
	for _, b := range k.Secret[row.secretLen:] {
		if b != 0 {
			return &ShapeError{"key", "longer than the scheme's secret"}
		}
	}
	if k.Count < 1 || int(k.Count) > row.maxCount {
		return &ShapeError{"count", fmt.Sprintf("%d, want 1 to %d", k.Count, row.maxCount)}
	}
	if uint64(k.Start)+uint64(k.Count) > 1<<32-1 {
		return &ShapeError{"start", "beyond the last interval"}
	}
	if row.wholeDays {
		if left := k.Scheme.PerDay() - k.Start%k.Scheme.PerDay(); Interval(k.Count) != left {
			return &ShapeError{"count", fmt.Sprintf("%d, want %d: the day's remaining intervals", k.Count, left)}
		}
	}
	if k.Report > Revoked {
		return &ShapeError{"report", "unknown report type"}
	}
	if k.Onset != OnsetUnknown && (k.Onset < -MaxOnset || k.Onset > MaxOnset) {
		return &ShapeError{"onset", fmt.Sprintf("%d days, want -%d to %d", k.Onset, MaxOnset, MaxOnset)}
	}
	if k.Risk > MaxRisk {
		return &ShapeError{"risk", fmt.Sprintf("%d, want 0 to %d", k.Risk, MaxRisk)}
	}
	return nil
}

// Bytes is the secret without its filling. It shares k's memory.
func (k *Key) Bytes() []byte { return k.Secret[:k.Scheme.SecretLen()] }

// End is the first interval after the key's validity.
func (k *Key) End() Interval { return k.Start + Interval(k.Count) }

// EndTime is the instant at which the key's validity ends, in UTC.
func (k *Key) EndTime() time.Time { return k.Scheme.Time(k.End()) }

// Expand appends the key's IDs to dst, IDLen bytes each, that of Start first.
func (k *Key) Expand(dst []byte) []byte { return table[k.Scheme].expand(dst, k) }

// OnsetOn is the days since onset of k for an onset on the UTC day onsetDay (counted from
// the epoch), held within ±MaxOnset.
func (k *Key) OnsetOn(onsetDay uint32) DaysSinceOnset {
	d := int64(k.Scheme.Day(k.Start)) - int64(onsetDay)
	return DaysSinceOnset(min(max(d, -int64(MaxOnset)), int64(MaxOnset)))
}

func (k Key) String() string       { return k.Scheme.String() + " key [secret]" }
func (k Key) GoString() string     { return k.String() }
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// Format keeps every verb from showing the secret.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.String()) }
