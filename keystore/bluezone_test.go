package keystore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/keystore/diagnosis"
)

func mustIssueDoor(t *testing.T, s *Store) string {
	t.Helper()
	code, err := s.Desk().IssueDoor(context.Background(), "lan", diagnosis.ConfirmedClinical, 0)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// storedSeeds reads every Bluezone key of the store.
func storedSeeds(t *testing.T, s *Store) map[diagnosis.Secret]diagnosis.Key {
	t.Helper()
	keys := map[diagnosis.Secret]diagnosis.Key{}
	it, err := s.db.NewIter(keyRange(diagnosis.Bluezone, 0, 1<<32-1))
	if err != nil {
		t.Fatal(err)
	}
	for it.First(); it.Valid(); it.Next() {
		k, _, err := parseKeyRow(diagnosis.Bluezone, it.Key(), it.Value())
		if err != nil {
			t.Fatal(err)
		}
		keys[k.Secret] = k
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestDeclare(t *testing.T) {
	s, c := newStore(t)
	ctx := context.Background()
	d := Declaration{Code: mustIssueDoor(t, s), Content: [32]byte{1}, Seeds: caseKeys(t, diagnosis.Bluezone, 1, c.Now(), 14)}
	// The two requests of an app, and some more.
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if err := s.Declare(ctx, d); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	stored := storedSeeds(t, s)
	if len(stored) != 14 {
		t.Fatalf("%d seeds stored", len(stored))
	}
	for i, k := range d.Seeds {
		got, ok := stored[k.Secret]
		// What the code says, in the coarse form.
		k.Report, k.Onset = diagnosis.ConfirmedTest, k.OnsetOn(uint32(c.Now().Unix()/86400)-4)
		if want := Coarse(k); !ok || got != want {
			t.Errorf("seed %d is stored as %+v, want %+v", i, got, want)
		}
	}
	if c, u, k := s.open.codes.Load(), s.open.uploads.Load(), s.open.keys.Load(); c != 1 || u != 1 || k != 14 {
		t.Errorf("counted as %d codes, %d uploads, %d keys", c, u, k)
	}

	other := Declaration{Code: d.Code, Content: [32]byte{2}, Seeds: caseKeys(t, diagnosis.Bluezone, 2, c.Now(), 1)}
	wantRefusal(t, s.Declare(ctx, other), SpentCode)
	if n := len(storedSeeds(t, s)); n != 14 {
		t.Errorf("%d seeds after a refusal", n)
	}
}

// One code, many cases at the same instant: one of them has it.
func TestDeclareRace(t *testing.T) {
	s, c := newStore(t)
	for round := range 20 {
		code := mustIssueDoor(t, s)
		before := len(storedSeeds(t, s))
		start := make(chan struct{})
		var won atomic.Int32
		var group sync.WaitGroup
		for i := range 32 {
			d := Declaration{Code: code, Content: [32]byte{byte(i)}, Seeds: caseKeys(t, diagnosis.Bluezone, uint64(round*100+i), c.Now(), 2)}
			group.Go(func() {
				<-start
				err := s.Declare(context.Background(), d)
				if r := (*Refusal)(nil); errors.As(err, &r) && r.Reason == SpentCode {
					return
				}
				if err != nil {
					t.Error(err)
				}
				won.Add(1)
			})
		}
		close(start)
		group.Wait()
		if n, stored := won.Load(), len(storedSeeds(t, s))-before; n != 1 || stored != 2 {
			t.Fatalf("%d cases with one code, %d seeds", n, stored)
		}
	}
}

// The claim outlives a crash of the process: the app's retry is answered as before.
func TestDeclareAgainAfterRestart(t *testing.T) {
	clock, disk := newClock(), vfs.NewMem()
	s := mustOpen(t, testOptions(disk, clock))
	d := Declaration{Code: mustIssueDoor(t, s), Content: [32]byte{1}, Seeds: caseKeys(t, diagnosis.Bluezone, 1, clock.Now(), 3)}
	if err := s.Declare(context.Background(), d); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		mustClose(t, s)
		s = mustOpen(t, testOptions(disk, clock))
		if err := s.Declare(context.Background(), d); err != nil {
			t.Error(err)
		}
	}
	defer mustClose(t, s)
	d.Content = [32]byte{2}
	wantRefusal(t, s.Declare(context.Background(), d), SpentCode)
}

func TestDeclareLeavesOutOldAndComingDays(t *testing.T) {
	s, c := newStore(t)
	var seeds []diagnosis.Key
	for day := -3; day < 25; day++ {
		seeds = append(seeds, dayKey(t, diagnosis.Bluezone, uint64(100+day), c.Now(), day))
	}
	if err := s.Declare(context.Background(), Declaration{Code: mustIssueDoor(t, s), Seeds: seeds}); err != nil {
		t.Fatal(err)
	}
	stored := storedSeeds(t, s)
	for _, k := range seeds {
		age := c.Now().Sub(k.EndTime())
		want := age <= MaxAge && !diagnosis.Bluezone.Time(k.Start).After(c.Now())
		if _, got := stored[k.Secret]; got != want {
			t.Errorf("the seed of a day that ended %v ago: stored %v", age, got)
		}
	}
	if len(stored) != MaxSeeds {
		t.Errorf("%d stored", len(stored))
	}
}

func TestDeclareRefusals(t *testing.T) {
	s, c := newStore(t)
	good := func() []diagnosis.Key { return caseKeys(t, diagnosis.Bluezone, 1, c.Now(), 2) }
	late := mustIssueDoor(t, s)
	c.advance(10 * time.Minute)
	code := mustIssueDoor(t, s)
	for _, row := range []struct {
		name  string
		code  string
		seeds []diagnosis.Key
		want  Reason
	}{
		{"a mistyped code", "12345", good(), BadCode},
		{"a code too late", late, good(), ExpiredCode},
		{"no seeds", code, nil, TooOld},
		{"only old seeds", code, []diagnosis.Key{dayKey(t, diagnosis.Bluezone, 1, c.Now(), 30)}, TooOld},
		{"GAEN keys", code, caseKeys(t, diagnosis.GAEN, 1, c.Now(), 2), Malformed},
		{"two seeds of a day", code, append(good(), dayKey(t, diagnosis.Bluezone, 9, c.Now(), 1)), Overlap},
	} {
		t.Run(row.name, func(t *testing.T) {
			wantRefusal(t, s.Declare(context.Background(), Declaration{Code: row.code, Seeds: row.seeds}), row.want)
		})
	}
	if n := len(storedSeeds(t, s)); n != 0 {
		t.Errorf("%d seeds stored", n)
	}
	if err := s.Declare(context.Background(), Declaration{Code: code, Seeds: good()}); err != nil {
		t.Errorf("the code after all refusals: %v", err)
	}
}

func TestDeclarePauses(t *testing.T) {
	s, c := newStore(t)
	code := mustIssueDoor(t, s)
	wrong := "000000"
	if code == wrong {
		wrong = "000001"
	}
	seeds := caseKeys(t, diagnosis.Bluezone, 1, c.Now(), 2)
	for range 20 {
		wantRefusal(t, s.Declare(context.Background(), Declaration{Code: wrong, Seeds: seeds}), BadCode)
	}
	wantRefusal(t, s.Declare(context.Background(), Declaration{Code: code, Seeds: seeds}), Paused)
	if !s.Desk().Status().Door.Paused {
		t.Error("staff are not told")
	}
}

// A case is in the log with one sync or not at all, and neither code nor content with it.
func TestDeclareBytes(t *testing.T) {
	s, disk, c := rawStore(t)
	content := [32]byte(secretOf(77, diagnosis.Bluezone))
	d := Declaration{Code: mustIssueDoor(t, s), Content: content, Seeds: caseKeys(t, diagnosis.Bluezone, 1, c.Now(), 14)}
	if err := s.Declare(context.Background(), d); err != nil {
		t.Fatal(err)
	}
	files := rawFiles(t, copyDisk(disk))
	for i := range d.Seeds {
		if found(files, ".log", [][]byte{d.Seeds[i].Bytes()}) == 0 {
			t.Errorf("seed %d is not on the disk", i)
		}
	}
	if found(files, "", [][]byte{content[:]}) > 0 {
		t.Error("the content is on the disk")
	}
	// Only where rows are: other files hold numbers of the database.
	for _, part := range []string{".log", ".sst"} {
		if found(files, part, [][]byte{[]byte(d.Code)}) > 0 {
			t.Errorf("a %s file holds the code", part)
		}
	}
}
