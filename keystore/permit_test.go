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

func today(c *testClock) uint32 { return uint32(c.Now().Unix() / 86400) }

func TestPermit(t *testing.T) {
	ctx := context.Background()
	s, c := newStore(t)
	p := permitFor("a", [32]byte{1}, today(c))
	upload := func(p Permit, from, to int) error {
		var keys []diagnosis.Key
		for i := from; i < to; i++ {
			keys = append(keys, at(diagnosis.GAEN, uint64(i), diagnosis.GAEN.IntervalAt(c.Now())/144*144-144*diagnosis.Interval(1+i%10), 144))
		}
		_, err := s.Upload(ctx, Upload{p, keys})
		return err
	}
	late := p
	late.First = false
	wantRefusal(t, upload(late, 0, 3), BadPermit) // it was never used
	for _, step := range []struct {
		name     string
		p        Permit
		from, to int
		want     Reason
	}{
		{"first use", p, 0, 10, ""},
		{"sent again", p, 0, 10, ""},
		{"late keys", late, 10, 20, ""},
		{"some of both", late, 5, 25, ""},
		{"the thirtieth", late, 25, 30, ""},
		{"the thirty-first", late, 30, 31, Full},
		{"all of them again", late, 0, 30, ""},
		{"a known one beside the thirty-first", late, 29, 31, Full},
	} {
		err := upload(step.p, step.from, step.to)
		if step.want != "" {
			wantRefusal(t, err, step.want)
		} else if err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
	}
	if n := len(dueKeys(t, s, diagnosis.GAEN, c.Now())); n != 30 {
		t.Errorf("%d keys, want 30", n)
	}
	other := p
	other.E[0]++
	wantRefusal(t, upload(other, 0, 1), BadPermit)

	// It is remembered to the end of its fourth day, and not after the fifth.
	c.advance(testPeriod)
	for day := range 7 {
		publish(t, s, diagnosis.GAEN, time.Time{})
		known, err := s.has(permitRowKey(&p))
		if err != nil {
			t.Fatal(err)
		}
		if day <= 4 && !known || day > 5 && known {
			t.Errorf("day %d: known %v", day, known)
		}
		c.advance(24 * time.Hour)
	}
}

// Whatever races with one permit, it never brings more than 30 keys.
func TestDoubleSpend(t *testing.T) {
	s, c := newStore(t)
	p := permitFor("a", [32]byte{1}, today(c))
	var accepted, full atomic.Int64
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			_, err := s.Upload(context.Background(), Upload{p, caseKeys(t, diagnosis.GAEN, uint64(1+i*100), c.Now(), 7)})
			var r *Refusal
			switch {
			case err == nil:
				accepted.Add(1)
			case errors.As(err, &r) && r.Reason == Full:
				full.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	group.Wait()
	if accepted.Load() != 4 || full.Load() != 60 {
		t.Errorf("%d accepted and %d full, want 4 of 7 keys and 60", accepted.Load(), full.Load())
	}
	if n := len(dueKeys(t, s, diagnosis.GAEN, c.Now())); n != 28 {
		t.Errorf("%d keys, want 28", n)
	}
}

// What cover leaves in the log of the database is as long as what an upload leaves, and is
// gone when the window is sealed.
func TestScratchWeighsTheSame(t *testing.T) {
	ctx := context.Background()
	s, c := newStore(t)
	grown := func(f func() error) uint64 {
		t.Helper()
		before := s.db.Metrics().WAL.BytesIn
		if err := f(); err != nil {
			t.Fatal(err)
		}
		return s.db.Metrics().WAL.BytesIn - before
	}
	for n, scheme := range []diagnosis.Scheme{diagnosis.GAEN, diagnosis.GAEN, diagnosis.Bluezone} {
		keys := caseKeys(t, scheme, uint64(1+n*1000), c.Now(), 5+5*(n%2))
		real := grown(func() error {
			_, err := s.Upload(ctx, Upload{permitFor("a", [32]byte{byte(n)}, today(c)), keys})
			return err
		})
		cover := grown(func() error { return s.Scratch(ctx, caseKeys(t, scheme, uint64(501+n*1000), c.Now(), 5+5*(n%2))) })
		again := grown(func() error {
			_, err := s.Upload(ctx, Upload{permitFor("a", [32]byte{byte(n)}, today(c)), keys})
			return err
		})
		if again != real {
			t.Errorf("%d %s keys: an upload writes %d bytes, and %d when sent again", len(keys), scheme, real, again)
		}
		if real == 0 || real != cover {
			t.Errorf("%d %s keys: an upload writes %d bytes, a cover %d", len(keys), scheme, real, cover)
		}
	}
	code := mustIssue(t, s, 1)[0]
	redeem := func() error {
		_, err := s.Redeem(ctx, Redemption{code, [32]byte{1}, today(c)})
		return err
	}
	first, again, cover := grown(redeem), grown(redeem), grown(func() error { return s.ScratchCode(ctx) })
	if first != cover || again != cover {
		t.Errorf("a redemption writes %d bytes, again %d, a cover %d", first, again, cover)
	}
	c.advance(testPeriod)
	publish(t, s, diagnosis.GAEN, time.Time{})
	it, err := s.db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	if it.SeekGE([]byte{junkRow}); it.Valid() && it.Key()[0] == junkRow {
		t.Error("junk is left after the window was sealed")
	}
}

// Right codes that come together are never taken for guesses, however many are alive.
func TestRightCodesNeverPause(t *testing.T) {
	s, c := newStore(t)
	codes, err := s.Desk().Issue(context.Background(), desk.Request{Report: diagnosis.ConfirmedTest, Count: 500})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i, code := range codes {
		group.Go(func() {
			if _, err := s.Redeem(context.Background(), Redemption{code, [32]byte{byte(i), byte(i >> 8)}, today(c)}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}
