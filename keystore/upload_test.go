package keystore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
)

func TestCodeStories(t *testing.T) {
	ctx := context.Background()
	s, c := newStore(t)
	issue := func(r desk.Request) string {
		t.Helper()
		r.Officer, r.Count = "lan", 1
		codes, err := s.Desk().Issue(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		return codes[0]
	}
	upload := func(code string, keys []diagnosis.Key) error {
		_, err := handIn(ctx, s, code, keys)
		return err
	}
	keys, others := caseKeys(t, diagnosis.GAEN, 1, c.Now(), 5), caseKeys(t, diagnosis.GAEN, 2, c.Now(), 5)

	t.Run("same keys, same answer; other keys, spent", func(t *testing.T) {
		code := issue(desk.Request{Report: diagnosis.ConfirmedTest})
		first := mustUpload(t, s, code, keys)
		c.advance(30 * time.Minute)
		reversed := []diagnosis.Key{keys[4], keys[3], keys[2], keys[1], keys[0]}
		if again := mustUpload(t, s, code, reversed); again != first {
			t.Errorf("answered %v, then %v", first, again)
		}
		r := wantRefusal(t, upload(code, others), SpentCode)
		if r.Field != "code" || r.Index != -1 || r.Retry {
			t.Errorf("%+v", r)
		}
		wantRefusal(t, upload(code, keys[:4]), SpentCode)
		c.advance(30 * time.Minute)
		wantRefusal(t, upload(code, keys), ExpiredCode)
	})
	t.Run("expired, then forgotten", func(t *testing.T) {
		code := issue(desk.Request{Report: diagnosis.ConfirmedTest, TTL: 10 * time.Minute})
		c.advance(10 * time.Minute)
		wantRefusal(t, upload(code, others), ExpiredCode)
		c.advance(testPeriod)
		publish(t, s, diagnosis.GAEN, time.Time{})
		wantRefusal(t, upload(code, others), BadCode)
	})
	t.Run("revoked", func(t *testing.T) {
		code := issue(desk.Request{Report: diagnosis.ConfirmedTest})
		if ok, err := s.Desk().Revoke(ctx, code); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if ok, err := s.Desk().Revoke(ctx, code); ok || err != nil {
			t.Error("revoked twice", err)
		}
		wantRefusal(t, upload(code, others), BadCode)
	})
	t.Run("a spent code cannot be revoked", func(t *testing.T) {
		code := issue(desk.Request{Report: diagnosis.ConfirmedTest})
		mustUpload(t, s, code, others)
		if ok, err := s.Desk().Revoke(ctx, code); ok || err != nil {
			t.Error(ok, err)
		}
		mustUpload(t, s, code, others)
	})
	t.Run("mistyped and unknown", func(t *testing.T) {
		wantRefusal(t, upload("123 456 78", keys), BadCode)
		wantRefusal(t, upload("", keys), BadCode)
		wantRefusal(t, upload("0000000000000000", keys), BadCode)
	})
	t.Run("what the code says goes into the keys", func(t *testing.T) {
		s, c := newStore(t)
		onset := uint32(c.Now().Unix()/86400) - 3
		codes, err := s.Desk().Issue(ctx, desk.Request{Officer: "lan", Report: diagnosis.ConfirmedClinical, OnsetDay: onset, Count: 1})
		if err != nil {
			t.Fatal(err)
		}
		keys := caseKeys(t, diagnosis.GAEN, 1, c.Now(), 8) // 1 to 8 days ago
		for i := range keys {
			keys[i].Report, keys[i].Onset, keys[i].Risk = diagnosis.Revoked, 13, 8
		}
		mustUpload(t, s, codes[0], keys)
		classes := map[diagnosis.DaysSinceOnset]int{}
		for _, k := range dueKeys(t, s, diagnosis.GAEN, c.Now()) {
			classes[k.Onset]++
			if k.Report != diagnosis.ConfirmedTest {
				t.Errorf("report type %v", k.Report)
			}
		}
		// 3 days after the onset to 2 before it: 0 to 5 days ago.
		if classes[0] != 5 || classes[6] != 3 {
			t.Errorf("onset classes %v", classes)
		}
	})
}

func TestExactMetadata(t *testing.T) {
	s, c := newStore(t)
	s.opt.Exact = true
	onset := uint32(c.Now().Unix()/86400) - 3
	codes, err := s.Desk().Issue(context.Background(), desk.Request{Report: diagnosis.ConfirmedClinical, OnsetDay: onset, Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	k := dayKey(t, diagnosis.GAEN, 1, c.Now(), 2)
	k.Start, k.Count, k.Risk = k.Start+7, 100, 8
	mustUpload(t, s, codes[0], []diagnosis.Key{k})
	k.Report, k.Onset = diagnosis.ConfirmedClinical, 1
	if got := dueKeys(t, s, diagnosis.GAEN, c.Now()); len(got) != 1 || got[0] != k {
		t.Errorf("stored another key than uploaded")
	}
}

func TestKnownKeysChangeNothing(t *testing.T) {
	s, c := newStore(t)
	codes := mustIssue(t, s, 4)
	keys := caseKeys(t, diagnosis.GAEN, 1, c.Now(), 5)
	mustUpload(t, s, codes[0], keys[:3])
	mustUpload(t, s, codes[1], keys) // two more of the same phone
	if n := len(dueKeys(t, s, diagnosis.GAEN, c.Now())); n != 5 {
		t.Fatalf("%d keys, want 5", n)
	}
	c.advance(testPeriod)
	publish(t, s, diagnosis.GAEN, time.Time{})
	// Known ones stay known after publication, also in the form they are published in.
	mustUpload(t, s, codes[2], keys)
	mustUpload(t, s, codes[3], []diagnosis.Key{Coarse(keys[0])})
	c.advance(testPeriod)
	if again := publish(t, s, diagnosis.GAEN, time.Time{}); len(again) != 0 {
		t.Fatalf("%d known keys published again", len(again))
	}
}

// A published seed sent in again, or another stretch of the same chain, is no new key.
func TestSeedsOfOneChainAreOneKey(t *testing.T) {
	s, c := newStore(t)
	codes := mustIssue(t, s, 3)
	seed := dayKey(t, diagnosis.Bluezone, 1, c.Now(), 1)
	later := func(n int) diagnosis.Key {
		k := seed
		for range n {
			k.Secret = diagnosis.NextSubKey(k.Secret)
		}
		k.Start, k.Count = k.Start+diagnosis.Interval(n), k.Count-uint8(n)
		return k
	}
	for i, n := range []int{3, 9, 16} {
		mustUpload(t, s, codes[i], []diagnosis.Key{later(n)})
	}
	if got := dueKeys(t, s, diagnosis.Bluezone, c.Now()); len(got) != 1 || got[0].Start != later(16).Start {
		t.Fatalf("%d keys, want the one from interval 16 on", len(got))
	}
}

func TestOneCodeSixtyFourPhones(t *testing.T) {
	s, c := newStore(t)
	code := mustIssue(t, s, 1)[0]
	var won, spent atomic.Int64
	var group sync.WaitGroup
	var start sync.WaitGroup
	start.Add(1)
	for i := range 64 {
		group.Go(func() {
			keys := caseKeys(t, diagnosis.GAEN, uint64(i), c.Now(), 3)
			start.Wait()
			// Each phone sends its upload twice.
			for range 2 {
				_, err := handIn(context.Background(), s, code, keys)
				var r *Refusal
				switch {
				case err == nil:
					won.Add(1)
				case errors.As(err, &r) && r.Reason == SpentCode:
					spent.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	start.Done()
	group.Wait()
	if won.Load() != 2 || spent.Load() != 126 {
		t.Errorf("%d uploads accepted and %d refused as spent, want one phone's 2 and 126", won.Load(), spent.Load())
	}
	if n := len(dueKeys(t, s, diagnosis.GAEN, c.Now())); n != 3 {
		t.Errorf("%d keys stored, want 3", n)
	}
}

// Many phones hand in the same keys, in other mixes, while windows close: every key is
// published once.
func TestSameKeysManyCodes(t *testing.T) {
	s, c := newStore(t)
	const phones = 32
	codes := mustIssue(t, s, phones*4)
	keys := caseKeys(t, diagnosis.GAEN, 1, c.Now(), 12)
	published := map[diagnosis.Secret]int{}
	for round := range 4 {
		var group sync.WaitGroup
		for i := range phones {
			group.Go(func() {
				from := (i + round) % 9
				if _, err := handIn(context.Background(), s, codes[round*phones+i], keys[from:from+3]); err != nil {
					t.Error(err)
				}
			})
		}
		c.advance(testPeriod)
		for _, k := range publish(t, s, diagnosis.GAEN, time.Time{}) {
			published[k.Secret]++
		}
		group.Wait()
	}
	c.advance(testPeriod)
	for _, k := range publish(t, s, diagnosis.GAEN, time.Time{}) {
		published[k.Secret]++
	}
	for _, n := range published {
		if n != 1 {
			t.Errorf("a key is published %d times", n)
		}
	}
	if len(published) != len(keys)-1 && len(published) != len(keys) {
		t.Errorf("%d keys published", len(published))
	}
}

func TestGuessing(t *testing.T) {
	ctx := context.Background()
	s, c := newStore(t)
	short, err := s.Desk().Issue(ctx, desk.Request{Report: diagnosis.SelfReport, Count: 250})
	if err != nil {
		t.Fatal(err)
	}
	long := mustIssue(t, s, 1)
	keys := caseKeys(t, diagnosis.GAEN, 1, c.Now(), 2)
	upload := func(code string) error {
		_, err := handIn(ctx, s, code, keys)
		return err
	}
	// 10,000 / 250 alive = 40 wrong ones an hour. Mistyped ones are not counted.
	for i := range 100 {
		wantRefusal(t, upload(mistype(short[i])), BadCode)
	}
	wrong := wrongCodes(short, 41)
	for _, w := range wrong[:40] {
		wantRefusal(t, upload(w), BadCode)
	}
	if st := s.Desk().Status(); !st.Paused || st.ShortAlive != 250 {
		t.Errorf("status %+v, want a pause", st)
	}
	r := wantRefusal(t, upload(wrong[40]), Paused)
	if !r.Retry {
		t.Error("a pause is over some time, but the phone is not told to try again")
	}
	wantRefusal(t, upload(short[0]), Paused)
	if err := upload(long[0]); err != nil {
		t.Errorf("a long code during the pause: %v", err)
	}
	until := s.Desk().Status().PausedUntil
	if d := until.Sub(c.Now()); d <= 0 || d > time.Hour+time.Minute {
		t.Fatalf("paused for %v", d)
	}
	c.set(until)
	fresh, err := s.Desk().Issue(ctx, desk.Request{Report: diagnosis.SelfReport, Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	keys = caseKeys(t, diagnosis.GAEN, 2, c.Now(), 2)
	if err := upload(fresh[0]); err != nil {
		t.Errorf("after the pause: %v", err)
	}
	if s.Desk().Status().Paused {
		t.Error("still paused")
	}
}

// mistype changes one digit, so that the check digit no longer fits.
func mistype(code string) string {
	b := []byte(code)
	b[3] = '0' + (b[3]-'0'+1)%10
	return string(b)
}

// wrongCodes are well-formed short codes that were not issued.
func wrongCodes(issued []string, n int) (wrong []string) {
	known := map[string]bool{}
	for _, c := range issued {
		known[c] = true
	}
	for i := 0; len(wrong) < n; i++ {
		for d := range 10 {
			c := []byte("00000000x")
			for p, v := 7, i; v > 0; p, v = p-1, v/10 {
				c[p] = '0' + byte(v%10)
			}
			c[8] = '0' + byte(d)
			if _, kind, err := desk.Parse(string(c)); err == nil && kind == desk.Short && !known[string(c)] {
				wrong = append(wrong, string(c))
			}
		}
	}
	return wrong
}

func TestBusy(t *testing.T) {
	s, c := newStore(t)
	code := mustIssue(t, s, 1)[0]
	for range cap(s.slots) {
		s.slots <- struct{}{}
	}
	keys := caseKeys(t, diagnosis.GAEN, 1, c.Now(), 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := handIn(ctx, s, code, keys); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want that the time is over", err)
	}
	s.waiting.Store(maxWaiting)
	_, err := handIn(context.Background(), s, code, keys)
	if r := wantRefusal(t, err, Busy); !r.Retry {
		t.Error("a busy store is not for ever")
	}
	s.waiting.Store(0)
	for range cap(s.slots) {
		<-s.slots
	}
	mustUpload(t, s, code, keys)
}
