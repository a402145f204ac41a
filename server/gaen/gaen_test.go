package gaen

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
)

// The published vectors of the verification protocol.
func TestHMACVectors(t *testing.T) {
	text, err := os.ReadFile("../../testdata/vectors/gaen/hmac.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Secret string `json:"secret_b64"`
		Cases  []struct {
			Keys [][4]any
			Form string
			MAC  string `json:"mac_b64"`
		}
	}
	if err := json.Unmarshal(text, &file); err != nil || len(file.Cases) != 3 {
		t.Fatal(err, len(file.Cases))
	}
	for _, c := range file.Cases {
		var keys []tek
		for _, k := range c.Keys {
			keys = append(keys, tek{k[0].(string), int32(k[1].(float64)), int32(k[2].(float64)), int32(k[3].(float64))})
		}
		mac, err := decode64(c.MAC)
		if err != nil {
			t.Fatal(err)
		}
		if !checkMAC(keys, file.Secret, mac) {
			t.Errorf("%s: refused", c.Form)
		}
		keys[0], keys[1] = keys[1], keys[0]
		if !checkMAC(keys, file.Secret, mac) {
			t.Errorf("%s: refused in another order", c.Form)
		}
		keys[0].Start++
		if checkMAC(keys, file.Secret, mac) {
			t.Errorf("%s: taken for another key", c.Form)
		}
	}
	// The short form is for risks of zero only.
	risky := []tek{{"z2Cx9hdz2SlxZ8GEgqTYpA==", 1, 144, 3}}
	secret, _ := decode64(file.Secret)
	if checkMAC(risky, file.Secret, macOf(secret, risky, false)) {
		t.Error("the risks were left out, and it was taken")
	}
}

func TestPublish(t *testing.T) {
	s := newSite(t)
	keys := appKeys(s.now(), 14)
	keys[3].Risk = 5
	first := s.publish("confirmed", keys, "")
	want(t, first, 200, "")
	if first.Error != "" || first.RevisionToken == "" {
		t.Error(first)
	}
	if got := s.due(); got[diagnosis.ConfirmedTest] != 14 || len(got) != 1 {
		t.Fatalf("due are %v", got)
	}
	// Sent again, with the token and without, and by another app: the answer is the same.
	want(t, s.publish("confirmed", keys, ""), 200, "")
	want(t, s.publish("confirmed", keys, first.RevisionToken), 200, "")
	want(t, s.publish("confirmed", keys[:3], ""), 200, "")
	if got := s.due(); got[diagnosis.ConfirmedTest] != 14 {
		t.Fatalf("due are %v", got)
	}
	// So with the very same bytes.
	body, err := json.Marshal(s.body("likely", appKeys(s.now(), 3), ""))
	if err != nil {
		t.Fatal(err)
	}
	want(t, s.post(string(body)), 200, "")
	want(t, s.post(string(body)), 200, "")
	if got := s.due(); got[diagnosis.ConfirmedTest] != 17 {
		t.Fatalf("due are %v", got)
	}
}

