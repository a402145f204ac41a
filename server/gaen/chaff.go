package gaen

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"

	"bluekey/keystore/diagnosis"
)

// chaffKeys is how many keys a request stands for whose body does not say.
const chaffKeys = 14

// A decoy is a certificate of an authority that nobody knows, made at start. Checking it
// costs what checking a real one costs.
type decoy struct {
	issuers issuers
	token   string
	hmacKey string
}

func newDecoy() (*decoy, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	is := &issuer{name: "decoy", audience: "decoy", apps: map[string]bool{"decoy": true}}
	is.keys.Store(&keyring{"v1": &key.PublicKey})
	mac := sha256.Sum256([]byte("no key at all"))
	claims := `{"iss":"decoy","aud":"decoy","iat":0,"exp":9007199254740992,"reportType":"confirmed","tekmac":"` +
		base64.StdEncoding.EncodeToString(mac[:]) + `"}`
	enc := base64.RawURLEncoding.EncodeToString
	signed := enc([]byte(`{"alg":"ES256","kid":"v1","typ":"JWT"}`)) + "." + enc([]byte(claims))
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return &decoy{issuers: issuers{"decoy": is}, token: signed + "." + enc(signature[:]), hmacKey: enc(mac[:])}, nil
}

// chaff answers a request that stands for none. It is read, checked and stored like a real
// one, with junk for keys, and answered with padding.
func (d *Door) chaff(ctx context.Context, body []byte) *reply {
	n := chaffKeys
	if p, err := readPublish(body); err == nil {
		n = len(p.Keys)
	}
	now := d.cfg.Now()
	teks, keys := make([]tek, n), make([]diagnosis.Key, n)
	today := diagnosis.GAEN.IntervalAt(now) / diagnosis.GAEN.PerDay()
	for i := range keys {
		k := &keys[i]
		*k = diagnosis.Key{Scheme: diagnosis.GAEN, Start: (today - 1 - diagnosis.Interval(i%14)) * 144, Count: 144, Report: diagnosis.ConfirmedTest}
		rand.Read(k.Secret[:k.Scheme.SecretLen()])
		teks[i] = tek{Key: base64.StdEncoding.EncodeToString(k.Bytes()), Start: int32(k.Start), Period: 144, Risk: 1}
	}
	cert, err := d.decoy.issuers.verify("decoy", d.decoy.token, now)
	if err == nil {
		checkMAC(teks, d.decoy.hmacKey, cert.mac)
		err = d.store.Scratch(ctx, keys)
	}
	if err != nil {
		return d.refusal(err, nil, nil, false)
	}
	return &reply{status: http.StatusOK}
}
