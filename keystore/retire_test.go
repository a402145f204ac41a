package keystore

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/keystore/diagnosis"
)

func TestRetire(t *testing.T) {
	fs, clock := vfs.NewMem(), newClock()
	s := mustOpen(t, testOptions(fs, clock))
	if note, ok := s.Retired(); ok {
		t.Fatalf("a new store is retired: %q", note)
	}
	if newest, some, err := s.Unpublished(); err != nil || some {
		t.Fatalf("a new store holds keys of %v, %v", newest, err)
	}
	codes := mustIssue(t, s, 3)
	for i, scheme := range diagnosis.Schemes {
		mustUpload(t, s, codes[i], caseKeys(t, scheme, uint64(100*i), clock.Now(), 3))
	}
	want := instant(uint32(testStart.Unix() / int64(testPeriod.Seconds()) * int64(testPeriod.Seconds())))
	if newest, some, err := s.Unpublished(); err != nil || !some || !newest.Equal(want) {
		t.Fatalf("unpublished keys of %v, %v, %v; want %v", newest, some, err, want)
	}
	if err := s.Retire("moved"); err != nil {
		t.Fatal(err)
	}
	if err := s.Retire("moved"); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := s.Retire("elsewhere"); err == nil {
		t.Error("for another reason too")
	}
	refused := func(s *Store) {
		t.Helper()
		_, err := handIn(context.Background(), s, codes[2], caseKeys(t, diagnosis.GAEN, 7, clock.Now(), 1))
		if r := wantRefusal(t, err, Closed); r.Retry {
			t.Error("the phone is told to try again")
		}
	}
	refused(s)
	mustClose(t, s)

	s = mustOpen(t, testOptions(fs, clock))
	defer mustClose(t, s)
	refused(s)
	if note, ok := s.Retired(); !ok || note != "moved" {
		t.Errorf("after a restart: %q, %v", note, ok)
	}
	// What was taken is published as ever, scheme by scheme.
	clock.advance(testPeriod)
	for _, scheme := range diagnosis.Schemes {
		if _, some, err := s.Unpublished(); err != nil || !some {
			t.Fatalf("nothing is unpublished, %v", err)
		}
		if got := publish(t, s, scheme, time.Time{}); len(got) != 3 {
			t.Errorf("%d keys of %s", len(got), scheme)
		}
	}
	if newest, some, err := s.Unpublished(); err != nil || some {
		t.Errorf("everything is published, and there are keys of %v, %v", newest, err)
	}
}

// Once Retire has returned, no key comes in any more, on whatever way it was.
func TestRetireMeetsUploads(t *testing.T) {
	s, clock := newStore(t)
	ctx := context.Background()
	const phones = 64
	codes := mustIssue(t, s, phones)
	var wg sync.WaitGroup
	var acked atomic.Int64
	seen := -1 // keys there when Retire had returned
	for i := range phones {
		wg.Go(func() {
			_, err := handIn(ctx, s, codes[i], caseKeys(t, diagnosis.GAEN, uint64(i)*50, clock.Now(), 1))
			var r *Refusal
			switch {
			case err == nil:
				acked.Add(1)
			case !errors.As(err, &r) || r.Reason != Closed:
				t.Error(err)
			}
		})
		if i == phones/2 {
			wg.Go(func() {
				err := s.Retire("moved")
				if err != nil {
					t.Error(err)
				}
				d, err := s.countDue(ctx, diagnosis.GAEN, 0, math.MaxUint32)
				if err != nil {
					t.Error(err)
				}
				seen = d.Count
			})
		}
	}
	wg.Wait()
	if d, err := s.countDue(ctx, diagnosis.GAEN, 0, math.MaxUint32); err != nil || d.Count != seen || d.Count != int(acked.Load()) {
		t.Errorf("%d keys are stored, %v; %d were when the store had retired, %d were acknowledged", d.Count, err, seen, acked.Load())
	}
}
