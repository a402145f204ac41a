package permit

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"
	"time"

	"bluekey/keystore/diagnosis"
)

// plainRequests are the requests of the vectors, by name, to be damaged.
func plainRequests(t testing.TB) map[string][]byte {
	m := map[string][]byte{}
	for _, x := range readExchanges(t) {
		m[x.Name] = x.Request
	}
	return m
}

// TestMalformedRequests has a row for each rule of the layout.
func TestMalformedRequests(t *testing.T) {
	const (
		redeem, gaen, bluezone = "redeem", "upload 30 GAEN keys", "upload 16 Bluezone seeds"
		record                 = 16 + recordTail // a GAEN record
	)
	swap := func(b []byte, i, j int) {
		one, two := b[atRecords+i*record:][:record], b[atRecords+j*record:][:record]
		kept := slices.Clone(one)
		copy(one, two)
		copy(two, kept)
	}
	set := func(at int, v ...byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[at:], v); return b }
	}
	for _, c := range []struct {
		name   string
		of     string
		damage func([]byte) []byte
		record int
		header bool // not even the operation is read
	}{
		{"nothing", redeem, func([]byte) []byte { return nil }, 0, true},
		{"short", redeem, func(b []byte) []byte { return b[:RequestLen-1] }, 0, true},
		{"long", redeem, func(b []byte) []byte { return append(b, 0) }, 0, true},
		{"version 0", redeem, set(0, 0), 0, true},
		{"version 2", gaen, set(0, 2), 0, true},
		{"operation 0", gaen, set(1, 0), 0, true},
		{"operation 3", redeem, set(1, 3), 0, true},
		{"flag 2", redeem, set(2, 2), 0, false},
		{"flag 3", gaen, set(2, 3), 0, false},
		{"redeem: no code", redeem, set(3, 0), 0, false},
		{"redeem: 8 characters", redeem, set(3, 8), 0, false},
		{"redeem: 17 characters", redeem, set(3, 17), 0, false},
		{"redeem: 255 characters", redeem, set(3, 255), 0, false},
		{"redeem: 16 characters called 9", redeem, set(3, 9), 0, false},
		{"redeem: 9 characters called 16", redeem, set(atCode+9, 0, 0, 0, 0, 0, 0, 0), 0, false},
		{"redeem: lower case", redeem, set(atCode+10, 'a'), 0, false},
		{"redeem: I", redeem, set(atCode+10, 'I'), 0, false},
		{"redeem: L", redeem, set(atCode+15, 'L'), 0, false},
		{"redeem: O", redeem, set(atCode, 'O'), 0, false},
		{"redeem: U", redeem, set(atCode+3, 'U'), 0, false},
		{"redeem: hyphen", redeem, set(atCode+3, '-'), 0, false},
		{"redeem: letter in a short code", redeem, func(b []byte) []byte {
			b[atCodeLen] = 9
			copy(b[atCode:], "12345678A\x00\x00\x00\x00\x00\x00\x00")
			return b
		}, 0, false},
		{"redeem: count", redeem, set(4, 1), 0, false},
		{"redeem: report type", redeem, set(5, 1), 0, false},
		{"redeem: spare byte 6", redeem, set(6, 1), 0, false},
		{"redeem: epoch", redeem, set(11, 1), 0, false},
		{"redeem: filling, first byte", redeem, set(64, 1), 0, false},
		{"redeem: filling, last byte", redeem, set(RequestLen-1, 1), 0, false},
		{"upload: scheme 0", gaen, set(3, 0), 0, false},
		{"upload: scheme 3", gaen, set(3, 3), 0, false},
		{"upload: of the other scheme", gaen, set(3, 2), 0, false},
		{"upload: no record", gaen, set(4, 0), 0, false},
		{"upload: one record fewer than there are", gaen, set(4, 29), 0, false},
		{"upload: 31 GAEN keys", gaen, set(4, 31), 0, false},
		{"upload: 17 seeds", bluezone, set(4, 17), 0, false},
		{"upload: 255 records", bluezone, set(4, 255), 0, false},
		{"upload: report type 0", gaen, set(5, 0), 0, false},
		{"upload: a type staff cannot issue", gaen, set(5, 4), 0, false},
		{"upload: report type 255", gaen, set(5, 255), 0, false},
		{"upload: spare byte 7", gaen, set(7, 1), 0, false},
		{"upload: spare byte 12", gaen, set(12, 1), 0, false},
		{"upload: spare byte 15", gaen, set(15, 1), 0, false},
		{"upload: filling, first byte", gaen, set(atRecords+30*record, 1), 0, false},
		{"upload: filling, last byte", gaen, set(unsignedLen-1, 1), 0, false},
		{"upload: records out of order", gaen, func(b []byte) []byte { swap(b, 4, 5); return b }, 6, false},
		{"upload: first two swapped", gaen, func(b []byte) []byte { swap(b, 0, 1); return b }, 2, false},
		{"upload: a record twice", gaen, func(b []byte) []byte {
			copy(b[atRecords+8*record:][:record], b[atRecords+7*record:])
			return b
		}, 9, false},
		{"upload: count 0", gaen, set(atRecords+16+4, 0), 1, false},
		{"upload: count 145", gaen, set(atRecords+2*record+16+4, 145), 3, false},
		{"upload: 15 days after onset", gaen, set(atRecords+2*record+16+5, 15), 3, false},
		{"upload: 15 days before onset", gaen, set(atRecords+2*record+16+5, 0xf1), 3, false},
		{"upload: onset not known", gaen, set(atRecords+29*record+16+5, 0x80), 30, false},
		{"upload: risk 9", gaen, set(atRecords+16+6, 9), 1, false},
		{"upload: beyond the last interval", gaen, set(atRecords+29*record+16, 255, 255, 255, 255), 30, false},
		{"upload: a seed that does not last its day", bluezone, set(atRecords+32+4, 95), 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.damage(slices.Clone(plainRequests(t)[c.of]))
			r, err := DecodeRequest(b)
			m := (*Malformed)(nil)
			if r != nil || !errors.As(err, &m) {
				t.Fatalf("taken, error %v", err)
			}
			if m.Record != c.record || c.header != (m.Operation == 0) {
				t.Errorf("record %d, operation %v, want record %d: %v", m.Record, m.Operation, c.record, err)
			}
			reply, err := m.Refusal().Encode()
			if err != nil {
				t.Fatal(err)
			}
			op := OpUpload
			if c.of == redeem {
				op = OpRedeem
			}
			if back, err := DecodeReply(op, reply); err != nil || back != m.Refusal() {
				t.Errorf("the refusal reads as %v, error %v", back, err)
			}
		})
	}
}

