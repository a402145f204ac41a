package phone

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
)

// near are sightings of a key from a second of its first interval on, each so many seconds
// after the one before.
func near(k diagnosis.Key, from int64, gaps ...int64) (list []Sighting) {
	at := k.Scheme.Time(k.Start).Unix() + from
	for _, gap := range append([]int64{0}, gaps...) {
		at += gap
		interval := (at - k.Scheme.Time(k.Start).Unix()) / k.Scheme.IntervalSeconds()
		s := heard(k, int(interval))[0]
		s.Seen = at
		list = append(list, s)
	}
	return list
}

// late moves sightings, whose IDs stay.
func late(list []Sighting, by int64) []Sighting {
	for i := range list {
		list[i].Seen += by
	}
	return list
}

// contactRow is what a phone heard, and what comes of it.
type contactRow struct {
	name  string
	heard []Sighting
	rule  Matching
	want  []Contact
}

// contactTree is a tree with 50 keys of many kinds, and an ID set of ten more.
func contactTree(t *testing.T) (p *place, gaen, seeds []diagnosis.Key) {
	t.Helper()
	p = newPlace(t)
	gaen, seeds = p.draw(diagnosis.GAEN, 30), p.draw(diagnosis.Bluezone, 30)
	for i, onset := range []diagnosis.DaysSinceOnset{0, 6, -2, 10, diagnosis.OnsetUnknown, 0} {
		gaen[i].Onset = onset
	}
	gaen[5].Report = diagnosis.Revoked
	gaen[6].Start += 72 // from noon until the next noon
	p.window(gaen, exportlog.KeySet)
	p.window(seeds[:20], exportlog.KeySet)
	p.window(seeds[20:], exportlog.IDSet)
	return p, gaen, seeds
}

func contactRows(gaen, seeds []diagnosis.Key) []contactRow {
	rule := Matching{Minutes: 15, Tolerance: 120, OnsetFrom: -2, OnsetTo: 3}
	but := func(change func(*Matching)) Matching { r := rule; change(&r); return r }
	quarter := []int64{300, 300}
	found := func(minutes ...int) (list []Contact) {
		for _, m := range minutes {
			list = append(list, Contact{day - 1, m})
		}
		return list
	}
	return []contactRow{
		{"a quarter of an hour", near(gaen[0], 900, quarter...), rule, found(15)},
		{"that, of Bluezone", near(seeds[0], 900, quarter...), rule, found(15)},
		{"a minute less", near(gaen[0], 900, 300, 240), rule, nil},
		{"a second less", near(gaen[0], 900, 300, 299), rule, nil},
		{"a sighting, once", near(gaen[0], 900), but(func(m *Matching) { m.Minutes = 5 }), found(5)},
		{"for longer than that", near(gaen[0], 900), but(func(m *Matching) { m.Minutes = 6 }), nil},
		{"three times on one day", near(gaen[0], 900, 7200, 7200), rule, found(15)},
		{"without a gap for an hour", near(gaen[0], 900, slices.Repeat([]int64{60}, 55)...), rule, found(60)},
		{"one moment, often", near(gaen[0], 900, 0, 0, 0, 0), rule, nil},
		{"two cases, half of it each", slices.Concat(near(gaen[0], 900, 180), near(gaen[7], 3600, 180)), rule, nil},
		{"two cases, each long enough", slices.Concat(near(gaen[0], 900, quarter...), near(seeds[7], 900, 300, 300, 300)), rule, found(20, 15)},
		{"in any order", slices.Concat(near(gaen[0], 1100, 300), near(gaen[0], 800)), rule, found(15)},
		{"over midnight", near(gaen[6], 12*3600-600, 300, 300), rule, nil},
		{"after midnight", near(gaen[6], 12*3600, quarter...), rule, []Contact{{day, 15}}},
		{"before midnight and after, long enough on each side", near(gaen[6], 12*3600-900, 300, 300, 300, 300, 300), rule, []Contact{{day - 1, 15}, {day, 15}}},

		{"two minutes late", late(near(gaen[0], 599, 600, 600), 120), rule, found(15)},
		{"a second later", late(near(gaen[0], 599, 600, 600), 121), rule, nil},
		{"two minutes early", late(near(gaen[0], 600, 600, 600), -120), rule, found(15)},
		{"a second earlier", late(near(gaen[0], 600, 600, 600), -121), rule, nil},
		{"an hour late, which the rule allows", late(near(seeds[0], 900, quarter...), 3600), but(func(m *Matching) { m.Tolerance = 3600 }), found(15)},
		{"clocks that do not differ", near(gaen[0], 600, quarter...), but(func(m *Matching) { m.Tolerance = 0 }), found(15)},
		{"a second's difference", late(near(gaen[0], 600, 600, 600), -1), but(func(m *Matching) { m.Tolerance = 0 }), nil},
		{"that, at the other end", late(near(gaen[0], 599, 600, 600), 1), but(func(m *Matching) { m.Tolerance = 0 }), nil},

		{"first day of the range", near(gaen[2], 900, quarter...), rule, found(15)},
		{"a day before it", near(gaen[2], 900, quarter...), but(func(m *Matching) { m.OnsetFrom = -1 }), nil},
		{"after the range", near(gaen[1], 900, quarter...), rule, nil},
		{"a wider range", near(gaen[1], 900, quarter...), but(func(m *Matching) { m.OnsetTo = 6 }), found(15)},
		{"a day after it", near(gaen[3], 900, quarter...), but(func(m *Matching) { m.OnsetTo = 9 }), nil},
		{"of unknown onset", near(gaen[4], 900, quarter...), but(func(m *Matching) { m.OnsetFrom, m.OnsetTo = 14, 14 }), found(15)},
		{"revoked", near(gaen[5], 900, quarter...), rule, nil},

		{"an ID set", near(seeds[25], 850, 300, 300), rule, found(15)},
		{"an ID set, an hour late", late(near(seeds[25], 850, 300, 300), 3600), but(func(m *Matching) { m.Tolerance = 3600 }), found(15)},
		{"an ID set, in one interval", near(seeds[25], 900, quarter...), rule, nil},
		{"nobody", near(diagnosis.Key{Scheme: diagnosis.GAEN, Start: gaen[0].Start, Count: 144}, 900, quarter...), rule, nil},
	}
}

