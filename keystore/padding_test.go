package keystore

import (
	"context"
	"testing"

	"bluekey/keystore/diagnosis"
)

// Keys held back move into the window in which the padding comes, so that their older
// bucket does not mark them as real.
func TestPaddingLeavesNoMark(t *testing.T) {
	s, disk, c := rawStore(t)
	real := caseKeys(t, diagnosis.GAEN, 1, c.Now(), 5)
	mustUpload(t, s, mustIssue(t, s, 1)[0], real)
	c.advance(testPeriod)
	_, end := closeWindow(t, s, diagnosis.GAEN)
	if err := s.Commit(publicationOf(s, diagnosis.GAEN, end, false)); err != nil {
		t.Fatal(err)
	}
	c.advance(testPeriod)
	d, end := closeWindow(t, s, diagnosis.GAEN)
	if d.Count != 5 || !d.Oldest.Equal(end.Add(-2*testPeriod)) {
		t.Fatalf("held back: %+v", d)
	}
	padding := caseKeys(t, diagnosis.GAEN, 2, c.Now(), 5)
	for i := range padding {
		padding[i].Report = diagnosis.ConfirmedTest
	}
	if err := s.AddPadding(context.Background(), padding); err != nil {
		t.Fatal(err)
	}
	if err := s.Ungroup(context.Background()); err != nil {
		t.Fatal(err)
	}
	buckets, err := s.buckets(diagnosis.GAEN, 0, 1<<32-1)
	if err != nil || len(buckets) != 1 {
		t.Errorf("%d buckets, want one for real and padding: %v", len(buckets), err)
	}
	if got := dueKeys(t, s, diagnosis.GAEN, end); len(got) != 10 {
		t.Errorf("%d keys due, want 10", len(got))
	}
	// In the files too a key has one row of each kind, whichever it is, and no trace of
	// the bucket it was held in.
	count := map[string]int{}
	for row := range sequences(t, copyDisk(disk)) {
		if row[0] == keyRow {
			count[row[6:22]]++
		}
		if row[0] == dedupeRow {
			count["remembered"]++
		}
	}
	for _, k := range append(real, padding...) {
		if n := count[string(k.Bytes())]; n != 1 {
			t.Errorf("a key has %d rows in tables", n)
		}
	}
	if count["remembered"] != 10 {
		t.Errorf("%d keys remembered, want 10", count["remembered"])
	}
	late := []diagnosis.Key{dayKey(t, diagnosis.GAEN, 3, c.Now(), 0)}
	if err := s.AddPadding(context.Background(), late); err == nil {
		t.Error("padding that is not due was stored")
	}
}
