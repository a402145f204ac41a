package idset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"bluekey/export/match"
	"bluekey/keystore/diagnosis"
)

func each(keys []diagnosis.Key) iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		for _, k := range keys {
			if !yield(k, nil) {
				return
			}
		}
	}
}

func rng(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 3)) }

// randomKeys are n keys of the last days days before an instant of 2020.
func randomKeys(r *rand.Rand, s diagnosis.Scheme, n, days int) []diagnosis.Key {
	keys := make([]diagnosis.Key, n)
	for i := range keys {
		k := diagnosis.Key{Scheme: s, Report: diagnosis.ConfirmedTest}
		for j := range s.SecretLen() {
			k.Secret[j] = byte(r.Uint32())
		}
		day := diagnosis.Interval(18_500 - r.IntN(days))
		at := diagnosis.Interval(0)
		if r.IntN(4) == 0 {
			at = diagnosis.Interval(r.IntN(int(s.PerDay())))
		}
		k.Start = day*s.PerDay() + at
		k.Count = uint8(s.PerDay() - at)
		keys[i] = k
	}
	return keys
}

func params(s diagnosis.Scheme, f int) Params {
	return Params{
		Origin: "keys.example.vn", Region: "VN-HP", Scheme: s,
		Start: 1_598_400_000, End: 1_598_414_400, KeySet: [32]byte{1, 2, 3}, F: f,
	}
}

func write(t testing.TB, p Params, keys []diagnosis.Key, o Options) ([]byte, Stats) {
	t.Helper()
	var b bytes.Buffer
	stats, err := Write(&b, p, each(keys), o)
	if err != nil {
		t.Fatal(err)
	}
	if stats.Bytes != int64(b.Len()) {
		t.Fatalf("%d bytes written, %d said", b.Len(), stats.Bytes)
	}
	return b.Bytes(), stats
}

