package keystore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
)

// testStart lies in the middle of a period of four hours.
var testStart = time.Date(2026, 3, 2, 13, 20, 0, 0, time.UTC)

const testPeriod = 4 * time.Hour

// testClock is a clock that a test sets.
type testClock struct{ seconds atomic.Int64 }

func newClock() *testClock {
	c := &testClock{}
	c.set(testStart)
	return c
}

func (c *testClock) set(t time.Time)         { c.seconds.Store(t.Unix()) }
func (c *testClock) advance(d time.Duration) { c.seconds.Add(int64(d / time.Second)) }
func (c *testClock) Now() time.Time          { return time.Unix(c.seconds.Load(), 0).UTC() }

func testOptions(fs vfs.FS, c *testClock) Options {
	return Options{
		Dir: "data", FS: fs, CodeKey: [32]byte{1}, DedupeKey: [32]byte{2},
		Period: testPeriod, Hold: testPeriod, CodeCap: 1 << 20, CacheSize: 8 << 20, Now: c.Now,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func mustOpen(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// newStore opens a store in memory that is closed with the test.
func newStore(t testing.TB) (*Store, *testClock) {
	t.Helper()
	c := newClock()
	s := mustOpen(t, testOptions(vfs.NewMem(), c))
	t.Cleanup(func() { mustClose(t, s) })
	return s, c
}

func mustIssue(t testing.TB, s *Store, n int) []string {
	t.Helper()
	codes, err := issueCodes(s, n)
	if err != nil {
		t.Fatal(err)
	}
	return codes
}

func issueCodes(s *Store, n int) (codes []string, err error) {
	for len(codes) < n {
		some, err := s.Desk().Issue(context.Background(), desk.Request{
			Officer: "lan", Report: diagnosis.ConfirmedTest, Count: min(n-len(codes), desk.MaxCount),
			Long: true, TTL: desk.LongTTL,
		})
		if err != nil {
			return nil, err
		}
		codes = append(codes, some...)
	}
	return codes, nil
}

// secretOf is a secret that looks random and that a test can name again.
func secretOf(n uint64, scheme diagnosis.Scheme) []byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("secret"), n))
	return sum[:scheme.SecretLen()]
}