// TestEveryByteCounts flips each bit of real requests: each flip is refused, or means
// something else and so fails the signature.
func TestEveryByteCounts(t *testing.T) {
	i, s := testIssuer(t), testService(t)
	good, err := buy(t, i, Info{diagnosis.ConfirmedTest, today}).Upload(s, someKeys(t, diagnosis.Bluezone, 3))
	if err != nil {
		t.Fatal(err)
	}
	step := 7 // a bit of every byte, not always the same
	for bit := 0; bit < 8*len(good); bit += step {
		b := slices.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		r, err := DecodeRequest(b)
		if err != nil {
			continue
		}
		if u, ok := r.(*UploadRequest); ok && i.Check(u, today) {
			t.Errorf("bit %d flipped: still accepted", bit)
		}
	}
}

func TestUploadsThatCannotBeMade(t *testing.T) {
	s := testService(t)
	h := buy(t, testIssuer(t), Info{diagnosis.ConfirmedTest, today})
	keys := someKeys(t, diagnosis.GAEN, 3)
	unknown := slices.Clone(keys)
	unknown[1].Onset = diagnosis.OnsetUnknown
	for name, keys := range map[string][]diagnosis.Key{
		"none": nil, "31": someKeys(t, diagnosis.GAEN, 31), "17 seeds": someKeys(t, diagnosis.Bluezone, 17),
		"one twice": append(slices.Clone(keys), keys[0]), "two schemes": append(someKeys(t, diagnosis.Bluezone, 1), keys[0]),
		"no onset": unknown, "no shape": {{Scheme: diagnosis.GAEN}}, "no scheme": {{}},
	} {
		if _, err := h.Upload(s, keys); err == nil {
			t.Errorf("%s: made", name)
		}
	}
	shuffled := []diagnosis.Key{keys[1], keys[2], keys[0]}
	one, err1 := h.Upload(s, keys)
	two, err2 := h.Upload(s, shuffled)
	if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
		t.Error("the order of the keys shows")
	}
	for _, code := range []string{"", "12345678", "1234567890", "12345678x", "0123456789abcdef", "0123456789ABCDEI"} {
		if _, err := (&RedeemRequest{Code: code}).Encode(); err == nil {
			t.Errorf("a request with the code %q is made", code)
		}
	}
}

