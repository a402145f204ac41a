// Package permit holds what stands between a code and an upload: the permit, which a phone
// buys with the code that staff gave it and spends, later, with the keys of its owner. The
// service recognises a permit as its own and cannot tell which code bought it.
//
//	phone                                   service
//	e, nonce := random
//	blinded  := blind(H(e, nonce))   ────>  the code is good: evaluate under the key of the day
//	output   := unblind, verify      <────  evaluated element, proof
//	            ... hours later ...
//	e, nonce, output, keys, sig_e    ────>  output is that of H(e, nonce), e signed: accept
//
// The blinded element is uniformly random whatever e and nonce are, so what the service saw
// on the first arrow fits every permit it sees on the second. What they do share is the
// public info that goes into the evaluation: origin, region, report type and epoch (a UTC
// day). It comes from a closed list, one day's types at a time, because every further
// value would divide the crowd that a permit hides in. The proof ties the evaluation to
// the one published key of that day; a key for one phone alone would be a mark on it.
//
// A permit is bound to e, an Ed25519 key that the phone made for this case: whoever copies
// nonce and output can do nothing with them, and e can add keys that come late.
//
// The function is the POPRF of RFC 9497 over ristretto255 with SHA-512 (circl). Requests
// and replies are texts of fixed size, 1,024 and 512 bytes, in which every byte has one
// meaning and every value one spelling; package seal carries them. The package has no
// clock, no network and no memory of what was spent, and its types print redacted.
package permit

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cloudflare/circl/oprf"

	"bluekey/keystore/diagnosis"
)

// What goes into hashes and signatures begins with one of these, so that nothing made for
// one purpose serves another.
const (
	labelInfo   = "bluekey/v1 permit\n"
	labelKey    = "bluekey/v1 permit key\n"
	labelInput  = "bluekey/v1 permit input\n"
	labelSpent  = "bluekey/v1 permit spent\n"
	labelUpload = "bluekey/v1 upload\n"
)

// Lengths in bytes of what is sent (RFC 9497, ristretto255-SHA512).
const (
	ElementLen   = 32 // a blinded or evaluated element, a public key
	ProofLen     = 64
	OutputLen    = 64
	NonceLen     = 32
	PublicKeyLen = ElementLen
)

var suite = oprf.SuiteRistretto255

// Service is whose permits these are. Origin and region are never sent: both sides put
// their own into every label, so a permit of another service fails as a wrong one.
type Service struct{ origin, region string }

// NewService names a service by the origin of its log and its region. Either is one word
// of 1 to 255 bytes of UTF-8 without white space and control characters.
func NewService(origin, region string) (Service, error) {
	for _, name := range []string{origin, region} {
		bad := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }
		if name == "" || len(name) > 255 || !utf8.ValidString(name) || strings.ContainsFunc(name, bad) {
			return Service{}, fmt.Errorf("origin or region %q: want 1 to 255 bytes of UTF-8 without space and control characters", name)
		}
	}
	return Service{origin, region}, nil
}

// Info is the public info of a permit, beside origin and region.
type Info struct {
	Report diagnosis.ReportType // one that staff may issue
	Epoch  uint32               // UTC day of the Redeem, counted from the Unix epoch
}

// EpochAt is the epoch that t falls into: its UTC day. Times before 1970 give 0.
func EpochAt(t time.Time) uint32 { return uint32(max(0, t.Unix()) / 86400) }

// How long a permit is good for, in days after its epoch.
const (
	firstUseDays = 2
	lateDays     = 4
)

// FirstUse reports whether a permit of this epoch that was never seen may still be used
// on the day today: until two days after its epoch.
func FirstUse(epoch, today uint32) bool { return within(epoch, today, firstUseDays) }

// LateUse reports whether the e of a permit of this epoch may still add keys on the day
// today: until four days after its epoch.
func LateUse(epoch, today uint32) bool { return within(epoch, today, lateDays) }

func within(epoch, today, days uint32) bool { return epoch <= today && today-epoch <= days }

// bytes is the public info as the POPRF takes it.
func (s Service) bytes(i Info) []byte {
	return fmt.Appendf(nil, "%s%s\n%s\n%d\n%d\n", labelInfo, s.origin, s.region, i.Report, i.Epoch)
}

// keyInfo separates the keys that derive from one seed.
func (s Service) keyInfo(epoch uint32) []byte {
	return fmt.Appendf(nil, "%s%s\n%s\n%d\n", labelKey, s.origin, s.region, epoch)
}

// Permit is the authorisation of one case.
type Permit struct {
	redacted
	Info
	E      [32]byte // the Ed25519 public key that the permit is bound to
	Nonce  [NonceLen]byte
	Output [OutputLen]byte
}

// Spent is the name under which a used permit is remembered, with its E. It derives from
// the output alone, which nobody but the phone knows before the permit is used.
func (p *Permit) Spent() [32]byte {
	return sha256.Sum256(append([]byte(labelSpent), p.Output[:]...))
}

// input is what the POPRF evaluates: it commits to e and to nothing that the service knows.
func input(e [32]byte, nonce [NonceLen]byte) []byte {
	b := append([]byte(labelInput), e[:]...)
	h := sha512.Sum512(append(b, nonce[:]...))
	return h[:32]
}

// signed is what E signs: the permit it stands for, under the names of the service, and
// everything of the request before the signature.
func (s Service) signed(p *Permit, unsigned []byte) []byte {
	info, spent := s.bytes(p.Info), p.Spent()
	b := make([]byte, 0, len(labelUpload)+2+len(info)+len(spent)+len(unsigned))
	b = append(b, labelUpload...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(info)))
	b = append(append(b, info...), spent[:]...)
	return append(b, unsigned...)
}

// parsePublic reads the public key of an epoch. It refuses the identity and every encoding
// but the canonical one.
func parsePublic(b [PublicKeyLen]byte) (*oprf.PublicKey, error) {
	pub := new(oprf.PublicKey)
	if err := pub.UnmarshalBinary(suite, b[:]); err != nil {
		return nil, fmt.Errorf("public key of an epoch: %w", err)
	}
	return pub, nil
}

// CheckPublicKey reports whether b can be the public key of an epoch.
func CheckPublicKey(b [PublicKeyLen]byte) error {
	_, err := parsePublic(b)
	return err
}

// CheckElement reports, as ErrElement, that b cannot be evaluated. Evaluate checks it too; this
// is for who must know before a code is spent on it.
func CheckElement(b [ElementLen]byte) error {
	if _, err := parsePublic(b); err != nil {
		return ErrElement
	}
	return nil
}

// ErrElement means that the 32 bytes of a blinded element are not the canonical form of a
// group element, or are that of the identity, whose evaluation would say nothing about the
// input.
var ErrElement = errors.New("not a blinded element")

// redacted keeps the values it is embedded in out of every print and log: codes, permits
// and keys have no business there.
type redacted struct{}

func (redacted) String() string             { return "[redacted]" }
func (redacted) GoString() string           { return "[redacted]" }
func (redacted) LogValue() slog.Value       { return slog.StringValue("[redacted]") }
func (redacted) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[redacted]") }

// MarshalText keeps JSON handlers and encoders from showing them, too.
func (redacted) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }
