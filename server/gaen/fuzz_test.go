package gaen

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"bluekey/keystore"
)

// FuzzBody: whatever is posted, the reply has the one form; and what is read is read by
// encoding/json in the same way.
func FuzzBody(f *testing.F) {
	s := &site{t: f, ha: newAuthority(f, "v1")} // without a disk, whose work in the background would hide what a body does
	s.clock.Store(testStart.Unix())
	var err error
	s.door, err = New(Config{Store: new(keystore.Store), Authorities: []Authority{s.ha.config()}, TokenKey: [32]byte{3}, Now: s.now})
	if err != nil {
		f.Fatal(err)
	}
	s.door.store = broken{}
	good, err := json.Marshal(s.body("confirmed", appKeys(s.now(), 2), ""))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-2])
	f.Add([]byte(`{"temporaryExposureKeys":[{"key":"AA","rollingPeriod":1e2}],"hmackey":"","hmacKey":null}`))
	f.Add([]byte(`{"padding":"\ud800","padding":[[[{}]]]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) <= MaxBody {
			s.t = t
			s.post(string(body))
		}
		p, err := readPublish(body)
		if err != nil {
			return
		}
		var again publish
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&again); err != nil {
			t.Fatal(err)
		}
		if len(again.Keys) != len(p.Keys) || again.HMACKey != p.HMACKey || again.Certificate != p.Certificate {
			t.Fatal("read in two ways")
		}
		for _, k := range p.Keys {
			if key, err := k.key(); err == nil && key.Check() != nil {
				t.Fatal("a key of a shape that cannot be")
			}
		}
	})
}

// FuzzCertificate: no token but one signed by the authority passes, whatever its claims.
func FuzzCertificate(f *testing.F) {
	ha := newAuthority(f, "v1")
	all, err := newIssuers([]Authority{ha.config()})
	if err != nil {
		f.Fatal(err)
	}
	now := testStart
	good := claims(now, "confirmed", make([]byte, 32))
	token := ha.sign(ha.header(), good)
	f.Add(token, textOf(good))
	f.Add(strings.Replace(token, ".", "..", 1), `{"iss":"https://verify.test","exp":1e9}`)
	f.Add("eyJhbGciOiJub25lIn0.e30.", `{"reportType":null,"tekmac":{}}`)
	f.Fuzz(func(t *testing.T, other, claims string) {
		if _, err := all.verify(testApp, other, now); err == nil && other != token {
			t.Fatal("a token that nobody signed passes")
		}
		c, err := all.verify(testApp, ha.sign(ha.header(), claims), now)
		if err != nil {
			return
		}
		var o map[string]any
		if json.Unmarshal([]byte(claims), &o) != nil || o["iss"] != testIssuer || o["aud"] != testAudience || len(c.mac) != 32 ||
			o["exp"].(float64) < float64(now.Unix())-60 || reportTypes[o["reportType"].(string)] != c.report {
			t.Fatalf("claims pass that do not say what they should: %q", claims)
		}
	})
}

// FuzzAuthorities: what is read makes a door.
func FuzzAuthorities(f *testing.F) {
	ha := newAuthority(f, "v1")
	f.Add([]byte("- issuer: a\n  audience: b\n  apps: [c]\n  jwks: https://x.test/\n"))
	f.Add([]byte("- {issuer: a, audience: b, apps: [c], keys: {v1: \"" + strings.ReplaceAll(ha.pem(), "\n", "\\n") + "\"}}\n"))
	f.Add([]byte("- &a {issuer: *a}\n---\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := ParseAuthorities(text)
		if err != nil {
			return
		}
		if _, err := newIssuers(list); err != nil || len(list) == 0 {
			t.Fatal(err)
		}
	})
}

// FuzzKeySet: what is read is P-256 keys with ids.
func FuzzKeySet(f *testing.F) {
	ha := newAuthority(f, "v1")
	f.Add([]byte(`{"keys":[` + jwkOf(ha, "") + `]}`))
	f.Add([]byte("[" + jwkOf(ha, `,"use":"sig"`) + "]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := parseJWKS(text)
		if err != nil {
			return
		}
		for kid, key := range keys {
			if _, err := key.Bytes(); err != nil || kid == "" {
				t.Fatal(err)
			}
		}
	})
}

// FuzzToken: a token that opens is one that was sealed.
func FuzzToken(f *testing.F) {
	tokens, err := newTokens([32]byte{1}, "VN-HP")
	if err != nil {
		f.Fatal(err)
	}
	good := tokens.seal(new(proofs))
	f.Add(good)
	f.Add(good[:len(good)-4])
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, token string) {
		if p, err := tokens.open(token, 0); err == nil && len(p.order) != 0 {
			t.Fatal("a token that nobody sealed opens")
		}
	})
}
