package keystore

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bluekey/keystore/diagnosis"
)

// door are keys as they come through the GAEN door.
func door(keys []diagnosis.Key, report, was diagnosis.ReportType) []GAENKey {
	list := make([]GAENKey, len(keys))
	for i, k := range keys {
		k.Report, k.Risk = report, 3
		list[i] = GAENKey{Key: k, Was: was}
	}
	return list
}

func mustTake(t testing.TB, s *Store, keys []GAENKey) {
	t.Helper()
	dropped, err := s.UploadGAEN(context.Background(), keys)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range dropped {
		if r != nil {
			t.Fatal(r)
		}
	}
}

// reports counts the report types of the keys that are due.
func reports(t testing.TB, s *Store) map[diagnosis.ReportType]int {
	t.Helper()
	got := map[diagnosis.ReportType]int{}
	for _, k := range dueKeys(t, s, diagnosis.GAEN, s.opt.Now()) {
		got[k.Report]++
	}
	return got
}

func wantReports(t testing.TB, s *Store, want map[diagnosis.ReportType]int) {
	t.Helper()
	got := reports(t, s)
	if len(got) != len(want) {
		t.Fatalf("due are %v, want %v", got, want)
	}
	for r, n := range want {
		if got[r] != n {
			t.Fatalf("due are %v, want %v", got, want)
		}
	}
}

const (
	unproven  = diagnosis.ReportUnknown
	confirmed = diagnosis.ConfirmedTest
	clinical  = diagnosis.ConfirmedClinical
	selfMade  = diagnosis.SelfReport
	takenBack = diagnosis.Revoked
)

func TestRevisions(t *testing.T) {
	for _, row := range []struct {
		name               string
		exact              bool
		first, was, second diagnosis.ReportType
		refused            Reason
		want               diagnosis.ReportType // of the keys afterwards; unproven: they are gone
	}{
		{"the same again", false, confirmed, unproven, confirmed, "", confirmed},
		{"the same again with proof", false, selfMade, selfMade, selfMade, "", selfMade},
		{"likely and confirmed are one value", false, clinical, unproven, confirmed, "", confirmed},
		{"but not where metadata is exact", true, clinical, unproven, confirmed, NeedsToken, clinical},
		{"self-report to confirmed", false, selfMade, selfMade, confirmed, "", confirmed},
		{"self-report to likely", false, selfMade, selfMade, clinical, "", confirmed},
		{"self-report to likely, exact", true, selfMade, selfMade, clinical, "", clinical},
		{"likely to confirmed, exact", true, clinical, clinical, confirmed, "", confirmed},
		{"self-report to confirmed without proof", false, selfMade, unproven, confirmed, NeedsToken, selfMade},
		{"confirmed to self-report", false, confirmed, confirmed, selfMade, Transition, confirmed},
		{"confirmed to likely, exact", true, confirmed, confirmed, clinical, Transition, confirmed},
		{"confirmed to likely with an older proof, exact", true, confirmed, selfMade, clinical, Transition, confirmed},
		{"self-report taken back", false, selfMade, selfMade, takenBack, "", unproven},
		{"likely taken back", false, clinical, clinical, takenBack, "", unproven},
		{"likely taken back, exact", true, clinical, clinical, takenBack, "", unproven},
		{"taken back without proof", false, selfMade, unproven, takenBack, NeedsToken, selfMade},
		{"taken back with an older proof", false, confirmed, selfMade, takenBack, Transition, confirmed},
		{"confirmed taken back", false, confirmed, confirmed, takenBack, Transition, confirmed},
		{"confirmed taken back with an older proof, exact", true, confirmed, selfMade, takenBack, Transition, confirmed},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, c := newStore(t)
			s.opt.Exact = row.exact
			keys := caseKeys(t, diagnosis.GAEN, 1, c.Now(), 5)
			mustTake(t, s, door(keys, row.first, unproven))
			again := door(keys, row.second, row.was)
			if row.refused == "" {
				mustTake(t, s, again)
			} else {
				_, err := s.UploadGAEN(context.Background(), again)
				if r := wantRefusal(t, err, row.refused); r.Index != 0 || r.Field != "key" {
					t.Errorf("%+v", r)
				}
			}
			want := map[diagnosis.ReportType]int{row.want: 5}
			if row.want == unproven {
				want = nil
			}
			wantReports(t, s, want)
		})
	}
}

