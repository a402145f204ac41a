package phone

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"bluekey/keystore/diagnosis"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

// TestACase goes from the code to the late keys and beyond, with a restart of the app
// before every step: nothing but the stored state is left.
func TestACase(t *testing.T) {
	s, ctx := newService(t), context.Background()
	s.onset = day - 4
	keys := daily(day-1, 10)
	var stored []byte
	restart := func() *App {
		t.Helper()
		a := s.app(&keys)
		if stored != nil {
			state, err := ParseState(stored)
			if err != nil {
				t.Fatal(err)
			}
			a.State, a.Client.keyring = state, state.Keyring
		}
		a.Save = func(state State) (err error) {
			stored, err = state.Bytes()
			return err
		}
		return a
	}
	visit := func() {
		t.Helper()
		a := restart()
		if a.State.Next.After(s.now) {
			s.now = a.State.Next
		}
		if err := a.Visit(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := restart().Redeem(ctx, "57 23 89-127"); err != nil {
		t.Fatal(err)
	}
	if got := restart().State; got.Held == nil || got.Pending != nil || got.Code != "" || got.Onset != day-4 || !got.Next.After(s.now) || got.Next.After(s.now.Add(coverMost+time.Second)) {
		t.Fatalf("after the Redeem: %d, next %v", got.Onset, got.Next)
	}
	visit()
	up := s.uploaded()
	if len(up) != 1 || len(up[0].Keys) != 10 {
		t.Fatalf("%d uploads", len(up))
	}
	for _, k := range up[0].Keys {
		want := diagnosis.DaysSinceOnset(6)
		if d := k.Scheme.Day(k.Start); d >= day-6 && d <= day-1 {
			want = 0
		}
		if k.Onset != want || k.Report != diagnosis.ConfirmedTest {
			t.Errorf("key of day %d: onset %d, want %d", k.Scheme.Day(k.Start), k.Onset, want)
		}
	}
	if by := restart().State.PublishBy; !by.Equal(s.now.Add(8 * time.Hour)) {
		t.Errorf("publish by %v", by)
	}
	visit()
	if len(s.uploaded()) != 1 || len(s.seen) != 3 || !s.seen[2].IsCover() {
		t.Fatal("without new keys a visit is not cover")
	}
	// The next day has a late key, and only that is handed in, by the same e.
	s.now = time.Unix((day+1)*86400+3600, 0).UTC()
	keys = daily(day, 11)
	visit()
	if up = s.uploaded(); len(up) != 2 || len(up[1].Keys) != 1 || up[1].Permit.E != up[0].Permit.E {
		t.Fatalf("late: %d uploads", len(up))
	}
	// On the fifth day the permit is forgotten, and what hangs on it.
	s.now = time.Unix((day+5)*86400, 0).UTC()
	keys = daily(day+4, 11)
	visit()
	if got := restart().State; got.Held != nil || got.Onset != 0 || !got.Until.IsZero() || !got.PublishBy.IsZero() || len(s.uploaded()) != 2 {
		t.Error("a permit outlives its use")
	}
	for _, b := range s.sealed {
		if len(b) != seal.RequestLen {
			t.Errorf("a request of %d bytes", len(b))
		}
	}
	if n := len(s.origins); n != len(s.sealed) || len(slices.Compact(slices.Sorted(slices.Values(s.origins)))) != n {
		t.Errorf("%d requests share connections: %v", n, s.origins)
	}
}

// TestUnusedPermit: a permit that was not used on its day or the two after is forgotten.
func TestUnusedPermit(t *testing.T) {
	s, ctx := newService(t), context.Background()
	keys := daily(day-1, 2)
	a := s.app(&keys)
	if err := a.Redeem(ctx, goodCode); err != nil {
		t.Fatal(err)
	}
	s.now = time.Unix((day+3)*86400, 0).UTC()
	if err := a.Visit(ctx); err != nil || a.State.Held != nil || len(s.uploaded()) > 0 {
		t.Errorf("%v, %d uploads", err, len(s.uploaded()))
	}
}

// TestTaggedReplies: whatever could mark the phone makes it stop, and no upload follows.
func TestTaggedReplies(t *testing.T) {
	other, err := permit.NewIssuer(newService(t).names, [32]byte{8})
	if err != nil {
		t.Fatal(err)
	}
	for name, tag := range map[string]func(s *service, r *permit.RedeemRequest) permit.Reply{
		"another key": func(s *service, r *permit.RedeemRequest) permit.Reply {
			e, _ := other.Evaluate(s.info, r.Blinded)
			return permit.RedeemReply{Info: s.info, Evaluation: e}
		},
		"the key of another epoch": func(s *service, r *permit.RedeemRequest) permit.Reply {
			e, _ := s.issuer.Evaluate(permit.Info{Report: s.info.Report, Epoch: day - 1}, r.Blinded)
			return permit.RedeemReply{Info: s.info, Evaluation: e}
		},
		"another report type than evaluated": func(s *service, r *permit.RedeemRequest) permit.Reply {
			e, _ := s.issuer.Evaluate(permit.Info{Report: diagnosis.SelfReport, Epoch: day}, r.Blinded)
			return permit.RedeemReply{Info: s.info, Evaluation: e}
		},
		"tomorrow": func(s *service, r *permit.RedeemRequest) permit.Reply {
			info := permit.Info{Report: s.info.Report, Epoch: day + 1}
			e, _ := s.issuer.Evaluate(info, r.Blinded)
			return permit.RedeemReply{Info: info, Evaluation: e}
		},
		"two days ago": func(s *service, r *permit.RedeemRequest) permit.Reply {
			info := permit.Info{Report: s.info.Report, Epoch: day - 2}
			e, _ := s.issuer.Evaluate(info, r.Blinded)
			return permit.RedeemReply{Info: info, Evaluation: e}
		},
		"the answer to cover": func(s *service, r *permit.RedeemRequest) permit.Reply {
			e, _ := s.issuer.EvaluateDecoy(s.info, r.Blinded)
			return permit.RedeemReply{Info: s.info, Evaluation: e}
		},
		"an altered proof": func(s *service, r *permit.RedeemRequest) permit.Reply {
			e, _ := s.issuer.Evaluate(s.info, r.Blinded)
			e.Proof[3] ^= 1
			return permit.RedeemReply{Info: s.info, Evaluation: e}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, ctx := newService(t), context.Background()
			s.reply = func(r permit.Request) permit.Reply {
				if r, ok := r.(*permit.RedeemRequest); ok && !r.Cover {
					return tag(s, r)
				}
				return nil
			}
			keys := daily(day-1, 1)
			a := s.app(&keys)
			if err := a.Redeem(ctx, goodCode); !errors.Is(err, permit.ErrTagged) {
				t.Fatalf("%v, want ErrTagged", err)
			}
			if len(s.redeemed()) != 1 || a.State.Held != nil {
				t.Error("the phone goes on")
			}
			if err := a.Visit(ctx); err != nil || len(s.uploaded()) > 0 {
				t.Errorf("%v, %d uploads", err, len(s.uploaded()))
			}
		})
	}
	// Yesterday is no mark: a Redeem may be answered again after midnight.
	s := newService(t)
	s.info.Epoch = day - 1
	p, err := permit.NewPending()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.client().Redeem(context.Background(), goodCode, p); err != nil {
		t.Errorf("the epoch of yesterday: %v", err)
	}
}

// TestForeignReplies: a reply that was altered, or given to another request, counts as
// none; the request is sent again, sealed anew, and the true reply is taken.
func TestForeignReplies(t *testing.T) {
	var before []byte
	for name, row := range map[string]func(b []byte) []byte{
		"altered":    func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"nonce":      func(b []byte) []byte { b[0] ^= 1; return b },
		"of another": func([]byte) []byte { return before },
		"random":     func([]byte) []byte { return seal.NoReply() },
		"short":      func(b []byte) []byte { return b[1:] },
		"lost":       func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			s, ctx := newService(t), context.Background()
			s.wire = func(b []byte) []byte { before = slices.Clone(b); return b }
			if err := s.client().Cover(ctx, diagnosis.GAEN); err != nil {
				t.Fatal(err)
			}
			s.seen, s.sealed = nil, nil
			p, err := permit.NewPending()
			if err != nil {
				t.Fatal(err)
			}
			s.wire = func(b []byte) []byte {
				if len(s.seen) == 1 {
					return row(b)
				}
				return b
			}
			if _, _, err := s.client().Redeem(ctx, goodCode, p); err != nil {
				t.Fatal(err)
			}
			got := s.redeemed()
			if len(got) != 2 || got[0].Blinded != got[1].Blinded || bytes.Equal(s.sealed[0], s.sealed[1]) {
				t.Errorf("asked %d times; want twice, the same in another seal", len(got))
			}
		})
	}
}

