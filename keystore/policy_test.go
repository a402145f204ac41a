package keystore

import (
	"context"
	"testing"
	"time"

	"bluekey/keystore/diagnosis"
)

// at makes a key by its numbers, without any check.
func at(scheme diagnosis.Scheme, n uint64, start diagnosis.Interval, count int) diagnosis.Key {
	k := diagnosis.Key{Scheme: scheme, Start: start, Count: uint8(count)}
	copy(k.Secret[:], secretOf(n, scheme))
	return k
}

func TestAcceptPolicy(t *testing.T) {
	now := testStart
	const G, B = diagnosis.GAEN, diagnosis.Bluezone
	gNow, bNow := G.IntervalAt(now), B.IntervalAt(now)
	gDay, bDay := gNow/144*144, bNow/96*96
	many := func(scheme diagnosis.Scheme, n int) (keys []diagnosis.Key) {
		for i := range n {
			// Three of each start for GAEN, one a day for Bluezone.
			switch scheme {
			case G:
				keys = append(keys, at(G, uint64(i), gDay-144*diagnosis.Interval(1+i/3), 144))
			default:
				keys = append(keys, at(B, uint64(i), bDay-96*diagnosis.Interval(i), 96))
			}
		}
		return keys
	}
	one := func(k diagnosis.Key) []diagnosis.Key { return []diagnosis.Key{k} }
	tooOld := now.Add(-MaxAge)

	for _, row := range []struct {
		name   string
		keys   []diagnosis.Key
		reason Reason // empty: accepted
		field  string
		index  int
	}{
		{"one GAEN key", one(at(G, 1, gDay-144, 144)), "", "", 0},
		{"a key of a few intervals", one(at(G, 1, gDay-30, 20)), "", "", 0},
		{"today's key, not over yet", one(at(G, 1, gDay, 144)), "", "", 0},
		{"a key that starts in this interval", one(at(G, 1, gNow, 1)), "", "", 0},
		{"30 GAEN keys", many(G, 30), "", "", 0},
		{"three of one start", many(G, 3), "", "", 0},
		{"three of one start, unequal ends, then the next", []diagnosis.Key{
			at(G, 1, gDay-288, 10), at(G, 2, gDay-288, 144), at(G, 3, gDay-288, 20), at(G, 4, gDay-144, 144)}, "", "", 0},
		{"keys in any order", []diagnosis.Key{at(G, 1, gDay-144, 144), at(G, 2, gDay-432, 144), at(G, 3, gDay-288, 144)}, "", "", 0},
		{"16 day seeds", many(B, 16), "", "", 0},
		{"today's seed", one(at(B, 1, bDay, 96)), "", "", 0},
		{"a seed of the rest of a day", one(at(B, 1, bDay-96+10, 86)), "", "", 0},
		{"a key that ended exactly 15 days ago", one(at(G, 1, G.IntervalAt(tooOld)-144, 144)), "", "", 0},

		{"no key", nil, Malformed, "keys", -1},
		{"31 GAEN keys", many(G, 31), Malformed, "keys", -1},
		{"17 day seeds", many(B, 17), Malformed, "keys", -1},
		{"two schemes", []diagnosis.Key{at(G, 1, gDay-144, 144), at(B, 2, bDay-96, 96)}, Malformed, "scheme", 1},
		{"no scheme", one(diagnosis.Key{Start: gDay, Count: 144}), Malformed, "scheme", 0},
		{"scheme 3", one(diagnosis.Key{Scheme: 3, Start: gDay, Count: 144}), Malformed, "scheme", 0},
		{"count 0", one(at(G, 1, gDay-144, 0)), Malformed, "count", 0},
		{"count 145", one(at(G, 1, gDay-144, 145)), Malformed, "count", 0},
		{"a GAEN secret of 32 bytes", one(func() diagnosis.Key { k := at(G, 1, gDay, 144); k.Secret[31] = 1; return k }()), Malformed, "key", 0},
		{"a seed that does not reach midnight", one(at(B, 1, bDay-96, 95)), Malformed, "count", 0},
		{"a seed past midnight", one(at(B, 1, bDay-95, 96)), Malformed, "count", 0},
		{"beyond the last interval", one(at(G, 1, 1<<32-1, 144)), Malformed, "start", 0},
		{"risk 9", one(func() diagnosis.Key { k := at(G, 1, gDay-144, 144); k.Risk = 9; return k }()), Malformed, "risk", 0},
		{"the same key twice", []diagnosis.Key{at(G, 1, gDay-144, 144), at(G, 2, gDay-288, 144), at(G, 1, gDay-144, 144)}, Malformed, "key", 2},
		{"one secret, two starts", []diagnosis.Key{at(G, 1, gDay-144, 144), at(G, 1, gDay-288, 144)}, Malformed, "key", 1},

		{"starts in the next interval", one(at(G, 1, gNow+1, 144)), Future, "start", 0},
		{"tomorrow's seed", one(at(B, 1, bDay+96, 96)), Future, "start", 0},
		{"the second of two starts tomorrow", []diagnosis.Key{at(G, 1, gDay, 144), at(G, 2, gDay+144, 144)}, Future, "start", 1},

		{"ended 15 days and an interval ago", one(at(G, 1, G.IntervalAt(tooOld)-145, 144)), TooOld, "start", 0},
		{"a seed of 17 days ago", one(at(B, 1, bDay-17*96, 96)), TooOld, "start", 0},
		{"start 0", one(at(G, 1, 0, 144)), TooOld, "start", 0},

		{"four of one start", []diagnosis.Key{
			at(G, 1, gDay-144, 144), at(G, 2, gDay-144, 144), at(G, 3, gDay-144, 144), at(G, 4, gDay-144, 144)}, Overlap, "start", 3},
		{"one begins within another", []diagnosis.Key{at(G, 1, gDay-144, 144), at(G, 2, gDay-100, 50)}, Overlap, "start", 1},
		{"one begins within the longest of one start", []diagnosis.Key{
			at(G, 1, gDay-144, 100), at(G, 2, gDay-144, 5), at(G, 3, gDay-60, 10)}, Overlap, "start", 2},
		{"the earlier one comes last in the upload", []diagnosis.Key{at(G, 1, gDay-100, 50), at(G, 2, gDay-144, 144)}, Overlap, "start", 0},
		{"two seeds of one day", []diagnosis.Key{at(B, 1, bDay-96, 96), at(B, 2, bDay-90, 90)}, Overlap, "start", 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, _ := newStore(t)
			permit := permitFor("a code", [32]byte{}, uint32(now.Unix()/86400))
			_, err := s.Upload(context.Background(), Upload{permit, row.keys})
			if row.reason == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			r := wantRefusal(t, err, row.reason)
			if r.Field != row.field || r.Index != row.index || r.Retry {
				t.Errorf("got %+v, want field %s of key %d and no retry", r, row.field, row.index)
			}
			// Nothing was stored, and the permit is as good as before.
			for _, scheme := range diagnosis.Schemes {
				if n := len(dueKeys(t, s, scheme, now.Add(100*24*time.Hour))); n != 0 {
					t.Errorf("%d keys of a refused upload are stored", n)
				}
			}
			if _, err := s.Upload(context.Background(), Upload{permit, one(at(G, 99, gDay-144, 144))}); err != nil {
				t.Error(err)
			}
		})
	}
}

