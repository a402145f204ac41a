package signing

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
)

// Kind is the algorithm byte of a key that signs checkpoints (C2SP signed-note,
// tlog-cosignature).
type Kind byte

const (
	// Ed25519Log signs the text of the checkpoint and carries no time.
	Ed25519Log Kind = 0x01
	// Ed25519Cosignature signs the text of the checkpoint and a time.
	Ed25519Cosignature Kind = 0x04
	// MLDSA44Cosignature signs origin, size, root, time and the signer's own name. It is
	// what keeps a checkpoint from being forged with a quantum computer.
	MLDSA44Cosignature Kind = 0x06
)

// String is the kind as specifications write it, with the algorithm.
func (k Kind) String() string {
	switch k {
	case Ed25519Log:
		return "0x01 (Ed25519)"
	case Ed25519Cosignature:
		return "0x04 (Ed25519 cosignature)"
	case MLDSA44Cosignature:
		return "0x06 (ML-DSA-44 cosignature)"
	}
	return fmt.Sprintf("%#02x", byte(k))
}

// publicLen is the length of a public key of kind k in bytes, 0 for unknown kinds.
func (k Kind) publicLen() int {
	switch k {
	case Ed25519Log, Ed25519Cosignature:
		return ed25519.PublicKeySize
	case MLDSA44Cosignature:
		return mldsa44.PublicKeySize
	}
	return 0
}

// maxName bounds names and origins: a 0x06 statement counts their bytes in one byte.
const maxName = 255

// Statement is what a checkpoint signature says: the tree of Origin has Size entries and
// root hash Root, as seen at Time.
type Statement struct {
	Origin    string
	Size      uint64
	Root      [32]byte
	Extension string // extension lines, each with its LF; none in our own checkpoints
	Time      uint64 // Unix seconds, at most 2^63-1; a 0x01 signature does not cover it
}

// Body is the checkpoint body that s renders to (C2SP tlog-checkpoint).
func (s Statement) Body() []byte {
	b := make([]byte, 0, len(s.Origin)+70+len(s.Extension))
	b = append(append(b, s.Origin...), '\n')
	b = append(strconv.AppendUint(b, s.Size, 10), '\n')
	b = append(base64.StdEncoding.AppendEncode(b, s.Root[:]), '\n')
	return append(b, s.Extension...)
}

// signed gives the exact bytes that a key of this kind and name signs, or an error if s
// has a form that the kind cannot express.
func (s Statement) signed(kind Kind, name string) ([]byte, error) {
	if s.Origin == "" || strings.Contains(s.Origin, "\n") {
		return nil, errors.New("an origin is one line that is not empty")
	}
	if s.Time > math.MaxInt64 {
		return nil, errors.New("the time exceeds 2^63-1")
	}
	switch kind {
	case Ed25519Log:
		return s.Body(), nil
	case Ed25519Cosignature:
		return append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", s.Time), s.Body()...), nil
	case MLDSA44Cosignature:
		if s.Extension != "" {
			return nil, errors.New("an ML-DSA-44 cosignature does not cover extension lines")
		}
		if len(name) > maxName || len(s.Origin) > maxName {
			return nil, errors.New("name or origin is longer than 255 bytes")
		}
		b := append([]byte("subtree/v1\n\x00"), byte(len(name)))
		b = append(b, name...)
		b = binary.BigEndian.AppendUint64(b, s.Time)
		b = append(append(b, byte(len(s.Origin))), s.Origin...)
		b = binary.BigEndian.AppendUint64(b, 0)
		b = binary.BigEndian.AppendUint64(b, s.Size)
		return append(b, s.Root[:]...), nil
	}
	return nil, fmt.Errorf("unknown kind %v", kind)
}

// VKey is a public key that verifies checkpoint signatures, under the name it signs with.
type VKey struct {
	name   string
	kind   Kind
	public []byte
	mldsa  *mldsa44.PublicKey // public, unpacked; MLDSA44Cosignature only
}

