package match

import (
	"context"
	"crypto/aes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"testing"

	"bluekey/keystore/diagnosis"
)

// The benchmarks of the matcher; an operation is a key. Compare sub-benchmarks of one run
// on an idle machine, never figures of two:
//
//	go test -run "^$" -bench "Expand|Match" -count 5 ./export/match
//
// Tiers: naive is the standard library as one would write it at first, flat and into the
// caller's buffer, with a Go map of sightings; tuned is the standard library at its best,
// with fixed HMAC states and a Bloom filter; the others are this package's.

const (
	benchKeys      = 4096
	benchSightings = 100_000
)

func benchTiers(b *testing.B, naive, tuned func(b *testing.B), ours func(b *testing.B, tier string)) {
	b.Run("naive", naive)
	b.Run("tuned", tuned)
	for _, tier := range Tiers() {
		b.Run(tier, func(b *testing.B) { ours(b, tier) })
	}
}

// naiveGAEN and the three below write the IDs of a key into the caller's buffer.
func naiveGAEN(dst *[gaenSteps][16]byte, k *diagnosis.Key) {
	rpik, err := hkdf.Key(sha256.New, k.Secret[:16], nil, "EN-RPIK", 16)
	if err != nil {
		panic(err)
	}
	encryptGAEN(dst, rpik, k)
}

func encryptGAEN(dst *[gaenSteps][16]byte, rpik []byte, k *diagnosis.Key) {
	block, err := aes.NewCipher(rpik)
	if err != nil {
		panic(err)
	}
	plain := [16]byte{'E', 'N', '-', 'R', 'P', 'I'}
	for j := range int(k.Count) {
		binary.LittleEndian.PutUint32(plain[12:], uint32(k.Start)+uint32(j))
		block.Encrypt(dst[j][:], plain[:])
	}
}

// tunedGAEN shares its fixed states with the pure Go tier: they are the tuning.
func tunedGAEN(dst *[gaenSteps][16]byte, k *diagnosis.Key, s *scratch) {
	s.teks[0] = [16]byte(k.Secret[:16])
	rpiKeysGo(&s.rpik, &s.teks, 1)
	encryptGAEN(dst, s.rpik[0][:], k)
}

func tunedBluezone(dst *[bluezoneMax][12]byte, k *diagnosis.Key) {
	sub := [32]byte(k.Secret)
	for j := range int(k.Count) {
		if j > 0 {
			sub = sha256.Sum256(sub[:])
		}
		dst[j] = diagnosis.BluezoneID(sub)
	}
}

func wholeKeys(s diagnosis.Scheme, n int) []diagnosis.Key {
	keys := randomKeys(rng(9), s, n)
	for i := range keys {
		keys[i].Start -= keys[i].Start % s.PerDay()
		keys[i].Count = uint8(s.MaxCount())
	}
	return keys
}

func BenchmarkExpandGAEN(b *testing.B) {
	keys := wholeKeys(diagnosis.GAEN, benchKeys)
	var ids [gaenSteps][16]byte
	benchTiers(b, func(b *testing.B) {
		for i := range b.N {
			naiveGAEN(&ids, &keys[i%benchKeys])
		}
	}, func(b *testing.B) {
		s := new(scratch)
		for i := range b.N {
			tunedGAEN(&ids, &keys[i%benchKeys], s)
		}
	}, func(b *testing.B, tier string) {
		e := newExpander(b, tier)
		for i := 0; i < b.N; i += lanes {
			e.Each(keys[i%benchKeys:][:lanes], func(*diagnosis.Key, [][16]byte) {})
		}
	})
}

func BenchmarkExpandBluezone(b *testing.B) {
	keys := wholeKeys(diagnosis.Bluezone, benchKeys)
	var ids [bluezoneMax][12]byte
	benchTiers(b, func(b *testing.B) {
		for i := range b.N {
			tunedBluezone(&ids, &keys[i%benchKeys])
		}
	}, func(b *testing.B) {
		for i := range b.N {
			tunedBluezone(&ids, &keys[i%benchKeys])
		}
	}, func(b *testing.B, tier string) {
		k, _ := kernelsOf(tier)
		s := new(scratch)
		for i := 0; i < b.N; i += lanes {
			k.expandBluezone(&s.bluezone, &s.seeds, lanes, s.loadSeeds(keys[i%benchKeys:][:lanes]))
		}
	})
}

