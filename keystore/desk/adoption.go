package desk

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Level is how high a unit stands in the tree.
type Level string

const (
	Province   Level = "province"
	DistrictOf Level = "district" // abolished in Viet Nam in 2025; a tree may do without
	Commune    Level = "commune"
)

var levels = []Level{Province, DistrictOf, Commune}

// Unit is an administrative unit, for which figures are kept.
type Unit struct {
	Code   string `json:"code"`             // as the statistics office gives it
	Parent string `json:"parent,omitempty"` // empty at the top
	Level  Level  `json:"level"`
	Name   string `json:"name"`
	Closed string `json:"closed,omitempty"` // first day (YYYY-MM-DD) on which it is no more
}

// Kind of a figure.
const (
	Installs    = "installs"
	Smartphones = "smartphones"
	People      = "people"
)

// What a figure counts. They are different things: one person may have two phones, and
// one phone two subscriptions.
const (
	OfUsers       = "users"
	OfSubscribers = "subscribers"
	OfSmartphones = "smartphones"
	OfPeople      = "people"
)

// Counted lists, for each kind of figure, what it may count. The first is the usual one.
var Counted = map[string][]string{
	Installs:    {OfSubscribers, OfUsers, OfSmartphones},
	Smartphones: {OfSmartphones},
	People:      {OfPeople},
}

// Kinds lists the kinds of figures in the order of pages.
var Kinds = [...]string{Installs, Smartphones, People}

// MaxFigure is the largest figure that is taken: more than anybody counts.
const MaxFigure = 1_000_000_000

// Figure is one count of one unit on one day, as somebody reported it. It is never
// changed: another one that corrects it, or that has the same unit, kind, thing counted
// and day, takes its place, and both stay on record.
type Figure struct {
	Number    uint64    `json:"n"`
	Unit      string    `json:"unit"`
	Kind      string    `json:"kind"`
	Of        string    `json:"of"`
	Value     int64     `json:"value"`
	AsOf      string    `json:"as_of"` // YYYY-MM-DD
	Source    string    `json:"source"`
	Basis     string    `json:"basis,omitempty"` // number of the document it rests on
	Corrects  uint64    `json:"corrects,omitempty"`
	Withdrawn bool      `json:"withdrawn,omitempty"` // it only takes away what it corrects
	By        string    `json:"by"`
	At        time.Time `json:"at"`
}

// Quote is a rate as a source printed it, kept beside the counts and never used for
// anything.
type Quote struct {
	Number  uint64    `json:"n"`
	Unit    string    `json:"unit"`
	AsOf    string    `json:"as_of"`
	Percent Percent   `json:"percent"`
	Source  string    `json:"source"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
}

// Goal is what the whole country aims at.
type Goal struct {
	Number uint64    `json:"n"`
	Target int64     `json:"target"`
	Of     string    `json:"of"`
	People int64     `json:"people"` // of the country: a unit's share of the goal is its share of them
	Until  string    `json:"until"`  // YYYY-MM-DD
	Source string    `json:"source"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
}

// FieldError says which field of an entry is wrong. Problem is one of a closed list that
// the console has words for: required, long, unknown, number, range, date, future, same,
// quote, encoding.
type FieldError struct {
	Field, Problem string
	Row            int // in a CSV file, from 1 (the header); 0 elsewhere
}

func (e *FieldError) Error() string {
	if e.Row > 0 {
		return fmt.Sprintf("row %d, column %s: %s", e.Row, e.Field, e.Problem)
	}
	return fmt.Sprintf("%s: %s", e.Field, e.Problem)
}

var (
	// ErrNoUnit means that there is no such unit.
	ErrNoUnit = errors.New("no such unit")
	// ErrNotYours means that an account may not write for this unit.
	ErrNotYours = errors.New("your account does not reach this unit")
	// ErrMeanwhile means that somebody else wrote for the unit since the page was made.
	ErrMeanwhile = errors.New("somebody else has entered figures for this unit meanwhile")
)

// Today is the day in Viet Nam, which has no summer time.
func (o *Office) Today() string { return o.Now().In(VietNam).Format(time.DateOnly) }