func newVKey(name string, kind Kind, public []byte) (*VKey, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if want := kind.publicLen(); want == 0 {
		return nil, fmt.Errorf("unknown kind %v", kind)
	} else if len(public) != want {
		return nil, fmt.Errorf("public key of %d bytes, want %d", len(public), want)
	}
	v := &VKey{name: name, kind: kind, public: public}
	if kind == MLDSA44Cosignature {
		v.mldsa = new(mldsa44.PublicKey)
		if err := v.mldsa.UnmarshalBinary(public); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// CheckName checks the name of a key, which for a log is its origin: it refuses what C2SP
// signed-note refuses, longer names than an ML-DSA-44 cosignature can hold, and control characters,
// which no note may hold.
func CheckName(name string) error {
	bad := func(r rune) bool { return r == '+' || unicode.IsSpace(r) || unicode.IsControl(r) }
	if name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("key name %q: want 1 to 255 bytes of UTF-8 without space, plus sign or control character", name)
	}
	return nil
}

// ParseVKey reads the text form NAME+ID+BASE64 of C2SP signed-note. It accepts exactly
// what String writes: lower-case id, the id that belongs to the key, canonical base64.
func ParseVKey(s string) (*VKey, error) {
	name, rest, _ := strings.Cut(s, "+")
	id, b64, ok := strings.Cut(rest, "+")
	if !ok {
		return nil, errors.New("verifier key: want NAME+ID+BASE64")
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(b64)
	if err != nil || len(raw) == 0 {
		return nil, errors.New("verifier key: malformed base64")
	}
	v, err := newVKey(name, Kind(raw[0]), raw[1:])
	if err != nil {
		return nil, fmt.Errorf("verifier key: %w", err)
	}
	// The decoder skips line ends, and an id may be written in two cases.
	if v.String() != s {
		return nil, fmt.Errorf("verifier key: id %q is not that of the key, or a second spelling", id)
	}
	return v, nil
}

// String is the text form that ParseVKey reads.
func (v *VKey) String() string {
	return fmt.Sprintf("%s+%08x+%s", v.name, v.ID(), base64.StdEncoding.EncodeToString(v.typed()))
}

// Name is the name that the key signs under.
func (v *VKey) Name() string { return v.name }

// Kind is the algorithm of the key.
func (v *VKey) Kind() Kind { return v.kind }

// Public is a copy of the public key: 32 bytes for Ed25519, 1,312 for ML-DSA-44.
func (v *VKey) Public() []byte { return bytes.Clone(v.public) }

// ID is the first four bytes of SHA-256(name, LF, kind, public key), big endian.
func (v *VKey) ID() uint32 {
	h := sha256.Sum256(append([]byte(v.name+"\n"), v.typed()...))
	return binary.BigEndian.Uint32(h[:])
}

func (v *VKey) typed() []byte { return append([]byte{byte(v.kind)}, v.public...) }

// Verify checks a signature as it follows the key id in a note line. It returns the time
// that a cosignature states, whatever s.Time is; for 0x01 that is 0.
func (v *VKey) Verify(s Statement, sig []byte) (at uint64, ok bool) {
	s.Time = 0
	if v.kind != Ed25519Log {
		if len(sig) < 8 {
			return 0, false
		}
		s.Time, sig = binary.BigEndian.Uint64(sig), sig[8:]
	}
	msg, err := s.signed(v.kind, v.name)
	if err != nil {
		return 0, false
	}
	if v.kind == MLDSA44Cosignature {
		ok = mldsa44.Verify(v.mldsa, msg, nil, sig)
	} else {
		ok = ed25519.Verify(v.public, msg, sig)
	}
	return s.Time, ok
}

// Signature is one signature of a note.
type Signature struct {
	Name  string
	KeyID uint32
	Bytes []byte // what follows the key id: the time, for cosignatures, and the signature
}

// Line is the signature as a line of a note, LF included.
func (s Signature) Line() string {
	payload := append(binary.BigEndian.AppendUint32(nil, s.KeyID), s.Bytes...)
	return "\u2014 " + s.Name + " " + base64.StdEncoding.EncodeToString(payload) + "\n"
}

// noteKey is a private key that signs checkpoints.
type noteKey struct {
	*VKey
	ed    ed25519.PrivateKey
	mldsa *mldsa44.PrivateKey
}

func newNoteKey(name string, kind Kind, seed [32]byte) (noteKey, error) {
	var k noteKey
	var public []byte
	if kind == MLDSA44Cosignature {
		var pub *mldsa44.PublicKey
		pub, k.mldsa = mldsa44.NewKeyFromSeed(&seed)
		public = pub.Bytes()
	} else {
		k.ed = ed25519.NewKeyFromSeed(seed[:])
		public = k.ed.Public().(ed25519.PublicKey)
	}
	var err error
	k.VKey, err = newVKey(name, kind, public)
	return k, err
}

// sign is deterministic for both algorithms: a checkpoint can be rendered again, byte for
// byte, from the statement alone.
func (k noteKey) sign(s Statement) (Signature, error) {
	msg, err := s.signed(k.kind, k.name)
	if err != nil {
		return Signature{}, err
	}
	sig := Signature{Name: k.name, KeyID: k.ID()}
	if k.kind != Ed25519Log {
		sig.Bytes = binary.BigEndian.AppendUint64(nil, s.Time)
	}
	if k.kind != MLDSA44Cosignature {
		sig.Bytes = append(sig.Bytes, ed25519.Sign(k.ed, msg)...)
		return sig, nil
	}
	pq := make([]byte, mldsa44.SignatureSize)
	if err := mldsa44.SignTo(k.mldsa, msg, nil, false, pq); err != nil {
		return Signature{}, err
	}
	sig.Bytes = append(sig.Bytes, pq...)
	return sig, nil
}

// keyPair is one name with two keys. Its methods are those of LogKeys and WitnessKeys.
type keyPair struct{ ed, mldsa noteKey }

func newKeyPair(name string, edKind Kind, ed, mldsa [32]byte) (p keyPair, err error) {
	if p.ed, err = newNoteKey(name, edKind, ed); err != nil {
		return keyPair{}, err
	}
	p.mldsa, err = newNoteKey(name, MLDSA44Cosignature, mldsa)
	return p, err
}

// Name is the name that both keys sign under.
func (p keyPair) Name() string { return p.ed.name }

// VKeys are the public halves, the Ed25519 key first.
func (p keyPair) VKeys() [2]*VKey { return [2]*VKey{p.ed.VKey, p.mldsa.VKey} }

// Sign signs s with both keys, Ed25519 first. The same statement always gives the same
// bytes. It refuses a statement without a time: a line that carries 0 claims nothing.
func (p keyPair) Sign(s Statement) ([2]Signature, error) {
	var sigs [2]Signature
	if s.Time == 0 {
		return sigs, errors.New("signing a checkpoint: the time is zero")
	}
	for i, k := range []noteKey{p.ed, p.mldsa} {
		var err error
		if sigs[i], err = k.sign(s); err != nil {
			return [2]Signature{}, fmt.Errorf("signing a checkpoint: %w", err)
		}
	}
	return sigs, nil
}

// LogKeys are the two keys of a log, both named after its origin: Ed25519 (0x01) and
// ML-DSA-44 (0x06). They print without their private halves.
type LogKeys struct{ keyPair }

// NewLogKeys makes the keys of the log of an origin from two independent seeds.
func NewLogKeys(origin string, ed, mldsa [32]byte) (LogKeys, error) {
	p, err := newKeyPair(origin, Ed25519Log, ed, mldsa)
	if err != nil {
		return LogKeys{}, fmt.Errorf("keys of the log: %w", err)
	}
	return LogKeys{p}, nil
}

// Sign signs a checkpoint of the keys' own log, and no other's.
func (k LogKeys) Sign(s Statement) ([2]Signature, error) {
	if s.Origin != k.Name() {
		return [2]Signature{}, fmt.Errorf("signing a checkpoint: origin %q, but the keys are those of %q", s.Origin, k.Name())
	}
	return k.keyPair.Sign(s)
}

// WitnessKeys are the two keys of a witness under one name: Ed25519 (0x04) and ML-DSA-44
// (0x06). They print without their private halves.
type WitnessKeys struct{ keyPair }

// NewWitnessKeys makes the keys of a witness from two independent seeds.
func NewWitnessKeys(name string, ed, mldsa [32]byte) (WitnessKeys, error) {
	p, err := newKeyPair(name, Ed25519Cosignature, ed, mldsa)
	if err != nil {
		return WitnessKeys{}, fmt.Errorf("keys of the witness: %w", err)
	}
	return WitnessKeys{p}, nil
}

func (p keyPair) redacted() string {
	if p.ed.VKey == nil {
		return "[no keys]"
	}
	return "[private keys of " + p.Name() + "]"
}

// String, GoString, Format and LogValue keep the private halves out of every print.
func (p keyPair) String() string             { return p.redacted() }
func (p keyPair) GoString() string           { return p.redacted() }
func (p keyPair) Format(f fmt.State, _ rune) { fmt.Fprint(f, p.redacted()) }
func (p keyPair) LogValue() slog.Value       { return slog.StringValue(p.redacted()) }