// TestLostRedeem: where the reply never comes, the next attempt, even after a restart, asks
// with the same element; another code has another.
func TestLostRedeem(t *testing.T) {
	s, ctx := newService(t), context.Background()
	s.wire = func([]byte) []byte { return nil }
	keys := daily(day-1, 1)
	a := s.app(&keys)
	if err := a.Redeem(ctx, goodCode); !errors.Is(err, errLost) || len(s.redeemed()) != attempts {
		t.Fatalf("%v, after %d attempts", err, len(s.redeemed()))
	}
	text, err := a.State.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	s.wire = nil
	b := s.app(&keys)
	if b.State, err = ParseState(text); err != nil {
		t.Fatal(err)
	}
	if err := b.Redeem(ctx, goodCode); err != nil {
		t.Fatal(err)
	}
	if got := s.redeemed(); got[0].Blinded != got[attempts].Blinded {
		t.Error("another element: the code would be spent")
	}
	if err := a.Redeem(ctx, "1357-9246 8"); !errors.As(err, new(permit.Refusal)) || s.redeemed()[attempts+1].Blinded == s.redeemed()[0].Blinded {
		t.Errorf("another code: %v", err)
	}
	if a.State.Pending != nil {
		t.Error("what was asked for with a refused code is kept")
	}
}