// VietNam is the time zone of every day on paper.
var VietNam = time.FixedZone("+07", 7*3600)

func checkDay(field, day, today string) error {
	if day == "" {
		return &FieldError{Field: field, Problem: "required"}
	}
	t, err := time.Parse(time.DateOnly, day)
	if err != nil || t.Year() < 2000 || t.Year() > 2199 {
		return &FieldError{Field: field, Problem: "date"}
	}
	if today != "" && day > today {
		return &FieldError{Field: field, Problem: "future"}
	}
	return nil
}

func cleanField(field string, s *string, limit int, required bool) error {
	clean, fits := CleanText(*s, limit)
	switch {
	case !fits:
		return &FieldError{Field: field, Problem: "long"}
	case required && clean == "":
		return &FieldError{Field: field, Problem: "required"}
	}
	*s = clean
	return nil
}

// check cleans a figure and says what is wrong with it.
func (f *Figure) check(l *Ledger, today string) error {
	if _, known := l.Units[f.Unit]; !known {
		return &FieldError{Field: "unit", Problem: "unknown"}
	}
	of, known := Counted[f.Kind]
	if !known {
		return &FieldError{Field: "kind", Problem: "unknown"}
	}
	if !slices.Contains(of, f.Of) {
		return &FieldError{Field: "of", Problem: "unknown"}
	}
	if f.Value < 0 || f.Value > MaxFigure {
		return &FieldError{Field: "value", Problem: "range"}
	}
	return cmp.Or(
		checkDay("as_of", f.AsOf, today),
		cleanField("source", &f.Source, 200, true),
		cleanField("basis", &f.Basis, 100, false),
	)
}

// AddFigures enters figures, all or none. seen is the number of the newest figure of the
// unit that whoever enters them had before their eyes: if there is a newer one by another
// account, the error is ErrMeanwhile. It is not looked at for figures of a file.
func (o *Office) AddFigures(by Account, figures []Figure, seen *uint64) error {
	var added []Figure
	return o.write(func(b *pebble.Batch) error {
		l := o.Ledger()
		for i, f := range figures {
			row := 0
			if seen == nil {
				row = i + 2
			}
			if err := f.check(l, o.Today()); err != nil {
				return inRow(err, row)
			}
			if !l.Within(f.Unit, by.Unit) {
				return inRow(ErrNotYours, row)
			}
			if f.Corrects != 0 {
				old, known := l.figure(f.Corrects)
				if !known || old.Unit != f.Unit || old.Kind != f.Kind {
					return &FieldError{Field: "corrects", Problem: "unknown", Row: row}
				}
			} else if f.Withdrawn {
				return &FieldError{Field: "corrects", Problem: "required", Row: row}
			}
			if newest := l.newest(f.Unit); seen != nil && newest.Number > *seen && newest.By != by.ID {
				return ErrMeanwhile
			}
			f.Number, f.By, f.At = o.last.figure+uint64(i)+1, by.ID, o.Now()
			if err := put(b, figurePaper, numbered(f.Number), f); err != nil {
				return err
			}
			added = append(added, f)
		}
		if len(added) == 0 {
			return &FieldError{Field: "value", Problem: "required"}
		}
		return o.note(b, by.ID, "figures", fmt.Sprint(len(added)))
	}, func() {
		o.last.figure += uint64(len(added))
		o.paper.Lock()
		defer o.paper.Unlock()
		o.paper.figures = append(o.paper.figures, added...)
		o.relay()
	})
}

func inRow(err error, row int) error {
	if f := (*FieldError)(nil); errors.As(err, &f) {
		f.Row = row
		return f
	}
	if row > 0 {
		return fmt.Errorf("row %d: %w", row, err)
	}
	return err
}

