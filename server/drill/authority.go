package drill

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"time"
)

// Authority is a health authority with a verification server, which states in certificates
// what was diagnosed. Its key exists for one drill.
type Authority struct {
	// Issuer, Audience and KeyID stand in its certificates; App is the healthAuthorityID
	// with which an app brings them.
	Issuer, Audience, KeyID, App string
	key                          *ecdsa.PrivateKey
}

// NewAuthority founds an authority.
func NewAuthority() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of a health authority: %w", err)
	}
	return &Authority{Issuer: "https://verify.drill.invalid", Audience: "https://keys.drill.invalid", KeyID: "drill", App: "drill.app", key: key}, nil
}

// Listed is the file by which a GAEN door knows this authority and no other.
func (a *Authority) Listed() ([]byte, error) {
	key, err := a.PublicPEM()
	if err != nil {
		return nil, err
	}
	// JSON is YAML.
	return json.Marshal([]any{map[string]any{
		"issuer": a.Issuer, "audience": a.Audience, "apps": []string{a.App}, "keys": map[string]string{a.KeyID: key},
	}})
}

// PublicPEM is its public key, a PEM block of type PUBLIC KEY.
func (a *Authority) PublicPEM() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(&a.key.PublicKey)
	if err != nil {
		return "", fmt.Errorf("write the key of a health authority: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

// certify makes the certificate of a confirmed case for the keys of which mac is the HMAC: a
// JWT signed with ES256 (RFC 7518, section 3.4), good for a quarter of an hour.
func (a *Authority) certify(mac []byte, now time.Time) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": "ES256", "kid": a.KeyID, "typ": "JWT"})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": a.Issuer, "aud": a.Audience, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(15 * time.Minute).Unix(),
		"reportType": "confirmed", "tekmac": base64.StdEncoding.EncodeToString(mac),
	})
	if err != nil {
		return "", err
	}
	signed := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, a.key, digest[:])
	if err != nil {
		return "", fmt.Errorf("sign a certificate: %w", err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}
