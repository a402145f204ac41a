package permit

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"

	"bluekey/keystore/diagnosis"
)

// Redeem: header, code zero-filled to 16 bytes, blinded element, zeros.
const (
	atCode    = headerLen
	atBlinded = 32

	shortCode = 9  // digits
	longCode  = 16 // Crockford base 32
)

// Upload: header, nonce, e, output, records, zeros, signature. A record is the secret,
// start u32 in intervals since 1970, count u8, days since onset i8, transmission risk u8.
const (
	atNonce     = headerLen
	atE         = 48
	atOutput    = 80
	atRecords   = 144
	unsignedLen = RequestLen - ed25519.SignatureSize

	recordTail = 4 + 1 + 1 + 1
)

// maxKeys is the largest number of keys of one upload.
var maxKeys = [...]int{diagnosis.GAEN: 30, diagnosis.Bluezone: 16}

// Request is a *RedeemRequest or an *UploadRequest.
type Request interface {
	// Operation says which.
	Operation() Operation
	// IsCover reports whether the request carries nothing. It costs what a real one does.
	IsCover() bool
}

// RedeemRequest asks for a permit in exchange for a code.
type RedeemRequest struct {
	redacted
	Cover   bool
	Code    string // canonical: 9 digits, or 16 characters of Crockford's alphabet in upper case
	Blinded [ElementLen]byte
}

// Operation is OpRedeem.
func (*RedeemRequest) Operation() Operation { return OpRedeem }

// IsCover reports whether the request carries nothing.
func (r *RedeemRequest) IsCover() bool { return r.Cover }

func (r *RedeemRequest) check() error {
	alphabet := "0123456789"
	switch len(r.Code) {
	case longCode:
		alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	case shortCode:
	default:
		return errors.New("a code has 9 or 16 characters")
	}
	if strings.Trim(r.Code, alphabet) != "" {
		return errors.New("a code is not in its canonical form")
	}
	return nil
}

// Encode gives the RequestLen bytes of the request. It refuses what DecodeRequest would.
func (r *RedeemRequest) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("redeem request: %w", err)
	}
	return r.encode(), nil
}

func (r *RedeemRequest) encode() []byte {
	b := header(RequestLen, OpRedeem)[:RequestLen]
	b[atCover] = flag(r.Cover)
	b[atCodeLen] = byte(len(r.Code))
	copy(b[atCode:], r.Code)
	copy(b[atBlinded:], r.Blinded[:])
	return b
}

// UploadRequest hands in keys under a permit. Held.Upload and CoverUpload make one;
// DecodeRequest reads it.
type UploadRequest struct {
	redacted
	Cover  bool
	Scheme diagnosis.Scheme
	Permit Permit
	Keys   []diagnosis.Key // ascending by start and secret, none twice; of the permit's report type

	unsigned  [unsignedLen]byte // as received
	signature [ed25519.SignatureSize]byte
}

// Operation is OpUpload.
func (*UploadRequest) Operation() Operation { return OpUpload }

// IsCover reports whether the request carries nothing.
func (u *UploadRequest) IsCover() bool { return u.Cover }

// recordError is a problem of one record, counted from 1.
type recordError struct {
	record int
	err    error
}

func (e *recordError) Error() string { return fmt.Sprintf("record %d: %v", e.record, e.err) }
func (e *recordError) Unwrap() error { return e.err }

func (u *UploadRequest) check() error {
	if !u.Permit.Report.Issuable() {
		return fmt.Errorf("no permit has report type %d", u.Permit.Report)
	}
	if !u.Scheme.Valid() {
		return fmt.Errorf("unknown scheme %d", u.Scheme)
	}
	if n := len(u.Keys); n < 1 || n > maxKeys[u.Scheme] {
		return fmt.Errorf("%d keys, want 1 to %d", n, maxKeys[u.Scheme])
	}
	for i := range u.Keys {
		k := &u.Keys[i]
		err := k.Check()
		switch {
		case err != nil:
		case k.Scheme != u.Scheme:
			err = errors.New("of another scheme")
		case k.Onset == diagnosis.OnsetUnknown:
			err = errors.New("without days since onset")
		case i > 0 && compare(u.Keys[i-1], *k) >= 0:
			err = errors.New("not after the record before it")
		}
		if err != nil {
			return &recordError{i + 1, err}
		}
	}
	return nil
}

// compare orders records, so that a set of keys has one spelling.
func compare(a, b diagnosis.Key) int {
	return cmp.Or(cmp.Compare(a.Start, b.Start), bytes.Compare(a.Secret[:], b.Secret[:]))
}

func sorted(keys []diagnosis.Key) []diagnosis.Key {
	return slices.SortedFunc(slices.Values(keys), compare)
}

