package match

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"bluekey/keystore/diagnosis"
)

// each yields keys one by one, as a parser would.
func each(keys []diagnosis.Key) iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		for _, k := range keys {
			if !yield(k, nil) {
				return
			}
		}
	}
}

// rng is a source of test data that differs from test to test and not from run to run.
func rng(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 2)) }

func randomKey(r *rand.Rand, s diagnosis.Scheme) diagnosis.Key {
	k := diagnosis.Key{Scheme: s, Report: diagnosis.ConfirmedTest}
	for i := range s.SecretLen() {
		k.Secret[i] = byte(r.Uint32())
	}
	switch s {
	case diagnosis.GAEN:
		k.Start = diagnosis.Interval(2_700_000 + r.IntN(2000))
		k.Count = uint8(1 + r.IntN(144))
		if r.IntN(2) == 0 {
			k.Count = 144
		}
	case diagnosis.Bluezone:
		at := 0
		if r.IntN(2) == 0 {
			at = r.IntN(96)
		}
		k.Start = diagnosis.Interval(96*(18_500+r.IntN(14)) + at)
		k.Count = uint8(96 - at)
	}
	return k
}

func randomKeys(r *rand.Rand, s diagnosis.Scheme, n int) []diagnosis.Key {
	keys := make([]diagnosis.Key, n)
	for i := range keys {
		keys[i] = randomKey(r, s)
	}
	return keys
}

// sight is the sighting of the ID of k at step j, heard after its interval began.
func sight(k diagnosis.Key, j int, after int64) Sighting {
	ids := k.Expand(nil)
	n := k.Scheme.IDLen()
	s := Sighting{Scheme: k.Scheme, Seen: (int64(k.Start)+int64(j))*k.Scheme.IntervalSeconds() + after}
	copy(s.ID[:], ids[n*j:n*j+n])
	return s
}

func randomSighting(r *rand.Rand, s diagnosis.Scheme) Sighting {
	out := Sighting{Scheme: s, Seen: 1_600_000_000 + int64(r.IntN(14*86400))}
	for i := range s.IDLen() {
		out.ID[i] = byte(r.Uint32())
	}
	return out
}