// TestUnknownKey: the keyring is read again, once.
func TestUnknownKey(t *testing.T) {
	s, ctx := newService(t), context.Background()
	c := s.client()
	if err := c.Cover(ctx, diagnosis.GAEN); err != nil {
		t.Fatal(err)
	}
	calls, old := 0, c.keyring
	s.clear = func() error {
		if calls++; calls == 1 {
			return clear(connect.CodeFailedPrecondition, "unknown_key")
		}
		return nil
	}
	if err := c.Cover(ctx, diagnosis.GAEN); err != nil || calls != 2 || c.keyring == old {
		t.Errorf("%v after %d calls", err, calls)
	}
	calls = 0
	s.clear = func() error { calls++; return clear(connect.CodeFailedPrecondition, "unknown_key") }
	if err := c.Cover(ctx, diagnosis.GAEN); !errors.Is(err, seal.ErrKey) || calls != 2 {
		t.Errorf("for ever unknown: %v after %d calls", err, calls)
	}
	// A phone whose clock is two days behind has a key that is not opened any more.
	s.clear = nil
	c.Now = func() time.Time { return s.clock().Add(-48 * time.Hour) }
	c.keyring = nil
	if err := c.Cover(ctx, diagnosis.GAEN); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("a slow clock: %v", err)
	}
}

