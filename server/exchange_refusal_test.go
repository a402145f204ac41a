package server

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
	"bluekey/signing/permit"
)

// GAEN records of an upload's plaintext: server/PHONES.md.
const (
	recordsAt = 144
	recordLen = 23
)

// TestUploadRefusals: each is a sealed reply like every other, names what is wrong, and
// leaves the permit as good as it was.
func TestUploadRefusals(t *testing.T) {
	a := start(t)
	held := a.held()
	good := func(keys []diagnosis.Key) []byte {
		plain, err := held.Upload(names, keys)
		if err != nil {
			t.Fatal(err)
		}
		return plain
	}
	// altered is an upload of three keys with some bytes changed after it was signed.
	altered := func(at int, b ...byte) []byte {
		plain := good(teks(3))
		copy(plain[at:], b)
		return plain
	}
	record := func(i, at int, b ...byte) []byte { return altered(recordsAt+i*recordLen+at, b...) }
	day := func(d int64) []byte {
		return binary.BigEndian.AppendUint32(nil, uint32(int64(today())+d)*144)
	}
	// signed is an upload of three keys of which one is changed before.
	signed := func(f func(keys []diagnosis.Key)) []byte {
		keys := teks(3)
		f(keys)
		return good(keys)
	}
	noop := make([]byte, permit.RequestLen)
	for _, row := range []struct {
		name   string
		plain  []byte
		op     permit.Operation
		reason permit.Reason
		record int
	}{
		{"zeros", noop, 0, permit.ReasonMalformed, 0},
		{"version 2", altered(0, 2), 0, permit.ReasonMalformed, 0},
		{"operation 3", altered(1, 3), 0, permit.ReasonMalformed, 0},
		{"cover 2", altered(2, 2), permit.OpUpload, permit.ReasonMalformed, 0},
		{"scheme 0", altered(3, 0), permit.OpUpload, permit.ReasonMalformed, 0},
		{"scheme 3", altered(3, 3), permit.OpUpload, permit.ReasonMalformed, 0},
		{"no record", altered(4, 0), permit.OpUpload, permit.ReasonMalformed, 0},
		{"fewer records than are there", altered(4, 2), permit.OpUpload, permit.ReasonMalformed, 0},
		{"a record of zeros", altered(4, 4), permit.OpUpload, permit.ReasonMalformed, 4},
		{"31 records", altered(4, 31), permit.OpUpload, permit.ReasonMalformed, 0},
		{"255 records", altered(4, 255), permit.OpUpload, permit.ReasonMalformed, 0},
		{"report type 0", altered(5, 0), permit.OpUpload, permit.ReasonMalformed, 0},
		{"report type revoked", altered(5, 5), permit.OpUpload, permit.ReasonMalformed, 0},
		{"a byte that is to be zero", altered(6, 1), permit.OpUpload, permit.ReasonMalformed, 0},
		{"a byte behind the records", record(3, 0, 1), permit.OpUpload, permit.ReasonMalformed, 0},
		{"count 0", record(1, 20, 0), permit.OpUpload, permit.ReasonMalformed, 2},
		{"count 145", record(1, 20, 145), permit.OpUpload, permit.ReasonMalformed, 2},
		{"onset not known", record(0, 21, 0x80), permit.OpUpload, permit.ReasonMalformed, 1},
		{"risk 9", record(2, 22, 9), permit.OpUpload, permit.ReasonMalformed, 3},
		{"beyond the last interval", record(2, 16, 255, 255, 255, 255), permit.OpUpload, permit.ReasonMalformed, 3},
		{"records out of order", record(2, 16, day(-20)...), permit.OpUpload, permit.ReasonMalformed, 3},
		{"one secret twice", signed(func(k []diagnosis.Key) { k[0].Secret = k[2].Secret }), permit.OpUpload, permit.ReasonMalformed, 3},
		{"too old", signed(func(k []diagnosis.Key) { k[2].Start = diagnosis.Interval(today()-17) * 144 }), permit.OpUpload, permit.ReasonTooOld, 1},
		{"in the future", signed(func(k []diagnosis.Key) { k[0].Start = diagnosis.Interval(today()+2) * 144 }), permit.OpUpload, permit.ReasonFuture, 3},
		{"overlap", signed(func(k []diagnosis.Key) { k[1].Start -= 72 }), permit.OpUpload, permit.ReasonOverlap, 2},
		{"four of one start", good([]diagnosis.Key{teks(1)[0], teks(1)[0], teks(1)[0], teks(1)[0]}), permit.OpUpload, permit.ReasonOverlap, 4},
		{"a record altered after it was signed", record(1, 3, 1, 2, 3), permit.OpUpload, permit.ReasonPermit, 0},
		{"the onset altered after it was signed", record(1, 21, 3), permit.OpUpload, permit.ReasonPermit, 0},
		{"an altered signature", altered(permit.RequestLen-1, 0xff), permit.OpUpload, permit.ReasonPermit, 0},
		{"an altered output", altered(100, 1, 2, 3, 4), permit.OpUpload, permit.ReasonPermit, 0},
		{"an altered nonce", altered(16, 1, 2, 3, 4), permit.OpUpload, permit.ReasonPermit, 0},
	} {
		// Read as the reply to what was asked for, or to what could not be read.
		op := row.op
		if op == 0 {
			op = permit.OpUpload
		}
		reply, err := a.ask(op, row.plain)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		want := permit.Refusal{Operation: row.op, Reason: row.reason, Record: row.record}
		if r, ok := reply.(permit.Refusal); !ok || r != want {
			t.Errorf("%s: %v, want %v", row.name, reply, want)
		}
	}
	if n := a.due(diagnosis.GAEN); n != 0 {
		t.Errorf("refused uploads left %d keys", n)
	}
	if _, err := a.upload(held, teks(14)); err != nil {
		t.Errorf("the permit afterwards: %v", err)
	}
}

