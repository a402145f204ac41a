package match

import (
	"context"
	"encoding/binary"
	"testing"

	"bluekey/keystore/diagnosis"
)

// TestFilterHolds: no ID that went in is ever denied.
func TestFilterHolds(t *testing.T) {
	r := rng(40)
	for _, n := range []int{1, 2, 100, 70_000} {
		f := newFilter(n)
		type half struct{ d0, d1 uint32 }
		var in []half
		for range n {
			in = append(in, half{r.Uint32(), r.Uint32()})
			f.add(in[len(in)-1].d0, in[len(in)-1].d1)
		}
		for _, h := range in {
			if !f.has(h.d0, h.d1) {
				t.Fatalf("filter for %d IDs denies one of them", n)
			}
		}
		if int(^uint32(0)>>f.shift) != len(f.words)-1 {
			t.Fatalf("filter for %d IDs: %d words, shift %d", n, len(f.words), f.shift)
		}
	}
}

// TestFilterRate bounds how many IDs of strangers a key sends to the exact table: each
// costs a mispredicted branch, and beyond one in three keys they would dominate.
func TestFilterRate(t *testing.T) {
	for _, row := range []struct {
		ids    int
		perKey float64
	}{
		{1, 0.01}, {100, 0.03}, {1000, 0.06}, {10_000, 0.06}, {100_000, 0.12}, {1_000_000, 0.6},
	} {
		r := rng(41)
		f := newFilter(row.ids)
		for range row.ids {
			f.add(r.Uint32(), r.Uint32())
		}
		const probes = 2_000_000
		got := 0
		for range probes {
			if f.has(r.Uint32(), r.Uint32()) {
				got++
			}
		}
		if perKey := float64(got) / probes * gaenSteps; perKey > row.perKey {
			t.Errorf("%d IDs in %d kB: %.3f candidates a key, want at most %.2f", row.ids, len(f.words)*4>>10, perKey, row.perKey)
		}
	}
}

// TestCrowdedWord: IDs chosen to share one word of the filter make a chain neither there
// nor in the exact table, and are all found.
func TestCrowdedWord(t *testing.T) {
	heard := make([]Sighting, 50_000)
	for i := range heard {
		heard[i] = Sighting{Scheme: diagnosis.GAEN, Seen: int64(i)}
		binary.LittleEndian.PutUint64(heard[i].ID[8:], uint64(i))
	}
	set := newSightingSet(diagnosis.GAEN, heard, 7200)
	for i := range heard {
		if len(set.heard(&heard[i].ID, diagnosis.Interval(i/600))) != 1 {
			t.Fatalf("sighting %d is not found", i)
		}
	}
	longest, run := 0, 0
	for _, tag := range set.tags {
		if run++; tag == 0 {
			run = 0
		}
		longest = max(longest, run)
	}
	if longest > 200 { // half full and hashed at random: a few dozen
		t.Errorf("a look-up may walk %d slots", longest)
	}
}

// groundKeys makes the filter of m let through per IDs of each key that were never heard,
// which is what an export gets whose author searched long enough for such keys: about
// 2^30 tries for each at per = 8.
func groundKeys(m *Matcher, keys []diagnosis.Key, per int) {
	r := rng(42)
	for i := range keys {
		for _, j := range r.Perm(gaenSteps)[:per] {
			id := reference(&keys[i])[j]
			m.sets[diagnosis.GAEN].filter.add(binary.LittleEndian.Uint32(id[:]), binary.LittleEndian.Uint32(id[4:]))
		}
	}
}

// replayed is what a phone hears that somebody shows every ID of keys at the wrong time.
func replayed(keys []diagnosis.Key) (heard []Sighting) {
	for i := range keys {
		for j, id := range reference(&keys[i]) {
			at := keys[i].Scheme.Time(keys[i].Start + diagnosis.Interval(j)).Unix()
			heard = append(heard, Sighting{Scheme: keys[i].Scheme, ID: id, Seen: at + 86400})
		}
	}
	return heard
}

// TestHostile: what strangers can prepare finds nothing that was not there, and hides
// nothing that was.
func TestHostile(t *testing.T) {
	keys := wholeKeys(diagnosis.GAEN, 256)
	encounter := sight(keys[77], 100, 0)
	for name, heard := range map[string][]Sighting{
		"ground":   append(strangers(diagnosis.GAEN, 1000), encounter),
		"replayed": append(replayed(keys), encounter),
	} {
		m := newMatcher(t, heard, Options{})
		if name == "ground" {
			groundKeys(m, keys, 8)
		}
		if hits := collect(t, m, keys); len(hits) != 1 || hits[0].Sighting != len(heard)-1 || hits[0].Key != keys[77] {
			t.Errorf("%s: %d hits, want the one encounter", name, len(hits))
		}
	}
}

// BenchmarkMatchHostile compares an ordinary export with two that were made to be slow.
func BenchmarkMatchHostile(b *testing.B) {
	keys := wholeKeys(diagnosis.GAEN, benchKeys)
	few := keys[:benchSightings/gaenSteps]
	run := func(name string, heard []Sighting, keys []diagnosis.Key, prepare func(*Matcher)) {
		b.Run(name, func(b *testing.B) {
			m := newMatcher(b, heard, Options{Workers: 1})
			prepare(m)
			b.ResetTimer()
			if err := m.Run(context.Background(), cycle(keys, b.N), noHits(b)); err != nil {
				b.Fatal(err)
			}
		})
	}
	run("ordinary", strangers(diagnosis.GAEN, benchSightings), keys, func(*Matcher) {})
	run("ground", strangers(diagnosis.GAEN, benchSightings), keys, func(m *Matcher) { groundKeys(m, keys, 8) })
	run("replayed", replayed(few), few, func(*Matcher) {})
}
