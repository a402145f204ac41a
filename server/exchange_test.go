package server

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
	v1 "bluekey/server/api/bluekey/v1"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

// TestExchange is the whole way of a case in every protocol, each request sent twice.
func TestExchange(t *testing.T) {
	a := start(t)
	over2 := h2Client(t)
	codes := a.codes(6)
	for i, row := range []struct {
		name   string
		client bluekeyv1connect.PhoneServiceClient
		keys   []diagnosis.Key
	}{
		{"one key", a.phone(), teks(1)},
		{"14 keys", a.phone(), teks(14)},
		{"14 day seeds", a.phone(), seeds(14)},
		{"as JSON", a.phone(connect.WithProtoJSON()), teks(14)},
		{"over gRPC", bluekeyv1connect.NewPhoneServiceClient(over2, a.url, connect.WithGRPC()), teks(14)},
		{"over gRPC-Web", a.phone(connect.WithGRPCWeb()), teks(14)},
	} {
		p, err := permit.NewPending()
		if err != nil {
			t.Fatal(err)
		}
		held, err := a.redeemBy(row.client, p, codes[i])
		if err != nil {
			t.Errorf("%s: redeem: %v", row.name, err)
			continue
		}
		if held.Report != diagnosis.ConfirmedTest || held.Epoch != today() {
			t.Errorf("%s: report %v, epoch %d", row.name, held.Report, held.Epoch)
		}
		again, err := a.redeemBy(row.client, p, codes[i])
		if err != nil || again.Permit != held.Permit {
			t.Errorf("%s, the redeem sent again: another permit, %v", row.name, err)
		}
		wantReason(t, row.name+", the code with another element", second(a.redeem(codes[i])), permit.ReasonCode)

		res, err := a.uploadBy(row.client, held, row.keys)
		if by := time.Unix(res.PublishBy, 0); err != nil || by.Before(a.clock.Now()) || by.After(a.clock.Now().Add(48*time.Hour)) {
			t.Errorf("%s: public by %v, %v", row.name, by, err)
		}
		if twice, err := a.uploadBy(row.client, held, row.keys); err != nil || twice != res {
			t.Errorf("%s, the upload sent again: %v, %v", row.name, twice, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func wantReason(t *testing.T, name string, err error, want permit.Reason) {
	t.Helper()
	var r permit.Refusal
	if !errors.As(err, &r) || r.Reason != want {
		t.Errorf("%s: %v, want %v", name, err, want)
	}
}

// TestSealedReplies: a request sent again, byte for byte, is answered again, by a reply of
// other bytes that says the same; and no reply opens as that to another request.
func TestSealedReplies(t *testing.T) {
	a := start(t)
	held := a.held()
	send := func(plain []byte) (*seal.Sent, []byte, []byte) {
		t.Helper()
		request, sent, err := a.seal(plain)
		if err != nil {
			t.Fatal(err)
		}
		var replies [2][]byte
		for i := range replies {
			res, err := a.phone().Exchange(t.Context(), &v1.ExchangeRequest{Sealed: request})
			if err != nil {
				t.Fatal(err)
			}
			replies[i] = res.Sealed
		}
		return sent, replies[0], replies[1]
	}
	one, err := held.Upload(names, teks(2))
	if err != nil {
		t.Fatal(err)
	}
	sent, first, again := send(one)
	x, errX := sent.Open(first)
	y, errY := sent.Open(again)
	if errX != nil || errY != nil || !bytes.Equal(x, y) || bytes.Equal(first, again) {
		t.Errorf("sent again: %v, %v, the same says %v, in other bytes %v", errX, errY, bytes.Equal(x, y), !bytes.Equal(first, again))
	}
	other, swapped, _ := send(one) // the same plaintext, sealed anew
	if _, err := sent.Open(swapped); !errors.Is(err, seal.ErrReply) {
		t.Errorf("the reply to another request opens: %v", err)
	}
	if _, err := other.Open(first); !errors.Is(err, seal.ErrReply) {
		t.Errorf("and the other way: %v", err)
	}
	swapped[seal.ReplyLen-1] ^= 1
	if _, err := other.Open(swapped); !errors.Is(err, seal.ErrReply) {
		t.Errorf("an altered reply opens: %v", err)
	}
}

// TestSealedRequests is about what is decided before a request is opened, or when it does
// not open.
func TestSealedRequests(t *testing.T) {
	a := start(t)
	plain, err := a.held().Upload(names, teks(3))
	if err != nil {
		t.Fatal(err)
	}
	good, sent, err := a.seal(plain)
	if err != nil {
		t.Fatal(err)
	}
	exchange := func(sealed []byte) ([]byte, error) {
		res, err := a.phone().Exchange(t.Context(), &v1.ExchangeRequest{Sealed: sealed})
		if err != nil {
			return nil, err
		}
		return res.Sealed, nil
	}
	for _, n := range []int{0, 1, seal.PlainRequestLen, seal.RequestLen - 1, seal.RequestLen + 1, 6_000} {
		_, err := exchange(make([]byte, n))
		if code, r := refused(t, err); code != connect.CodeInvalidArgument || r.Reason != "malformed" || r.Field != "sealed" {
			t.Errorf("%d bytes: %v %v", n, code, r)
		}
	}
	for name, at := range map[string]int{"the key's name": 0, "its end": 7} {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		_, err := exchange(bad)
		if code, r := refused(t, err); code != connect.CodeFailedPrecondition || r.Reason != "unknown_key" || r.Retry {
			t.Errorf("%s altered: %v %v", name, code, r)
		}
	}
	// What is altered behind the key's name gets noise, another each time.
	for _, at := range []int{8, 9, 600, 1095, 1096, 1127, 1128, 1500, 2151, 2152, seal.RequestLen - 1} {
		bad := bytes.Clone(good)
		bad[at] ^= 0x40
		x, errX := exchange(bad)
		y, errY := exchange(bad)
		if errX != nil || errY != nil || len(x) != seal.ReplyLen || len(y) != seal.ReplyLen || bytes.Equal(x, y) {
			t.Errorf("byte %d altered: %d and %d bytes, %v, %v", at, len(x), len(y), errX, errY)
		}
		if _, err := sent.Open(x); !errors.Is(err, seal.ErrReply) {
			t.Errorf("byte %d altered: the reply opens: %v", at, err)
		}
	}
	reply, err := exchange(good)
	if err != nil {
		t.Fatal(err)
	}
	if opened, err := sent.Open(reply); err != nil || opened[2] != byte(permit.Done) {
		t.Errorf("the request as it was: %v", err)
	}
}

// TestKeyOfTheDay: a key opens requests on its day and an hour either side.
func TestKeyOfTheDay(t *testing.T) {
	a := start(t)
	cover, err := permit.CoverRedeem()
	if err != nil {
		t.Fatal(err)
	}
	midnight := time.Unix(int64(today()+1)*86400, 0)
	for _, row := range []struct {
		name string
		day  uint32
		at   time.Time
		open bool
	}{
		{"today's, now", today(), a.clock.Now(), true},
		{"tomorrow's, now", today() + 1, a.clock.Now(), false},
		{"tomorrow's, 61 minutes early", today() + 1, midnight.Add(-61 * time.Minute), false},
		{"tomorrow's, 59 minutes early", today() + 1, midnight.Add(-59 * time.Minute), true},
		{"yesterday's, 59 minutes late", today(), midnight.Add(59 * time.Minute), true},
		{"today's, 59 minutes old", today() + 1, midnight.Add(59 * time.Minute), true},
		{"yesterday's, 61 minutes late", today(), midnight.Add(61 * time.Minute), false},
	} {
		a.clock.set(row.at)
		request, sent, err := sealTo(a.ring, row.day, cover)
		if err != nil {
			t.Fatal(err)
		}
		res, err := a.phone().Exchange(t.Context(), &v1.ExchangeRequest{Sealed: request})
		if row.open {
			if err != nil {
				t.Errorf("%s: %v", row.name, err)
			} else if _, err := sent.Open(res.Sealed); err != nil {
				t.Errorf("%s: %v", row.name, err)
			}
		} else if _, r := refused(t, err); r.Reason != "unknown_key" {
			t.Errorf("%s: %v", row.name, r)
		}
	}
}

// TestCover: a cover request is answered like a real one, and changes nothing, even if it
// names a code or a permit that is good.
func TestCover(t *testing.T) {
	a := start(t)
	code, held := a.codes(1)[0], a.held()
	own, err := permit.NewPending()
	if err != nil {
		t.Fatal(err)
	}
	r := own.Redeem(code)
	r.Cover = true
	named, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	keys := teks(14)
	upload, err := held.Upload(names, keys)
	if err != nil {
		t.Fatal(err)
	}
	upload[2] = 1
	signAgain(held, upload)
	redeem, err := permit.CoverRedeem()
	if err != nil {
		t.Fatal(err)
	}
	gaen, err := permit.CoverUpload(names, diagnosis.GAEN, today())
	if err != nil {
		t.Fatal(err)
	}
	bluezone, err := permit.CoverUpload(names, diagnosis.Bluezone, today())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name  string
		op    permit.Operation
		plain []byte
	}{
		{"redeem", permit.OpRedeem, redeem},
		{"redeem of a good code", permit.OpRedeem, named},
		{"upload", permit.OpUpload, gaen},
		{"upload of day seeds", permit.OpUpload, bluezone},
		{"upload with a good permit", permit.OpUpload, upload},
	} {
		reply, err := a.ask(row.op, row.plain)
		switch r := reply.(type) {
		case permit.RedeemReply:
			if h, err := own.Finalize(names, r, today(), a.ring.Permit); err == nil {
				t.Errorf("%s: a cover buys a permit %v", row.name, h)
			}
		case permit.UploadReply:
		default:
			t.Errorf("%s: %v, %v", row.name, reply, err)
		}
	}
	if n := a.due(diagnosis.GAEN); n != 0 {
		t.Errorf("cover left %d keys", n)
	}
	if _, err := a.redeem(code); err != nil {
		t.Errorf("the code that a cover named: %v", err)
	}
	upload[2] = 0
	signAgain(held, upload)
	if reply, err := a.ask(permit.OpUpload, upload); err != nil {
		t.Errorf("the permit that a cover named: %v", err)
	} else if _, ok := reply.(permit.UploadReply); !ok {
		t.Errorf("the permit that a cover named: %v", reply)
	}
	if n := a.due(diagnosis.GAEN); n != 14 {
		t.Errorf("%d keys, want 14", n)
	}
}

// signAgain signs an upload that was altered, as server/PHONES.md says.
func signAgain(h *permit.Held, plain []byte) {
	info := fmt.Sprintf("bluekey/v1 permit\n%s\n%s\n%d\n%d\n", testOrigin, testRegion, h.Report, h.Epoch)
	spent := h.Spent()
	unsigned, e := plain[:permit.RequestLen-ed25519.SignatureSize], ed25519.NewKeyFromSeed(h.Bytes()[:ed25519.SeedSize])
	signed := binary.BigEndian.AppendUint16([]byte("bluekey/v1 upload\n"), uint16(len(info)))
	signed = append(append(append(signed, info...), spent[:]...), unsigned...)
	copy(plain[len(unsigned):], ed25519.Sign(e, signed))
}

// due closes a window and counts what it could publish.
func (a *appliance) due(scheme diagnosis.Scheme) int {
	a.t.Helper()
	a.clock.advance(time.Second)
	d, err := a.store.CloseWindow(a.t.Context(), scheme, a.clock.Now().Truncate(time.Second))
	if err != nil {
		a.t.Fatal(err)
	}
	return d.Count
}

// TestOneWins: many phones with one code.
func TestOneWins(t *testing.T) {
	a := start(t)
	code := a.codes(1)[0]
	var wg sync.WaitGroup
	var won atomic.Int64
	for range 32 {
		wg.Go(func() {
			_, err := a.redeem(code)
			if err == nil {
				won.Add(1)
			} else {
				wantReason(t, "a phone that came later", err, permit.ReasonCode)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("one code bought %d permits", won.Load())
	}
}

// TestOnePermitOnce: whoever has the phone's state cannot bring more than 30 keys with it.
func TestOnePermitOnce(t *testing.T) {
	a := start(t)
	held := a.held()
	var wg sync.WaitGroup
	var won atomic.Int64
	for range 64 {
		wg.Go(func() {
			_, err := a.upload(held, teks(7))
			if err == nil {
				won.Add(1)
			} else {
				wantReason(t, "beyond 30 keys", err, permit.ReasonFull)
			}
		})
	}
	wg.Wait()
	if won.Load() != 4 {
		t.Errorf("%d uploads of 7 keys were accepted, want 4", won.Load())
	}
	if n := a.due(diagnosis.GAEN); n != 28 {
		t.Errorf("%d keys, want 28", n)
	}
}

// TestReplayOverTime records a case's requests and sends them again later.
func TestReplayOverTime(t *testing.T) {
	a := start(t)
	code := a.codes(1)[0]
	p, err := permit.NewPending()
	if err != nil {
		t.Fatal(err)
	}
	held, err := a.redeemBy(a.phone(), p, code)
	if err != nil {
		t.Fatal(err)
	}
	keys := teks(5)
	if _, err := a.upload(held, keys); err != nil {
		t.Fatal(err)
	}
	a.clock.advance(desk.LongTTL + time.Minute) // the code's row may be gone, or not
	a.tend()
	if _, err := a.redeemBy(a.phone(), p, code); err == nil {
		t.Error("a code buys a permit after its time")
	} else {
		wantReason(t, "a redeem recorded yesterday", err, permit.ReasonCode)
	}
	if _, err := a.upload(held, keys); err != nil {
		t.Errorf("an upload recorded yesterday: %v", err)
	}
	if n := a.due(diagnosis.GAEN); n != 5 {
		t.Errorf("%d keys, want the 5 there were", n)
	}
}