// TestRedeemRefusals likewise: the code is as good as before.
func TestRedeemRefusals(t *testing.T) {
	a := start(t)
	code, spent, revoked, expired := a.codes(1)[0], a.codes(1)[0], a.codes(1)[0], a.short(1)[0]
	if _, err := a.redeem(spent); err != nil {
		t.Fatal(err)
	}
	if gone, err := a.store.Desk().Revoke(t.Context(), revoked); err != nil || !gone {
		t.Fatal(gone, err)
	}
	a.clock.advance(desk.ShortTTL)
	pending, err := permit.NewPending()
	if err != nil {
		t.Fatal(err)
	}
	with := func(code string) []byte {
		r := pending.Redeem(code)
		plain, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return plain
	}
	altered := func(at int, b ...byte) []byte {
		plain := with(code)
		copy(plain[at:], b)
		return plain
	}
	element := func(b [32]byte) []byte { return altered(32, b[:]...) }
	notReduced := [32]byte{} // p, a second spelling of zero
	for i := range notReduced {
		notReduced[i] = 0xff
	}
	notReduced[0], notReduced[31] = 0xed, 0x7f
	mistyped := []byte(code)
	mistyped[3] = map[bool]byte{true: 'X', false: 'Y'}[mistyped[3] == 'Y']
	for _, row := range []struct {
		name   string
		plain  []byte
		reason permit.Reason
	}{
		{"a code that never was", with("0123456789ABCDEF"), permit.ReasonCode},
		{"one character mistyped", with(string(mistyped)), permit.ReasonCode},
		{"a short code that never was", with(a.wrongShort()), permit.ReasonCode},
		{"a wrong check digit", with(wrongDigit(expired)), permit.ReasonCode},
		{"a spent code", with(spent), permit.ReasonCode},
		{"a revoked code", with(revoked), permit.ReasonCode},
		{"an expired code", with(expired), permit.ReasonCode},
		{"no code", altered(3, 0), permit.ReasonMalformed},
		{"a code of 17 characters", altered(3, 17), permit.ReasonMalformed},
		{"a code of 10 characters", altered(3, 10), permit.ReasonMalformed},
		{"a code in lower case", altered(16, []byte("abcdefghjkmnpqrs")...), permit.ReasonMalformed},
		{"a byte that is to be zero", altered(64, 1), permit.ReasonMalformed},
		{"the last byte", altered(permit.RequestLen-1, 1), permit.ReasonMalformed},
		{"the identity as element", element([32]byte{}), permit.ReasonMalformed},
		{"an element that is none", element([32]byte{1}), permit.ReasonMalformed},
		{"a second spelling of the identity", element(notReduced), permit.ReasonMalformed},
	} {
		reply, err := a.ask(permit.OpRedeem, row.plain)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		want := permit.Refusal{Operation: permit.OpRedeem, Reason: row.reason}
		if r, ok := reply.(permit.Refusal); !ok || r != want {
			t.Errorf("%s: %v, want %v", row.name, reply, want)
		}
	}
	if _, err := a.redeemBy(a.phone(), pending, code); err != nil {
		t.Errorf("the code afterwards: %v", err)
	}
}

