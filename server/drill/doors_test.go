package drill

import (
	"context"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"bluekey/keystore/diagnosis"
)

func newActor(scheme diagnosis.Scheme) *actor {
	a := &actor{scheme: scheme, isCase: true, found: map[int]bool{}}
	a.keys, a.root = NewSimulation(7).phone(scheme, time.Now(), days)
	return a
}

// serve is a province that answers by hand.
func serve(t *testing.T, answer http.HandlerFunc) *Province {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	authority, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return &Province{
		URL: server.URL, Authority: authority,
		IssueDoor: func(context.Context) (string, error) { return "904512", nil },
	}
}

func gaenAnswer(code string, size int) string {
	text := fmt.Sprintf(`{"revisionToken":"x","code":%q,"padding":"`, code)
	return text + strings.Repeat("p", size-len(text)-2) + `"}`
}

// What the app sends holds together: certificate, HMAC and keys.
func TestGAENApp(t *testing.T) {
	var path string
	var body []byte
	p := serve(t, func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.Path
		body, _ = io.ReadAll(r.Body)
		io.WriteString(w, gaenAnswer("", gaenReply))
	})
	a := newActor(diagnosis.GAEN)
	if err := a.publish(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	var sent struct {
		Keys []struct {
			Key                                                 string
			RollingStartNumber, RollingPeriod, TransmissionRisk int
		} `json:"temporaryExposureKeys"`
		HealthAuthorityID, VerificationPayload, HMACKey string
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		t.Fatal(err)
	}
	if path != "/v1/publish" || sent.HealthAuthorityID != p.Authority.App || len(sent.Keys) != len(a.keys) {
		t.Fatalf("%s: %s", path, body)
	}
	var parts []string
	for i, k := range sent.Keys {
		if k.Key != base64.StdEncoding.EncodeToString(a.keys[i].Bytes()) {
			t.Errorf("key %d is another", i)
		}
		parts = append(parts, fmt.Sprintf("%s.%d.%d.%d", k.Key, k.RollingStartNumber, k.RollingPeriod, k.TransmissionRisk))
	}
	slices.Sort(parts)
	secret, _ := base64.StdEncoding.DecodeString(sent.HMACKey)
	mac := hmac.New(sha256.New, secret)
	io.WriteString(mac, strings.Join(parts, ","))

	jwt := strings.Split(sent.VerificationPayload, ".")
	claims, _ := base64.RawURLEncoding.DecodeString(jwt[1])
	var said struct{ Iss, Aud, ReportType, Tekmac string }
	if err := json.Unmarshal(claims, &said); err != nil {
		t.Fatal(err)
	}
	if said.Iss != p.Authority.Issuer || said.Aud != p.Authority.Audience || said.ReportType != "confirmed" ||
		said.Tekmac != base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
		t.Errorf("the certificate says %s", claims)
	}
	text, err := p.Authority.PublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(text))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	signature, _ := base64.RawURLEncoding.DecodeString(jwt[2])
	digest := sha256.Sum256([]byte(jwt[0] + "." + jwt[1]))
	if len(signature) != 64 || !ecdsa.Verify(public.(*ecdsa.PublicKey), digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		t.Error("the signature of the certificate is not right")
	}
}

