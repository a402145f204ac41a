package match

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"bluekey/keystore/diagnosis"
)

// forKernels runs f for every set of kernels that can run here, the processor's second
// choices included.
func forKernels(t *testing.T, f func(t *testing.T, k *kernels)) {
	for _, k := range bothProbes(tiers) {
		t.Run(k.name, func(t *testing.T) { f(t, k) })
	}
}

// reference is every ID of k by the plain derivation, as a Sighting spells them.
func reference(k *diagnosis.Key) [][16]byte {
	flat, n := k.Expand(nil), k.Scheme.IDLen()
	ids := make([][16]byte, k.Count)
	for j := range ids {
		copy(ids[j][:], flat[n*j:n*j+n])
	}
	return ids
}

// checkKernels compares expansion and probe of keys, all of one scheme, with the
// reference, and the probe with a filter that holds some of the IDs and some others.
func checkKernels(t *testing.T, k *kernels, keys []diagnosis.Key, r *rand.Rand) {
	t.Helper()
	var want [][][16]byte
	f := newFilter(1 + r.IntN(2000))
	add := func(id [16]byte) {
		f.add(binary.LittleEndian.Uint32(id[:]), binary.LittleEndian.Uint32(id[4:]))
	}
	has := func(id [16]byte) bool {
		return f.has(binary.LittleEndian.Uint32(id[:]), binary.LittleEndian.Uint32(id[4:]))
	}
	for range 500 {
		add(randomSighting(r, diagnosis.GAEN).ID)
	}
	for i := range keys {
		want = append(want, reference(&keys[i]))
		add(want[i][r.IntN(len(want[i]))])
	}

	e := &Expander{kernels: k, s: new(scratch)}
	i := 0
	err := e.Each(keys, func(key *diagnosis.Key, ids [][16]byte) {
		if *key != keys[i] || !slices.Equal(ids, want[i]) {
			t.Fatalf("%v key %d of %d, start %d, count %d: expansion differs", key.Scheme, i, len(keys), key.Start, key.Count)
		}
		i++
	})
	if err != nil || i != len(keys) {
		t.Fatalf("expanded %d of %d keys: %v", i, len(keys), err)
	}

	s := new(scratch)
	for g := 0; g < len(keys); g += lanes {
		batch := keys[g:min(g+lanes, len(keys))]
		if keys[0].Scheme == diagnosis.Bluezone {
			k.probeBluezone(&s.bluezone, &s.seeds, len(batch), s.loadSeeds(batch), &f, &s.bluezoneMasks)
			for lane := range batch {
				for j := range int(batch[lane].Count) {
					id := want[g+lane][j]
					bit := binary.LittleEndian.Uint16(s.bluezoneMasks[2*j:])>>lane&1 == 1
					if s.bluezone.id(lane, j) != id || bit != has(id) {
						t.Fatalf("Bluezone seed %d of %d, ID %d: probe gives ID %x, bit %v", g+lane, len(keys), j, s.bluezone.id(lane, j), bit)
					}
				}
			}
			continue
		}
		s.loadTEKs(batch)
		k.rpiKeys(&s.rpik, &s.teks, len(batch))
		for h := 0; h < len(batch); h += groupKeys {
			group := batch[h:min(h+groupKeys, len(batch))]
			k.probeGAEN(&s.gaen, s.group(h), &s.starts, len(group), s.loadStarts(group), &f, &s.gaenMasks)
			for lane := range group {
				for j := range int(group[lane].Count) {
					id := want[g+h+lane][j]
					bit := binary.LittleEndian.Uint16(s.gaenMasks[j/4*2:])>>(4*lane+j%4)&1 == 1
					if s.gaen[lane][j] != id || bit != has(id) {
						t.Fatalf("GAEN key %d of %d, ID %d: probe gives ID %x, bit %v", g+h+lane, len(keys), j, s.gaen[lane][j], bit)
					}
				}
			}
		}
	}
}

// TestKernels: every batch size around those of the kernels.
func TestKernels(t *testing.T) {
	forKernels(t, func(t *testing.T, k *kernels) {
		r := rng(20)
		for n := range 34 {
			for _, s := range diagnosis.Schemes {
				checkKernels(t, k, randomKeys(r, s, n), r)
			}
		}
	})
}

