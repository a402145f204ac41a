package exportlog

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// SignerChange introduces a key that signs archives, or retires it. It holds the key
// itself, so that an auditor can judge every export.sig from the log alone.
type SignerChange struct {
	Time    int64 // Unix seconds at which the entry was made
	Retires bool  // false: the signer enters
	KeyID   string
	Version string
	From    int64  // Unix seconds; signs windows that end after it, or, retired, none that ends after it
	SPKI    []byte // the P-256 public key, DER SubjectPublicKeyInfo (RFC 5480)
}

// Name is the signer's name in manifests: key id, hyphen, version.
func (s SignerChange) Name() string { return s.KeyID + "-" + s.Version }

// Path is the place of the key's PEM file in the public tree.
func (s SignerChange) Path() string { return "gaen/keys/" + s.Name() + ".pem" }

// PEM is the text of that file.
func (s SignerChange) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: s.SPKI})
}

// Public is the key.
func (s SignerChange) Public() (*ecdsa.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(s.SPKI)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	public, ok := key.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, errors.New("public key: not on P-256")
	}
	// The parser lets a SEQUENCE hold more than it should.
	again, err := x509.MarshalPKIXPublicKey(public)
	if err != nil || !bytes.Equal(again, s.SPKI) {
		return nil, errors.New("public key: a second spelling of its SPKI")
	}
	return public, nil
}

// Format: see Entry.
func (s SignerChange) Format() ([]byte, error) { return format("signer", s) }

func (s SignerChange) check() error {
	if err := checkSigner(s.Name()); err != nil {
		return err
	}
	if strings.Contains(s.Version, "-") {
		return fmt.Errorf("version %q holds a hyphen", s.Version)
	}
	if s.From < 0 {
		return errors.New("negative from")
	}
	if _, err := s.Public(); err != nil {
		return err
	}
	return checkTime(s.Time)
}

func (s SignerChange) append(b []byte) []byte {
	change := "enters"
	if s.Retires {
		change = "retires"
	}
	return fmt.Appendf(b, "time %d\nchange %s\nkey %s\nversion %s\nfrom %d\nsha256 %x\nspki %s\n", s.Time, change,
		s.KeyID, s.Version, s.From, sha256.Sum256(s.PEM()), base64.StdEncoding.EncodeToString(s.SPKI))
}

func parseSigner(l *lines) Entry {
	s := SignerChange{Time: l.number("time ")}
	switch change := l.next("change "); change {
	case "enters":
	case "retires":
		s.Retires = true
	default:
		l.fail("change %q: want enters or retires", change)
	}
	s.KeyID, s.Version, s.From = l.next("key "), l.next("version "), l.number("from ")
	digest := l.digest("sha256 ")
	var err error
	if s.SPKI, err = parseBase64(l.next("spki ")); err != nil {
		l.fail("spki: %w", err)
	}
	if digest != sha256.Sum256(s.PEM()) {
		l.fail("sha256 is not that of the PEM form of spki")
	}
	return s
}

// checkSigner takes names of the form <key id>-<version>: letters, digits, '.', '_', and
// '-' in the key id; no hyphen in the version, so that the last one divides.
func checkSigner(name string) error {
	i := strings.LastIndexByte(name, '-')
	if i < 1 || i > 64 || len(name)-i-1 < 1 || len(name)-i-1 > 32 || strings.Trim(name, nameBytes) != "" {
		return fmt.Errorf("signer %q: want KEYID-VERSION", name)
	}
	return nil
}

// nameBytes are the bytes of signer names, regions and encoders.
const nameBytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