// TestCoverLooksReal: a cover decodes by the same rules, its signature is valid, and it
// says what it is in one byte alone.
func TestCoverLooksReal(t *testing.T) {
	s := testService(t)
	for _, scheme := range diagnosis.Schemes {
		b, err := CoverUpload(s, scheme, today)
		if err != nil {
			t.Fatal(err)
		}
		u := decode(t, b).(*UploadRequest)
		if !u.IsCover() || u.Scheme != scheme || len(u.Keys) != coverKeys {
			t.Errorf("%v: cover %v with %d keys", scheme, u.Cover, len(u.Keys))
		}
		if !ed25519.Verify(u.Permit.E[:], s.signed(&u.Permit, u.unsigned[:]), u.signature[:]) {
			t.Error("a cover's signature costs less to check")
		}
		again, err := CoverUpload(s, scheme, today)
		if err != nil {
			t.Fatal(err)
		}
		if other := decode(t, again).(*UploadRequest); other.Permit.E == u.Permit.E || other.Permit.Output == u.Permit.Output || other.Keys[0] == u.Keys[0] {
			t.Error("two covers share something")
		}
	}
	b, err := CoverRedeem()
	if err != nil {
		t.Fatal(err)
	}
	r := decode(t, b).(*RedeemRequest)
	if !r.IsCover() {
		t.Error("not marked as cover")
	}
	if _, err := testIssuer(t).EvaluateDecoy(Info{diagnosis.ConfirmedTest, today}, r.Blinded); err != nil {
		t.Error(err)
	}
	if _, err := CoverUpload(s, 3, today); err == nil {
		t.Error("a cover of no scheme")
	}
}

// TestRefusals: each reason, with its status, and the combinations that say nothing.
func TestRefusals(t *testing.T) {
	for reason := ReasonMalformed; reason.valid(); reason++ {
		for _, op := range []Operation{OpRedeem, OpUpload} {
			r := Refusal{Operation: op, Reason: reason}
			if reason.Status() == Later {
				r.Retry = 42 * time.Minute
			}
			b, err := r.Encode()
			answers := op == OpRedeem && reasons[reason].redeem || op == OpUpload && reasons[reason].upload
			if (err == nil) != answers {
				t.Fatalf("%v: %v", r, err)
			}
			if err != nil {
				continue
			}
			if got, err := DecodeReply(op, b); err != nil || got != r {
				t.Errorf("%v reads as %v, error %v", r, got, err)
			}
			if _, err := DecodeReply(OpRedeem+OpUpload-op, b); err == nil {
				t.Errorf("%v is taken as an answer to another operation", r)
			}
			for at := headerLen - 8; at < ReplyLen; at += 13 {
				b[at] = 1
				if _, err := DecodeReply(op, b); err == nil {
					t.Errorf("%v with byte %d set is taken", r, at)
				}
				b[at] = 0
			}
			b[atStatus] ^= 3
			if _, err := DecodeReply(op, b); err == nil {
				t.Errorf("%v with another status is taken", r)
			}
		}
	}
	for _, r := range []Refusal{
		{},
		{Operation: OpUpload},
		{Operation: OpUpload, Reason: 11},
		{Operation: 3, Reason: ReasonMalformed},
		{Reason: ReasonBusy, Retry: time.Minute},
		{Operation: OpUpload, Reason: ReasonBusy},
		{Operation: OpUpload, Reason: ReasonBusy, Retry: time.Second},
		{Operation: OpUpload, Reason: ReasonBusy, Retry: -time.Minute},
		{Operation: OpUpload, Reason: ReasonBusy, Retry: MaxRetry + time.Minute},
		{Operation: OpUpload, Reason: ReasonTooOld, Retry: time.Minute},
		{Operation: OpUpload, Reason: ReasonPermit, Record: 1},
		{Operation: OpRedeem, Reason: ReasonMalformed, Record: 1},
		{Operation: OpUpload, Reason: ReasonTooOld, Record: 31},
		{Operation: OpUpload, Reason: ReasonTooOld, Record: -1},
	} {
		if _, err := r.Encode(); err == nil {
			t.Errorf("%v is encoded", r)
		}
	}
	for _, at := range []int64{-1, 0} {
		if _, err := (UploadReply{PublishBy: at}).Encode(); err == nil {
			t.Errorf("published at %d", at)
		}
	}
	if _, err := (RedeemReply{}).Encode(); err == nil {
		t.Error("a permit of no report type")
	}
}

