package seal

import (
	"bytes"
	"crypto/hpke"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	origin = "keys.example/hp"
	today  = 20780 // 23 November 2026
)

func vector(t testing.TB, name string, into any) {
	t.Helper()
	data, err := os.ReadFile("../../testdata/vectors/permit/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// hexBytes reads the hex strings of the vectors.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// exchanges is exchange.json: requests and replies made in Go and in JavaScript.
type exchanges struct {
	Origin    string
	Seed      hexBytes `json:"recipient_seed"`
	Public    hexBytes `json:"recipient_public"`
	KeyID     hexBytes `json:"key_id"`
	Info      hexBytes `json:"hpke_info"`
	Export    string   `json:"export_context"`
	SuiteID   hexBytes `json:"suite_id"`
	Kem, Kdf  string
	Aead      string
	Exchanges []struct {
		Name         string
		RequestPlain hexBytes `json:"request_plain"`
		Request      hexBytes
		Export       hexBytes
		ReplyNonce   hexBytes `json:"reply_nonce"`
		ReplyPlain   hexBytes `json:"reply_plain"`
		Reply        hexBytes
	}
}

func noon(d uint32) time.Time { return dayStart(d).Add(12 * time.Hour) }

func newKey(t testing.TB, d uint32) *PrivateKey {
	t.Helper()
	k, err := NewPrivateKey(origin, d)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ringOf(t testing.TB, keys ...*PrivateKey) *Ring {
	t.Helper()
	r := new(Ring)
	for _, k := range keys {
		if err := r.Add(k); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func plainRequest(fill byte) []byte { return bytes.Repeat([]byte{fill}, PlainRequestLen) }
func plainReply(fill byte) []byte   { return bytes.Repeat([]byte{fill}, PlainReplyLen) }

func sealTo(t testing.TB, k *PublicKey, plain []byte) ([]byte, *Sent) {
	t.Helper()
	request, sent, err := k.Seal(plain)
	if err != nil {
		t.Fatal(err)
	}
	return request, sent
}

func TestTheExchangesOfTheVectors(t *testing.T) {
	var v exchanges
	vector(t, "exchange.json", &v)
	key, err := LoadPrivateKey(v.Origin, today, v.Seed)
	if err != nil {
		t.Fatal(err)
	}
	if got := key.Public().Bytes(); !bytes.Equal(got, v.Public) {
		t.Error("public key differs")
	}
	id := key.Public().ID()
	if !bytes.Equal(id[:], v.KeyID) || !bytes.Equal(info(v.Origin, id), v.Info) || labelReply != v.Export {
		t.Error("key id, info or export context differ")
	}
	if got := fmt.Sprintf("%04x %04x %04x", kem.ID(), kdf.ID(), aead.ID()); got != v.Kem+" "+v.Kdf+" "+v.Aead {
		t.Errorf("suite %s", got)
	}
	ring := ringOf(t, key)
	if len(v.Exchanges) < 4 {
		t.Fatal("exchange.json has fewer exchanges than it used to")
	}
	for _, x := range v.Exchanges {
		t.Run(x.Name, func(t *testing.T) {
			if len(x.Request) != RequestLen || len(x.Reply) != ReplyLen {
				t.Fatalf("%d and %d bytes", len(x.Request), len(x.Reply))
			}
			opened, err := ring.Open(x.Request, noon(today))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(opened.Plain, x.RequestPlain) || !bytes.Equal(opened.secret, x.Export) {
				t.Error("plaintext or exported secret differ")
			}
			reply, err := opened.seal([replyNonceLen]byte(x.ReplyNonce), x.ReplyPlain)
			if err != nil || !bytes.Equal(reply, x.Reply) {
				t.Errorf("reply differs, error %v", err)
			}
			// The phone's side of the same request.
			sent := Sent{replyKeys{secret: x.Export, enc: x.Request[keyIDLen : keyIDLen+encLen]}}
			plain, err := sent.Open(x.Reply)
			if err != nil || !bytes.Equal(plain, x.ReplyPlain) {
				t.Errorf("the phone reads another reply, error %v", err)
			}
		})
	}
}

// TestHPKEVectors: the suite is that of the draft, not only one that agrees with itself.
func TestHPKEVectors(t *testing.T) {
	var v struct {
		KEM         uint16 `json:"kem_id"`
		KDF         uint16 `json:"kdf_id"`
		AEAD        uint16 `json:"aead_id"`
		Info        hexBytes
		SkRm, PkRm  hexBytes
		IkmR        hexBytes
		Enc         hexBytes
		Encryptions []struct{ AAD, CT, PT hexBytes }
		Exports     []struct {
			Context hexBytes `json:"exporter_context"`
			L       int
			Value   hexBytes `json:"exported_value"`
		}
	}
	vector(t, "hpke-xwing.json", &v)
	if v.KEM != kem.ID() || v.KDF != kdf.ID() || v.AEAD != aead.ID() {
		t.Fatal("the vector is for another suite")
	}
	key, err := kem.NewPrivateKey(v.SkRm)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key.PublicKey().Bytes(), v.PkRm) || len(v.PkRm) != PublicLen || len(v.Enc) != encLen {
		t.Error("public key differs")
	}
	derived, err := kem.DeriveKeyPair(v.IkmR)
	if err != nil || !bytes.Equal(derived.PublicKey().Bytes(), v.PkRm) {
		t.Errorf("derived key differs, error %v", err)
	}
	r, err := hpke.NewRecipient(v.Enc, key, kdf, aead, v.Info)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range v.Encryptions {
		if pt, err := r.Open(e.AAD, e.CT); err != nil || !bytes.Equal(pt, e.PT) {
			t.Errorf("encryption %d: %v", i, err)
		}
	}
	for i, e := range v.Exports {
		if got, err := r.Export(string(e.Context), e.L); err != nil || !bytes.Equal(got, e.Value) {
			t.Errorf("export %d: %v", i, err)
		}
	}
}

func TestAnExchange(t *testing.T) {
	key := newKey(t, today)
	ring := ringOf(t, key)
	request, sent := sealTo(t, key.Public(), plainRequest(7))
	if len(request) != RequestLen {
		t.Errorf("a request of %d bytes", len(request))
	}
	if again, _ := sealTo(t, key.Public(), plainRequest(7)); bytes.Equal(again[keyIDLen:], request[keyIDLen:]) {
		t.Error("the same plaintext gave the same request")
	}
	opened, err := ring.Open(request, noon(today))
	if err != nil || !bytes.Equal(opened.Plain, plainRequest(7)) {
		t.Fatalf("opened wrongly: %v", err)
	}
	// A request that is sent again is opened again, and answered under another nonce.
	replayed, err := ring.Open(request, noon(today))
	if err != nil {
		t.Fatal(err)
	}
	first, err1 := opened.Seal(plainReply(1))
	second, err2 := replayed.Seal(plainReply(2))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	stream := func(reply []byte, fill byte) (out []byte) {
		for _, b := range reply[replyNonceLen : replyNonceLen+PlainReplyLen] {
			out = append(out, b^fill)
		}
		return out
	}
	if bytes.Equal(first[:replyNonceLen], second[:replyNonceLen]) || bytes.Equal(stream(first, 1), stream(second, 2)) {
		t.Error("two replies under one key stream")
	}
	for i, reply := range [][]byte{first, second} {
		plain, err := sent.Open(reply)
		if err != nil || len(reply) != ReplyLen || !bytes.Equal(plain, plainReply(byte(i+1))) {
			t.Errorf("reply %d: %v", i, err)
		}
	}
}

// TestAlteredMessages flips a bit of every byte, and cuts.
func TestAlteredMessages(t *testing.T) {
	key, other := newKey(t, today), newKey(t, today+1)
	ring := ringOf(t, key, other)
	request, sent := sealTo(t, key.Public(), plainRequest(7))
	opened, err := ring.Open(request, noon(today))
	if err != nil {
		t.Fatal(err)
	}
	reply, err := opened.Seal(plainReply(1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range request {
		b := slices.Clone(request)
		b[i] ^= 1 << (i % 8)
		want := ErrSealed
		if i < keyIDLen {
			want = ErrKey
		}
		if _, err := ring.Open(b, noon(today)); !errors.Is(err, want) {
			t.Fatalf("request, byte %d: %v, want %v", i, err, want)
		}
	}
	for i := range reply {
		b := slices.Clone(reply)
		b[i] ^= 1 << (i % 8)
		if _, err := sent.Open(b); err != ErrReply {
			t.Fatalf("reply, byte %d: %v", i, err)
		}
	}
	for _, n := range []int{0, keyIDLen, RequestLen - 1, RequestLen + 1} {
		if _, err := ring.Open(append(request[:min(n, RequestLen):min(n, RequestLen)], make([]byte, max(0, n-RequestLen))...), noon(today)); err != ErrLength {
			t.Errorf("a request of %d bytes: %v", n, err)
		}
	}
	for _, b := range [][]byte{nil, reply[:ReplyLen-1], append(slices.Clone(reply), 0), NoReply()} {
		if _, err := sent.Open(b); err != ErrReply {
			t.Errorf("a reply of %d bytes: %v", len(b), err)
		}
	}

	// Sent under another key's name, to another origin's, or as another request's reply.
	renamed := slices.Clone(request)
	id := other.Public().ID()
	copy(renamed, id[:])
	if _, err := ring.Open(renamed, noon(today)); err != ErrKey {
		t.Errorf("tomorrow's key at noon: %v", err)
	}
	if _, err := ring.Open(renamed, dayStart(today+1)); err != ErrSealed {
		t.Errorf("under another key's name: %v", err)
	}
	seed, err := key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := LoadPrivateKey("keys.example/hn", today, seed)
	if err != nil {
		t.Fatal(err)
	}
	if elsewhere.Public().ID() == key.Public().ID() {
		t.Error("a key has one id at two origins")
	}
	if _, err := elsewhere.open(request); err != ErrSealed {
		t.Errorf("the same key at another origin: %v", err)
	}
	lowOrder := slices.Clone(request)
	clear(lowOrder[keyIDLen+encLen-32 : keyIDLen+encLen])
	if _, err := ring.Open(lowOrder, noon(today)); err != ErrSealed {
		t.Errorf("X25519 share of low order: %v", err)
	}
	_, sent2 := sealTo(t, key.Public(), plainRequest(7))
	if _, err := sent2.Open(reply); err != ErrReply {
		t.Errorf("the reply to another request: %v", err)
	}
	if _, _, err := key.Public().Seal(make([]byte, 1023)); err == nil {
		t.Error("a request of 1,023 bytes is sealed")
	}
	if _, err := opened.Seal(make([]byte, 513)); err == nil {
		t.Error("a reply of 513 bytes is sealed")
	}
}

func TestAKeyOpensOnItsDay(t *testing.T) {
	key := newKey(t, today)
	ring := ringOf(t, key)
	request, _ := sealTo(t, key.Public(), plainRequest(0))
	start := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		at   time.Time
		open bool
	}{
		{start.Add(-time.Hour - 1), false},
		{start.Add(-time.Hour), true},
		{start, true},
		{start.Add(24 * time.Hour), true},
		{start.Add(25*time.Hour - 1), true},
		{start.Add(25 * time.Hour), false},
		{start.In(time.FixedZone("ICT", 7*3600)), true},
	} {
		if _, err := ring.Open(request, c.at); (err == nil) != c.open || err != nil && err != ErrKey {
			t.Errorf("at %v: %v", c.at, err)
		}
	}
	if DayAt(start) != today || DayAt(start.Add(-1)) != today-1 || DayAt(time.Time{}) != 0 {
		t.Error("days are counted wrongly")
	}
	if at := AnnounceBy(today); !at.Equal(time.Date(2026, 11, 21, 23, 0, 0, 0, time.UTC)) {
		t.Errorf("announced by %v", at)
	}
}

// TestDestroy: 48 hours after its day began a key opens nothing and its seed is zeros.
func TestDestroy(t *testing.T) {
	old, now, next := newKey(t, today-1), newKey(t, today), newKey(t, today+1)
	seed, err := old.Seed()
	if err != nil {
		t.Fatal(err)
	}
	ring := ringOf(t, now, next, old)
	end := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	if days := ring.Destroy(end.Add(-1)); len(days) != 0 {
		t.Errorf("destroyed %v before its time", days)
	}
	if got, _ := old.Seed(); !bytes.Equal(got, seed) || bytes.Equal(seed, make([]byte, SeedLen)) {
		t.Error("the seed changed before its time")
	}
	if days := ring.Destroy(end); !slices.Equal(days, []uint32{today - 1}) {
		t.Errorf("destroyed %v", days)
	}
	if got, _ := old.Seed(); !bytes.Equal(got, make([]byte, SeedLen)) {
		t.Error("the seed is still there")
	}
	request, _ := sealTo(t, old.Public(), plainRequest(0))
	if _, err := ring.Open(request, noon(today-1)); err != ErrKey {
		t.Errorf("a destroyed key: %v", err)
	}
	var days []uint32
	for _, k := range ring.Public() {
		days = append(days, k.Day)
	}
	if !slices.Equal(days, []uint32{today, today + 1}) {
		t.Errorf("on the ring: %v", days)
	}
	if days := ring.Destroy(noon(today + 30)); !slices.Equal(days, []uint32{today, today + 1}) || len(ring.Public()) != 0 {
		t.Errorf("destroyed %v", days)
	}
}

func TestOneKeyADay(t *testing.T) {
	ring := ringOf(t, newKey(t, today))
	if err := ring.Add(newKey(t, today)); err == nil {
		t.Error("two keys for one day")
	}
	elsewhere, err := NewPrivateKey("keys.example/hn", today+1)
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.Add(elsewhere); err == nil {
		t.Error("keys of two origins")
	}
	for name, load := range map[string]func() (*PrivateKey, error){
		"short seed": func() (*PrivateKey, error) { return LoadPrivateKey(origin, today, make([]byte, 31)) },
		"no origin":  func() (*PrivateKey, error) { return NewPrivateKey("", today) },
		"two lines":  func() (*PrivateKey, error) { return NewPrivateKey("a\nb", today) },
	} {
		if _, err := load(); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
}

func TestRingIsShared(t *testing.T) {
	key := newKey(t, today)
	ring := ringOf(t, key)
	request, sent := sealTo(t, key.Public(), plainRequest(3))
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			ring.Public()
			opened, err := ring.Open(request, noon(today))
			if errors.Is(err, ErrKey) {
				return // destroyed by then
			}
			if err != nil {
				t.Error(err)
				return
			}
			reply, err := opened.Seal(plainReply(byte(n)))
			if err != nil {
				t.Error(err)
			}
			if _, err := sent.Open(reply); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() { ring.Destroy(noon(today + 2)) })
	wg.Wait()
}

func TestRedaction(t *testing.T) {
	key := newKey(t, today)
	ring := ringOf(t, key)
	request, sent := sealTo(t, key.Public(), plainRequest('K'))
	opened, err := ring.Open(request, noon(today))
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{"PrivateKey": key, "Ring": ring, "Sent": sent, "Sent value": *sent, "Opened": opened, "Opened value": *opened} {
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
		j, err := json.Marshal(v)
		if err != nil || string(j) != `"[redacted]"` || !strings.Contains(log.String(), "[redacted]") || strings.Contains(log.String(), "KKK") {
			t.Errorf("%s: JSON %s, log %s, error %v", name, j, &log, err)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%d"} {
			if got := fmt.Sprintf(verb, v); got != "[redacted]" {
				t.Errorf("%s: %s prints %s", name, verb, got)
			}
		}
	}
}

func TestWipe(t *testing.T) {
	b := []byte{1, 2, 3}
	if Wipe(b); !bytes.Equal(b, make([]byte, 3)) {
		t.Error("not wiped")
	}
}
