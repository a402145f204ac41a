package gaen

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"math/big"
	"strings"
	"testing"
	"time"
)

func TestCertificates(t *testing.T) {
	s := newSite(t)
	keys := appKeys(s.now(), 3)
	mac := mac(appSecret, keys, true)
	now := s.now()
	stranger := newAuthority(t, "v1")
	with := func(base object, more object) object {
		o := maps.Clone(base)
		for name, v := range more {
			if o[name] = v; v == nil {
				delete(o, name)
			}
		}
		return o
	}
	good := func() object { return claims(now, "confirmed", mac) }
	cl := func(more object) string { return s.ha.sign(s.ha.header(), with(good(), more)) }
	hd := func(more object) string { return s.ha.sign(with(s.ha.header(), more), good()) }
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	hs256 := func(secret []byte) string {
		signed := segment(with(s.ha.header(), object{"alg": "HS256"})) + "." + segment(good())
		h := hmac.New(sha256.New, secret)
		h.Write([]byte(signed))
		return signed + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
	}
	token := cl(nil)
	parts := strings.Split(token, ".")
	sig, _ := base64.RawURLEncoding.DecodeString(parts[2])
	resign := func(b []byte) string {
		return parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(b)
	}
	text := func(claims string) string { return s.ha.sign(s.ha.header(), claims) }

	for _, row := range []struct {
		name  string
		token string
		text  string // of the refusal; "" for one that is good
	}{
		{"good", token, ""},
		{"no typ", hd(object{"typ": nil}), ""},
		{"no nbf", cl(object{"nbf": nil}), ""},
		{"other members", cl(object{"jti": "x", "trisk": []int{1}, "sub": object{"a": nil}}), ""},
		{"issued by a clock that is ahead", cl(object{"iat": at(30 * time.Second), "nbf": at(30 * time.Second)}), ""},
		{"expired just now", cl(object{"exp": at(-30 * time.Second)}), ""},
		{"mac in another spelling", cl(object{"tekmac": base64.RawURLEncoding.EncodeToString(mac)}), ""},

		{"alg none", hd(object{"alg": "none"}), "alg"},
		{"alg none, not signed", segment(with(s.ha.header(), object{"alg": "none"})) + "." + parts[1] + ".", "alg"},
		{"not signed", parts[0] + "." + parts[1] + ".", "signature"},
		{"alg missing", hd(object{"alg": nil}), "alg"},
		{"alg in small letters", hd(object{"alg": "es256"}), "alg"},
		{"alg as a list", hd(object{"alg": []string{"ES256"}}), "alg"},
		{"HS256 with the public key as PEM", hs256([]byte(s.ha.pem())), "alg"},
		{"HS256 with the public key as a point", hs256(point(s.ha)), "alg"},
		{"RS256", hd(object{"alg": "RS256"}), "alg"},
		{"kid of nobody", hd(object{"kid": "v2"}), "kid"},
		{"no kid", hd(object{"kid": nil}), "kid"},
		{"kid as a number", hd(object{"kid": 1}), "kid"},
		{"key in the header", stranger.sign(with(s.ha.header(), object{"jwk": object{"kty": "EC"}}), good()), "signature"},
		{"typ of another kind", hd(object{"typ": "JOSE"}), "typ"},
		{"critical extension", hd(object{"crit": []string{"exp"}}), "crit"},
		{"another's signature", stranger.sign(s.ha.header(), good()), "signature"},

		{"wrong aud", cl(object{"aud": testAudience + "/"}), "aud"},
		{"aud as a list", cl(object{"aud": []string{testAudience}}), "aud"},
		{"no aud", cl(object{"aud": nil}), "aud"},
		{"wrong iss", cl(object{"iss": "https://other.test"}), "iss"},
		{"no iss", cl(object{"iss": nil}), "iss"},
		{"expired", cl(object{"exp": at(-2 * time.Minute)}), "exp"},
		{"no exp", cl(object{"exp": nil}), "exp"},
		{"exp null", text(strings.Replace(textOf(good()), `"exp":`, `"exp":null,"x":`, 1)), "exp"},
		{"exp as text", cl(object{"exp": "9999999999"}), "exp"},
		{"exp huge", text(strings.Replace(textOf(good()), `"exp":`, `"exp":1e300,"x":`, 1)), "exp"},
		{"exp with more digits than any number has", text(strings.Replace(textOf(good()), `"exp":`, `"exp":`+strings.Repeat("9", 500)+`,"x":`, 1)), "exp"},
		{"not valid yet", cl(object{"nbf": at(2 * time.Minute)}), "nbf"},
		{"nbf as text", cl(object{"nbf": "0"}), "nbf"},
		{"issued in the future", cl(object{"iat": at(2 * time.Minute)}), "iat"},
		{"no iat", cl(object{"iat": nil}), "iat"},
		{"unknown report type", cl(object{"reportType": "cured"}), "reportType"},
		{"no report type", cl(object{"reportType": nil}), "reportType"},
		{"no mac", cl(object{"tekmac": nil}), "tekmac"},
		{"short mac", cl(object{"tekmac": "AAAA"}), "tekmac"},
		{"another mac", cl(object{"tekmac": base64.StdEncoding.EncodeToString(make([]byte, 32))}), "tekmac"},

		{"claims changed", parts[0] + "." + segment(with(good(), object{"reportType": "negative"})) + "." + parts[2], "signature"},
		{"header changed", segment(with(s.ha.header(), object{"x": 1})) + "." + parts[1] + "." + parts[2], "signature"},
		{"signature changed", resign(append([]byte{sig[0] ^ 1}, sig[1:]...)), "signature"},
		{"signature cut", resign(sig[:63]), "signature"},
		{"signature longer", resign(append(sig[:64:64], 0)), "signature"},
		{"signature of zeros", resign(make([]byte, 64)), "signature"},
		{"signature as DER", resign(append([]byte{0x30, 70}, sig...)), "signature"},
		{"signature beyond the order", resign(append(new(big.Int).Add(new(big.Int).SetBytes(sig[:32]), s.ha.key.Params().N).FillBytes(make([]byte, 33))[1:], sig[32:]...)), "signature"},

		{"padded", token + "=", "JWT"},
		{"stray bits", token[:len(token)-1] + string(token[len(token)-1]+1), "JWT"},
		{"line break", parts[0] + "\n." + parts[1] + "." + parts[2], "JWT"},
		{"std alphabet", "+" + token, "JWT"},
		{"four parts", token + ".", "JWT"},
		{"two parts", parts[0] + "." + parts[1], "JWT"},
		{"too long", cl(object{"pad": strings.Repeat("x", maxCertificate)}), "JWT"},
		{"a name twice in the claims", text(`{"iss":"x",` + textOf(good())[1:]), "JWT"},
		{"a name twice in the header", s.ha.sign(`{"alg":"none",`+textOf(s.ha.header())[1:], good()), "JWT"},
		{"a name in other letters is another name", s.ha.sign(`{"ALG":"none",`+textOf(s.ha.header())[1:], good()), ""},
		{"claims as a list", s.ha.sign(s.ha.header(), []int{1}), "JWT"},
		{"claims null", text("null"), "iss"},
		{"deep", text(`{"x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `,` + textOf(good())[1:]), "JWT"},
		{"two values", text(textOf(good()) + "{}"), "JWT"},
	} {
		t.Run(row.name, func(t *testing.T) {
			body := s.body("confirmed", keys, "")
			body["verificationPayload"] = row.token
			a := s.post(body)
			if row.text == "" {
				want(t, a, 200, "")
				return
			}
			want(t, a, 401, codeCertificate)
			if !strings.Contains(a.Error, row.text) {
				t.Errorf("%q, want %q", a.Error, row.text)
			}
		})
	}
}

func textOf(o object) string {
	b, _ := base64.RawURLEncoding.DecodeString(segment(o))
	return string(b)
}

func point(a *authority) []byte {
	b, err := a.key.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	return b
}

// Two authorities: neither speaks for the other's apps, nor with the other's keys.
func TestTwoAuthorities(t *testing.T) {
	second := newAuthority(t, "v1")
	s := newSiteWith(t, func(c *Config) {
		a := second.config()
		a.Issuer, a.Audience, a.Apps = "https://second.test", "second", []string{"second.app", "shared.app"}
		c.Authorities[0].Apps = append(c.Authorities[0].Apps, "shared.app")
		c.Authorities = append(c.Authorities, a)
	})
	keys := appKeys(s.now(), 3)
	post := func(by *authority, issuer, audience, app string) answered {
		body := s.body("confirmed", keys, "")
		c := claims(s.now(), "confirmed", mac(appSecret, keys, true))
		c["iss"], c["aud"] = issuer, audience
		body["verificationPayload"], body["healthAuthorityID"] = by.sign(by.header(), c), app
		return s.post(body)
	}
	want(t, post(s.ha, testIssuer, testAudience, testApp), 200, "")
	want(t, post(s.ha, testIssuer, testAudience, "shared.app"), 200, "")
	want(t, post(second, "https://second.test", "second", "second.app"), 200, "")
	want(t, post(second, "https://second.test", "second", "shared.app"), 200, "")
	want(t, post(s.ha, testIssuer, testAudience, "second.app"), 401, codeCertificate)
	want(t, post(second, "https://second.test", "second", testApp), 401, codeCertificate)
	want(t, post(second, testIssuer, testAudience, testApp), 401, codeCertificate)
	want(t, post(second, "https://second.test", testAudience, "second.app"), 401, codeCertificate)
}

func rsaPEM(t testing.TB) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return publicPEM(t, &key.PublicKey)
}