func strangers(s diagnosis.Scheme, n int) []Sighting {
	r := rng(10)
	heard := make([]Sighting, n)
	for i := range heard {
		heard[i] = randomSighting(r, s)
	}
	return heard
}

// cycle yields n keys, in turn.
func cycle(keys []diagnosis.Key, n int) iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		for i := range n {
			if !yield(keys[i%len(keys)], nil) {
				return
			}
		}
	}
}

func noHits(b *testing.B) func(Hit) error {
	return func(Hit) error { b.Error("a hit among strangers"); return nil }
}

func benchRun(b *testing.B, m *Matcher, keys []diagnosis.Key) {
	b.ResetTimer()
	if err := m.Run(context.Background(), cycle(keys, b.N), noHits(b)); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkMatchGAEN(b *testing.B) {
	keys := wholeKeys(diagnosis.GAEN, benchKeys)
	heard := strangers(diagnosis.GAEN, benchSightings)
	byID := make(map[[16]byte]int, len(heard))
	for i, s := range heard {
		byID[s.ID] = i
	}
	set := newSightingSet(diagnosis.GAEN, heard, 7200)
	var ids [gaenSteps][16]byte
	benchTiers(b, func(b *testing.B) {
		for i := range b.N {
			naiveGAEN(&ids, &keys[i%benchKeys])
			for _, id := range ids {
				if _, ok := byID[id]; ok {
					b.Fatal("a hit among strangers")
				}
			}
		}
	}, func(b *testing.B) {
		s := new(scratch)
		for i := range b.N {
			k := &keys[i%benchKeys]
			tunedGAEN(&ids, k, s)
			for j := range ids {
				id := &ids[j]
				if set.filter.has(binary.LittleEndian.Uint32(id[:]), binary.LittleEndian.Uint32(id[4:])) &&
					len(set.heard(id, k.Start+diagnosis.Interval(j))) > 0 {
					b.Fatal("a hit among strangers")
				}
			}
		}
	}, func(b *testing.B, tier string) {
		benchRun(b, newMatcher(b, heard, Options{Workers: 1, Tier: tier}), keys)
	})
}

func BenchmarkMatchBluezone(b *testing.B) {
	keys := wholeKeys(diagnosis.Bluezone, benchKeys)
	heard := strangers(diagnosis.Bluezone, benchSightings)
	byID := make(map[[12]byte]int, len(heard))
	for i, s := range heard {
		byID[[12]byte(s.ID[:12])] = i
	}
	set := newSightingSet(diagnosis.Bluezone, heard, 120)
	var ids [bluezoneMax][12]byte
	benchTiers(b, func(b *testing.B) {
		for i := range b.N {
			tunedBluezone(&ids, &keys[i%benchKeys])
			for _, id := range ids {
				if _, ok := byID[id]; ok {
					b.Fatal("a hit among strangers")
				}
			}
		}
	}, func(b *testing.B) {
		for i := range b.N {
			k := &keys[i%benchKeys]
			tunedBluezone(&ids, k)
			for j := range ids {
				var id [16]byte
				copy(id[:], ids[j][:])
				if set.filter.has(binary.LittleEndian.Uint32(id[:]), binary.LittleEndian.Uint32(id[4:])) &&
					len(set.heard(&id, k.Start+diagnosis.Interval(j))) > 0 {
					b.Fatal("a hit among strangers")
				}
			}
		}
	}, func(b *testing.B, tier string) {
		benchRun(b, newMatcher(b, heard, Options{Workers: 1, Tier: tier}), keys)
	})
}

// BenchmarkMatchWorkers is the gain of a second core; an operation is 262,144 keys.
func BenchmarkMatchWorkers(b *testing.B) {
	const n = 262_144
	keys := wholeKeys(diagnosis.GAEN, benchKeys)
	heard := strangers(diagnosis.GAEN, benchSightings)
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			m := newMatcher(b, heard, Options{Workers: workers})
			for b.Loop() {
				if err := m.Run(context.Background(), cycle(keys, n), noHits(b)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func newExpander(t testing.TB, tier string) *Expander {
	t.Helper()
	e, err := NewExpander(tier)
	if err != nil {
		t.Fatal(err)
	}
	return e
}
