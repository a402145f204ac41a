package keystore

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

// whileWriting runs f while a write is in progress, which finishes with write. f must wait
// for it.
func whileWriting(t *testing.T, s *Store, write, f func()) {
	t.Helper()
	s.gate.RLock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
		t.Error("did not wait for the write in progress")
	case <-time.After(20 * time.Millisecond):
	}
	write()
	s.gate.RUnlock()
	<-done
}

// An upload that has chosen its bucket is let in before the window closes.
func TestCloseWindowWaitsForUploads(t *testing.T) {
	s, c := newStore(t)
	c.advance(testPeriod)
	k := dayKey(t, diagnosis.GAEN, 1, c.Now(), 1)
	bucket := s.bucket(&k, s.closed[k.Scheme])
	whileWriting(t, s, func() {
		b := s.db.NewBatch()
		defer b.Close()
		if err := setKey(b, nil, appendDedupeRow(nil, s.dedupeHash(), &k), &k, bucket); err != nil {
			t.Error(err)
		}
		if err := b.Commit(pebble.Sync); err != nil {
			t.Error(err)
		}
	}, func() {
		d, err := s.CloseWindow(context.Background(), k.Scheme, c.Now().Truncate(testPeriod))
		if err != nil || d.Count != 1 {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

// A row that is being changed is touched as it is afterwards.
func TestTouchWaitsForWrites(t *testing.T) {
	s, _ := newStore(t)
	row := []byte("c a code")
	set := func(v string) {
		if err := s.db.Set(row, []byte(v), pebble.Sync); err != nil {
			t.Error(err)
		}
	}
	set("issued")
	whileWriting(t, s, func() { set("spent") }, func() {
		if _, err := s.touch([][]byte{row}); err != nil {
			t.Error(err)
		}
	})
	if v, err := s.get(row); err != nil || string(v) != "spent" {
		t.Errorf("the row is %q again, %v", v, err)
	}
}

// A code is not revoked while an upload is about to spend it.
func TestRevokeWaitsForUploads(t *testing.T) {
	s, _ := newStore(t)
	code := mustIssue(t, s, 1)[0]
	whileWriting(t, s, func() {}, func() {
		if ok, err := s.Desk().Revoke(context.Background(), code); !ok || err != nil {
			t.Error(ok, err)
		}
	})
}
