package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"bluekey/keystore/diagnosis"
)

func TestWindows(t *testing.T) {
	ctx := context.Background()
	const scheme = diagnosis.GAEN
	s, c := newStore(t)
	start := s.WindowStart(scheme)
	if !start.Equal(testStart.Truncate(testPeriod)) {
		t.Fatalf("the chain starts at %v", start)
	}
	for _, end := range []time.Time{start, start.Add(-time.Second), c.Now().Add(time.Second), start.Add(time.Millisecond)} {
		if _, err := s.CloseWindow(ctx, scheme, end); err == nil {
			t.Errorf("closed at %v", end)
		}
	}
	keys := caseKeys(t, scheme, 1, c.Now(), 4)
	keys = append(keys, dayKey(t, scheme, 2, c.Now(), 0)) // due tomorrow at 2
	mustUpload(t, s, mustIssue(t, s, 1)[0], keys)
	c.advance(testPeriod)
	d, end := closeWindow(t, s, scheme)
	if d.Count != 4 || !d.Oldest.Equal(start) {
		t.Errorf("due: %+v", d)
	}
	// Closing again is harmless. What comes after it belongs to later windows.
	if d, _ = closeWindow(t, s, scheme); d.Count != 4 {
		t.Errorf("due: %+v", d)
	}
	mustUpload(t, s, mustIssue(t, s, 1)[0], caseKeys(t, scheme, 3, c.Now(), 3))
	if n := len(dueKeys(t, s, scheme, end)); n != 4 {
		t.Errorf("%d keys due", n)
	}
	if m := s.Metrics(); m.Uploads != 1 || m.Keys != 5 {
		t.Errorf("an upload shows before its window is closed: %+v", m)
	}
	// Held back, they are due in the next window, together with what came since.
	if err := s.Commit(publicationOf(s, scheme, end, false)); err != nil {
		t.Fatal(err)
	}
	c.advance(testPeriod)
	d, end = closeWindow(t, s, scheme)
	if d.Count != 7 || !d.Oldest.Equal(start) {
		t.Errorf("due: %+v", d)
	}
	if err := s.Commit(publicationOf(s, scheme, end, true)); err != nil {
		t.Fatal(err)
	}
	// The server was away for a day: the window is as long.
	c.advance(24 * time.Hour)
	d, end = closeWindow(t, s, scheme)
	if d.Count != 1 {
		t.Errorf("due: %+v", d)
	}
	if err := s.Commit(publicationOf(s, scheme, end, true)); err != nil {
		t.Fatal(err)
	}
	windows, err := s.Windows(scheme)
	if err != nil || len(windows) != 3 || windows[0].Published || !windows[0].Through.Equal(start) ||
		!windows[2].Published || !windows[2].End.Equal(end) || windows[2].Entry != 2 {
		t.Errorf("windows %+v, %v", windows, err)
	}
	if other, err := s.Windows(diagnosis.Bluezone); err != nil || len(other) != 0 || !s.WindowStart(diagnosis.Bluezone).Equal(start) {
		t.Errorf("the other scheme's chain moved: %+v, %v", other, err)
	}
}