// FuzzKernels compares every tier with the reference: random secrets, any start up to the
// last, any count, any batch.
func FuzzKernels(f *testing.F) {
	f.Add(uint64(1), uint8(1), uint32(0), uint8(144))
	f.Add(uint64(2), uint8(33), uint32(1<<32-1-144), uint8(144))
	f.Add(uint64(3), uint8(16), uint32(1<<32-2), uint8(1))
	f.Add(uint64(4), uint8(5), uint32(2_700_000), uint8(9))
	f.Add(uint64(5), uint8(17), uint32(1<<31-50), uint8(96))
	f.Fuzz(func(t *testing.T, seed uint64, n uint8, start uint32, count uint8) {
		r := rng(seed)
		n %= 34
		count = 1 + count%144
		start = min(start, 1<<32-1-uint32(count))
		gaen, bluezone := randomKeys(r, diagnosis.GAEN, int(n)), randomKeys(r, diagnosis.Bluezone, int(n))
		for i := range gaen {
			gaen[i].Start, gaen[i].Count = diagnosis.Interval(start), count
			if r.IntN(3) == 0 {
				gaen[i].Count = uint8(1 + r.IntN(int(count)))
			}
			// The last whole day of the numbers, at most.
			day := min(start/96, 1<<32/96-1)
			bluezone[i].Start = diagnosis.Interval(96*day + start%96)
			bluezone[i].Count = uint8(96 - start%96)
		}
		for _, k := range bothProbes(tiers) {
			checkKernels(t, k, gaen, r)
			checkKernels(t, k, bluezone, r)
		}
	})
}

func readVectors(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile("../../testdata/vectors/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

// vectorKeys are the keys of the published vectors with their IDs, upper-case hex.
func vectorKeys(t *testing.T) (keys []diagnosis.Key, ids []string) {
	var gaen struct {
		TEK    string
		Start  uint32 `json:"rolling_start_interval_number"`
		Period int    `json:"rolling_period"`
		RPIs   []string
	}
	readVectors(t, "gaen/rpi.json", &gaen)
	var bluezone struct {
		Chains []struct {
			Max  int
			Days []struct {
				TimeStart int64 `json:"time_start_s"`
				Seed      string
				IDs       []string
			}
		}
	}
	readVectors(t, "bluezone/vectors.json", &bluezone)
	add := func(s diagnosis.Scheme, secret string, start diagnosis.Interval, count int, want []string) {
		b, err := hex.DecodeString(secret)
		if err != nil {
			t.Fatal(err)
		}
		k, err := diagnosis.New(s, b, start, count)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
		ids = append(ids, strings.ToUpper(strings.Join(want, "")))
	}
	add(diagnosis.GAEN, gaen.TEK, diagnosis.Interval(gaen.Start), gaen.Period, gaen.RPIs)
	for _, c := range bluezone.Chains {
		for _, d := range c.Days {
			if c.Max == 96 && len(d.IDs) == 96 {
				add(diagnosis.Bluezone, d.Seed, diagnosis.Interval(d.TimeStart/900), 96, d.IDs)
			}
		}
	}
	if len(keys) < 4 {
		t.Fatalf("only %d keys in the vectors", len(keys))
	}
	return keys, ids
}

// TestVectors: other people's IDs, through every tier.
func TestVectors(t *testing.T) {
	keys, want := vectorKeys(t)
	forKernels(t, func(t *testing.T, k *kernels) {
		e := &Expander{kernels: k, s: new(scratch)}
		for i := range keys {
			var got bytes.Buffer
			if err := e.Each(keys[i:i+1], func(k *diagnosis.Key, ids [][16]byte) {
				for _, id := range ids {
					fmt.Fprintf(&got, "%X", id[:k.Scheme.IDLen()])
				}
			}); err != nil {
				t.Fatal(err)
			}
			if got.String() != want[i] {
				t.Errorf("%v vector %d: %s, want %s", keys[i].Scheme, i, got.String(), want[i])
			}
		}
	})
}

func TestExpanderRefuses(t *testing.T) {
	e := newExpander(t, "")
	r := rng(21)
	keys := append(randomKeys(r, diagnosis.GAEN, 20), randomKey(r, diagnosis.Bluezone))
	bad := randomKeys(r, diagnosis.GAEN, 20)
	bad[19].Count = 145
	for name, keys := range map[string][]diagnosis.Key{"two schemes": keys, "long count": bad} {
		if err := e.Each(keys, func(*diagnosis.Key, [][16]byte) { t.Errorf("%s: expanded", name) }); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := e.Each(nil, nil); err != nil {
		t.Errorf("no keys: %v", err)
	}
	if _, err := NewExpander("mmx"); err == nil {
		t.Error("unknown tier accepted")
	}
}