// dayKey is the key of a whole UTC day, daysAgo before now.
func dayKey(t testing.TB, scheme diagnosis.Scheme, n uint64, now time.Time, daysAgo int) diagnosis.Key {
	t.Helper()
	day := now.Unix()/86400 - int64(daysAgo)
	k, err := diagnosis.New(scheme, secretOf(n, scheme), diagnosis.Interval(day)*scheme.PerDay(), int(scheme.PerDay()))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// caseKeys are the keys of one case: one for each of the last days before today.
func caseKeys(t testing.TB, scheme diagnosis.Scheme, n uint64, now time.Time, days int) []diagnosis.Key {
	t.Helper()
	keys := make([]diagnosis.Key, days)
	for i := range keys {
		keys[i] = dayKey(t, scheme, n*100+uint64(i), now, i+1)
	}
	return keys
}

func mustUpload(t testing.TB, s *Store, code string, keys []diagnosis.Key) Receipt {
	t.Helper()
	r, err := handIn(context.Background(), s, code, keys)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantRefusal(t testing.TB, err error, reason Reason) *Refusal {
	t.Helper()
	var r *Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want refusal %s", err, reason)
	}
	if r.Reason != reason {
		t.Fatalf("got %v, want reason %s", err, reason)
	}
	return r
}

func dueKeys(t testing.TB, s *Store, scheme diagnosis.Scheme, end time.Time) (keys []diagnosis.Key) {
	t.Helper()
	for k, err := range s.DueKeys(scheme, end) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	return keys
}

// closeWindow closes a scheme's window at the last full period.
func closeWindow(t testing.TB, s *Store, scheme diagnosis.Scheme) (Due, time.Time) {
	t.Helper()
	end := s.opt.Now().Truncate(testPeriod)
	d, err := s.CloseWindow(context.Background(), scheme, end)
	if err != nil {
		t.Fatal(err)
	}
	return d, end
}

// publish closes a scheme's window and commits it as published.
func publish(t testing.TB, s *Store, scheme diagnosis.Scheme, erase time.Time) []diagnosis.Key {
	t.Helper()
	_, end := closeWindow(t, s, scheme)
	if err := s.Ungroup(context.Background()); err != nil {
		t.Fatal(err)
	}
	keys := dueKeys(t, s, scheme, end)
	p := publicationOf(s, scheme, end, true)
	if !erase.IsZero() {
		p.EraseThrough = map[diagnosis.Scheme]time.Time{scheme: erase}
	}
	if err := s.Commit(p); err != nil {
		t.Fatal(err)
	}
	return keys
}

// publicationOf is a publication with one window, its entry and a plan.
func publicationOf(s *Store, scheme diagnosis.Scheme, end time.Time, published bool) Publication {
	size := s.LogSize()
	return Publication{
		Windows: []Window{{
			Scheme: scheme, Start: s.WindowStart(scheme), End: end, Entry: size, Published: published, Through: end,
		}},
		Entries: [][]byte{binary.BigEndian.AppendUint64([]byte("entry "), size)}, First: size,
		Hashes:     make([][32]byte, storedHashes(size+1)-storedHashes(size)),
		Checkpoint: binary.BigEndian.AppendUint64([]byte("checkpoint "), size+1),
	}
}

func TestUploadToErasure(t *testing.T) {
	for _, scheme := range diagnosis.Schemes {
		t.Run(scheme.String(), func(t *testing.T) {
			s, c := newStore(t)
			codes := mustIssue(t, s, 3)
			var want []diagnosis.Key
			for i, code := range codes {
				keys := caseKeys(t, scheme, uint64(i), c.Now(), 10)
				mustUpload(t, s, code, keys)
				want = append(want, keys...)
			}
			if len(dueKeys(t, s, scheme, c.Now())) != len(want) {
				t.Fatal("the uploaded keys of past days are not due")
			}

			c.advance(testPeriod)
			got := publish(t, s, scheme, time.Time{})
			if len(got) != len(want) {
				t.Fatalf("%d keys published, want %d", len(got), len(want))
			}
			if !slices.IsSortedFunc(got, compareKeys) {
				t.Error("published keys are not in order")
			}
			for _, k := range want {
				if !slices.ContainsFunc(got, func(g diagnosis.Key) bool { return g.Secret == k.Secret && g.Start == k.Start }) {
					t.Error("a key is missing")
				}
			}
			c.advance(testPeriod)
			if again := publish(t, s, scheme, time.Time{}); len(again) != 0 {
				t.Fatalf("%d keys published twice", len(again))
			}
			windows, err := s.Windows(scheme)
			if err != nil || len(windows) != 2 || !windows[0].End.Equal(windows[1].Start) {
				t.Fatalf("windows %+v, %v", windows, err)
			}
			c.advance(testPeriod)
			publish(t, s, scheme, windows[0].End)
			if err := s.Scrub(context.Background()); err != nil {
				t.Fatal(err)
			}
			left, err := s.countDue(context.Background(), scheme, 0, seconds(c.Now()))
			if err != nil || left.Count != 0 {
				t.Fatalf("%d keys left after erasure, %v", left.Count, err)
			}
			if windows, err := s.Windows(scheme); err != nil || len(windows) != 2 {
				t.Fatalf("%d windows left after erasing the first of three, %v", len(windows), err)
			}
		})
	}
}

func compareKeys(a, b diagnosis.Key) int {
	if c := slices.Compare(a.Bytes(), b.Bytes()); c != 0 {
		return c
	}
	return int(int64(a.Start) - int64(b.Start))
}

func newRand() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }
