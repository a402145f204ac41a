package gaen

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func publicPEM(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func TestParseAuthorities(t *testing.T) {
	ha := newAuthority(t, "v1")
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	indent := func(pem string) string {
		return strings.ReplaceAll("\n"+strings.TrimSpace(pem), "\n", "\n      ")
	}
	fixed := func(pem string) string {
		return "- issuer: https://verify.test\n  audience: https://keys.test\n  apps: [vn.test.app, vn.test.ios]\n  keys:\n    v1: |" + indent(pem) + "\n"
	}
	good := fixed(ha.pem())
	list, err := ParseAuthorities([]byte(good + "- issuer: b\n  audience: c\n  apps: [d]\n  jwks: https://verify.test/jwks\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Issuer != testIssuer || list[0].Audience != testAudience || len(list[0].Apps) != 2 ||
		strings.TrimSpace(list[0].Keys["v1"]) != strings.TrimSpace(ha.pem()) || list[1].JWKS != "https://verify.test/jwks" {
		t.Errorf("%+v", list)
	}
	jwks := func(url string) string {
		return "- issuer: b\n  audience: c\n  apps: [d]\n  jwks: \"" + url + "\"\n"
	}
	for _, url := range []string{"http://localhost:8/x", "http://127.0.0.1/", "http://[::1]:80/x", "https://a.test/x?y=1"} {
		if _, err := ParseAuthorities([]byte(jwks(url))); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, row := range []struct{ name, text, says string }{
		{"empty", "", "no health authority"},
		{"an empty list", "[]", "no health authority"},
		{"no list", "issuer: x\n", "cannot unmarshal"},
		{"unknown member", good + "  jwksuri: x\n", "jwksuri"},
		{"member twice", strings.Replace(good, "  audience", "  issuer: x\n  audience", 1), "already"},
		{"two documents", good + "---\n" + good, "second document"},
		{"issuer twice", good + good, "second time"},
		{"no issuer", strings.Replace(good, "issuer: https://verify.test", "issuer: ", 1), "issuer and audience"},
		{"no audience", strings.Replace(good, "audience: https://keys.test", "audience: \"\"", 1), "issuer and audience"},
		{"no apps", strings.Replace(good, "[vn.test.app, vn.test.ios]", "[]", 1), "apps"},
		{"app twice", strings.Replace(good, "vn.test.ios", "vn.test.app", 1), "apps"},
		{"keys and jwks", good + "  jwks: https://x.test\n", "either"},
		{"neither", "- issuer: a\n  audience: b\n  apps: [c]\n", "either"},
		{"no PEM", fixed("hello"), "PEM"},
		{"a private key", fixed(strings.ReplaceAll(ha.pem(), "PUBLIC", "PRIVATE")), "PEM"},
		{"two blocks", fixed(ha.pem() + ha.pem()), "one PEM block"},
		{"another curve", fixed(publicPEM(t, &p384.PublicKey)), "P-256"},
		{"RSA", fixed(rsaPEM(t)), "P-256"},
		{"empty kid", strings.Replace(good, "v1: |", "\"\": |", 1), "without an id"},
		{"http", jwks("http://verify.test/jwks"), "want https"},
		{"a host that looks local", jwks("http://127.0.0.1.verify.test/jwks"), "want https"},
		{"file", jwks("file:///etc/passwd"), "want a URL with a host"},
		{"a user", jwks("https://u:p@verify.test/"), "without a user"},
		{"no URL", jwks("%zz"), "jwks"},
	} {
		if _, err := ParseAuthorities([]byte(row.text)); err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v, want %q", row.name, err, row.says)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	s := newSite(t)
	cfg := s.door.cfg
	for name, change := range map[string]func(*Config){
		"no store":       func(c *Config) { c.Store = nil },
		"no token key":   func(c *Config) { c.TokenKey = [32]byte{} },
		"no authorities": func(c *Config) { c.Authorities = nil },
		"a bad one":      func(c *Config) { c.Authorities = []Authority{{}} },
	} {
		c := cfg
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// jwkOf is a public key as a key set has it.
func jwkOf(a *authority, more string) string {
	b, enc := point(a), base64.RawURLEncoding
	return fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":%q,"x":%q,"y":%q%s}`, a.kid, enc.EncodeToString(b[1:33]), enc.EncodeToString(b[33:]), more)
}

func TestParseJWKS(t *testing.T) {
	a, b := newAuthority(t, "v1"), newAuthority(t, "v2")
	one, two := jwkOf(a, ""), jwkOf(b, `,"use":"sig","alg":"ES256","x5c":["x"]`)
	for _, text := range []string{`{"keys":[` + one + "," + two + `]}`, " [" + one + "," + two + "]\n",
		`{"keys":[{"kty":"RSA","kid":"v1","n":"x"},` + one + "," + two + "," + jwkOf(newAuthority(t, "v1"), `,"use":"enc"`) + `],"next":null}`} {
		keys, err := parseJWKS([]byte(text))
		if err != nil || len(keys) != 2 || !keys["v1"].Equal(&a.key.PublicKey) || !keys["v2"].Equal(&b.key.PublicKey) {
			t.Errorf("%v: %v", err, keys)
		}
	}
	x := base64.RawURLEncoding.EncodeToString(point(a)[1:33])
	for name, text := range map[string]string{
		"empty":             "",
		"no keys":           `{"keys":[]}`,
		"keys missing":      `{}`,
		"null":              "null",
		"keys no list":      `{"keys":{}}`,
		"keys of no object": `{"keys":[1]}`,
		"only others":       `{"keys":[{"kty":"RSA","kid":"v1"}]}`,
		"kid twice":         "[" + one + "," + one + "]",
		"no kid":            strings.Replace("["+one+"]", `"kid":"v1",`, "", 1),
		"keys twice":        `{"keys":[` + one + `],"keys":[` + two + `]}`,
		"not on the curve":  strings.Replace("["+one+"]", x, base64.RawURLEncoding.EncodeToString(make([]byte, 32)), 1),
		"short coordinate":  strings.Replace("["+one+"]", x, x[:40], 1),
		"cut":               "[" + one,
		"more":              "[" + one + "] x",
	} {
		if keys, err := parseJWKS([]byte(text)); err == nil {
			t.Errorf("%s: %d keys", name, len(keys))
		}
	}
}

// An authority whose keys are fetched: not there at first, then there, then changed, then
// broken in many ways, during which the keys hold on.
func TestFollowJWKS(t *testing.T) {
	old, next := newAuthority(t, "v1"), newAuthority(t, "v2")
	var answer atomic.Pointer[http.HandlerFunc]
	var calls atomic.Int64
	set := func(h http.HandlerFunc) { answer.Store(&h) }
	say := func(text string) {
		set(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		(*answer.Load())(w, r)
	}))
	defer server.Close()
	s := newSiteWith(t, func(c *Config) {
		c.Authorities[0].Keys, c.Authorities[0].JWKS = nil, server.URL
	})
	keys := appKeys(s.now(), 3)
	s.ha = old
	want(t, s.publish("confirmed", keys, ""), 500, codeNoAuthority)

	is := s.door.issuers[testIssuer]
	step := func() error { return is.refresh(t.Context(), s.door.client) }
	set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	if err := step(); err == nil {
		t.Error("an answer of 500 is no key set")
	}
	want(t, s.publish("confirmed", keys, ""), 500, codeNoAuthority)
	say(`{"keys":[` + jwkOf(old, "") + "]}")
	if err := step(); err != nil {
		t.Fatal(err)
	}
	want(t, s.publish("confirmed", keys, ""), 200, "")

	for name, h := range map[string]http.HandlerFunc{
		"nothing":  func(http.ResponseWriter, *http.Request) {},
		"no keys":  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"keys":[]}`) },
		"too much": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "["+strings.Repeat(" ", maxJWKS)+"]") },
		"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) },
		"cut off":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"gone":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) },
	} {
		before := calls.Load()
		set(h)
		if err := step(); err == nil {
			t.Errorf("%s: taken", name)
		}
		if calls.Load() != before+1 {
			t.Errorf("%s: %d calls", name, calls.Load()-before)
		}
		want(t, s.publish("confirmed", keys, ""), 200, "")
	}

	say("[" + jwkOf(next, "") + "]")
	if err := step(); err != nil {
		t.Fatal(err)
	}
	want(t, s.publish("confirmed", keys, ""), 401, codeCertificate)
	s.ha = next
	want(t, s.publish("confirmed", keys, ""), 200, "")
}

// Run tries again after 30 s of failure and every 5 minutes else, says so once, and ends
// with its context.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSiteWith(t, func(c *Config) {
			c.Authorities[0].Keys, c.Authorities[0].JWKS = nil, "https://verify.test/jwks"
		})
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		var at []time.Duration
		s.door.client.Transport = roundTrip(func(*http.Request) (*http.Response, error) {
			at = append(at, time.Since(start))
			w := httptest.NewRecorder()
			if len(at) == 2 || len(at) > 4 {
				w.WriteString("[" + jwkOf(s.ha, "") + "]")
			}
			return w.Result(), nil
		})
		ended := make(chan error)
		go func() { ended <- s.door.Run(ctx) }()
		time.Sleep(12 * time.Minute)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		want := []time.Duration{0, 30 * time.Second, 330 * time.Second, 360 * time.Second, 390 * time.Second, 690 * time.Second}
		if fmt.Sprint(at) != fmt.Sprint(want) {
			t.Errorf("fetched at %v, want %v", at, want)
		}
		if n := strings.Count(s.logs.String(), "cannot fetch"); n != 2 {
			t.Errorf("%d failures logged:\n%s", n, s.logs)
		}
	})
}

// A certificate under a key that is not known has the keys fetched soon, and any number of
// them no more often than every 30 s.
func TestUnknownKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSiteWith(t, func(c *Config) {
			c.Authorities[0].Keys, c.Authorities[0].JWKS = nil, "https://verify.test/jwks"
		})
		old, next := s.ha, newAuthority(t, "v2")
		var published atomic.Pointer[authority]
		published.Store(old)
		begin := time.Now()
		var at []time.Duration
		s.door.client.Transport = roundTrip(func(*http.Request) (*http.Response, error) {
			at = append(at, time.Since(begin))
			w := httptest.NewRecorder()
			w.WriteString("[" + jwkOf(published.Load(), "") + "]")
			return w.Result(), nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.door.Run(ctx) }()
		sleepUntil := func(d time.Duration) {
			time.Sleep(d - time.Since(begin))
			synctest.Wait()
		}
		keys := appKeys(s.now(), 3)

		sleepUntil(100 * time.Second)
		want(t, s.publish("confirmed", keys, ""), 200, "")
		published.Store(next)
		s.ha = next
		want(t, s.publish("confirmed", keys, ""), 401, codeCertificate)
		synctest.Wait()
		want(t, s.publish("confirmed", keys, ""), 200, "")

		s.ha = newAuthority(t, "anybody's")
		for range 100 {
			want(t, s.publish("confirmed", keys, ""), 401, codeCertificate)
			time.Sleep(time.Second)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		want := []time.Duration{0, 100 * time.Second, 130 * time.Second, 160 * time.Second, 190 * time.Second}
		if fmt.Sprint(at) != fmt.Sprint(want) {
			t.Errorf("fetched at %v, want %v", at, want)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