// AddQuote keeps a printed rate.
func (o *Office) AddQuote(by Account, q Quote) error {
	return o.write(func(b *pebble.Batch) error {
		l := o.Ledger()
		if _, known := l.Units[q.Unit]; !known {
			return ErrNoUnit
		}
		if !l.Within(q.Unit, by.Unit) {
			return ErrNotYours
		}
		if err := cmp.Or(checkDay("as_of", q.AsOf, o.Today()), cleanField("source", &q.Source, 200, true)); err != nil {
			return err
		}
		q.Number, q.By, q.At = o.last.quote+1, by.ID, o.Now()
		if err := put(b, quotePaper, numbered(q.Number), q); err != nil {
			return err
		}
		return o.note(b, by.ID, "quote", q.Unit)
	}, func() {
		o.last.quote++
		o.paper.Lock()
		defer o.paper.Unlock()
		o.paper.quotes = append(o.paper.quotes, q)
		o.relay()
	})
}

// SetGoal sets the national goal anew; earlier ones stay on record.
func (o *Office) SetGoal(by Account, g Goal) error {
	return o.write(func(b *pebble.Batch) error {
		switch {
		case g.Target < 1 || g.Target > MaxFigure:
			return &FieldError{Field: "target", Problem: "range"}
		case g.People < g.Target || g.People > 10*MaxFigure:
			return &FieldError{Field: "people", Problem: "range"}
		case !slices.Contains(Counted[Installs], g.Of):
			return &FieldError{Field: "of", Problem: "unknown"}
		}
		if err := cmp.Or(checkDay("until", g.Until, ""), cleanField("source", &g.Source, 200, true)); err != nil {
			return err
		}
		g.Number, g.By, g.At = o.last.goal+1, by.ID, o.Now()
		if err := put(b, goalPaper, numbered(g.Number), g); err != nil {
			return err
		}
		return o.note(b, by.ID, "goal", fmt.Sprint(g.Target))
	}, func() {
		o.last.goal++
		o.paper.Lock()
		defer o.paper.Unlock()
		o.paper.goals = append(o.paper.goals, g)
		o.relay()
	})
}

// SetUnits adds units or changes those with the same code, all or none. Units not among
// them stay as they are.
func (o *Office) SetUnits(by Account, units []Unit) error {
	return o.write(func(b *pebble.Batch) error {
		tree := maps.Clone(o.Ledger().Units)
		for i := range units {
			u := &units[i]
			if err := u.check(); err != nil {
				return inRow(err, i+2)
			}
			if slices.ContainsFunc(units[:i], func(other Unit) bool { return other.Code == u.Code }) {
				return &FieldError{Field: "code", Problem: "same", Row: i + 2}
			}
			tree[u.Code] = *u
		}
		for i, u := range units {
			parent, known := tree[u.Parent]
			if u.Parent != "" && (!known || slices.Index(levels, parent.Level) >= slices.Index(levels, u.Level)) {
				return &FieldError{Field: "parent", Problem: "unknown", Row: i + 2}
			}
		}
		// A changed level may have put a unit that is not in the list above its parent.
		for _, u := range tree {
			parent := tree[u.Parent]
			if u.Parent != "" && slices.Index(levels, parent.Level) >= slices.Index(levels, u.Level) {
				i := slices.IndexFunc(units, func(v Unit) bool { return v.Code == u.Parent })
				return &FieldError{Field: "level", Problem: "range", Row: i + 2}
			}
		}
		for _, u := range units {
			if err := put(b, unitPaper, u.Code, u); err != nil {
				return err
			}
		}
		return o.note(b, by.ID, "units", fmt.Sprint(len(units)))
	}, func() {
		o.paper.Lock()
		defer o.paper.Unlock()
		o.paper.units = maps.Clone(o.paper.units)
		for _, u := range units {
			o.paper.units[u.Code] = u
		}
		o.relay()
	})
}

func (u *Unit) check() error {
	if u.Code == "" || len(u.Code) > 16 || strings.Trim(u.Code, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return &FieldError{Field: "code", Problem: "unknown"}
	}
	if !slices.Contains(levels, u.Level) {
		return &FieldError{Field: "level", Problem: "unknown"}
	}
	if err := cleanField("name", &u.Name, 80, true); err != nil {
		return err
	}
	if u.Closed != "" {
		return checkDay("closed", u.Closed, "")
	}
	return nil
}

// Unit looks a unit up.
func (o *Office) Unit(code string) (Unit, bool) {
	u, known := o.Ledger().Units[code]
	return u, known
}