// TestGuessing: wrong short codes have a budget; when it is spent short codes pause, good
// ones as well, and long ones go on.
func TestGuessing(t *testing.T) {
	a := start(t)
	short, long := a.short(desk.MaxShortAlive)[0], a.codes(1)[0]
	guesses := 0
	for ; guesses < 10_000/desk.MaxShortAlive+5; guesses++ {
		var r permit.Refusal
		if err := second(a.redeem(a.wrongShort())); !errors.As(err, &r) {
			t.Fatal(err)
		} else if r.Reason == permit.ReasonPaused {
			if r.Retry < time.Minute || r.Retry > time.Hour+time.Minute || r.Reason.Status() != permit.Later {
				t.Errorf("paused for %v", r.Retry)
			}
			break
		}
	}
	if guesses != 10_000/desk.MaxShortAlive {
		t.Errorf("%d wrong codes were looked at", guesses)
	}
	wantReason(t, "a good short code", second(a.redeem(short)), permit.ReasonPaused)
	if _, err := a.redeem(long); err != nil {
		t.Errorf("a long code: %v", err)
	}
	a.clock.advance(61 * time.Minute)
	if _, err := a.redeem(a.short(1)[0]); err != nil {
		t.Errorf("a short code an hour later: %v", err)
	}
}

// short issues short codes at the desk.
func (a *appliance) short(n int) []string {
	a.t.Helper()
	codes, err := a.store.Desk().Issue(a.t.Context(), desk.Request{Officer: "test", Report: diagnosis.ConfirmedTest, OnsetDay: today(), Count: n})
	if err != nil {
		a.t.Fatal(err)
	}
	return codes
}

// wrongShort is a well-formed short code that almost certainly was never issued.
func (a *appliance) wrongShort() string {
	for n := time.Now().UnixNano() % 100_000_000; ; n++ {
		for d := range 10 {
			digits := binary.BigEndian.AppendUint64(nil, 0)[:0]
			for _, v := range []int64{n / 10_000_000, n / 1_000_000, n / 100_000, n / 10_000, n / 1000, n / 100, n / 10, n} {
				digits = append(digits, byte('0'+v%10))
			}
			code := string(append(digits, byte('0'+d)))
			if canonical, kind, err := desk.Parse(code); err == nil && kind == desk.Short {
				return canonical
			}
		}
	}
}

// wrongDigit changes the check digit of a short code.
func wrongDigit(code string) string {
	return code[:len(code)-1] + string('0'+(code[len(code)-1]-'0'+1)%10)
}

// TestNotAnnounced: no code is spent on an evaluation that no phone could check.
func TestNotAnnounced(t *testing.T) {
	a := start(t)
	code := a.codes(1)[0]
	a.keys.mu.Lock()
	announced := a.keys.epochs
	a.keys.epochs = map[uint32]bool{}
	a.keys.mu.Unlock()
	err := second(a.redeem(code))
	if r := (permit.Refusal{}); !errors.As(err, &r) || r.Reason != permit.ReasonBusy || r.Retry != time.Minute {
		t.Errorf("%v", err)
	}
	a.keys.mu.Lock()
	a.keys.epochs = announced
	a.keys.mu.Unlock()
	if _, err := a.redeem(code); err != nil {
		t.Errorf("once it is announced: %v", err)
	}
}