// A key whose memory was dropped stays refused when the clock is set back.
func TestClockSetBack(t *testing.T) {
	s, c := newStore(t)
	old := dayKey(t, diagnosis.GAEN, 1, c.Now(), 14)
	mustUpload(t, s, mustIssue(t, s, 1)[0], []diagnosis.Key{old})
	c.advance(4 * 24 * time.Hour)
	if got := publish(t, s, diagnosis.GAEN, time.Time{}); len(got) != 1 {
		t.Fatalf("%d keys published", len(got))
	}
	c.set(testStart)
	_, err := handIn(context.Background(), s, mustIssue(t, s, 1)[0], []diagnosis.Key{old})
	wantRefusal(t, err, TooOld)
}

func TestBuckets(t *testing.T) {
	s, c := newStore(t)
	midnight := c.Now().Truncate(24 * time.Hour)
	today := diagnosis.GAEN.IntervalAt(midnight)
	for _, row := range []struct {
		name string
		key  diagnosis.Key
		want time.Time
	}{
		{"over and due: the open window", at(diagnosis.GAEN, 1, today-144, 144), midnight.Add(12 * time.Hour)},
		{"today's: the period in which it falls due", at(diagnosis.GAEN, 2, today, 144), midnight.Add(24 * time.Hour)},
		{"widened to the whole day", at(diagnosis.GAEN, 3, today, 10), midnight.Add(24 * time.Hour)},
		{"across midnight, due 12:40 tomorrow", at(diagnosis.GAEN, 4, today+64, 144), midnight.Add(36 * time.Hour)},
		{"today's seed", at(diagnosis.Bluezone, 5, diagnosis.Bluezone.IntervalAt(midnight), 96), midnight.Add(24 * time.Hour)},
	} {
		k := Coarse(row.key)
		if got := instant(s.bucket(&k, seconds(s.WindowStart(k.Scheme)))); !got.Equal(row.want) {
			t.Errorf("%s: bucket %v, want %v", row.name, got, row.want)
		}
	}
}