// Every spelling of base64 that is accepted is hashed as it was sent.
func TestSpellings(t *testing.T) {
	for name, e := range map[string]*base64.Encoding{
		"std": base64.StdEncoding, "raw": base64.RawStdEncoding, "url": base64.URLEncoding, "rawurl": base64.RawURLEncoding,
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			keys := appKeys(s.now(), 14)
			for i := range keys {
				raw, _ := decode64(keys[i].Key)
				raw[0], raw[1], raw[2] = 0xfb, 0xff, 0xbf // + and / in every one of them
				keys[i].Key = e.EncodeToString(raw)
			}
			for _, risk := range []bool{true, false} {
				body := s.body("confirmed", keys, "")
				c := claims(s.now(), "confirmed", nil)
				c["tekmac"] = e.EncodeToString(mac(appSecret, keys, risk))
				body["verificationPayload"] = s.ha.sign(s.ha.header(), c)
				body["hmackey"] = e.EncodeToString(appSecret)
				delete(body, "hmacKey")
				want(t, s.post(body), 200, "")
			}
			if got := s.due(); got[diagnosis.ConfirmedTest] != 14 {
				t.Fatalf("due are %v", got)
			}
			// Another spelling of the keys is not what the certificate is for.
			body := s.body("confirmed", keys, "")
			for i := range keys {
				raw, _ := decode64(keys[i].Key)
				other := base64.StdEncoding
				if e == other {
					other = base64.RawURLEncoding
				}
				keys[i].Key = other.EncodeToString(raw)
			}
			body["temporaryExposureKeys"] = keys
			want(t, s.post(body), 401, codeCertificate)
		})
	}
	for _, text := range []string{"AA\n==", "AB==", "A-+A", "AAA=A", "=", "A"} {
		if _, err := decode64(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// One row for each code of the contract, and what leads to it.
func TestCodes(t *testing.T) {
	set := func(name string, v any) func(*site, object) {
		return func(_ *site, b object) { b[name] = v }
	}
	withKeys := func(change func(s *site, keys []appKey) []appKey) func(*site, object) {
		return func(s *site, b object) {
			keys := change(s, appKeys(s.now(), 4))
			maps.Copy(b, s.body("confirmed", keys, ""))
		}
	}
	bad := func(change func(*appKey)) func(*site, object) {
		return withKeys(func(_ *site, keys []appKey) []appKey { change(&keys[1]); return keys })
	}
	for _, row := range []struct {
		name   string
		change func(*site, object)
		status int
		code   string
		text   string
		stored int
	}{
		{"in order", func(*site, object) {}, 200, "", "", 4},
		{"null is absent", set("revisionToken", nil), 200, "", "", 4},
		{"traveler", set("traveler", true), 200, "", "", 4},
		{"an onset that cannot be", set("symptomOnsetInterval", 1), 200, "", "", 4},

		{"key too short", bad(func(k *appKey) { k.Key = "AAAA" }), 200, codePartial, "key 1 cannot be imported: key: 3 bytes, want 16", 3},
		{"key not base64", bad(func(k *appKey) { k.Key = "!" }), 200, codePartial, "key 1 cannot be imported: key: not base64", 3},
		{"period 0", bad(func(k *appKey) { k.Period = 0 }), 200, codePartial, "rollingPeriod: 0, want 1 to 144", 3},
		{"period 145", bad(func(k *appKey) { k.Period = 145 }), 200, codePartial, "rollingPeriod: 145", 3},
		{"risk 9", bad(func(k *appKey) { k.Risk = 9 }), 200, codePartial, "transmissionRisk: want 0 to 8", 3},
		{"risk -1", bad(func(k *appKey) { k.Risk = -1 }), 200, codePartial, "transmissionRisk", 3},
		{"start negative", bad(func(k *appKey) { k.Start = -1 }), 200, codePartial, "rollingStartNumber: negative", 3},
		{"too old", bad(func(k *appKey) { k.Start -= 16 * 144 }), 200, codePartial, "key 1 cannot be imported: ended more than 15 days ago", 3},
		{"in the future", bad(func(k *appKey) { k.Start += 3 * 144 }), 200, codePartial, "in the future", 3},
		{"one key twice", withKeys(func(_ *site, k []appKey) []appKey { k[1].Key = k[0].Key; return k }), 200, codePartial, "key 1", 3},

		{"none is right", withKeys(func(_ *site, k []appKey) []appKey {
			for i := range k {
				k[i].Period = int64(145 * (i % 2))
				if i == 3 {
					k[i].Key = "AAAA"
				}
			}
			return k
		}), 400, codeBadRequest, "key 3 cannot be imported", 0},
		{"all too old", withKeys(func(_ *site, k []appKey) []appKey {
			for i := range k {
				k[i].Start -= 16 * 144
			}
			return k
		}), 400, codeBadRequest, "key 3 cannot be imported", 0},
		{"overlap", withKeys(func(_ *site, k []appKey) []appKey { k[1].Start += 10; return k }), 400, codeBadRequest, "overlaps", 0},
		{"four of one start", withKeys(func(_ *site, k []appKey) []appKey {
			for i := range k {
				k[i].Start = k[0].Start
			}
			return k
		}), 400, codeBadRequest, "overlaps", 0},
		{"no keys", set("temporaryExposureKeys", []appKey{}), 400, codeBadRequest, "want 1 to 30", 0},
		{"31 keys", set("temporaryExposureKeys", make([]appKey, 31)), 400, codeBadRequest, "want 1 to 30", 0},
		{"unknown field", set("platform", "ios"), 400, codeBadRequest, `unknown field "platform"`, 0},
		{"another spelling of a field", set("HMACKEY", "x"), 400, codeBadRequest, "unknown field", 0},
		{"both spellings of hmacKey", set("hmackey", "x"), 400, codeBadRequest, "twice", 0},
		{"wrong type", set("hmacKey", 1), 400, codeBadRequest, "hmacKey: want string", 0},
		{"token of another kind", set("revisionToken", "AAAA"), 400, codeBadToken, "", 0},
		{"token not base64", set("revisionToken", "!"), 400, codeBadToken, "", 0},

		{"unknown app", set("healthAuthorityID", "other"), 401, codeUnknown, "", 0},
		{"no app", set("healthAuthorityID", ""), 401, codeUnknown, "", 0},
		{"no certificate", set("verificationPayload", ""), 401, codeCertificate, "not a JWT", 0},
		{"no hmacKey", set("hmacKey", ""), 401, codeCertificate, "tekmac", 0},
		{"another hmacKey", set("hmacKey", "MTIzNDEyMzQxMjM0MTIzNA=="), 401, codeCertificate, "tekmac", 0},
		{"other keys", func(s *site, b object) { b["temporaryExposureKeys"] = appKeys(s.now(), 4) }, 401, codeCertificate, "tekmac", 0},
		{"closed for ever", func(s *site, _ object) {
			if err := s.store.Retire("closed"); err != nil {
				s.t.Fatal(err)
			}
		}, 410, codeClosed, "", 0},
		{"keys of the authority not there yet", func(s *site, _ object) { s.door.issuers[testIssuer].keys.Store(nil) }, 500, codeNoAuthority, "", 0},
		{"too many at once", func(s *site, _ object) { s.door.slots = nil }, 503, codeBusy, "", 0},
		{"the store fails", func(s *site, _ object) { s.door.store = broken{errors.New("disk")} }, 500, codeInternal, "", 0},
		{"the store is busy", func(s *site, _ object) { s.door.store = broken{&keystore.Refusal{Reason: keystore.Busy, Index: -1}} }, 503, codeBusy, "", 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newSite(t)
			body := s.body("confirmed", appKeys(s.now(), 4), "")
			row.change(s, body)
			a := s.post(body)
			want(t, a, row.status, row.code)
			if !strings.Contains(a.Error, row.text) || (a.Code == "") != (a.Error == "") {
				t.Errorf("error %q, want %q", a.Error, row.text)
			}
			if (a.RevisionToken != "") != (a.status == 200) {
				t.Errorf("%v with token %q", a, a.RevisionToken)
			}
			if (a.status == 503) != (a.header.Get("Retry-After") != "") {
				t.Error(a.header)
			}
			n := 0
			for _, each := range s.due() {
				n += each
			}
			if n != row.stored {
				t.Errorf("%d keys stored, want %d", n, row.stored)
			}
		})
	}
}

// broken is a store that fails.
type broken struct{ err error }

func (b broken) UploadGAEN(_ context.Context, keys []keystore.GAENKey) ([]*keystore.Refusal, error) {
	return make([]*keystore.Refusal, len(keys)), b.err
}
func (b broken) Scratch(context.Context, []diagnosis.Key) error { return b.err }

// What is wrong before anybody looks at the keys.
func TestRequests(t *testing.T) {
	s := newSite(t)
	good, err := json.Marshal(s.body("confirmed", appKeys(s.now(), 4), ""))
	if err != nil {
		t.Fatal(err)
	}
	filled := func(n int) string {
		return strings.Replace(string(good), `"padding":"`, `"padding":"`+strings.Repeat("x", n-len(good)), 1)
	}
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for _, row := range []struct {
		name   string
		body   string
		change func(*http.Request)
		status int
	}{
		{"good", string(good), nil, 200},
		{"charset", string(good), header("Content-Type", "application/json; charset=utf-8"), 200},
		{"the largest", filled(MaxBody), nil, 200},
		{"a byte larger", filled(MaxBody + 1), nil, 413},
		{"a byte larger, length not told", filled(MaxBody + 1), func(r *http.Request) { r.ContentLength = -1 }, 413},
		{"a length that is a lie", "", func(r *http.Request) { r.ContentLength = 1 << 40 }, 413},
		{"no content type", string(good), header("Content-Type", ""), 415},
		{"text", string(good), header("Content-Type", "text/plain"), 415},
		{"compressed", string(good), header("Content-Encoding", "gzip"), 415},
		{"GET", "", func(r *http.Request) { r.Method = http.MethodGet }, 405},
		{"empty", "", nil, 400},
		{"null", "null", nil, 400},
		{"a list", "[]", nil, 400},
		{"cut", string(good[:len(good)-1]), nil, 400},
		{"two", string(good) + string(good), nil, 400},
		{"more behind", string(good) + "x", nil, 400},
		{"spaces behind", string(good) + " \n", nil, 200},
		{"name twice", `{"padding":"a","padding":"b"}`, nil, 400},
		{"name twice in a key", strings.Replace(string(good), `"rollingPeriod":144`, `"rollingPeriod":144,"rollingPeriod":144`, 1), nil, 400},
		{"name twice, once escaped", `{"padding":"a","p\u0061dding":"b"}`, nil, 400},
		{"names of a key where none belong", `{"key":"a"}`, nil, 400},
		{"fraction", strings.Replace(string(good), `"rollingPeriod":144`, `"rollingPeriod":144.0`, 1), nil, 400},
		{"exponent", strings.Replace(string(good), `"rollingPeriod":144`, `"rollingPeriod":1e2`, 1), nil, 400},
		{"huge", strings.Replace(string(good), `"rollingPeriod":144`, `"rollingPeriod":`+strings.Repeat("9", 5000), 1), nil, 400},
		{"beyond 32 bits", strings.Replace(string(good), `"rollingPeriod":144`, `"rollingPeriod":4294967440`, 1), nil, 400},
		{"number as text", strings.Replace(string(good), `"rollingPeriod":144`, `"rollingPeriod":"144"`, 1), nil, 400},
		{"nested", strings.Repeat("[", 60_000), nil, 400},
		{"nested objects", strings.Repeat(`{"padding":`, 5_000), nil, 400},
		{"nested and closed", `{"padding":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}", nil, 400},
		{"not UTF-8", "{\"padding\":\"\xff\"}", nil, 400},
		{"many keys", `{"temporaryExposureKeys":[` + strings.Repeat("{},", 20_000) + "{}]}", nil, 400},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := request(row.body)
			if row.change != nil {
				row.change(r)
			}
			a := s.do(r)
			if a.status != row.status || a.status != 200 && a.Code != codeBadRequest {
				t.Fatalf("got %v, want %d", a, row.status)
			}
		})
	}
}

func TestOnset(t *testing.T) {
	const day = 144
	today := uint32(testStart.Unix() / 86400)
	at := func(daysAgo uint32) uint32 { return (today-daysAgo)*day + 30 }
	for _, row := range []struct {
		name        string
		phone, cert uint32
		want        uint32 // days ago
	}{
		{"the phone says", at(6), at(2), 6},
		{"only the certificate says", 0, at(2), 2},
		{"nobody says", 0, 0, 4},
		{"28 days ago, at midnight", (today - 28) * day, 0, 28},
		{"an interval before that", (today-28)*day - 1, at(3), 3},
		{"an hour ago", uint32(testStart.Unix()/600) - 6, at(3), 0},
		{"now", uint32(testStart.Unix() / 600), at(3), 3},
		{"nonsense in both", 1, 1<<32 - 1, 4},
	} {
		if got := today - onsetDay(int32(row.phone), row.cert, testStart); got != row.want {
			t.Errorf("%s: %d days ago, want %d", row.name, got, row.want)
		}
	}
	if got := today - onsetDay(-5, at(2), testStart); got != 2 {
		t.Errorf("negative: %d days ago", got)
	}
}

func TestChaff(t *testing.T) {
	s := newSite(t)
	send := func(body any) answered {
		r := request(body)
		r.Header.Set("X-Chaff", "1")
		return s.do(r)
	}
	real := s.body("confirmed", appKeys(s.now(), 14), "")
	for _, body := range []any{real, "", "{", `{"padding":"x"}`, object{"temporaryExposureKeys": appKeys(s.now(), 3), "healthAuthorityID": "x"}} {
		a := send(body)
		want(t, a, 200, "")
		if a.Error != "" || a.RevisionToken != "" {
			t.Error(a)
		}
	}
	if got := s.due(); len(got) != 0 {
		t.Fatalf("chaff is due: %v", got)
	}
	// The decoy is one that passes: its check runs to the end.
	cert, err := s.door.decoy.issuers.verify("decoy", s.door.decoy.token, s.now())
	if err != nil || len(cert.mac) != 32 {
		t.Error(err)
	}
	r := request(strings.Repeat("x", MaxBody+1))
	r.Header.Set("X-Chaff", "1")
	want(t, s.do(r), 413, codeBadRequest)
	if err := s.store.Retire("closed"); err != nil {
		t.Fatal(err)
	}
	want(t, send(real), 410, codeClosed)
	s.door.store = broken{errors.New("disk")}
	want(t, send(real), 500, codeInternal)
}

// Nothing of a request is in a log, not even of those that fail; and what fails is logged
// once a minute.
func TestLogs(t *testing.T) {
	s := newSite(t)
	keys := appKeys(s.now(), 3)
	s.publish("confirmed", keys, "")
	s.publish("user-report", keys, "")
	s.post("{")
	if s.logs.Len() != 0 {
		t.Fatal(s.logs)
	}
	s.door.store = broken{context.Canceled}
	want(t, s.publish("confirmed", keys, ""), 500, codeInternal)
	s.door.store = broken{errors.New("the disk is gone")}
	for range 5 {
		s.publish("confirmed", keys, "")
	}
	if n := strings.Count(s.logs.String(), "\n"); n != 1 || !strings.Contains(s.logs.String(), "the disk is gone") {
		t.Fatalf("%d lines: %s", n, s.logs)
	}
	for _, secret := range []string{testApp, keys[0].Key, "192.0.2.1"} {
		if strings.Contains(s.logs.String(), secret) {
			t.Errorf("%s is in the log", secret)
		}
	}
}

// Many apps at once, each sending its request several times.
func TestConcurrency(t *testing.T) {
	s := newSite(t)
	shared := s.body("confirmed", appKeys(s.now(), 14), "")
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			keys := appKeys(s.now(), 14)
			first := s.publish("user-report", keys, "")
			for range 3 {
				for _, a := range []answered{s.post(shared), s.publish("confirmed", keys, first.RevisionToken)} {
					if a.status != 200 || a.Code != "" {
						t.Error(a)
					}
				}
			}
		})
	}
	group.Wait()
	if got := s.due(); got[diagnosis.ConfirmedTest] != 17*14 || len(got) != 1 {
		t.Fatalf("due are %v", got)
	}
}

// The longest things that a reply can say still fit.
func TestReplySize(t *testing.T) {
	s := newSite(t)
	keys := appKeys(s.now(), 14)
	for len(keys) < 29 {
		k := appKeys(s.now(), 1)[0]
		k.Key, k.Start = "AA==", 1<<31-1
		keys = append(keys, k)
	}
	for i := range keys[1:] {
		keys[1+i].Period = -1 << 31
	}
	a := s.publish("confirmed", keys, "")
	want(t, a, 200, codePartial)
	if strings.Count(a.Error, "cannot be imported") != 28 || len(a.Padding) < 100 {
		t.Errorf("%d bytes of padding, %v", len(a.Padding), a)
	}
}
