package match_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"bluekey/export"
	"bluekey/export/match"
	"bluekey/keystore/diagnosis"
)

// writeFile makes a key set of n whole GAEN keys of 14 days and returns every keep-th key.
func writeFile(t testing.TB, n, keep int) (path string, kept []diagnosis.Key) {
	t.Helper()
	r := rand.New(rand.NewPCG(50, 1))
	secrets := make([][16]byte, n)
	for i := range secrets {
		for j := range secrets[i] {
			secrets[i][j] = byte(r.Uint32())
		}
	}
	slices.SortFunc(secrets, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
	path = filepath.Join(t.TempDir(), "window.keys")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := export.KeySetHeader{Scheme: diagnosis.GAEN, Start: 1_600_000_000, End: 1_600_014_400}
	_, err = export.WriteKeySet(f, h, func(yield func(diagnosis.Key, error) bool) {
		for i, secret := range secrets {
			k, err := diagnosis.New(diagnosis.GAEN, secret[:], diagnosis.Interval(144*(18_500+r.IntN(14))), 144)
			if err == nil && i%keep == 0 {
				kept = append(kept, k)
			}
			if !yield(k, err) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return path, kept
}

// phone is n sightings, of which the last are one encounter with each of the given keys.
func phone(n int, met []diagnosis.Key) []match.Sighting {
	r := rand.New(rand.NewPCG(51, 1))
	heard := make([]match.Sighting, n)
	for i := range heard {
		s := &heard[i]
		s.Scheme = diagnosis.GAEN
		for j := range s.ID {
			s.ID[j] = byte(r.Uint32())
		}
		s.Seen = 18_500*86400 + int64(r.IntN(14*86400))
	}
	for i, k := range met {
		j := r.IntN(int(k.Count))
		heard[n-len(met)+i] = match.Sighting{
			Scheme: diagnosis.GAEN, ID: [16]byte(k.Expand(nil)[16*j:]),
			Seen: k.Scheme.Time(k.Start+diagnosis.Interval(j)).Unix() + 300,
		}
	}
	return heard
}

func matchFile(m *match.Matcher, path string) (hits []match.Hit, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	keys, err := export.NewKeySetReader(f)
	if err != nil {
		return nil, err
	}
	err = m.Run(context.Background(), keys.Keys(), func(h match.Hit) error {
		hits = append(hits, h)
		return nil
	})
	return hits, err
}

// TestFile: an export on disk, a phone that met 50 of its cases, and exactly those hits,
// in each tier. With BLUEKEY_EXHAUSTIVE=1 the export has a million keys and the phone
// heard 100,000 IDs.
func TestFile(t *testing.T) {
	keys, sightings := 20_000, 5_000
	if os.Getenv("BLUEKEY_EXHAUSTIVE") == "1" {
		keys, sightings = 1_000_000, 100_000
	}
	path, met := writeFile(t, keys, keys/50)
	heard := phone(sightings, met)
	for _, tier := range match.Tiers() {
		t.Run(tier, func(t *testing.T) {
			resetPeak()
			start := time.Now()
			m, err := match.New(heard, match.Options{Tier: tier})
			if err != nil {
				t.Fatal(err)
			}
			hits, err := matchFile(m, path)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d keys, %d sightings: %v on %d cores, %.0f MB at most",
				keys, sightings, time.Since(start).Round(time.Millisecond), runtime.GOMAXPROCS(0), peakMB())
			slices.SortFunc(hits, func(a, b match.Hit) int { return a.Sighting - b.Sighting })
			if len(hits) != len(met) {
				t.Fatalf("%d hits, want %d", len(hits), len(met))
			}
			for i, h := range hits {
				if h.Sighting != sightings-len(met)+i || h.Key.Secret != met[i].Secret {
					t.Errorf("hit %d is of sighting %d", i, h.Sighting)
				}
			}
		})
	}
}

// TestFileCut: a file that ends early is an error, whatever was found before.
func TestFileCut(t *testing.T) {
	path, met := writeFile(t, 3000, 100)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := match.New(phone(1000, met), match.Options{})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := export.NewKeySetReader(io.LimitReader(bytes.NewReader(whole), int64(len(whole)-1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Run(context.Background(), keys.Keys(), func(match.Hit) error { return nil }); err == nil {
		t.Error("a cut key set was matched without an error")
	}
}

// BenchmarkMatchFile is a million keys, read and decoded from a file, against 100,000
// sightings, making the matcher included.
func BenchmarkMatchFile(b *testing.B) {
	path, met := writeFile(b, 1_000_000, 20_000)
	heard := phone(100_000, met)
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			resetPeak()
			for b.Loop() {
				m, err := match.New(heard, match.Options{Workers: workers})
				if err != nil {
					b.Fatal(err)
				}
				if hits, err := matchFile(m, path); err != nil || len(hits) != len(met) {
					b.Fatalf("%d hits: %v", len(hits), err)
				}
			}
			b.ReportMetric(peakMB(), "MB-peak")
		})
	}
}

// resetPeak forgets the process's largest size so far, where the system lets it.
func resetPeak() {
	debug.FreeOSMemory()
	os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

// peakMB is the process's largest resident size, 0 where it cannot be told.
func peakMB() float64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	line, _, _ := strings.Cut(rest, "kB")
	kB, _ := strconv.ParseFloat(strings.TrimSpace(line), 64)
	return kB / 1024
}