// Keys of several buckets come in one order, as if they were of one.
func TestDueKeysMerge(t *testing.T) {
	const scheme = diagnosis.Bluezone
	s, c := newStore(t)
	var want []diagnosis.Key
	for window := range 5 {
		keys := caseKeys(t, scheme, uint64(window), c.Now(), 12)
		mustUpload(t, s, mustIssue(t, s, 1)[0], keys)
		want = append(want, keys...)
		c.advance(testPeriod)
		_, end := closeWindow(t, s, scheme)
		if err := s.Commit(publicationOf(s, scheme, end, false)); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := s.buckets(scheme, 0, 1<<32-1); err != nil || len(b) != 5 {
		t.Fatalf("%d buckets, %v", len(b), err)
	}
	got := dueKeys(t, s, scheme, c.Now())
	slices.SortFunc(want, compareKeys)
	if !slices.EqualFunc(got, want, func(a, b diagnosis.Key) bool { return a.Secret == b.Secret && a.Start == b.Start }) {
		t.Error("other keys, or in another order")
	}
	// Whoever stops early leaves no iterator behind: Close would complain.
	for range s.DueKeys(scheme, c.Now()) {
		break
	}
}

func TestCommitRefuses(t *testing.T) {
	const scheme = diagnosis.GAEN
	s, c := newStore(t)
	c.advance(testPeriod)
	_, end := closeWindow(t, s, scheme)
	for _, row := range []struct {
		name   string
		change func(*Publication)
	}{
		{"an entry that does not follow the log", func(p *Publication) { p.First = 1 }},
		{"a hash too few", func(p *Publication) { p.Hashes = nil }},
		{"a hash too many", func(p *Publication) { p.Hashes = append(p.Hashes, [32]byte{}) }},
		{"an entry too many", func(p *Publication) { p.Entries = append(p.Entries, nil) }},
		{"a gap before the window", func(p *Publication) { p.Windows[0].Start = p.Windows[0].Start.Add(time.Second) }},
		{"an overlap", func(p *Publication) { p.Windows[0].Start = p.Windows[0].Start.Add(-time.Second) }},
		{"an empty window", func(p *Publication) { p.Windows[0].End = p.Windows[0].Start }},
		{"a window that is not closed", func(p *Publication) { p.Windows[0].End = p.Windows[0].End.Add(time.Second) }},
		{"a window of another scheme that is not closed", func(p *Publication) { p.Windows[0].Scheme = diagnosis.Bluezone }},
		{"no scheme", func(p *Publication) { p.Windows[0].Scheme = 0 }},
		{"the window twice", func(p *Publication) { p.Windows = append(p.Windows, p.Windows[0]) }},
		{"an entry that is not in the log", func(p *Publication) { p.Windows[0].Entry = 1 }},
		{"through after its end", func(p *Publication) { p.Windows[0].Through = p.Windows[0].End.Add(time.Second) }},
		{"through before the last one's", func(p *Publication) { p.Windows[0].Through = p.Windows[0].Start.Add(-time.Second) }},
		{"parts of a second", func(p *Publication) { p.Windows[0].End = p.Windows[0].End.Add(-time.Millisecond) }},
		{"erasing what is to come", func(p *Publication) {
			p.EraseThrough = map[diagnosis.Scheme]time.Time{scheme: p.Windows[0].End.Add(time.Second)}
		}},
	} {
		p := publicationOf(s, scheme, end, true)
		row.change(&p)
		if err := s.Commit(p); err == nil {
			t.Fatalf("%s: committed", row.name)
		}
	}
	if w, err := s.Windows(scheme); s.LogSize() != 0 || len(w) != 0 || err != nil || s.WindowStart(scheme).Equal(end) {
		t.Error("a refused publication changed something")
	}
	if err := s.Commit(publicationOf(s, scheme, end, true)); err != nil {
		t.Fatal(err)
	}
}

// However long nothing was published, erasing old windows takes no key with it that waits.
func TestErasureKeepsWhatWaits(t *testing.T) {
	const scheme = diagnosis.GAEN
	s, c := newStore(t)
	mustUpload(t, s, mustIssue(t, s, 1)[0], caseKeys(t, scheme, 1, c.Now(), 3))
	for range 3 {
		c.advance(testPeriod)
		_, end := closeWindow(t, s, scheme)
		p := publicationOf(s, scheme, end, false)
		p.EraseThrough = map[diagnosis.Scheme]time.Time{scheme: end}
		if err := s.Commit(p); err != nil {
			t.Fatal(err)
		}
		if err := s.Scrub(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if w, err := s.Windows(scheme); len(w) != 0 || err != nil {
		t.Errorf("%d windows left, %v", len(w), err)
	}
	c.advance(testPeriod)
	if got := publish(t, s, scheme, time.Time{}); len(got) != 3 {
		t.Errorf("%d keys left of 3 that waited", len(got))
	}
}

func TestOutstanding(t *testing.T) {
	const scheme = diagnosis.GAEN
	s, c := newStore(t)
	c.advance(testPeriod)
	_, end := closeWindow(t, s, scheme)
	p := publicationOf(s, scheme, end, true)
	p.Plan = []byte("make files")
	if err := s.Commit(p); err != nil {
		t.Fatal(err)
	}
	if plan, ok, err := s.Outstanding(); err != nil || !ok || string(plan) != "make files" {
		t.Errorf("%q, %v, %v", plan, ok, err)
	}
	c.advance(testPeriod)
	_, end = closeWindow(t, s, scheme)
	if err := s.Commit(publicationOf(s, scheme, end, true)); !errors.Is(err, ErrOutstanding) {
		t.Errorf("a second publication: %v", err)
	}
	for range 2 { // saying it again is what a recovery may do
		if err := s.Applied(); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := s.Outstanding(); ok || err != nil {
			t.Errorf("outstanding after it was applied: %v", err)
		}
	}
	if err := s.Commit(publicationOf(s, scheme, end, true)); err != nil {
		t.Fatal(err)
	}
}

// hashes reads the log's tree for tlog.
type hashes struct{ s *Store }

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	raw, err := h.s.ReadHashes(indexes)
	list := make([]tlog.Hash, len(raw))
	for i, r := range raw {
		list[i] = r
	}
	return list, err
}

func TestLogRows(t *testing.T) {
	s, _ := newStore(t)
	if note, err := s.Checkpoint(); note != nil || err != nil {
		t.Errorf("a checkpoint before the first: %q, %v", note, err)
	}
	var all []tlog.Hash // as tlog numbers them
	memory := tlog.HashReaderFunc(func(indexes []int64) (list []tlog.Hash, err error) {
		for _, i := range indexes {
			list = append(list, all[i])
		}
		return list, nil
	})
	for n := range 40 {
		p := Publication{First: s.LogSize(), Checkpoint: fmt.Appendf(nil, "checkpoint %d", n)}
		for i := range n % 4 {
			size := int64(p.First) + int64(i)
			p.Entries = append(p.Entries, fmt.Appendf(nil, "entry %d", size))
			more, err := tlog.StoredHashes(size, p.Entries[i], memory)
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range more {
				p.Hashes = append(p.Hashes, h)
			}
			all = append(all, more...)
		}
		if err := s.Commit(p); err != nil {
			t.Fatal(err)
		}
		if note, err := s.Checkpoint(); err != nil || !bytes.Equal(note, p.Checkpoint) {
			t.Errorf("checkpoint %q, %v", note, err)
		}
	}
	size := int64(s.LogSize())
	if size != 60 {
		t.Fatalf("log of %d", size)
	}
	want, err := tlog.TreeHash(size, memory)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tlog.TreeHash(size, hashes{s}); err != nil || got != want {
		t.Errorf("root %v, want %v, %v", got, want, err)
	}
	for i := range size {
		if e, err := s.Entry(uint64(i)); err != nil || string(e) != fmt.Sprintf("entry %d", i) {
			t.Errorf("entry %d: %q, %v", i, e, err)
		}
	}
	if _, err := s.Entry(uint64(size)); err == nil {
		t.Error("an entry beyond the log")
	}
	if _, err := s.ReadHashes([]int64{tlog.StoredHashCount(size)}); err == nil {
		t.Error("a hash beyond the log")
	}
	for n := range int64(2000) {
		if got := storedHashes(uint64(n)); got != uint64(tlog.StoredHashCount(n)) {
			t.Fatalf("%d hashes stored for %d entries, want %d", got, n, tlog.StoredHashCount(n))
		}
	}
}