// TestMalformedReplies damages the replies of the vectors.
func TestMalformedReplies(t *testing.T) {
	xs := readExchanges(t)
	for _, c := range []struct {
		of, at int
		v      byte
	}{
		{0, atVersion, 2}, {0, atOperation, 2}, {0, atOperation, 0}, {0, atStatus, 3}, {0, atStatus, 1}, {0, atReason, 1},
		{0, atRecord, 1}, {0, atReport, 0}, {0, atReport, 4}, {0, 6, 1}, {0, 7, 1}, {0, 112, 1}, {0, ReplyLen - 1, 1},
		{1, atReport, 1}, {1, atPublishBy, 0x80}, {1, 6, 1}, {1, headerLen, 1}, {1, ReplyLen - 1, 1}, {1, atReason, 5},
	} {
		b := slices.Clone(xs[c.of].Reply)
		b[c.at] = c.v
		op := Operation(xs[c.of].Request[atOperation])
		if r, err := DecodeReply(op, b); err == nil {
			t.Errorf("%v reply with byte %d = %d is taken as %#v", op, c.at, c.v, r)
		}
	}
	b := xs[0].Reply
	for _, b := range [][]byte{nil, b[:ReplyLen-1], append(slices.Clone(b), 0)} {
		if _, err := DecodeReply(OpRedeem, b); err == nil {
			t.Errorf("a reply of %d bytes is taken", len(b))
		}
	}
	if _, err := DecodeReply(0, make([]byte, ReplyLen)); err == nil {
		t.Error("a reply to nothing is taken")
	}
	never := slices.Clone(xs[1].Reply)
	clear(never[atPublishBy:headerLen])
	if r, err := DecodeReply(OpUpload, never); err == nil {
		t.Errorf("keys that are public at no time: %#v", r)
	}
}

// TestRecordsThatWereSent: a refusal names one of the records of its request.
func TestRecordsThatWereSent(t *testing.T) {
	h := buy(t, testIssuer(t), Info{diagnosis.ConfirmedTest, today})
	for _, c := range []struct {
		scheme diagnosis.Scheme
		sent   int
	}{{diagnosis.Bluezone, 16}, {diagnosis.Bluezone, 3}, {diagnosis.GAEN, 29}} {
		request, err := h.Upload(testService(t), someKeys(t, c.scheme, c.sent))
		if err != nil {
			t.Fatal(err)
		}
		for record, good := range map[int]bool{0: true, c.sent: true, c.sent + 1: false, 30: false} {
			refusal := Refusal{Operation: OpUpload, Reason: ReasonTooOld, Record: record}
			reply, err := refusal.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := DecodeReplyTo(request, reply); (err == nil) != good || good && got != refusal {
				t.Errorf("record %d of %d of %v: %v, %v", record, c.sent, c.scheme, got, err)
			}
		}
	}
	if _, err := DecodeReplyTo(nil, make([]byte, ReplyLen)); err == nil {
		t.Error("a reply to no request is taken")
	}
}

func TestStoredStateIsRead(t *testing.T) {
	p, err := NewPending()
	if err != nil {
		t.Fatal(err)
	}
	h := buy(t, testIssuer(t), Info{diagnosis.ConfirmedTest, today})
	zeroBlind := append(slices.Clone(p.Bytes()[:64]), make([]byte, 32)...)
	unreduced := append(slices.Clone(p.Bytes()[:64]), bytes.Repeat([]byte{0xff}, 32)...)
	for name, b := range map[string][]byte{"short": p.Bytes()[1:], "zero blind": zeroBlind, "unreduced blind": unreduced} {
		if _, err := ParsePending(b); err == nil {
			t.Errorf("pending, %s: read", name)
		}
	}
	badType := h.Bytes()
	badType[128] = 9
	for name, b := range map[string][]byte{"short": h.Bytes()[1:], "bad type": badType} {
		if _, err := ParseHeld(b); err == nil {
			t.Errorf("held, %s: read", name)
		}
	}
}

// FuzzDecodeRequest: whatever is accepted encodes to the bytes it came from.
func FuzzDecodeRequest(f *testing.F) {
	for _, b := range plainRequests(f) {
		f.Add([]byte(b))
	}
	cover, err := CoverUpload(testService(f), diagnosis.Bluezone, today)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cover)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRequest(b)
		switch r := r.(type) {
		case nil:
			m := (*Malformed)(nil)
			if !errors.As(err, &m) {
				t.Fatalf("error %v", err)
			}
			if _, err := m.Refusal().Encode(); err != nil {
				t.Fatal(err)
			}
		case *RedeemRequest:
			if again, err := r.Encode(); err != nil || !bytes.Equal(again, b) {
				t.Fatalf("a second spelling: %v", err)
			}
		case *UploadRequest:
			if !bytes.Equal(append(r.encode(), r.signature[:]...), b) {
				t.Fatal("a second spelling")
			}
			if r.Permit.E != [32]byte(b[atE:]) || len(r.Keys) != int(b[atCount]) {
				t.Fatal("fields differ")
			}
		}
	})
}

// FuzzDecodeReply: whatever is accepted encodes to the bytes it came from.
func FuzzDecodeReply(f *testing.F) {
	for _, x := range readExchanges(f) {
		f.Add(byte(x.Request[atOperation]), []byte(x.Reply))
	}
	for _, r := range []Refusal{
		{Reason: ReasonMalformed},
		{Operation: OpUpload, Reason: ReasonOverlap, Record: 3},
		{Operation: OpRedeem, Reason: ReasonPaused, Retry: time.Hour},
	} {
		b, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(OpUpload), b)
		f.Add(byte(OpRedeem), b)
	}
	f.Fuzz(func(t *testing.T, op byte, b []byte) {
		r, err := DecodeReply(Operation(op), b)
		if err != nil {
			return
		}
		if again, err := r.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("a second spelling: %v", err)
		}
	})
}

// FuzzParsePending: stored state has one spelling, too.
func FuzzParsePending(f *testing.F) {
	v, _, _ := readPermit(f)
	f.Add(v.pending(f).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := ParsePending(b); err == nil && !bytes.Equal(p.Bytes(), b) {
			t.Fatal("a second spelling")
		}
		if h, err := ParseHeld(b); err == nil && !bytes.Equal(h.Bytes(), b) {
			t.Fatal("a second spelling")
		}
	})
}

func BenchmarkDecodeUpload(b *testing.B) {
	request := plainRequests(b)["upload 14 GAEN keys"]
	for b.Loop() {
		if _, err := DecodeRequest(request); err != nil {
			b.Fatal(err)
		}
	}
}
