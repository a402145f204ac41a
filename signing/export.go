package signing

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"
)

// MaxSigners is the largest number of signatures in one export.sig (GAEN export format,
// signature_infos).
const MaxSigners = 10

// ExportSigner signs export.bin for GAEN phones: ECDSA P-256 over SHA-256, deterministic
// by RFC 6979, so that the same keys give the same archive on every machine.
type ExportSigner struct {
	KeyID   string    // verification_key_id: the mobile country code for Apple, "452" in Viet Nam
	Version string    // verification_key_version
	From    time.Time // signs windows that end after this instant

	private *ecdsa.PrivateKey
}

var (
	keyIDForm   = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,64}$`)
	versionForm = regexp.MustCompile(`^[a-zA-Z0-9_]{1,32}$`)
)

// NewExportSigner derives the signing key of one key id and version from the seed.
func NewExportSigner(seed Seed, keyID, version string, from time.Time) (*ExportSigner, error) {
	if !keyIDForm.MatchString(keyID) {
		return nil, fmt.Errorf("key id %q: want 1 to 64 letters, digits, '.', '_' or '-'", keyID)
	}
	if !versionForm.MatchString(version) {
		return nil, fmt.Errorf("key version %q: want 1 to 32 letters, digits or '_'", version)
	}
	// FIPS 186-5, A.2.1: 64 bits more than the order, reduced, leave no bias that counts.
	curve := elliptic.P256()
	wide := new(big.Int).SetBytes(seed.Derive("export signer\n"+keyID+"\n"+version+"\n", 40))
	order := new(big.Int).Sub(curve.Params().N, big.NewInt(1))
	scalar := wide.Mod(wide, order).Add(wide, big.NewInt(1)).FillBytes(make([]byte, 32))
	private, err := ecdsa.ParseRawPrivateKey(curve, scalar)
	if err != nil {
		return nil, fmt.Errorf("deriving the export signer: %w", err)
	}
	return &ExportSigner{KeyID: keyID, Version: version, From: from, private: private}, nil
}

// NewExportSigners derives a first signer, which has always been one, and further ones from
// lines "<key id>-<version>@<time>", the time in RFC 3339.
func NewExportSigners(seed Seed, keyID, version string, further []string) ([]*ExportSigner, error) {
	first, err := NewExportSigner(seed, keyID, version, time.Time{})
	if err != nil {
		return nil, err
	}
	signers := []*ExportSigner{first}
	for _, text := range further {
		name, at, _ := strings.Cut(text, "@")
		id, version, ok := strings.Cut(name, "-")
		from, err := time.Parse(time.RFC3339, at)
		if !ok || err != nil {
			return nil, fmt.Errorf("signer %q: want ID-VERSION@TIME, as 452-v2@2026-12-01T00:00:00Z", text)
		}
		s, err := NewExportSigner(seed, id, version, from)
		if err != nil {
			return nil, fmt.Errorf("signer %q: %w", text, err)
		}
		signers = append(signers, s)
	}
	return signers, nil
}

// Name is "<key id>-<version>", the signer's name in manifests and in /gaen/keys.
func (s *ExportSigner) Name() string { return s.KeyID + "-" + s.Version }

// Sign signs a SHA-256 digest; the result is an ASN.1 DER ECDSA signature.
func (s *ExportSigner) Sign(digest [32]byte) ([]byte, error) {
	return s.private.Sign(nil, digest[:], crypto.SHA256) // a nil source asks for RFC 6979
}

// Public is the key that checks the signer's signatures.
func (s *ExportSigner) Public() *ecdsa.PublicKey { return &s.private.PublicKey }

// SPKI is Public as a DER SubjectPublicKeyInfo.
func (s *ExportSigner) SPKI() []byte {
	der, err := x509.MarshalPKIXPublicKey(s.Public())
	if err != nil {
		panic(err) // a P-256 key always has this form
	}
	return der
}

// PublicPEM is Public as a PEM block of type PUBLIC KEY.
func (s *ExportSigner) PublicPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: s.SPKI()})
}

func (s *ExportSigner) String() string             { return "export signer " + s.Name() }
func (s *ExportSigner) LogValue() slog.Value       { return slog.StringValue(s.String()) }
func (s *ExportSigner) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// ActiveSigners picks those that sign a window ending at end, newest first. It is an
// error if none does, or more than MaxSigners do.
func ActiveSigners(all []*ExportSigner, end time.Time) ([]*ExportSigner, error) {
	var active []*ExportSigner
	for _, s := range all {
		if s.From.Before(end) {
			active = append(active, s)
		}
	}
	slices.SortStableFunc(active, func(a, b *ExportSigner) int { return b.From.Compare(a.From) })
	if len(active) == 0 {
		return nil, fmt.Errorf("no signer is in force at %s", end.UTC().Format(time.RFC3339))
	}
	if len(active) > MaxSigners {
		return nil, fmt.Errorf("%d signers are in force: an archive takes at most %d", len(active), MaxSigners)
	}
	return active, nil
}

// VerifyExport reports whether sig (ASN.1 DER) is a signature of digest by pub.
func VerifyExport(pub *ecdsa.PublicKey, digest [32]byte, sig []byte) bool {
	return ecdsa.VerifyASN1(pub, digest[:], sig)
}

// ParsePublicPEM reads a P-256 public key: one PEM block of type PUBLIC KEY.
func ParsePublicPEM(text []byte) (*ecdsa.PublicKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("not a PEM block of type PUBLIC KEY")
	}
	if len(rest) > 0 {
		return nil, errors.New("data after the PEM block")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	pub, ok := key.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("not an ECDSA P-256 key")
	}
	return pub, nil
}