func reopen(t testing.TB, file []byte, p Params) *Set {
	t.Helper()
	s, err := Open(bytes.NewReader(file), int64(len(file)), p.Origin, p.Region)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sight is the ID of k at step j, heard in the middle of its interval.
func sight(k diagnosis.Key, j int) match.Sighting {
	ids, n := k.Expand(nil), k.Scheme.IDLen()
	length := k.Scheme.IntervalSeconds()
	s := match.Sighting{Scheme: k.Scheme, Seen: (int64(k.Start)+int64(j))*length + length/2}
	copy(s.ID[:], ids[n*j:n*j+n])
	return s
}

func stranger(r *rand.Rand, s diagnosis.Scheme) match.Sighting {
	out := match.Sighting{Scheme: s, Seen: 18_487*86400 + int64(r.IntN(14*86400))}
	for i := range s.IDLen() {
		out.ID[i] = byte(r.Uint32())
	}
	return out
}

// TestHoldsAll: every ID of every key is confirmed by its neighbours, in both schemes.
func TestHoldsAll(t *testing.T) {
	for _, s := range diagnosis.Schemes {
		keys := randomKeys(rng(1), s, 300, 3)
		p := params(s, DefaultF)
		file, stats := write(t, p, keys, Options{})
		set := reopen(t, file, p)
		if n, err := set.Check(); err != nil || n > stats.IDs || n < stats.IDs-2 || set.IDs() != stats.IDs {
			t.Fatalf("%v: %d hashes of %d IDs: %v", s, n, stats.IDs, err)
		}
		var heard []match.Sighting
		for _, k := range keys {
			if k.Count > 1 { // a single ID has no neighbour
				for j := range int(k.Count) {
					heard = append(heard, sight(k, j))
				}
			}
		}
		hits, err := set.Match(context.Background(), heard, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if len(hits) != len(heard) {
			t.Errorf("%v: %d of %d IDs found", s, len(hits), len(heard))
		}
	}
}

// TestSameBytes: order, memory bound and tier change nothing.
func TestSameBytes(t *testing.T) {
	for _, s := range diagnosis.Schemes {
		r := rng(2)
		keys := randomKeys(r, s, 400, 2)
		want, _ := write(t, params(s, 0), keys, Options{})
		for _, o := range []Options{{MaxHashes: 1}, {MaxHashes: 3000}, {MaxHashes: 10_000}, {MaxHashes: 20_000, Tier: match.PureGo}} {
			r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			got, stats := write(t, params(s, 0), keys, o)
			if !bytes.Equal(got, want) {
				t.Errorf("%v with %+v: other bytes", s, o)
			}
			if stats.Passes < 2 {
				t.Errorf("%v with %+v: %d passes bound nothing", s, o, stats.Passes)
			}
			if err := Verify(bytes.NewReader(want), params(s, 0), each(keys), o); err != nil {
				t.Errorf("%v with %+v: %v", s, o, err)
			}
		}
	}
}

// TestSize: at most f + 1.7 bits an ID, at every f.
func TestSize(t *testing.T) {
	keys := randomKeys(rng(3), diagnosis.GAEN, 2000, 1)
	for _, f := range []int{MinF, 16, DefaultF, MaxF} {
		file, stats := write(t, params(diagnosis.GAEN, f), keys, Options{})
		if per := 8 * float64(len(file)) / float64(stats.IDs); per > float64(f)+1.7 {
			t.Errorf("f %d: %.2f bits an ID", f, per)
		} else {
			t.Logf("f %d: %.3f bits an ID", f, per)
		}
	}
}

// TestFalseRate: strangers are confirmed about as often as 2^-f says, and in pairs about
// never.
func TestFalseRate(t *testing.T) {
	const f = 12
	r := rng(4)
	p := params(diagnosis.Bluezone, f)
	file, _ := write(t, p, randomKeys(r, diagnosis.Bluezone, 500, 14), Options{})
	set := reopen(t, file, p)
	var heard []match.Sighting
	for range 200_000 {
		heard = append(heard, stranger(r, diagnosis.Bluezone))
	}
	single := 0
	for i := range set.shards {
		hits, err := set.matchShard(&set.shards[i], heard, 0)
		if err != nil {
			t.Fatal(err)
		}
		single += len(hits)
	}
	if want := len(heard) >> f; single < want/2 || single > 2*want {
		t.Errorf("%d false answers to %d questions, want about %d", single, len(heard), want)
	}
	p = params(diagnosis.Bluezone, DefaultF)
	file, _ = write(t, p, randomKeys(r, diagnosis.Bluezone, 500, 14), Options{})
	hits, err := reopen(t, file, p).Match(context.Background(), heard, 0)
	if err != nil || len(hits) != 0 {
		t.Errorf("strangers matched: %v, %v", hits, err)
	}
}

// TestMatchRule: what confirms a sighting and what does not.
func TestMatchRule(t *testing.T) {
	k := randomKeys(rng(5), diagnosis.GAEN, 1, 1)[0]
	k.Start, k.Count = 144*18_500, 144
	other := k
	other.Secret[0]++
	p := params(diagnosis.GAEN, 0)
	file, _ := write(t, p, []diagnosis.Key{k, other}, Options{})
	set := reopen(t, file, p)
	late := func(s match.Sighting, seconds int64) match.Sighting { s.Seen += seconds; return s }
	for _, row := range []struct {
		name  string
		heard []match.Sighting
		want  []Hit
	}{
		{"nothing", nil, nil},
		{"one ID", []match.Sighting{sight(k, 5)}, nil},
		{"one ID twice", []match.Sighting{sight(k, 5), sight(k, 5)}, nil},
		{"two in one interval", []match.Sighting{sight(k, 5), sight(other, 5)}, nil},
		{"two apart", []match.Sighting{sight(k, 5), sight(k, 7)}, nil},
		{"neighbours", []match.Sighting{sight(k, 6), sight(k, 5)}, []Hit{{1, k.Start + 5}, {0, k.Start + 6}}},
		{"across shards", []match.Sighting{sight(k, 23), sight(k, 24)}, []Hit{{0, k.Start + 23}, {1, k.Start + 24}}},
		{"two hours late", []match.Sighting{late(sight(k, 5), 7200+299), sight(k, 6)}, []Hit{{0, k.Start + 5}, {1, k.Start + 6}}},
		{"later than that", []match.Sighting{late(sight(k, 5), 7200+300), sight(k, 6)}, nil},
		{"two hours early", []match.Sighting{late(sight(k, 5), -7200-300), sight(k, 6)}, []Hit{{0, k.Start + 5}, {1, k.Start + 6}}},
		{"earlier than that", []match.Sighting{late(sight(k, 5), -7200-301), sight(k, 6)}, nil},
		{"other scheme", []match.Sighting{{Scheme: diagnosis.Bluezone, ID: sight(k, 5).ID, Seen: sight(k, 5).Seen}, sight(k, 6)}, nil},
		{"before the epoch", []match.Sighting{late(sight(k, 5), -1<<40)}, nil},
	} {
		got, err := set.Match(context.Background(), row.heard, 0)
		if err != nil || !slices.Equal(got, row.want) {
			t.Errorf("%s: %v, %v, want %v", row.name, got, err, row.want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := set.Match(ctx, []match.Sighting{sight(k, 5)}, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := set.Match(context.Background(), nil, -1); err == nil {
		t.Error("negative tolerance accepted")
	}
}

// TestKeyed: nothing of one set is found in another, whatever it belongs to.
func TestKeyed(t *testing.T) {
	keys := randomKeys(rng(6), diagnosis.GAEN, 20, 1)
	p := params(diagnosis.GAEN, 0)
	file, _ := write(t, p, keys, Options{})
	var heard []match.Sighting
	for j := range int(keys[0].Count) {
		heard = append(heard, sight(keys[0], j))
	}
	for name, other := range map[string]func(*Params){
		"origin": func(p *Params) { p.Origin += "x" },
		"region": func(p *Params) { p.Region = "" },
		"window": func(p *Params) { p.End++ },
		"keys":   func(p *Params) { p.KeySet[31]++ },
		"f":      func(p *Params) { p.F++ },
		"split":  func(p *Params) { p.Origin, p.Region = p.Origin+p.Region[:1], p.Region[1:] },
	} {
		q := reopen(t, file, p).Params
		other(&q)
		if q.hashKey() == reopen(t, file, p).key {
			t.Errorf("another %s has the same hashes", name)
		}
	}
	set := reopen(t, file, Params{Origin: "elsewhere.example"})
	if hits, err := set.Match(context.Background(), heard, 0); err != nil || len(hits) != 0 {
		t.Errorf("found under another origin: %v, %v", hits, err)
	}
}

// TestTwice: one secret under two starts is an ID twice, stored once; and a set of nothing
// is a set.
func TestTwice(t *testing.T) {
	k := randomKeys(rng(7), diagnosis.GAEN, 1, 1)[0]
	k.Start, k.Count = 144*18_500, 144
	shifted := k
	shifted.Start++
	shifted.Count--
	p := params(diagnosis.GAEN, 0)
	file, stats := write(t, p, []diagnosis.Key{k, shifted}, Options{})
	if n, err := reopen(t, file, p).Check(); err != nil || n != 144 || stats.IDs != 287 {
		t.Errorf("%d hashes of %d IDs: %v", n, stats.IDs, err)
	}
	file, _ = write(t, p, nil, Options{})
	if n, err := reopen(t, file, p).Check(); err != nil || n != 0 || len(file) != headerSize+countSize {
		t.Errorf("empty set: %d hashes in %d bytes: %v", n, len(file), err)
	}
}

func TestWriteRefuses(t *testing.T) {
	keys := randomKeys(rng(8), diagnosis.GAEN, 5, 1)
	bad := slices.Clone(keys)
	bad[4].Count = 0
	boom := errors.New("boom")
	broken := func(yield func(diagnosis.Key, error) bool) {
		_ = yield(keys[0], nil) && yield(diagnosis.Key{}, boom)
	}
	calls := 0
	changing := func(yield func(diagnosis.Key, error) bool) {
		if calls++; calls > 1 {
			yield(keys[0], nil)
			return
		}
		each(keys)(yield)
	}
	good := params(diagnosis.GAEN, 0)
	for name, row := range map[string]struct {
		change func(*Params)
		keys   iter.Seq2[diagnosis.Key, error]
		want   string
	}{
		"other scheme":     {func(p *Params) { p.Scheme = diagnosis.Bluezone }, each(keys), "gaen key"},
		"no scheme":        {func(p *Params) { p.Scheme = 0 }, each(nil), "scheme"},
		"small f":          {func(p *Params) { p.F = MinF - 1 }, each(nil), "f is"},
		"large f":          {func(p *Params) { p.F = MaxF + 1 }, each(nil), "f is"},
		"empty window":     {func(p *Params) { p.End = p.Start }, each(nil), "window"},
		"long region":      {func(p *Params) { p.Region = strings.Repeat("x", 256) }, each(nil), "region"},
		"bad key":          {func(*Params) {}, each(bad), "count"},
		"broken source":    {func(*Params) {}, broken, "boom"},
		"changing source":  {func(*Params) {}, changing, "changed"},
		"unavailable tier": {func(*Params) {}, each(keys), "tier"},
	} {
		p := good
		row.change(&p)
		o := Options{}
		if row.want == "tier" {
			o.Tier = "mmx"
		}
		if _, err := Write(&bytes.Buffer{}, p, row.keys, o); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	full := errors.New("disk full")
	if _, err := Write(failing{full}, good, each(keys), Options{}); !errors.Is(err, full) {
		t.Errorf("full disk: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestSipHash: the reference implementation's vectors of 16 and of 20 bytes (key 00 to
// 0f, message 00 01 02 ...).
func TestSipHash(t *testing.T) {
	k := hashKey{0x0706050403020100, 0x0f0e0d0c0b0a0908}
	if got := k.sum(diagnosis.Bluezone, &[16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, 0x0f0e0d0c); got != 0x3f2acc7f57c29bdb {
		t.Errorf("16 bytes: %#x", got)
	}
	if got := k.sum(diagnosis.GAEN, &[16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, 0x13121110); got != 0xbed65cf21aa2ee98 {
		t.Errorf("20 bytes: %#x", got)
	}
}

// BenchmarkIDSet is expansion, hashing, sorting and coding of 100,000 keys; it reports
// nanoseconds an ID, bits an ID, and the peak of the process's memory.
func BenchmarkIDSet(b *testing.B) {
	for _, days := range []int{1, 14} {
		b.Run(fmt.Sprintf("days=%d", days), func(b *testing.B) {
			keys := randomKeys(rng(9), diagnosis.GAEN, 100_000, days)
			for i := range keys {
				keys[i].Start -= keys[i].Start % 144
				keys[i].Count = 144
			}
			var stats Stats
			for b.Loop() {
				var err error
				if stats, err = Write(&discard{}, params(diagnosis.GAEN, 0), each(keys), Options{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(stats.IDs), "ns/ID")
			b.ReportMetric(8*float64(stats.Bytes)/float64(stats.IDs), "bits/ID")
			b.ReportMetric(peakMB(), "MB-peak")
			b.ReportMetric(float64(stats.Passes), "passes")
		})
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// peakMB is the process's largest resident size so far, 0 where it cannot be told.
func peakMB() float64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	line, _, _ := strings.Cut(rest, "kB")
	kB, _ := strconv.ParseFloat(strings.TrimSpace(line), 64)
	return kB / 1024
}