func collect(t *testing.T, m *Matcher, keys []diagnosis.Key) []Hit {
	t.Helper()
	var hits []Hit
	if err := m.Run(context.Background(), each(keys), func(h Hit) error {
		hits = append(hits, h)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	sortHits(hits)
	return hits
}

func sortHits(hits []Hit) {
	slices.SortFunc(hits, func(a, b Hit) int {
		return cmp.Or(cmp.Compare(a.Sighting, b.Sighting), slices.Compare(a.Key.Secret[:], b.Key.Secret[:]),
			cmp.Compare(a.Key.Start, b.Key.Start), cmp.Compare(a.Interval, b.Interval))
	})
}

func newMatcher(t testing.TB, s []Sighting, o Options) *Matcher {
	t.Helper()
	m, err := New(s, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// forTiers runs f once for each tier of this machine, and names those it cannot run.
func forTiers(t *testing.T, f func(t *testing.T, tier string)) {
	for _, name := range []string{PureGo, NISHANI, AVX512} {
		t.Run(name, func(t *testing.T) {
			if !slices.Contains(Tiers(), name) {
				t.Skipf("NOT RUN: this machine or build has no tier %s", name)
			}
			f(t, name)
		})
	}
}

// slowMatch is the definition: every ID of every key against every sighting.
func slowMatch(sightings []Sighting, keys []diagnosis.Key) (hits []Hit) {
	byID := map[[16]byte][]int{}
	for i, s := range sightings {
		byID[s.ID] = append(byID[s.ID], i)
	}
	for _, k := range keys {
		ids, n := k.Expand(nil), k.Scheme.IDLen()
		tolerance := int64(2 * 3600)
		if k.Scheme == diagnosis.Bluezone {
			tolerance = 120
		}
		for j := range int(k.Count) {
			var id [16]byte
			copy(id[:], ids[n*j:n*j+n])
			start := k.Scheme.Time(k.Start + diagnosis.Interval(j)).Unix()
			for _, i := range byID[id] {
				s := sightings[i]
				if s.Scheme == k.Scheme && s.Seen >= start-tolerance && s.Seen < start+k.Scheme.IntervalSeconds()+tolerance {
					hits = append(hits, Hit{i, k, k.Start + diagnosis.Interval(j)})
				}
			}
		}
	}
	sortHits(hits)
	return hits
}

// TestPlanted hides real encounters among strangers, in both schemes at once, and wants
// exactly those, from every tier and any number of workers.
func TestPlanted(t *testing.T) {
	r := rng(1)
	keys := append(randomKeys(r, diagnosis.GAEN, 1003), randomKeys(r, diagnosis.Bluezone, 517)...)
	r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	var sightings []Sighting
	for range 20_000 {
		sightings = append(sightings, randomSighting(r, diagnosis.GAEN), randomSighting(r, diagnosis.Bluezone))
	}
	for range 200 {
		k := keys[r.IntN(len(keys))]
		s := sight(k, r.IntN(int(k.Count)), int64(r.IntN(600)))
		for range 1 + r.IntN(3) { // a phone hears an ID more than once
			sightings = append(sightings, s)
			s.Seen++
		}
	}
	r.Shuffle(len(sightings), func(i, j int) { sightings[i], sightings[j] = sightings[j], sightings[i] })
	want := slowMatch(sightings, keys)
	if len(want) < 200 {
		t.Fatalf("only %d encounters planted", len(want))
	}
	forTiers(t, func(t *testing.T, tier string) {
		for _, workers := range []int{0, 1, 2, 5} {
			got := collect(t, newMatcher(t, sightings, Options{Workers: workers, Tier: tier}), keys)
			if !slices.Equal(got, want) {
				t.Errorf("%d workers: %d hits, want %d", workers, len(got), len(want))
			}
		}
	})
}

// TestTolerance pins both ends of the time in which a sighting counts.
func TestTolerance(t *testing.T) {
	for _, row := range []struct {
		scheme diagnosis.Scheme
		o      Options
		after  int64 // seconds from the start of the interval
		want   bool
	}{
		{diagnosis.GAEN, Options{}, -7201, false},
		{diagnosis.GAEN, Options{}, -7200, true},
		{diagnosis.GAEN, Options{}, 600 + 7199, true},
		{diagnosis.GAEN, Options{}, 600 + 7200, false},
		{diagnosis.GAEN, Options{GAENTolerance: time.Minute}, -60, true},
		{diagnosis.GAEN, Options{GAENTolerance: time.Minute}, 660, false},
		{diagnosis.Bluezone, Options{}, -121, false},
		{diagnosis.Bluezone, Options{}, -120, true},
		{diagnosis.Bluezone, Options{}, 900 + 119, true},
		{diagnosis.Bluezone, Options{}, 900 + 120, false},
		{diagnosis.Bluezone, Options{BluezoneTolerance: time.Hour}, 900 + 3599, true},
	} {
		k := randomKey(rng(3), row.scheme)
		s := sight(k, int(k.Count)-1, row.after)
		got := len(collect(t, newMatcher(t, []Sighting{s}, row.o), []diagnosis.Key{k})) == 1
		if got != row.want {
			t.Errorf("%v heard %d s after the start with %+v: hit = %v", row.scheme, row.after, row.o, got)
		}
	}
}

// TestShortKeys: the IDs that a key would have made after its validity are not its own.
func TestShortKeys(t *testing.T) {
	forTiers(t, func(t *testing.T, tier string) {
		r := rng(4)
		for _, count := range []uint8{1, 7, 8, 9, 100, 143} {
			long := randomKey(r, diagnosis.GAEN)
			long.Count = 144
			short := long
			short.Count = count
			sightings := []Sighting{sight(long, int(count)-1, 0), sight(long, int(count), 0)}
			hits := collect(t, newMatcher(t, sightings, Options{Tier: tier}), []diagnosis.Key{long, short})
			if len(hits) != 3 || hits[0].Sighting != 0 || hits[1].Sighting != 0 || hits[2].Key != long {
				t.Errorf("count %d: %d hits", count, len(hits))
			}
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for name, row := range map[string]struct {
		s Sighting
		o Options
	}{
		"unknown scheme":     {s: Sighting{}},
		"long Bluezone ID":   {s: Sighting{Scheme: diagnosis.Bluezone, ID: [16]byte{12: 1}}},
		"unknown tier":       {s: Sighting{Scheme: diagnosis.GAEN}, o: Options{Tier: "mmx"}},
		"negative workers":   {s: Sighting{Scheme: diagnosis.GAEN}, o: Options{Workers: -1}},
		"negative tolerance": {s: Sighting{Scheme: diagnosis.GAEN}, o: Options{GAENTolerance: -1}},
	} {
		if _, err := New([]Sighting{row.s}, row.o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestRunEnds: whatever stops a run comes back as its error, and no goroutine stays.
func TestRunEnds(t *testing.T) {
	r := rng(5)
	keys := randomKeys(r, diagnosis.GAEN, 3000)
	var heard []Sighting
	for i := 0; i < len(keys); i += 100 {
		heard = append(heard, sight(keys[i], 0, 0))
	}
	boom := errors.New("boom")
	nothing := func(Hit) error { return nil }
	for _, workers := range []int{1, 3} {
		m := newMatcher(t, heard, Options{Workers: workers})

		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := m.Run(ctx, each(keys), nothing); !errors.Is(err, context.Canceled) {
			t.Errorf("%d workers, cancelled: %v", workers, err)
		}
		broken := func(yield func(diagnosis.Key, error) bool) {
			_ = yield(keys[0], nil) && yield(diagnosis.Key{}, boom)
		}
		if err := m.Run(context.Background(), broken, nothing); !errors.Is(err, boom) {
			t.Errorf("%d workers, broken source: %v", workers, err)
		}
		calls := 0
		if err := m.Run(context.Background(), each(keys), func(Hit) error { calls++; return boom }); !errors.Is(err, boom) || calls != 1 {
			t.Errorf("%d workers, found fails: %v after %d calls", workers, err, calls)
		}
		for name, bad := range map[string]diagnosis.Key{
			"count 0":   {Scheme: diagnosis.GAEN},
			"count 145": {Scheme: diagnosis.GAEN, Count: 145},
			"count 97":  {Scheme: diagnosis.Bluezone, Count: 97},
			"no scheme": {Count: 1},
			"scheme 77": {Count: 1, Scheme: 77},
		} {
			var shape *diagnosis.ShapeError
			if err := m.Run(context.Background(), each(append(keys[:20:20], bad)), nothing); !errors.As(err, &shape) {
				t.Errorf("%d workers, key with %s: %v", workers, name, err)
			}
		}
	}
}

func TestProgress(t *testing.T) {
	keys := randomKeys(rng(6), diagnosis.GAEN, 1300)
	last := 0
	m := newMatcher(t, nil, Options{Workers: 2, Progress: func(n int) {
		if n <= last {
			t.Errorf("progress went from %d to %d", last, n)
		}
		last = n
	}})
	if hits := collect(t, m, keys); len(hits) != 0 || last != len(keys) {
		t.Errorf("%d hits without sightings, progress ended at %d of %d", len(hits), last, len(keys))
	}
}

// TestManySightingsOfOneID: hits beyond what a worker keeps.
func TestManySightingsOfOneID(t *testing.T) {
	k := randomKey(rng(7), diagnosis.Bluezone)
	var heard []Sighting
	for i := range 3*hitsKept + 1 {
		heard = append(heard, sight(k, 0, int64(i%900)))
	}
	if hits := collect(t, newMatcher(t, heard, Options{}), []diagnosis.Key{k}); len(hits) != len(heard) {
		t.Errorf("%d hits of %d", len(hits), len(heard))
	}
}

func ExampleMatcher_Run() {
	// An export names a key, and a phone has heard its third ID.
	key, err := diagnosis.New(diagnosis.GAEN, []byte("sixteen secret b"), 2_664_000, 144)
	if err != nil {
		panic(err)
	}
	ids := key.Expand(nil)
	heard := Sighting{Scheme: diagnosis.GAEN, ID: [16]byte(ids[32:48]), Seen: 2_664_002 * 600}

	m, err := New([]Sighting{heard}, Options{})
	if err != nil {
		panic(err)
	}
	export := func(yield func(diagnosis.Key, error) bool) { yield(key, nil) }
	err = m.Run(context.Background(), export, func(h Hit) error {
		fmt.Println("sighting", h.Sighting, "is of a", h.Key.Scheme, "key, on", key.Scheme.Time(h.Interval))
		return nil
	})
	if err != nil {
		panic(err)
	}
	// Output: sighting 0 is of a gaen key, on 2020-08-26 00:20:00 +0000 UTC
}