// encode gives the unsignedLen bytes before the signature, with room for it.
func (u *UploadRequest) encode() []byte {
	b := header(RequestLen, OpUpload)
	b[atCover] = flag(u.Cover)
	b[atScheme] = byte(u.Scheme)
	b[atCount] = byte(len(u.Keys))
	b[atReport] = byte(u.Permit.Report)
	putU32(b[atEpoch:], u.Permit.Epoch)
	b = append(b, u.Permit.Nonce[:]...)
	b = append(b, u.Permit.E[:]...)
	b = append(b, u.Permit.Output[:]...)
	for i := range u.Keys {
		k := &u.Keys[i]
		b = append(b, k.Bytes()...)
		b = appendU32(b, uint32(k.Start))
		b = append(b, k.Count, byte(k.Onset), k.Risk)
	}
	return b[:unsignedLen]
}

func flag(cover bool) byte {
	if cover {
		return 1
	}
	return 0
}

// Malformed means that a request breaks a rule of the layout.
type Malformed struct {
	Operation Operation // 0 if not even that could be read
	Record    int       // record at fault, from 1; 0 if none is
	problem   error
}

func (m *Malformed) Error() string { return fmt.Sprintf("%v request: %v", m.Operation, m.problem) }
func (m *Malformed) Unwrap() error { return m.problem }

// Refusal is the reply that a malformed request gets.
func (m *Malformed) Refusal() Refusal {
	return Refusal{Operation: m.Operation, Reason: ReasonMalformed, Record: m.Record}
}

var (
	errFilling = errors.New("a byte that must be zero is not, or a value has a second spelling")
	errHeader  = fmt.Errorf("want version %d, a known operation and %d bytes", version, RequestLen)
)

// DecodeRequest reads a request. Each value has one spelling: what is accepted is what
// encoding it again gives, byte for byte. Keys have a valid shape afterwards; their age and
// overlap, the code and the permit are others' business. The error is a *Malformed.
func DecodeRequest(b []byte) (Request, error) {
	if len(b) != RequestLen || b[atVersion] != version || !Operation(b[atOperation]).valid() {
		return nil, &Malformed{problem: errHeader}
	}
	var r Request
	var err error
	if Operation(b[atOperation]) == OpRedeem {
		r, err = decodeRedeem(b)
	} else {
		r, err = decodeUpload(b)
	}
	if err != nil {
		m := &Malformed{Operation: Operation(b[atOperation]), problem: err}
		if rec := (*recordError)(nil); errors.As(err, &rec) {
			m.Record = rec.record
		}
		return nil, m
	}
	return r, nil
}

func decodeRedeem(b []byte) (*RedeemRequest, error) {
	n := b[atCodeLen]
	if n > longCode {
		return nil, errors.New("a code has 9 or 16 characters")
	}
	r := &RedeemRequest{
		Cover:   b[atCover] == 1,
		Code:    string(b[atCode : atCode+int(n)]),
		Blinded: [ElementLen]byte(b[atBlinded:]),
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	if !bytes.Equal(r.encode(), b) {
		return nil, errFilling
	}
	return r, nil
}

func decodeUpload(b []byte) (*UploadRequest, error) {
	u := &UploadRequest{
		Cover:  b[atCover] == 1,
		Scheme: diagnosis.Scheme(b[atScheme]),
		Permit: Permit{
			Info:   Info{Report: diagnosis.ReportType(b[atReport]), Epoch: readU32(b[atEpoch:])},
			Nonce:  [NonceLen]byte(b[atNonce:]),
			E:      [32]byte(b[atE:]),
			Output: [OutputLen]byte(b[atOutput:]),
		},
		unsigned:  [unsignedLen]byte(b),
		signature: [ed25519.SignatureSize]byte(b[unsignedLen:]),
	}
	if !u.Scheme.Valid() {
		return nil, fmt.Errorf("unknown scheme %d", u.Scheme)
	}
	// More records than the limit are read no further than that check needs.
	for i := range min(int(b[atCount]), maxKeys[u.Scheme]+1) {
		size := u.Scheme.SecretLen() + recordTail
		rec := b[atRecords+i*size:][:size]
		tail := rec[u.Scheme.SecretLen():]
		k := diagnosis.Key{
			Scheme: u.Scheme,
			Start:  diagnosis.Interval(readU32(tail)),
			Count:  tail[4],
			Report: u.Permit.Report,
			Onset:  diagnosis.DaysSinceOnset(tail[5]),
			Risk:   tail[6],
		}
		copy(k.Secret[:], rec[:len(rec)-recordTail])
		u.Keys = append(u.Keys, k)
	}
	if err := u.check(); err != nil {
		return nil, err
	}
	if !bytes.Equal(u.encode(), b[:unsignedLen]) {
		return nil, errFilling
	}
	return u, nil
}
