package gaen

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"time"

	"bluekey/keystore/diagnosis"
)

const (
	// maxCertificate is the longest verification certificate that is read, in bytes.
	// Those that are issued have a few hundred.
	maxCertificate = 4096
	// clockSkew is how far the authority's clock may be from ours.
	clockSkew = time.Minute
)

// certificate is what a health authority states of a diagnosis, once it is verified.
type certificate struct {
	report diagnosis.ReportType // Revoked for a negative test
	onset  uint32               // interval, 0 if it names none
	mac    []byte               // of the keys it is for
}

// reportTypes are the values of the claim "reportType".
var reportTypes = map[string]diagnosis.ReportType{
	"confirmed":   diagnosis.ConfirmedTest,
	"likely":      diagnosis.ConfirmedClinical,
	"user-report": diagnosis.SelfReport,
	"negative":    diagnosis.Revoked,
}

var (
	errCertificate = errors.New("not a JWT")
	errNoKeys      = errors.New("the keys of the health authority are not known yet")
)

// verify reads a verification certificate: a JWT (RFC 7519) in compact form, signed with
// ES256 (RFC 7518, section 3.4) and nothing else, whatever its header asks for. The issuer
// and key id it names are trusted only after its signature was checked under the key that
// they belong to here.
func (all issuers) verify(app, token string, now time.Time) (certificate, error) {
	signed, signature, header, claims, err := splitJWT(token)
	if err != nil {
		return certificate{}, err
	}
	if header.str("alg") != "ES256" {
		return certificate{}, errors.New("alg: want ES256")
	}
	if typ, ok := header["typ"]; ok && string(typ) != `"JWT"` {
		return certificate{}, errors.New("typ: want JWT")
	}
	if _, ok := header["crit"]; ok {
		return certificate{}, errors.New("crit: no extension is known")
	}
	a := all[claims.str("iss")]
	if a == nil {
		return certificate{}, errors.New("iss: unknown")
	}
	key, err := a.key(header.str("kid"))
	if err != nil {
		return certificate{}, err
	}
	if key == nil {
		return certificate{}, errors.New("kid: unknown")
	}
	if !checkES256(key, signed, signature) {
		return certificate{}, errors.New("the signature is not right")
	}
	if claims.str("aud") != a.audience {
		return certificate{}, errors.New("aud: another's")
	}
	if err := claims.checkTimes(now); err != nil {
		return certificate{}, err
	}
	if !a.apps[app] {
		return certificate{}, errors.New("iss: not for this healthAuthorityID")
	}
	return claims.statement()
}

// splitJWT takes a token apart and reads its two objects. It verifies nothing.
func splitJWT(token string) (signed string, signature []byte, header, claims members, err error) {
	if len(token) > maxCertificate || strings.ContainsAny(token, "\r\n") {
		return "", nil, nil, nil, errCertificate
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", nil, nil, nil, errCertificate
	}
	var raw [3][]byte
	for i, p := range parts {
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil {
			return "", nil, nil, nil, errCertificate
		}
	}
	if readJSON(raw[0], nil, &header) != nil || readJSON(raw[1], nil, &claims) != nil {
		return "", nil, nil, nil, errCertificate
	}
	return token[:len(parts[0])+1+len(parts[1])], raw[2], header, claims, nil
}

// checkES256 checks a signature of 64 bytes, r and s.
func checkES256(key *ecdsa.PublicKey, signed string, signature []byte) bool {
	if len(signature) != 64 {
		return false
	}
	digest := sha256.Sum256([]byte(signed))
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	return ecdsa.Verify(key, digest[:], r, s)
}

// members are those of a JWT's object, by their exact names.
type members map[string]json.RawMessage

// str is a member that is a string, "" if there is none.
func (m members) str(name string) string {
	var s *string
	if json.Unmarshal(m[name], &s) != nil || s == nil {
		return ""
	}
	return *s
}

// number is a member that is a whole number from 0 to 2^53.
func (m members) number(name string) (n int64, ok bool) {
	var p *int64
	if json.Unmarshal(m[name], &p) != nil || p == nil || *p < 0 || *p > 1<<53 {
		return 0, false
	}
	return *p, true
}

// checkTimes checks exp and iat, which must be there, and nbf, which may.
func (m members) checkTimes(now time.Time) error {
	exp, ok := m.number("exp")
	if !ok || !now.Before(time.Unix(exp, 0).Add(clockSkew)) {
		return errors.New("exp: the certificate has expired")
	}
	iat, ok := m.number("iat")
	if !ok || time.Unix(iat, 0).After(now.Add(clockSkew)) {
		return errors.New("iat: missing, or in the future")
	}
	if _, there := m["nbf"]; !there {
		return nil
	}
	if nbf, ok := m.number("nbf"); !ok || time.Unix(nbf, 0).After(now.Add(clockSkew)) {
		return errors.New("nbf: not valid yet")
	}
	return nil
}

// statement is what the claims say of the diagnosis.
func (m members) statement() (c certificate, err error) {
	report, ok := reportTypes[m.str("reportType")]
	if !ok {
		return certificate{}, errors.New("reportType: want confirmed, likely, user-report or negative")
	}
	mac, err := decode64(m.str("tekmac"))
	if err != nil || len(mac) != sha256.Size {
		return certificate{}, errors.New("tekmac: want 32 bytes in base64")
	}
	onset, _ := m.number("symptomOnsetInterval")
	if onset > 1<<32-1 {
		onset = 0
	}
	return certificate{report: report, onset: uint32(onset), mac: mac}, nil
}