// The revision comes before the window is closed or after; in between there is nothing.
func TestRevisionAfterSeal(t *testing.T) {
	s, c := newStore(t)
	keys := caseKeys(t, diagnosis.GAEN, 1, c.Now(), 5)
	today := dayKey(t, diagnosis.GAEN, 99, c.Now(), 0) // due tomorrow
	mustTake(t, s, door(append(keys, today), selfMade, unproven))
	c.advance(testPeriod)
	if n := len(publish(t, s, diagnosis.GAEN, time.Time{})); n != 5 {
		t.Fatalf("%d keys published", n)
	}

	_, err := s.UploadGAEN(context.Background(), door(keys, confirmed, selfMade))
	wantRefusal(t, err, Sealed)
	_, err = s.UploadGAEN(context.Background(), door(keys, takenBack, selfMade))
	wantRefusal(t, err, Sealed)
	_, err = s.UploadGAEN(context.Background(), door(keys, takenBack, unproven))
	wantRefusal(t, err, Sealed)
	mustTake(t, s, door(keys, selfMade, unproven)) // what was sent already

	// A sealed key keeps no other from being revised, and no new one from being stored.
	late := dayKey(t, diagnosis.GAEN, 77, c.Now(), 8)
	list := append(door(keys[:2], confirmed, selfMade), door([]diagnosis.Key{today}, confirmed, selfMade)...)
	list = append(list, door([]diagnosis.Key{late}, confirmed, unproven)...)
	dropped, err := s.UploadGAEN(context.Background(), list)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range dropped {
		if sealed := r != nil && r.Reason == Sealed && r.Index == i; sealed != (i < 2) {
			t.Errorf("key %d: %v", i, r)
		}
	}
	wantReports(t, s, map[diagnosis.ReportType]int{confirmed: 1})
	c.advance(36 * time.Hour)
	for _, k := range publish(t, s, diagnosis.GAEN, time.Time{}) {
		if k.Report != confirmed {
			t.Errorf("published as %v", k.Report)
		}
	}
	// Sent again it is what it was.
	mustTake(t, s, door([]diagnosis.Key{today, late}, confirmed, selfMade))
}

func TestTakenBackIsForgotten(t *testing.T) {
	s, disk, c := rawStore(t)
	keys := caseKeys(t, diagnosis.GAEN, 1, c.Now(), 5)
	mustTake(t, s, door(keys, takenBack, unproven)) // unknown: dropped
	wantReports(t, s, nil)
	mustTake(t, s, door(keys, selfMade, unproven))
	mustTake(t, s, door(keys, takenBack, selfMade))
	mustTake(t, s, door(keys, takenBack, selfMade)) // again
	c.advance(testPeriod)
	if n := len(publish(t, s, diagnosis.GAEN, time.Time{})); n != 0 {
		t.Fatalf("%d keys published", n)
	}
	files := rawFiles(t, copyDisk(disk))
	if n := found(files, "", append(secretTails(keys), dedupeTails(s, keys)...)); n != 0 {
		t.Errorf("keys that were taken back, or the memory of them, are %d times in the files", n)
	}
	// A later test that finds something brings them.
	mustTake(t, s, door(keys, confirmed, unproven))
	wantReports(t, s, map[diagnosis.ReportType]int{confirmed: 5})
}