// TestRefusals: what the service says, in the seal and before it.
func TestRefusals(t *testing.T) {
	ctx := context.Background()
	keys := daily(day-1, 2)
	for _, row := range []struct {
		refusal permit.Refusal
		keeps   bool // the permit
		says    string
	}{
		{permit.Refusal{Operation: permit.OpUpload, Reason: permit.ReasonPermit}, false, "new code"},
		{permit.Refusal{Operation: permit.OpUpload, Reason: permit.ReasonFull}, false, "counts"},
		{permit.Refusal{Operation: permit.OpUpload, Reason: permit.ReasonTooOld, Record: 1}, true, "record 1"},
		{permit.Refusal{Operation: permit.OpUpload, Reason: permit.ReasonFuture, Record: 2}, true, "clock"},
		{permit.Refusal{Operation: permit.OpUpload, Reason: permit.ReasonOverlap}, true, "one phone"},
		{permit.Refusal{Operation: permit.OpUpload, Reason: permit.ReasonMalformed}, true, "update"},
		{permit.Refusal{Operation: permit.OpUpload, Reason: permit.ReasonBusy, Retry: 3 * time.Minute}, true, "3m"},
		{permit.Refusal{Operation: permit.OpUpload, Reason: permit.ReasonClosed}, false, "update the app"},
	} {
		s := newService(t)
		a := s.app(&keys)
		if err := a.Redeem(ctx, goodCode); err != nil {
			t.Fatal(err)
		}
		s.reply = func(permit.Request) permit.Reply { return row.refusal }
		err := a.Visit(ctx)
		var got permit.Refusal
		if !errors.As(err, &got) || got != row.refusal || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%v: %v", row.refusal.Reason, err)
		}
		if (a.State.Held != nil) != row.keeps {
			t.Errorf("%v: permit kept: %v", row.refusal.Reason, !row.keeps)
		}
		s.reply = nil
		if err := a.Visit(ctx); err != nil || (len(s.uploaded()) == 2) != row.keeps {
			t.Errorf("%v: the visit after: %v, %d uploads", row.refusal.Reason, err, len(s.uploaded()))
		}
	}

	s := newService(t)
	a := s.app(&keys)
	if err := a.Redeem(ctx, "123456789"); !errors.Is(err, ErrCode) || len(s.sealed) > 0 {
		t.Errorf("a mistyped code: %v, %d requests", err, len(s.sealed))
	}
	s.reply = func(permit.Request) permit.Reply {
		return permit.Refusal{Operation: permit.OpRedeem, Reason: permit.ReasonPaused, Retry: time.Hour}
	}
	if err := a.Redeem(ctx, goodCode); err == nil || !strings.Contains(err.Error(), "long code") || a.State.Pending == nil {
		t.Errorf("paused: %v", err)
	}
	s.clear = func() error { return clear(connect.CodeUnavailable, "busy") }
	var busy permit.Refusal
	if err := a.Redeem(ctx, goodCode); !errors.As(err, &busy) || busy.Reason != permit.ReasonBusy || busy.Retry != time.Minute || a.State.Pending == nil {
		t.Errorf("busy: %v", err)
	}
	s.clear = func() error { return clear(connect.CodeInvalidArgument, "malformed") }
	if err := a.Redeem(ctx, goodCode); err == nil || !strings.Contains(err.Error(), "update the app") {
		t.Errorf("malformed: %v", err)
	}
}

// TestStatusAlone: an answer of nothing but an HTTP status is as good as lost, unless it
// says that the same request will never be taken.
func TestStatusAlone(t *testing.T) {
	for status, row := range map[int]struct {
		sent int
		says string
	}{
		415: {1, "update the app"},
		404: {1, "no phone service"},
		500: {attempts, "no reply"},
		502: {attempts, "no reply"},
	} {
		s, sent := newService(t), 0
		s.front = func() int { sent++; return status }
		if err := s.client().Cover(context.Background(), diagnosis.GAEN); err == nil || !strings.Contains(err.Error(), row.says) || sent != row.sent {
			t.Errorf("status %d: sent %d times, want %d: %v", status, sent, row.sent, err)
		}
	}
}