// The promised time is that of the window that publishes a lone key, the first one that ends
// more than hold after its bucket, and renderTime: also where windows were missed, and never
// later than the rule for early publication allows.
func TestPublishBy(t *testing.T) {
	for _, hold := range []time.Duration{0, time.Hour, testPeriod, 3*testPeriod + time.Second} {
		for minute := range 24 * 60 {
			now := testStart.Add(time.Duration(minute) * time.Minute)
			day := diagnosis.GAEN.IntervalAt(now) / 144 * 144
			for _, k := range []diagnosis.Key{at(diagnosis.GAEN, 1, day-144, 144), at(diagnosis.GAEN, 1, day, 144), at(diagnosis.GAEN, 1, day, int(diagnosis.GAEN.IntervalAt(now)-day)+1)} {
				for missed := range 4 {
					s := &Store{opt: Options{Period: testPeriod, Hold: hold, Now: func() time.Time { return now }}}
					lastEnd := now.Truncate(testPeriod)
					closed := lastEnd.Add(-time.Duration(missed) * testPeriod)
					s.closed[k.Scheme] = seconds(closed)
					bucket := instant(s.bucket(&k, seconds(closed)))
					end := lastEnd.Add(testPeriod)
					for !(bucket.Before(end) && end.Sub(bucket) > hold) {
						end = end.Add(testPeriod)
					}
					by := s.publishBy([]diagnosis.Key{k})
					if !by.Equal(end.Add(renderTime)) {
						t.Fatalf("at %v, hold %v, windows to %v closed: public after the window to %v, but promised by %v", now, hold, closed, end, by)
					}
					from := max(now.Unix(), due(&k))
					if latest := time.Unix(from, 0).Add(testPeriod + hold + renderTime); by.After(latest) {
						t.Fatalf("at %v, hold %v, windows to %v closed: promised by %v, which is later than %v", now, hold, closed, by, latest)
					}
				}
			}
		}
	}
}

func TestReceiptNamesTheWindow(t *testing.T) {
	midnight := testStart.Truncate(24 * time.Hour)
	for _, row := range []struct {
		name string
		keys []diagnosis.Key
		want time.Time // end of the window
	}{
		{"yesterday's keys", caseKeys(t, diagnosis.GAEN, 1, testStart, 14), midnight.Add(24 * time.Hour)},
		{"today's key, due at 2 tomorrow", []diagnosis.Key{dayKey(t, diagnosis.GAEN, 99, testStart, 0)}, midnight.Add(32 * time.Hour)},
	} {
		s, c := newStore(t)
		c.advance(testPeriod)
		closeWindow(t, s, diagnosis.GAEN)
		c.set(midnight.Add(19*time.Hour + 21*time.Minute))
		if got := mustUpload(t, s, mustIssue(t, s, 1)[0], row.keys).PublishBy; !got.Equal(row.want.Add(renderTime)) {
			t.Errorf("%s, uploaded at 19:21: promised by %v, want that of the window to %v", row.name, got, row.want)
		}
	}
}
