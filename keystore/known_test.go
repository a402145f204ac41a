package keystore

import (
	"context"
	"errors"
	"iter"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
)

func walk(keys []diagnosis.Key) iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		for _, k := range keys {
			if !yield(k, nil) {
				return
			}
		}
	}
}

// Keys that were marked as known are accepted and not stored, also after a power cut, in the
// form in which they are public and in that in which a phone has them.
func TestMarkKnown(t *testing.T) {
	clock, disk := newClock(), vfs.NewCrashableMem()
	s := mustOpen(t, testOptions(disk, clock))
	defer mustClose(t, s)
	public := append(caseKeys(t, diagnosis.GAEN, 1, testStart, 14), caseKeys(t, diagnosis.Bluezone, 2, testStart, 14)...)
	part := dayKey(t, diagnosis.GAEN, 3, testStart, 4)
	part.Start, part.Count = part.Start+20, 30
	public = append(public, Coarse(part))
	for i := range knownBatch { // more than one batch
		public = append(public, dayKey(t, diagnosis.GAEN, uint64(1<<20+i), testStart, 3))
	}
	ancient := dayKey(t, diagnosis.GAEN, 4, testStart, 40)
	s.firstDay.Store(ancient.Scheme.Day(ancient.Start) + 1)
	if err := s.MarkKnown(walk(append(public, ancient))); err != nil {
		t.Fatal(err)
	}
	after := mustOpen(t, testOptions(disk.CrashClone(vfs.CrashCloneCfg{}), clock))
	defer mustClose(t, after)
	codes := mustIssue(t, after, 4)
	mustUpload(t, after, codes[0], public[:14])
	mustUpload(t, after, codes[1], public[14:28])
	mustUpload(t, after, codes[2], []diagnosis.Key{part, public[len(public)-1]})
	for _, scheme := range diagnosis.Schemes {
		if d, err := after.countDue(context.Background(), scheme, 0, 1<<32-1); d.Count != 0 || err != nil {
			t.Errorf("%d %s keys that were known are stored, %v", d.Count, scheme, err)
		}
	}
	mustUpload(t, after, codes[3], caseKeys(t, diagnosis.GAEN, 5, testStart, 3))
	if n := len(keysIn(t, after, 0)); n != 3 {
		t.Errorf("%d keys stored of 3 that are new", n)
	}
	if known, err := s.has(appendDedupeRow(nil, s.dedupeHash(), &ancient)); known || err != nil {
		t.Errorf("a key is remembered that is never accepted again: %v", err)
	}
	torn := errors.New("torn")
	if err := s.MarkKnown(func(yield func(diagnosis.Key, error) bool) { yield(diagnosis.Key{}, torn) }); !errors.Is(err, torn) {
		t.Errorf("got %v", err)
	}
}

// A publication that voids codes ends those not used yet, for ever; a used one still answers
// the upload that used it, and new ones are good.
func TestVoidCodes(t *testing.T) {
	clock, disk := newClock(), vfs.NewCrashableMem()
	s := mustOpen(t, testOptions(disk, clock))
	defer mustClose(t, s)
	codes := mustIssue(t, s, 2)
	short, err := s.Desk().Issue(context.Background(), desk.Request{Officer: "lan", Report: diagnosis.ConfirmedTest, Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	used := caseKeys(t, diagnosis.GAEN, 1, testStart, 3)
	receipt := mustUpload(t, s, codes[0], used)
	if err := s.Commit(Publication{VoidCodes: true}); err != nil {
		t.Fatal(err)
	}
	if st := s.Desk().Status(); st.ShortAlive+st.LongAlive != 0 {
		t.Errorf("alive after all were voided: %+v", st)
	}
	again := mustOpen(t, testOptions(disk.CrashClone(vfs.CrashCloneCfg{}), clock))
	defer mustClose(t, again)
	for _, s := range []*Store{s, again} {
		for _, code := range []string{codes[1], short[0]} {
			_, err := handIn(context.Background(), s, code, caseKeys(t, diagnosis.GAEN, 2, testStart, 3))
			wantRefusal(t, err, BadCode)
		}
		if got := mustUpload(t, s, codes[0], used); got != receipt {
			t.Errorf("answered %v, before %v", got, receipt)
		}
		mustUpload(t, s, mustIssue(t, s, 1)[0], caseKeys(t, diagnosis.GAEN, 3, testStart, 3))
	}
}
