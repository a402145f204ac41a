package desk

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/keystore/diagnosis"
)

var deskNow = time.Date(2026, 3, 2, 13, 20, 0, 0, time.UTC)

// newDesk is a desk over a database in memory, with a clock that the test moves.
func newDesk(t *testing.T, limit int) (d *Desk, clock *time.Time) {
	t.Helper()
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	now := deskNow
	return openDesk(t, db, limit, &now), &now
}

func openDesk(t *testing.T, db *pebble.DB, limit int, now *time.Time) *Desk {
	t.Helper()
	d, err := Open(Config{DB: db, Key: [32]byte{1}, Cap: limit, Now: func() time.Time { return *now }, Gate: new(sync.RWMutex)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

type quiet struct{}

func (quiet) Infof(string, ...any)      {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

func mustIssue(t *testing.T, d *Desk, r Request) []string {
	t.Helper()
	if r.Report == 0 {
		r.Report = diagnosis.ConfirmedTest
	}
	codes, err := d.Issue(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return codes
}

func TestIssueRefuses(t *testing.T) {
	today := uint32(deskNow.Unix() / day)
	for _, row := range []struct {
		name string
		r    Request
		want string // empty: issued
	}{
		{"short", Request{Count: 1}, ""},
		{"long for a day", Request{Count: 1, Long: true, TTL: LongTTL}, ""},
		{"onset today", Request{Count: 1, OnsetDay: today}, ""},
		{"onset four weeks ago", Request{Count: 1, OnsetDay: today - 28}, ""},
		{"clinical", Request{Count: 1, Report: diagnosis.ConfirmedClinical}, ""},
		{"no code", Request{Count: 0}, "count 0"},
		{"a negative number", Request{Count: -1}, "count -1"},
		{"too many at once", Request{Count: MaxCount + 1, Long: true}, "count 1001"},
		{"short for longer than an hour", Request{Count: 1, TTL: ShortTTL + time.Second}, "lifetime"},
		{"long for longer than a day", Request{Count: 1, Long: true, TTL: LongTTL + time.Second}, "lifetime"},
		{"for no time", Request{Count: 1, TTL: time.Second}, "lifetime"},
		{"onset tomorrow", Request{Count: 1, OnsetDay: today + 1}, "future"},
		{"onset five weeks ago", Request{Count: 1, OnsetDay: today - 35}, "28 days"},
		{"a revoked key", Request{Count: 1, Report: diagnosis.Revoked}, "report type revoked"},
		{"no such type", Request{Count: 1, Report: 9}, "report type"},
	} {
		d, _ := newDesk(t, 10_000)
		if row.r.Report == 0 {
			row.r.Report = diagnosis.ConfirmedTest
		}
		codes, err := d.Issue(context.Background(), row.r)
		switch {
		case row.want == "" && (err != nil || len(codes) != row.r.Count):
			t.Errorf("%s: %d codes, %v", row.name, len(codes), err)
		case row.want != "" && (!errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), row.want) || codes != nil):
			t.Errorf("%s: %d codes, %v", row.name, len(codes), err)
		}
	}
}

func TestOfficerCap(t *testing.T) {
	ctx := context.Background()
	d, now := newDesk(t, 10)
	mustIssue(t, d, Request{Officer: "lan", Count: 7})
	if _, err := d.Issue(ctx, Request{Officer: "lan", Report: diagnosis.SelfReport, Count: 4, Long: true}); !errors.Is(err, ErrOfficerCap) {
		t.Errorf("over the cap: %v", err)
	}
	mustIssue(t, d, Request{Officer: "lan", Count: 3})
	mustIssue(t, d, Request{Officer: "minh", Count: 10})
	// It holds over a restart, and until the day is over.
	d = openDesk(t, d.DB, 10, now)
	if _, err := d.Issue(ctx, Request{Officer: "lan", Report: diagnosis.SelfReport, Count: 1}); !errors.Is(err, ErrOfficerCap) {
		t.Errorf("over the cap after a restart: %v", err)
	}
	*now = now.Add(24 * time.Hour)
	mustIssue(t, d, Request{Officer: "lan", Count: 10})
}

func TestShortCodesAlive(t *testing.T) {
	ctx := context.Background()
	d, now := newDesk(t, 10_000)
	codes := mustIssue(t, d, Request{Count: MaxShortAlive})
	more := Request{Count: 1, Report: diagnosis.ConfirmedTest}
	if _, err := d.Issue(ctx, more); !errors.Is(err, ErrShortFull) {
		t.Errorf("one more than %d: %v", MaxShortAlive, err)
	}
	mustIssue(t, d, Request{Count: 1, Long: true})
	if ok, err := d.Revoke(ctx, codes[0]); !ok || err != nil {
		t.Fatal(ok, err)
	}
	mustIssue(t, d, more)
	d = openDesk(t, d.DB, 10_000, now)
	if st := d.Status(); st.ShortAlive != MaxShortAlive || st.LongAlive != 1 || st.Paused {
		t.Errorf("after a restart: %+v", st)
	}
	*now = now.Add(ShortTTL)
	if st := d.Status(); st.ShortAlive != 0 || st.LongAlive != 1 {
		t.Errorf("an hour later: %+v", st)
	}
	mustIssue(t, d, more)
	*now = now.Add(LongTTL - ShortTTL)
	if st := d.Status(); st.ShortAlive != 0 || st.LongAlive != 0 {
		t.Errorf("a day later: %+v", st)
	}
}

func TestConcurrentIssuingKeepsTheCaps(t *testing.T) {
	d, _ := newDesk(t, 1000)
	var group sync.WaitGroup
	for i := range 40 {
		group.Go(func() {
			_, err := d.Issue(context.Background(), Request{Officer: fmt.Sprint(i), Report: diagnosis.ConfirmedTest, Count: 20})
			if err != nil && !errors.Is(err, ErrShortFull) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if st := d.Status(); st.ShortAlive != MaxShortAlive {
		t.Errorf("%d short codes alive", st.ShortAlive)
	}
}

func TestRevoke(t *testing.T) {
	ctx := context.Background()
	d, now := newDesk(t, 100)
	code := mustIssue(t, d, Request{Count: 2})
	if _, err := d.Revoke(ctx, "12"); !errors.Is(err, ErrForm) {
		t.Errorf("no code: %v", err)
	}
	if ok, err := d.Revoke(ctx, "0000000000000000"); ok || err != nil {
		t.Errorf("never issued: %v, %v", ok, err)
	}
	if ok, err := d.Revoke(ctx, code[0][:3]+"-"+code[0][3:]); !ok || err != nil {
		t.Errorf("as typed: %v, %v", ok, err)
	}
	if _, err := d.Redeem(code[0], Short, [32]byte{}); !errors.Is(err, ErrUnknown) {
		t.Errorf("redeemed after it was revoked: %v", err)
	}
	*now = now.Add(ShortTTL)
	if ok, err := d.Revoke(ctx, code[1]); ok || err != nil {
		t.Errorf("expired: %v, %v", ok, err)
	}
}

// The database holds neither codes nor officers.
func TestOnlyHashesAreKept(t *testing.T) {
	d, _ := newDesk(t, 100)
	codes := append(mustIssue(t, d, Request{Officer: "Nguyễn Thị Lan", Count: 5}), mustIssue(t, d, Request{Officer: "Nguyễn Thị Lan", Count: 5, Long: true})...)
	it, err := d.DB.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	rows := 0
	for it.First(); it.Valid(); it.Next() {
		rows++
		for _, text := range append(codes, "Lan", "Nguy") {
			if strings.Contains(string(it.Key())+string(it.Value()), text) {
				t.Errorf("a %c row holds %q", it.Key()[0], text)
			}
		}
	}
	if rows != 11 {
		t.Errorf("%d rows for ten codes of one officer", rows)
	}
}

func TestSweep(t *testing.T) {
	d, now := newDesk(t, 100)
	mustIssue(t, d, Request{Officer: "lan", Count: 5})
	mustIssue(t, d, Request{Officer: "lan", Count: 3, Long: true, TTL: LongTTL})
	for _, row := range []struct {
		after time.Duration
		rows  int
	}{
		{0, 9}, {ShortTTL + keepExpired, 9}, {ShortTTL + keepExpired + time.Second, 4},
		{12 * time.Hour, 3}, // the officer's count of yesterday
		{LongTTL + keepExpired + time.Second, 0},
	} {
		*now = deskNow.Add(row.after)
		b := d.DB.NewBatch()
		if err := d.Sweep(b); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(pebble.Sync); err != nil {
			t.Fatal(err)
		}
		it, err := d.DB.NewIter(nil)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for it.First(); it.Valid(); it.Next() {
			n++
		}
		it.Close()
		if n != row.rows {
			t.Errorf("after %v: %d rows, want %d", row.after, n, row.rows)
		}
	}
}

// Over any hour wrong codes cost no more than the budget, however they are spread.
func TestBudget(t *testing.T) {
	for _, alive := range []int{1, 7, 500} {
		var b budget
		var taken []time.Time
		for s := 0; s < 3*3600; s++ {
			now := deskNow.Add(time.Duration(s) * time.Second)
			// Bursts, pauses and steady trickles.
			tries := map[int]int{0: 50, 1: 1, 2: 0, 3: 10_000}[s/500%4]
			for range tries {
				if !b.take(now, alive) {
					break
				}
				taken = append(taken, now)
			}
		}
		most := guessBudget / alive
		for i, from := 0, 0; i < len(taken); i++ {
			for taken[i].Sub(taken[from]) >= time.Hour {
				from++
			}
			if n := i - from + 1; n > most {
				t.Fatalf("%d alive: %d wrong codes within an hour, want at most %d", alive, n, most)
			}
		}
		if len(taken) < most*2 {
			t.Errorf("%d alive: only %d wrong codes in three hours; the budget does not come back", alive, len(taken))
		}
	}
}

func TestPausedUntil(t *testing.T) {
	var b budget
	now := deskNow.Add(17 * time.Second)
	for b.take(now, 500) {
	}
	until := b.pausedUntil(now, 500)
	if d := until.Sub(now); d <= 0 || d > time.Hour+time.Minute {
		t.Fatalf("paused for %v", d)
	}
	if b.take(until.Add(-time.Second), 500) {
		t.Error("taken before the pause was over")
	}
	if !b.take(until, 500) {
		t.Error("not taken after the pause")
	}
}

// FuzzCodeRow: a damaged row gives an error or a value that is written as the same row.
func FuzzCodeRow(f *testing.F) {
	for _, r := range []row{{state: issued, kind: Short, onset: 5}, {state: spent, kind: Long}, {state: revoked, kind: Long}} {
		f.Add(codeRowKey(ID{1}), r.encode())
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		id, r, err := parseCodeRow(key, value)
		if err == nil && (string(r.encode()) != string(value) || string(codeRowKey(id)[1:]) != string(key[1:])) {
			t.Error("a code's row is written otherwise than it was read")
		}
	})
}