// TestContacts: near one case, on one day, for long enough, within the tolerance and the
// onset range of the rule.
func TestContacts(t *testing.T) {
	p, gaen, seeds := contactTree(t)
	for _, row := range contactRows(gaen, seeds) {
		got, err := Contacts(context.Background(), row.heard, []string{p.dir}, MatchOptions{Policy: p.policy}, row.rule)
		if err != nil || !slices.Equal(got, row.want) {
			t.Errorf("%s: %v, %v; want %v", row.name, got, err, row.want)
		}
	}
}

// TestLook is an app from notices to warning: it decides by those that hold, those it knows
// if the tree gives none, and what was found counts although something else failed.
func TestLook(t *testing.T) {
	s, ctx := newService(t), context.Background()
	home := s.place.draw(diagnosis.GAEN, 20)
	s.place.log = exportlog.Tree{} // windows come first, the keyring again behind them
	s.place.window(home, exportlog.KeySet)
	s.announce(s.keyring())
	var stored []byte
	look := func(heard []Sighting, others ...string) ([]Contact, *Notices, error) {
		t.Helper()
		a := s.app(nil)
		if stored != nil {
			state, err := ParseState(stored)
			if err != nil {
				t.Fatal(err)
			}
			a.State = state
		}
		a.Save = func(state State) (err error) {
			stored, err = state.Bytes()
			return err
		}
		got, err := a.Look(ctx, heard, others...)
		return got, a.State.Notices, err
	}
	long, short := near(home[1], 900, 300, 300), near(home[1], 900, 300)

	got, n, err := look(long)
	if err != nil || len(got) != 1 || n != nil || !n.Warning().BuiltIn {
		t.Fatalf("before any notice: %v, %v, %v", got, n, err)
	}
	if got, _, err := look(short); err != nil || len(got) > 0 {
		t.Errorf("ten minutes, by the built-in rule: %v, %v", got, err)
	}
	s.place.post(goodNotices, day*86400) // ten minutes
	got, n, err = look(short)
	if err != nil || !slices.Equal(got, []Contact{{day - 1, 10}}) || n.Warning("en").Title != "Close contact" {
		t.Errorf("by the published rule: %v, %v", got, err)
	}
	s.place.remove(noticesPath)
	got, n, err = look(short)
	if err == nil || !strings.Contains(err.Error(), noticesPath) || len(got) != 1 || n.Warning("en").Title != "Close contact" {
		t.Errorf("withheld after a restart: %v, %v", got, err)
	}
	s.place.post(goodNotices, day*86400+1)
	abroad := newPlaceOf(t, "other.example", 9, exportlog.PolicyTerms{})
	abroad.window(abroad.draw(diagnosis.GAEN, 20), exportlog.KeySet)
	if got, _, err := look(short, abroad.dir); err == nil || !strings.Contains(err.Error(), "no log of this origin") || len(got) != 1 {
		t.Errorf("another feed that is not pinned: %v, %v", got, err)
	}
	a := s.app(nil)
	full := errors.New("disk full")
	a.Save = func(State) error { return full }
	if got, err := a.Look(ctx, short); !errors.Is(err, full) || len(got) != 1 {
		t.Errorf("a State that cannot be stored: %v, %v", got, err)
	}
}