func TestDoorPolicy(t *testing.T) {
	s, c := newStore(t)
	ctx := context.Background()
	good := caseKeys(t, diagnosis.GAEN, 1, c.Now(), 3)
	old, ahead := dayKey(t, diagnosis.GAEN, 50, c.Now(), 20), dayKey(t, diagnosis.GAEN, 51, c.Now(), -1)
	bad := func(reason Reason) func([]*Refusal, error) {
		return func(dropped []*Refusal, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			if r := wantRefusal(t, dropped[1], reason); r.Index != 1 {
				t.Error(r)
			}
			if dropped[0] != nil || dropped[2] != nil {
				t.Error(dropped)
			}
		}
	}
	one := func(k diagnosis.Key) []GAENKey {
		return door([]diagnosis.Key{good[0], k, good[1]}, confirmed, unproven)
	}
	bad(TooOld)(s.UploadGAEN(ctx, one(old)))
	bad(Future)(s.UploadGAEN(ctx, one(ahead)))
	bad(Malformed)(s.UploadGAEN(ctx, one(good[0])))
	bad(Malformed)(s.UploadGAEN(ctx, one(dayKey(t, diagnosis.Bluezone, 3, c.Now(), 4))))
	wantReports(t, s, map[diagnosis.ReportType]int{confirmed: 2})

	_, err := s.UploadGAEN(ctx, door([]diagnosis.Key{old, ahead}, confirmed, unproven))
	wantRefusal(t, err, TooOld)
	_, err = s.UploadGAEN(ctx, nil)
	wantRefusal(t, err, Malformed)
	_, err = s.UploadGAEN(ctx, make([]GAENKey, 31))
	wantRefusal(t, err, Malformed)

	over := good[2]
	over.Secret[0]++
	over.Start += 10
	_, err = s.UploadGAEN(ctx, door([]diagnosis.Key{old, good[2], over}, confirmed, unproven))
	if r := wantRefusal(t, err, Overlap); r.Index != 2 {
		t.Error(r)
	}
	// The end that counts is the day 15 days ago, not that of the start.
	edge := dayKey(t, diagnosis.GAEN, 60, c.Now(), 15)
	mustTake(t, s, door([]diagnosis.Key{edge}, confirmed, unproven))

	if err := s.Retire("closed"); err != nil {
		t.Fatal(err)
	}
	_, err = s.UploadGAEN(ctx, door(good, confirmed, unproven))
	wantRefusal(t, err, Closed)
}

// Sixty-four phones, of which each does another thing with the same keys, and a window that
// closes meanwhile: what is published is one report type for all keys, or nothing.
func TestRevisionsRace(t *testing.T) {
	for range 20 {
		s, c := newStore(t)
		keys := caseKeys(t, diagnosis.GAEN, 1, c.Now(), 14)
		mustTake(t, s, door(keys, selfMade, unproven))
		c.advance(testPeriod)
		var group sync.WaitGroup
		var revised, back atomic.Int64
		for i := range 64 {
			group.Go(func() {
				order := slices.Clone(keys)
				if i%4 > 1 {
					slices.Reverse(order)
				}
				report, count := confirmed, &revised
				if i%2 == 1 {
					report, count = takenBack, &back
				}
				dropped, err := s.UploadGAEN(context.Background(), door(order, report, selfMade))
				if err == nil && slices.ContainsFunc(dropped, func(r *Refusal) bool { return r != nil }) {
					t.Error("some keys of one upload were sealed and some not")
				}
				if err == nil {
					count.Add(1)
				}
			})
		}
		var published []diagnosis.Key
		group.Go(func() { published = publish(t, s, diagnosis.GAEN, time.Time{}) })
		group.Wait()
		got := map[diagnosis.ReportType]int{}
		for _, k := range published {
			got[k.Report]++
		}
		switch {
		case len(got) > 1 || len(published) != 0 && len(published) != 14:
			t.Fatalf("published %v", got)
		case got[selfMade] > 0 && revised.Load()+back.Load() > 0:
			t.Fatal("a revision that was acknowledged is lost")
		}
	}
}

// What the door writes and what Scratch writes take as many bytes of the log.
func TestDoorAndScratchWriteAlike(t *testing.T) {
	s, c := newStore(t)
	keys := caseKeys(t, diagnosis.GAEN, 1, c.Now(), 14)
	grown := func(what func()) uint64 {
		before := s.db.Metrics().WAL.BytesIn
		what()
		return s.db.Metrics().WAL.BytesIn - before
	}
	real := grown(func() { mustTake(t, s, door(keys, selfMade, unproven)) })
	for _, row := range []struct {
		name string
		what func()
	}{
		{"chaff", func() {
			if err := s.Scratch(context.Background(), caseKeys(t, diagnosis.GAEN, 2, c.Now(), 14)); err != nil {
				t.Error(err)
			}
		}},
		{"the same again", func() { mustTake(t, s, door(keys, selfMade, selfMade)) }},
		{"a revision", func() { mustTake(t, s, door(keys, confirmed, selfMade)) }},
		{"the revision again", func() { mustTake(t, s, door(keys, confirmed, unproven)) }},
		{"unknown and taken back", func() { mustTake(t, s, door(caseKeys(t, diagnosis.GAEN, 3, c.Now(), 14), takenBack, unproven)) }},
	} {
		if n := grown(row.what); n != real {
			t.Errorf("%s: %d bytes, an upload %d", row.name, n, real)
		}
	}
}