// TestForeignPermits tries permits that are good elsewhere, or for somebody else.
func TestForeignPermits(t *testing.T) {
	a := start(t)
	held := a.held()
	keys := teks(3)
	clinical, err := a.store.Desk().Issue(t.Context(), desk.Request{Officer: "test", Report: diagnosis.SelfReport, OnsetDay: today(), Count: 1, Long: true})
	if err != nil {
		t.Fatal(err)
	}
	selfReported, err := a.redeem(clinical[0])
	if err != nil {
		t.Fatal(err)
	}
	change := func(h *permit.Held, f func(*permit.Held)) *permit.Held {
		other := *h
		f(&other)
		return &other
	}
	elsewhere := func(origin, region string, seed [32]byte) *permit.Held {
		s, err := permit.NewService(origin, region)
		if err != nil {
			t.Fatal(err)
		}
		issuer, err := permit.NewIssuer(s, seed)
		if err != nil {
			t.Fatal(err)
		}
		p, err := permit.NewPending()
		if err != nil {
			t.Fatal(err)
		}
		info := permit.Info{Report: diagnosis.ConfirmedTest, Epoch: today()}
		e, err := issuer.Evaluate(info, p.Redeem("000000000").Blinded)
		if err != nil {
			t.Fatal(err)
		}
		h, err := p.Finalize(s, permit.RedeemReply{Info: info, Evaluation: e}, today(), func(d uint32) ([32]byte, bool) { return issuer.PublicKey(d), true })
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	thief := a.held()
	for _, row := range []struct {
		name string
		held *permit.Held
	}{
		{"another's permit signed by an own e", change(thief, func(h *permit.Held) { h.Nonce, h.Output = held.Nonce, held.Output })},
		{"another's e, signed by an own one", change(thief, func(h *permit.Held) { h.E, h.Nonce, h.Output = held.E, held.Nonce, held.Output })},
		{"a stronger report type", change(selfReported, func(h *permit.Held) { h.Report = diagnosis.ConfirmedTest })},
		{"a weaker report type", change(held, func(h *permit.Held) { h.Report = diagnosis.SelfReport })},
		{"the day before", change(held, func(h *permit.Held) { h.Epoch-- })},
		{"the day after", change(held, func(h *permit.Held) { h.Epoch++ })},
		{"the day after tomorrow", change(held, func(h *permit.Held) { h.Epoch += 2 })},
		{"day 0", change(held, func(h *permit.Held) { h.Epoch = 0 })},
		{"the last day there is", change(held, func(h *permit.Held) { h.Epoch = 1<<32 - 1 })},
		{"of another origin", elsewhere("other.example/bluekey", testRegion, [32]byte{3})},
		{"of another region", elsewhere(testOrigin, "VN-HN", [32]byte{3})},
		{"of another seed", elsewhere(testOrigin, testRegion, [32]byte{4})},
	} {
		wantReason(t, row.name, second(a.upload(row.held, keys)), permit.ReasonPermit)
	}
	// Signed for another region, the permit itself being good.
	other, err := permit.NewService(testOrigin, "VN-HN")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := held.Upload(other, keys)
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := a.ask(permit.OpUpload, plain); err != nil || reply != (permit.Refusal{Operation: permit.OpUpload, Reason: permit.ReasonPermit}) {
		t.Errorf("signed for another region: %v, %v", reply, err)
	}
	if _, err := a.upload(held, keys); err != nil {
		t.Errorf("the permit afterwards: %v", err)
	}
	if _, err := a.upload(elsewhere(testOrigin, testRegion, [32]byte{3}), teks(1)); err != nil {
		t.Errorf("a permit of this service: %v", err)
	}
}

// TestPermitAges: a permit is used for the first time until the second day after its epoch,
// and brings late keys until the fourth, 30 in all.
func TestPermitAges(t *testing.T) {
	a := start(t)
	first, other, never := a.held(), a.held(), a.held()
	upload := func(name string, h *permit.Held, keys []diagnosis.Key, want permit.Reason) {
		t.Helper()
		if err := second(a.upload(h, keys)); want != 0 {
			wantReason(t, name, err, want)
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	next := func() { a.t.Helper(); a.clock.advance(24 * time.Hour); a.tend() }

	upload("on its day", first, teks(10), 0)
	next()
	next()
	upload("for the first time on day 2", other, teks(12), 0)
	next()
	upload("for the first time on day 3", never, teks(1), permit.ReasonPermit)
	upload("late keys on day 3", other, teks(10), 0)
	next()
	last := teks(10)
	upload("late keys on day 4", first, teks(10), 0)
	upload("up to 30", first, last, 0)
	upload("the 31st", first, teks(1), permit.ReasonFull)
	upload("one known and one beyond", first, []diagnosis.Key{last[0], teks(2)[1]}, permit.ReasonFull)
	upload("what is known already", first, last, 0)
	next()
	upload("late keys on day 5", other, teks(1), permit.ReasonPermit)
	upload("what is known already, on day 5", first, last, permit.ReasonPermit)
	if n := a.due(diagnosis.GAEN); n != 52 {
		t.Errorf("%d keys, want 52", n)
	}
}

// TestClosed: a service that was handed over says so inside the seal, and answers cover as
// ever.
func TestClosed(t *testing.T) {
	a := start(t)
	held, code := a.held(), a.codes(1)[0]
	if err := a.store.Retire("moved"); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "upload", second(a.upload(held, teks(1))), permit.ReasonClosed)
	wantReason(t, "redeem", second(a.redeem(code)), permit.ReasonClosed)
	cover, err := permit.CoverRedeem()
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := a.ask(permit.OpRedeem, cover); err != nil {
		t.Errorf("cover: %v, %v", reply, err)
	}
	if err := a.keys.tend(t.Context()); err != nil {
		t.Error(err)
	}
	a.clock.advance(24 * time.Hour)
	if err := a.keys.tend(t.Context()); err != nil || len(a.file.all) != 1 {
		t.Errorf("a closed service announces %d keyrings, %v", len(a.file.all), err)
	}
}