func TestGAENReplies(t *testing.T) {
	for _, row := range []struct {
		name   string
		status int
		reply  string
		good   bool
	}{
		{"all is stored", 200, gaenAnswer("", gaenReply), true},
		{"a byte less", 200, gaenAnswer("", gaenReply-1), false},
		{"a key was left out", 200, gaenAnswer("partial_failure", gaenReply), false},
		{"refused", 401, gaenAnswer("", gaenReply), false},
		{"no token", 200, strings.Replace(gaenAnswer("", gaenReply), `:"x"`, `:""`, 1) + " ", false},
		{"no JSON", 200, strings.Repeat("x", gaenReply), false},
	} {
		if err := checkGAEN(row.status, []byte(row.reply)); (err == nil) != row.good {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// The two requests are under way together, say the same of the case, and the record in them
// leads to the phone's seeds.
func TestBluezoneApp(t *testing.T) {
	forms, both := make(chan map[string]string, 2), make(chan bool)
	p := serve(t, func(w http.ResponseWriter, r *http.Request) {
		select { // until the other is there
		case both <- true:
		case <-both:
		case <-time.After(10 * time.Second):
			t.Error("the two requests came one after the other")
		}
		if name, file := strings.CutPrefix(r.URL.Path, bluezoneCase); name != "" && name != "_NoFile" || !file {
			t.Error(r.URL.Path)
		}
		forms <- readForm(t, r)
		io.WriteString(w, `{"isOk":true,"isError":false,"Status":0,"Object":{}}`)
	})
	a := newActor(diagnosis.Bluezone)
	if err := a.declare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	first, second := <-forms, <-forms
	if (first["history"] == "") == (second["history"] == "") {
		t.Error("not one of them with the history")
	}
	delete(first, "history")
	delete(second, "history")
	if fmt.Sprint(first) != fmt.Sprint(second) || first["OTP"] != "904512" || first["PhoneNumber"] == "" || first["TokenFirebase"] == "" {
		t.Errorf("%v and %v", first, second)
	}
	var record struct {
		Daily string `json:"daily_key"`
		Start int64  `json:"time_start"`
	}
	if err := json.Unmarshal([]byte(first["InfoF"]), &record); err != nil {
		t.Fatal(err)
	}
	raw, err := hex.DecodeString(record.Daily)
	if err != nil || len(raw) != 32 || record.Start != a.scheme.Time(a.keys[0].Start).Unix() {
		t.Fatalf("record %+v: %v", record, err)
	}
	daily, told := [32]byte(raw), map[string]bool{}
	for _, trace := range a.told {
		told[string(trace.forms[0])] = true
	}
	for i := range a.keys {
		if seed := diagnosis.DaySeed(daily); string(seed[:]) != string(a.keys[i].Bytes()) {
			t.Errorf("day %d has another seed", i)
		}
		if !told[string(daily[:])] {
			t.Errorf("nobody will search for the daily key of day %d", i)
		}
		daily = diagnosis.NextDailyKey(daily)
	}
	for _, field := range []string{"OTP", "PhoneNumber", "TokenFirebase"} {
		if !told[first[field]] {
			t.Errorf("nobody will search for %s", field)
		}
	}
}

// readForm reads a body by the boundary that it begins with, as the door does.
func readForm(t *testing.T, r *http.Request) map[string]string {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	boundary, _, _ := strings.Cut(string(body), "\r\n")
	r.Header.Set("Content-Type", "multipart/form-data; boundary="+strings.TrimPrefix(boundary, "--"))
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	parts, err := r.MultipartReader()
	if err != nil {
		t.Error(err)
		return nil
	}
	form := map[string]string{}
	for {
		part, err := parts.NextPart()
		if err == io.EOF {
			return form
		}
		if err != nil {
			t.Error(err)
			return form
		}
		text, _ := io.ReadAll(part)
		form[part.FormName()] = string(text)
	}
}

func TestBluezoneReplies(t *testing.T) {
	for _, row := range []struct {
		name   string
		status int
		reply  string
		good   bool
	}{
		{"taken", 200, `{"isOk":true,"isError":false,"Status":0,"Object":{}}`, true},
		{"a wrong code", 200, `{"isOk":false,"isError":true,"Status":51,"Object":{}}`, false},
		{"yes and no", 200, `{"isOk":true,"isError":false,"Status":51,"Object":{}}`, false},
		{"another HTTP status", 201, `{"isOk":true,"isError":false,"Status":0,"Object":{}}`, false},
		{"nothing said", 200, `{}`, false},
		{"no envelope", 404, "404 page not found", false},
	} {
		if err := checkBluezone(row.status, []byte(row.reply)); (err == nil) != row.good {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}
