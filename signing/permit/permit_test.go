package permit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cloudflare/circl/group"

	"bluekey/keystore/diagnosis"
)

const today = 20780

func testService(t testing.TB) Service {
	t.Helper()
	s, err := NewService("keys.example/hp", "VN-HP")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testIssuer(t testing.TB) *Issuer {
	t.Helper()
	i, err := NewIssuer(testService(t), [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// keyring is what a phone knows of an issuer.
func keyring(i *Issuer, days ...uint32) func(uint32) ([32]byte, bool) {
	return func(epoch uint32) ([32]byte, bool) { return i.PublicKey(epoch), slices.Contains(days, epoch) }
}

// buy runs a whole Redeem through the messages.
func buy(t testing.TB, i *Issuer, info Info) *Held {
	t.Helper()
	p, err := NewPending()
	if err != nil {
		t.Fatal(err)
	}
	request := p.Redeem("123456789")
	b, err := request.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r := decode(t, b).(*RedeemRequest)
	evaluation, err := i.Evaluate(info, r.Blinded)
	if err != nil {
		t.Fatal(err)
	}
	b, err = RedeemReply{Info: info, OnsetDay: info.Epoch - 3, Evaluation: evaluation}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	reply, err := DecodeReply(OpRedeem, b)
	if err != nil {
		t.Fatal(err)
	}
	held, err := p.Finalize(testService(t), reply.(RedeemReply), info.Epoch, keyring(i, info.Epoch))
	if err != nil {
		t.Fatal(err)
	}
	return held
}

func decode(t testing.TB, b []byte) Request {
	t.Helper()
	r, err := DecodeRequest(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func someKeys(t testing.TB, scheme diagnosis.Scheme, n int) []diagnosis.Key {
	t.Helper()
	keys := make([]diagnosis.Key, n)
	for i := range keys {
		secret := bytes.Repeat([]byte{byte(i + 1)}, scheme.SecretLen())
		k, err := diagnosis.New(scheme, secret, diagnosis.Interval(today-uint32(i)-1)*scheme.PerDay(), int(scheme.PerDay()))
		if err != nil {
			t.Fatal(err)
		}
		k.Onset, k.Risk = diagnosis.DaysSinceOnset(3-i%14), uint8(i%9)
		keys[i] = k
	}
	return keys
}

func upload(t testing.TB, h *Held) *UploadRequest {
	t.Helper()
	b, err := h.Upload(testService(t), someKeys(t, diagnosis.GAEN, 14))
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, b).(*UploadRequest)
}

// TestABoughtPermit: a code's worth, from blinding to the day it ends.
func TestABoughtPermit(t *testing.T) {
	i := testIssuer(t)
	held := buy(t, i, Info{diagnosis.SelfReport, today})
	u := upload(t, held)
	for day, want := range map[uint32]bool{today - 1: false, today: true, today + 4: true, today + 5: false, 0: false, 1<<32 - 1: false} {
		if got := i.Check(u, day); got != want {
			t.Errorf("on day %d: accepted %v, want %v", day, got, want)
		}
	}
	for day, want := range map[uint32]bool{today - 1: false, today: true, today + 2: true, today + 3: false} {
		if got := FirstUse(today, day); got != want {
			t.Errorf("first use on day %d: %v, want %v", day, got, want)
		}
	}
	for _, k := range u.Keys {
		if k.Report != diagnosis.SelfReport {
			t.Errorf("a key has report type %v, the permit self-report", k.Report)
		}
	}
	stored, err := ParseHeld(held.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	late, err := stored.Upload(testService(t), someKeys(t, diagnosis.Bluezone, 16))
	if err != nil {
		t.Fatal(err)
	}
	r := decode(t, late).(*UploadRequest)
	if !i.Check(r, today+4) || r.Permit.Spent() != u.Permit.Spent() || r.Permit.E != u.Permit.E {
		t.Error("a permit read back from storage adds no keys")
	}

	restored, err := NewIssuer(testService(t), [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	if !restored.Check(u, today) {
		t.Error("an issuer of the same seed refuses the permit")
	}
}

// TestARedeemCanBeAskedAgain: a phone that lost the reply asks again, after a restart too,
// with the same element, and gets the same permit.
func TestARedeemCanBeAskedAgain(t *testing.T) {
	i, info := testIssuer(t), Info{diagnosis.ConfirmedTest, today}
	p, err := NewPending()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParsePending(p.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if again.Redeem("") != p.Redeem("") {
		t.Fatal("another blinded element after a restart")
	}
	var outputs [2][64]byte
	var proofs [2][64]byte
	for n, p := range []*Pending{p, again} {
		evaluation, err := i.Evaluate(info, p.blinded)
		if err != nil {
			t.Fatal(err)
		}
		held, err := p.Finalize(testService(t), RedeemReply{Info: info, Evaluation: evaluation}, today+1, keyring(i, today, today+1))
		if err != nil {
			t.Fatal(err)
		}
		outputs[n], proofs[n] = held.Output, evaluation.Proof
	}
	if outputs[0] != outputs[1] || proofs[0] == proofs[1] {
		t.Error("want the same output under two proofs")
	}
}

// TestBlindedElementsRefused has what circl's Evaluate takes and must not get.
func TestBlindedElementsRefused(t *testing.T) {
	minusOne, _ := hex.DecodeString("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")
	base, _ := group.Ristretto255.Generator().MarshalBinaryCompress()
	negative := slices.Clone(base)
	negative[0] ^= 1
	aboveField := bytes.Repeat([]byte{0xff}, 32)
	i := testIssuer(t)
	for name, b := range map[string][]byte{
		"identity":          make([]byte, 32),
		"no square":         minusOne,
		"negative":          negative,
		"above the field":   aboveField,
		"identity, spelt p": append([]byte{0xed}, append(bytes.Repeat([]byte{0xff}, 30), 0x7f)...),
	} {
		for call, evaluate := range map[string]func(Info, [32]byte) (Evaluation, error){"real": i.Evaluate, "decoy": i.EvaluateDecoy} {
			got, err := evaluate(Info{diagnosis.ConfirmedTest, today}, [32]byte(b))
			if !errors.Is(err, ErrElement) || got != (Evaluation{}) {
				t.Errorf("%s, %s: evaluated, error %v", name, call, err)
			}
		}
		if name == "identity" {
			if err := CheckPublicKey([32]byte(b)); err == nil {
				t.Error("the identity is taken for a public key")
			}
		}
	}
	if err := CheckPublicKey([32]byte(base)); err != nil {
		t.Error(err)
	}
}

// TestThePhoneStops lists the replies that could mark a phone.
func TestThePhoneStops(t *testing.T) {
	i, s, info := testIssuer(t), testService(t), Info{diagnosis.ConfirmedTest, today}
	other, err := NewIssuer(s, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := NewService("keys.example/hp", "VN-HN")
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPending()
	if err != nil {
		t.Fatal(err)
	}
	evaluate := func(i *Issuer, info Info) RedeemReply {
		e, err := i.Evaluate(info, p.blinded)
		if err != nil {
			t.Fatal(err)
		}
		return RedeemReply{Info: info, Evaluation: e}
	}
	good, days := evaluate(i, info), keyring(i, today-1, today)
	decoyed := good
	if decoyed.Evaluation, err = i.EvaluateDecoy(info, p.blinded); err != nil {
		t.Fatal(err)
	}
	flipped, otherProof, identity, badProof := good, good, good, good
	flipped.Proof[5] ^= 1
	otherProof.Proof = evaluate(i, Info{diagnosis.SelfReport, today}).Proof
	identity.Element = [32]byte{}
	for b := range badProof.Proof {
		badProof.Proof[b] = 0xff
	}
	relabelled, yesterday := good, good
	relabelled.Report = diagnosis.SelfReport
	yesterday.Epoch--

	if _, err := p.Finalize(s, good, today, days); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Finalize(s, evaluate(i, Info{diagnosis.ConfirmedTest, today - 1}), today, days); err != nil {
		t.Fatalf("a reply of yesterday: %v", err)
	}
	for _, c := range []struct {
		name    string
		service Service
		reply   RedeemReply
		today   uint32
		keys    func(uint32) ([32]byte, bool)
	}{
		{"a key for one phone", s, evaluate(other, info), today, days},
		{"the decoy key", s, decoyed, today, days},
		{"two keys for one day: the keyring has the other", s, good, today, keyring(other, today)},
		{"a day without a key in the keyring", s, good, today, keyring(i, today-1)},
		{"the key of another day", s, good, today, func(uint32) ([32]byte, bool) { return i.PublicKey(today - 1), true }},
		{"a day before yesterday", s, evaluate(i, Info{diagnosis.ConfirmedTest, today - 2}), today, keyring(i, today-2)},
		{"tomorrow", s, evaluate(i, Info{diagnosis.ConfirmedTest, today + 1}), today, keyring(i, today+1)},
		{"a type no code has", s, evaluate(i, Info{diagnosis.Recursive, today}), today, days},
		{"type zero", s, evaluate(i, Info{0, today}), today, days},
		{"another type than evaluated", s, relabelled, today, days},
		{"another epoch than evaluated", s, yesterday, today, days},
		{"another region", elsewhere, good, today, days},
		{"a flipped proof", s, flipped, today, days},
		{"the proof of another reply", s, otherProof, today, days},
		{"the identity", s, identity, today, days},
		{"a proof of unreduced scalars", s, badProof, today, days},
	} {
		if held, err := p.Finalize(c.service, c.reply, c.today, c.keys); !errors.Is(err, ErrTagged) || held != nil {
			t.Errorf("%s: taken, error %v", c.name, err)
		}
	}
	damaged := func(uint32) ([32]byte, bool) { return [32]byte{}, true }
	if _, err := p.Finalize(s, good, today, damaged); err == nil {
		t.Error("a keyring with the identity as a key is used")
	}
}

// TestUploadsRefused swaps each part of a valid upload.
func TestUploadsRefused(t *testing.T) {
	i, s := testIssuer(t), testService(t)
	mine, theirs := buy(t, i, Info{diagnosis.ConfirmedTest, today}), buy(t, i, Info{diagnosis.ConfirmedTest, today})
	keys := someKeys(t, diagnosis.GAEN, 3)
	other, err := NewService("keys.example/hn", "VN-HP")
	if err != nil {
		t.Fatal(err)
	}
	sign := func(h Held, s Service) []byte {
		b, err := h.Upload(s, keys)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	with := func(change func(*Held)) []byte {
		h := *mine
		change(&h)
		return sign(h, s)
	}
	patch := func(at int) []byte {
		b := sign(*mine, s)
		b[at] ^= 1
		return b
	}
	if !i.Check(decode(t, sign(*mine, s)).(*UploadRequest), today) {
		t.Fatal("the upload is not valid to begin with")
	}
	for name, b := range map[string][]byte{
		"the output of another permit": with(func(h *Held) { h.Output = theirs.Output }),
		"the nonce of another permit":  with(func(h *Held) { h.Nonce = theirs.Nonce }),
		"an e of one's own":            with(func(h *Held) { h.E, h.private = theirs.E, theirs.private }),
		"signed by another key":        with(func(h *Held) { h.private = theirs.private }),
		"another report type, signed":  with(func(h *Held) { h.Report = diagnosis.SelfReport }),
		"another epoch, signed":        with(func(h *Held) { h.Epoch-- }),
		"an epoch of long ago":         with(func(h *Held) { h.Epoch -= 5 }),
		"an epoch to come":             with(func(h *Held) { h.Epoch++ }),
		"signed for another service":   sign(*mine, other),
		"a key's secret changed":       patch(atRecords),
		"taken for cover":              patch(atCover),
		"epoch changed":                patch(atEpoch + 3),
		"output changed":               patch(atOutput),
		"signature changed":            patch(unsignedLen),
		"signature of another upload":  append(sign(*mine, s)[:unsignedLen], sign(*theirs, s)[unsignedLen:]...),
		"signature over other keys":    append(patch(atRecords)[:unsignedLen], sign(*mine, s)[unsignedLen:]...),
	} {
		if i.Check(decode(t, b).(*UploadRequest), today) {
			t.Errorf("%s: accepted", name)
		}
	}
	cover, err := CoverUpload(s, diagnosis.GAEN, today)
	if err != nil {
		t.Fatal(err)
	}
	if i.Check(decode(t, cover).(*UploadRequest), today) {
		t.Error("a cover has a valid permit")
	}
	decoyed, err := NewPending()
	if err != nil {
		t.Fatal(err)
	}
	info := Info{diagnosis.ConfirmedTest, today}
	e, err := i.EvaluateDecoy(info, decoyed.blinded)
	if err != nil {
		t.Fatal(err)
	}
	decoy := func(uint32) ([32]byte, bool) { return i.decoy.public, true }
	held, err := decoyed.Finalize(s, RedeemReply{Info: info, Evaluation: e}, today, decoy)
	if err != nil {
		t.Fatal(err)
	}
	if u := upload(t, held); i.Check(u, today) || i.Check(u, today+5) {
		t.Error("what a cover Redeem gives is a permit")
	}
}

// TestEveryEpochHasItsOwnKey, and every service; the seed alone decides.
func TestEveryEpochHasItsOwnKey(t *testing.T) {
	seen := map[[32]byte]string{}
	for _, name := range [][2]string{{"a", "b"}, {"a", "c"}, {"d", "b"}} {
		s, err := NewService(name[0], name[1])
		if err != nil {
			t.Fatal(err)
		}
		i, err := NewIssuer(s, [32]byte{7})
		if err != nil {
			t.Fatal(err)
		}
		for epoch := range uint32(keptKeys + 8) {
			k := i.PublicKey(epoch)
			if other, ok := seen[k]; ok {
				t.Errorf("%v %d has the key of %s", name, epoch, other)
			}
			seen[k] = fmt.Sprint(name, epoch)
		}
		if len(i.keys) > keptKeys {
			t.Errorf("%d keys are kept", len(i.keys))
		}
		if seen[i.PublicKey(0)] != fmt.Sprint(name, 0) {
			t.Error("a key that was dropped came back as another")
		}
	}
}

func TestServiceNames(t *testing.T) {
	for _, bad := range [][2]string{{"", "r"}, {"o", ""}, {"o\np", "r"}, {"o", "r\n1"}, {"o p", "r"}, {"o", "r\x00"}, {"\xff", "r"}, {strings.Repeat("o", 256), "r"}} {
		if _, err := NewService(bad[0], bad[1]); err == nil {
			t.Errorf("%q is a service", bad)
		}
	}
	if _, err := NewIssuer(Service{}, [32]byte{1}); err == nil {
		t.Error("an issuer of no service")
	}
}

// TestRedaction: no verb, log or JSON shows a code, a permit or a key.
func TestRedaction(t *testing.T) {
	i := testIssuer(t)
	held := buy(t, i, Info{diagnosis.ConfirmedTest, today})
	p, err := NewPending()
	if err != nil {
		t.Fatal(err)
	}
	redeem := p.Redeem("123456789")
	u := upload(t, held)
	e, err := i.Evaluate(held.Info, p.blinded)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{
		"Issuer": i, "Pending": p, "Held": held, "Held value": *held, "Permit": held.Permit, "Redeem": &redeem, "Redeem value": redeem,
		"Upload": u, "Upload value": *u, "Evaluation": e, "RedeemReply": RedeemReply{Evaluation: e},
	} {
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
		j, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if string(j) != `"[redacted]"` || strings.Count(log.String(), "[redacted]") != 2 || strings.Contains(log.String(), "123456789") {
			t.Errorf("%s: JSON %s, log %s", name, j, &log)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%d", "%q"} {
			if got := fmt.Sprintf(verb, v); got != "[redacted]" {
				t.Errorf("%s: %s prints %s", name, verb, got)
			}
		}
	}
}

// TestIssuerIsShared is for the race detector.
func TestIssuerIsShared(t *testing.T) {
	i := testIssuer(t)
	u := upload(t, buy(t, i, Info{diagnosis.ConfirmedTest, today}))
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			i.PublicKey(today + uint32(n))
			if !i.Check(u, today+1) {
				t.Error("refused")
			}
			i.EvaluateDecoy(u.Permit.Info, [32]byte{})
		})
	}
	wg.Wait()
}