// TestRecordsBeyondThoseSent: a refusal that names a record of nobody's is no reply, and is
// not asked for again.
func TestRecordsBeyondThoseSent(t *testing.T) {
	s, ctx := newService(t), context.Background()
	keys := daily(day-1, 2)
	a := s.app(&keys)
	if err := a.Redeem(ctx, goodCode); err != nil {
		t.Fatal(err)
	}
	s.reply = func(permit.Request) permit.Reply {
		return permit.Refusal{Operation: permit.OpUpload, Reason: permit.ReasonTooOld, Record: 3}
	}
	if err := a.Visit(ctx); err == nil || errors.As(err, new(permit.Refusal)) || len(s.uploaded()) != 1 || a.State.Held == nil {
		t.Errorf("%v, %d uploads", err, len(s.uploaded()))
	}
}

// TestNotAService: an address without the service is told from a service that is away.
func TestNotAService(t *testing.T) {
	s, ctx := newService(t), context.Background()
	c := s.client()
	if _, err := c.Keyring(ctx); err != nil {
		t.Fatal(err)
	}
	s.clear = func() error { return connect.NewError(connect.CodeUnimplemented, errors.New("404")) }
	if err := c.Cover(ctx, diagnosis.Bluezone); err == nil || !strings.Contains(err.Error(), "no phone service") || len(s.sealed) != 1 {
		t.Errorf("%v, %d requests", err, len(s.sealed))
	}
	for _, url := range []string{"", "ftp://x", "x"} {
		if _, err := NewClient(Options{URL: url}); err == nil {
			t.Errorf("%q: a client", url)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if err := c.Cover(ctx, diagnosis.Bluezone); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestUpload is the command: it waits for the scheduled time, or says what it costs not to.
func TestUpload(t *testing.T) {
	s, ctx := newService(t), context.Background()
	s.now = time.Now()
	// The service's days are fixed, the command's clock is not: run it on today's keys.
	today := seal.DayAt(s.now)
	p := newPlace(t)
	s = newServiceAt(t, p)
	s.now, s.info.Epoch, s.ring = time.Now(), today, &seal.Ring{}
	k, err := seal.NewPrivateKey(origin, today)
	if err == nil {
		err = s.ring.Add(k)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.announce(&seal.Keyring{Origin: origin, Region: region, Seals: s.ring.Public(), Permits: []seal.PermitKey{{Day: today, Key: s.issuer.PublicKey(today)}}})
	var notes []string
	o := UploadOptions{URL: s.url + "/", Policy: p.policy, Code: goodCode, Scheme: diagnosis.GAEN, Keys: daily(today-1, 3), Note: func(n string) { notes = append(notes, n) }}
	waited := false
	by, err := upload(ctx, o, func(_ context.Context, until time.Time) error {
		if waited = true; len(s.uploaded()) > 0 || time.Until(until) > coverMost+time.Second {
			t.Errorf("waits until %v", until)
		}
		return nil
	})
	if err != nil || !waited || len(s.uploaded()) != 1 || !by.Equal(time.Unix(s.now.Add(8*time.Hour).Unix(), 0)) {
		t.Errorf("%v, %v; waited %v", by, err, waited)
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "keep this running") {
		t.Errorf("notes: %q", notes)
	}
	o.Now, o.Policy, notes = true, nil, nil
	if _, err := Upload(ctx, o); err != nil || len(s.uploaded()) != 2 {
		t.Errorf("at once: %v", err)
	}
	if len(notes) != 2 || !strings.Contains(notes[0], "judged by the policy that lies there itself") || !strings.Contains(notes[1], "belong to one person") {
		t.Errorf("notes: %q", notes)
	}
	before := len(s.sealed)
	for name, keys := range map[string][]diagnosis.Key{
		"no keys":       nil,
		"31 keys":       daily(today-1, 31),
		"old":           daily(today-17, 1),
		"future":        daily(today+1, 1),
		"of two scheme": {{Scheme: diagnosis.Bluezone, Start: diagnosis.Interval(today-1) * 96, Count: 96}},
		"no shape":      {{Scheme: diagnosis.GAEN, Start: 5}},
	} {
		o.Keys = keys
		if _, err := Upload(ctx, o); err == nil || len(s.sealed) != before {
			t.Errorf("%s: %v, %d requests", name, err, len(s.sealed)-before)
		}
	}
}
