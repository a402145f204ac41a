package gaen

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
)

// testStart lies in the middle of a period of four hours.
var testStart = time.Date(2026, 3, 2, 13, 20, 0, 0, time.UTC)

const testPeriod = 4 * time.Hour

// site is a door before a store in memory, and an authority beside it.
type site struct {
	t     testing.TB
	clock atomic.Int64
	store *keystore.Store
	door  *Door
	ha    *authority
	logs  *strings.Builder
}

func (s *site) now() time.Time          { return time.Unix(s.clock.Load(), 0).UTC() }
func (s *site) advance(d time.Duration) { s.clock.Add(int64(d / time.Second)) }

func newSite(t testing.TB) *site { return newSiteWith(t, nil) }

func newSiteWith(t testing.TB, change func(*Config)) *site {
	t.Helper()
	s := &site{t: t, ha: newAuthority(t, "v1"), logs: new(strings.Builder)}
	s.clock.Store(testStart.Unix())
	var err error
	s.store, err = keystore.Open(keystore.Options{
		Dir: "data", FS: vfs.NewMem(), CodeKey: [32]byte{1}, DedupeKey: [32]byte{2}, Period: testPeriod, Hold: testPeriod,
		CacheSize: 8 << 20, Now: s.now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg := Config{
		Store: s.store, Authorities: []Authority{s.ha.config()}, TokenKey: [32]byte{3}, Region: "VN-HP",
		Now: s.now, Logger: slog.New(slog.NewTextHandler(s.logs, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	if s.door, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return s
}

// due counts the report types of the keys that the store would publish now.
func (s *site) due() map[diagnosis.ReportType]int {
	s.t.Helper()
	got := map[diagnosis.ReportType]int{}
	for k, err := range s.store.DueKeys(diagnosis.GAEN, s.now()) {
		if err != nil {
			s.t.Fatal(err)
		}
		got[k.Report]++
	}
	return got
}

// seal closes the window of the last full period.
func (s *site) seal() {
	s.t.Helper()
	if _, err := s.store.CloseWindow(s.t.Context(), diagnosis.GAEN, s.now().Truncate(testPeriod)); err != nil {
		s.t.Fatal(err)
	}
}

// authority is a health authority as its verification server is.
type authority struct {
	kid string
	key *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, kid string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{kid, key}
}

const (
	testIssuer   = "https://verify.test"
	testAudience = "https://keys.test"
	testApp      = "vn.test.app"
)

func (a *authority) config() Authority {
	return Authority{Issuer: testIssuer, Audience: testAudience, Apps: []string{testApp}, Keys: map[string]string{a.kid: a.pem()}}
}

func (a *authority) pem() string {
	der, err := x509.MarshalPKIXPublicKey(&a.key.PublicKey)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

type object = map[string]any

// claims are those of a certificate issued now.
func claims(now time.Time, report string, mac []byte) object {
	return object{
		"iss": testIssuer, "aud": testAudience, "iat": now.Unix(), "nbf": now.Unix() - 1, "exp": now.Add(15 * time.Minute).Unix(),
		"reportType": report, "tekmac": base64.StdEncoding.EncodeToString(mac),
	}
}

func (a *authority) header() object { return object{"alg": "ES256", "kid": a.kid, "typ": "JWT"} }

func (a *authority) sign(header, claims any) string {
	signed := segment(header) + "." + segment(claims)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, a.key, digest[:])
	if err != nil {
		panic(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// segment is one part of a JWT: JSON of a value, or the bytes of a string as they are.
func segment(v any) string {
	text, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		text = string(b)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(text))
}

// appKey is a key as an app has it.
type appKey struct {
	Key    string `json:"key"`
	Start  int64  `json:"rollingStartNumber"`
	Period int64  `json:"rollingPeriod"`
	Risk   int64  `json:"transmissionRisk,omitempty"`
}

// appKeys are whole days before today, one each.
func appKeys(now time.Time, n int) []appKey {
	keys := make([]appKey, n)
	for i := range keys {
		secret := make([]byte, 16)
		rand.Read(secret)
		keys[i] = appKey{base64.StdEncoding.EncodeToString(secret), (now.Unix()/86400 - 1 - int64(i)) * 144, 144, 0}
	}
	return keys
}

// mac is written after the verification protocol, and apart from the door's own.
func mac(secret []byte, keys []appKey, risk bool) []byte {
	sorted := append([]appKey{}, keys...)
	sort.SliceStable(sorted, func(i, j int) bool { return sorted[i].Key < sorted[j].Key })
	var parts []string
	for _, k := range sorted {
		part := fmt.Sprintf("%s.%d.%d", k.Key, k.Start, k.Period)
		if risk {
			part += fmt.Sprintf(".%d", k.Risk)
		}
		parts = append(parts, part)
	}
	h := hmac.New(sha256.New, secret)
	io.WriteString(h, strings.Join(parts, ","))
	return h.Sum(nil)
}

var appSecret = []byte("0123456789abcdef")

// body is what an app posts: the keys, and a certificate of the authority for them.
func (s *site) body(report string, keys []appKey, token string) object {
	return object{
		"temporaryExposureKeys": keys, "healthAuthorityID": testApp,
		"verificationPayload": s.ha.sign(s.ha.header(), claims(s.now(), report, mac(appSecret, keys, true))),
		"hmacKey":             base64.StdEncoding.EncodeToString(appSecret),
		"revisionToken":       token, "padding": strings.Repeat("x", 1000),
	}
}

// answered is a reply as an app sees it.
type answered struct {
	status int
	header http.Header
	size   int

	RevisionToken string `json:"revisionToken"`
	Error         string `json:"error"`
	Code          string `json:"code"`
	Padding       string `json:"padding"`
}

func (a answered) String() string { return fmt.Sprintf("%d %s %q", a.status, a.Code, a.Error) }

func request(body any) *http.Request {
	text, ok := body.(string)
	if !ok {
		b, err := json.Marshal(body)
		if err != nil {
			panic(err)
		}
		text = string(b)
	}
	r := httptest.NewRequest(http.MethodPost, Path, strings.NewReader(text))
	r.Header.Set("Content-Type", "application/json")
	return r
}

// do posts to the door. What it answers must have the one form that replies have.
func (s *site) do(r *http.Request) answered {
	s.t.Helper()
	w := httptest.NewRecorder()
	s.door.ServeHTTP(w, r)
	a := answered{status: w.Code, header: w.Header(), size: w.Body.Len()}
	dec := json.NewDecoder(w.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&a); err != nil {
		s.t.Fatal(err)
	}
	if a.size != replySize {
		s.t.Errorf("a reply of %d bytes", a.size)
	}
	return a
}

func (s *site) post(body any) answered {
	s.t.Helper()
	return s.do(request(body))
}

func (s *site) publish(report string, keys []appKey, token string) answered {
	s.t.Helper()
	return s.post(s.body(report, keys, token))
}

func want(t testing.TB, a answered, status int, code string) {
	t.Helper()
	if a.status != status || a.Code != code {
		t.Fatalf("got %v, want %d %q", a, status, code)
	}
}
