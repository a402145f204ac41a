package desk

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Ledger is everything on record about adoption, at one instant. It never changes.
type Ledger struct {
	Units  map[string]Unit
	Goal   Goal // the newest; its Target is 0 if there is none
	below  map[string][]string
	series map[seriesKey][]Figure // in force, by day
	ofUnit map[string][]Figure    // all, by number
	quotes map[string][]Quote
	byNo   []Figure
}

type seriesKey struct{ unit, kind string }

// Ledger is the present one.
func (o *Office) Ledger() *Ledger {
	o.paper.RLock()
	defer o.paper.RUnlock()
	return o.paper.ledger
}

// relay makes the ledger anew. o.paper is locked, or not shared yet.
func (o *Office) relay() {
	p := &o.paper
	l := &Ledger{
		Units: p.units, below: map[string][]string{}, series: map[seriesKey][]Figure{},
		ofUnit: map[string][]Figure{}, quotes: map[string][]Quote{}, byNo: p.figures[:len(p.figures):len(p.figures)],
	}
	for code, u := range p.units {
		l.below[u.Parent] = append(l.below[u.Parent], code)
	}
	for _, codes := range l.below {
		slices.Sort(codes)
	}
	if n := len(p.goals); n > 0 {
		l.Goal = p.goals[n-1]
	}
	for _, q := range p.quotes {
		l.quotes[q.Unit] = append(l.quotes[q.Unit], q)
	}
	type slot struct{ unit, kind, of, day string }
	gone, inForce := map[uint64]bool{}, map[slot]uint64{}
	for _, f := range p.figures {
		l.ofUnit[f.Unit] = append(l.ofUnit[f.Unit], f)
		if f.Corrects != 0 {
			gone[f.Corrects] = true
		}
		if !f.Withdrawn {
			inForce[slot{f.Unit, f.Kind, f.Of, f.AsOf}] = f.Number
		}
	}
	for _, f := range p.figures {
		if !f.Withdrawn && !gone[f.Number] && inForce[slot{f.Unit, f.Kind, f.Of, f.AsOf}] == f.Number {
			k := seriesKey{f.Unit, f.Kind}
			l.series[k] = append(l.series[k], f)
		}
	}
	for _, s := range l.series {
		slices.SortStableFunc(s, func(a, b Figure) int { return cmp.Compare(a.AsOf, b.AsOf) })
	}
	p.ledger = l
}

func (l *Ledger) figure(number uint64) (Figure, bool) {
	i, found := slices.BinarySearchFunc(l.byNo, number, func(f Figure, n uint64) int { return cmp.Compare(f.Number, n) })
	if !found {
		return Figure{}, false
	}
	return l.byNo[i], true
}

func (l *Ledger) newest(unit string) Figure {
	if s := l.ofUnit[unit]; len(s) > 0 {
		return s[len(s)-1]
	}
	return Figure{}
}

// Newest is the number of the newest figure of a unit; 0 if there is none.
func (l *Ledger) Newest(unit string) uint64 { return l.newest(unit).Number }

// Record is all figures ever entered for a unit, newest first, with whether each is in
// force.
func (l *Ledger) Record(unit string) (figures []Figure, inForce map[uint64]bool) {
	inForce = map[uint64]bool{}
	for _, kind := range Kinds {
		for _, f := range l.series[seriesKey{unit, kind}] {
			inForce[f.Number] = true
		}
	}
	figures = slices.Clone(l.ofUnit[unit])
	slices.Reverse(figures)
	return figures, inForce
}

// Within reports whether a unit is another one or lies below it. Everything lies below
// the empty one.
func (l *Ledger) Within(unit, above string) bool {
	for range len(levels) + 1 {
		if unit == above || above == "" {
			return true
		}
		unit = l.Units[unit].Parent
	}
	return false
}

// Below lists the units directly below one (empty: the top) that exist on a day.
func (l *Ledger) Below(unit, day string) (units []Unit) {
	for _, code := range l.below[unit] {
		if u := l.Units[code]; u.Closed == "" || day < u.Closed {
			units = append(units, u)
		}
	}
	return units
}

// Count is a figure of a unit, or the sum of those below it.
type Count struct {
	Value int64
	Known bool
	Of    []string // what was counted; more than one: a sum of different things
	AsOf  string   // of a sum: the oldest day in it
	From  *Figure  // nil for a sum
	Sum   bool
	Have  int // of a sum: how many units below have a figure
	Want  int // of a sum: how many units there are
}

// Mixed reports whether different things were added up.
func (c Count) Mixed() bool { return len(c.Of) > 1 }

// Standing is how a unit stood on a day.
type Standing struct {
	Unit                          Unit
	Installs, Smartphones, People Count
	// Of a unit with figures of its own these are installs and smartphones; of a sum
	// only units below that have both are in it.
	RateInstalls, RateSmartphones int64
	RateKnown                     bool
	RateMixed                     bool
	MoreThanPeople                bool  // more smartphones than people, of a sum among units that have both
	MoreThanPhones                bool  // more installs than smartphones
	phones, people                int64 // what MoreThanPeople compares
}

// At is how a unit stood on a day.
func (l *Ledger) At(code, day string) Standing {
	s := Standing{Unit: l.Units[code]}
	s.Installs = l.own(code, Installs, day)
	s.Smartphones = l.own(code, Smartphones, day)
	s.People = l.own(code, People, day)
	if !s.Installs.Known || !s.Smartphones.Known || !s.People.Known {
		l.addUp(&s, day)
	}
	if s.Installs.Known && s.Smartphones.Known && !s.Installs.Sum {
		s.RateInstalls, s.RateSmartphones = s.Installs.Value, s.Smartphones.Value
	}
	s.RateKnown = s.RateSmartphones > 0
	s.RateMixed = s.RateMixed || s.Installs.Mixed()
	if s.Smartphones.Known && s.People.Known && !s.Smartphones.Sum && !s.People.Sum {
		s.phones, s.people = s.Smartphones.Value, s.People.Value
	}
	s.MoreThanPeople = s.phones > s.people
	s.MoreThanPhones = s.RateKnown && s.RateInstalls > s.RateSmartphones
	return s
}

// own is the newest figure of the unit itself up to a day.
func (l *Ledger) own(code, kind, day string) Count {
	series := l.series[seriesKey{code, kind}]
	i, _ := slices.BinarySearchFunc(series, day, func(f Figure, day string) int {
		if f.AsOf <= day {
			return -1
		}
		return 1
	})
	if i == 0 {
		return Count{}
	}
	f := &series[i-1]
	return Count{Value: f.Value, Known: true, Of: []string{f.Of}, AsOf: f.AsOf, From: f}
}

// addUp fills what a unit has no figure of its own for with the sum of those below.
func (l *Ledger) addUp(s *Standing, day string) {
	below := l.Below(s.Unit.Code, day)
	if len(below) == 0 {
		return
	}
	sumRate := !s.Installs.Known
	var sums [3]Count
	for _, u := range below {
		b := l.At(u.Code, day)
		for i, c := range []Count{b.Installs, b.Smartphones, b.People} {
			if c.Known {
				sums[i].add(c)
			}
		}
		s.phones, s.people = s.phones+b.phones, s.people+b.people
		if sumRate && b.RateKnown {
			s.RateInstalls += b.RateInstalls
			s.RateSmartphones += b.RateSmartphones
			s.RateMixed = s.RateMixed || b.RateMixed
		}
	}
	for i, c := range []*Count{&s.Installs, &s.Smartphones, &s.People} {
		if !c.Known && sums[i].Known {
			*c = sums[i]
			c.Want = len(below)
		}
	}
}

func (c *Count) add(d Count) {
	c.Value += d.Value
	c.Known, c.Sum = true, true
	c.Have++
	for _, of := range d.Of {
		if !slices.Contains(c.Of, of) {
			c.Of = append(c.Of, of)
		}
	}
	if c.AsOf == "" || d.AsOf < c.AsOf {
		c.AsOf = d.AsOf
	}
}

// Percent is a rate as somebody printed it: Value in units of 10^-Digits percent.
type Percent struct {
	Value  int64 `json:"value"`
	Digits int   `json:"digits"`
}

// ParsePercent reads a rate with comma or point, at most four decimals, at most 1000.
func ParsePercent(s string) (Percent, error) {
	whole, part, dot := strings.Cut(strings.Replace(s, ",", ".", 1), ".")
	v, err := strconv.ParseUint(whole+part, 10, 32)
	if err != nil || whole == "" || len(whole) > 4 || dot && part == "" || len(part) > 4 || len(whole) > 1 && whole[0] == '0' {
		return Percent{}, errors.New("not a rate: want digits as in 27,72")
	}
	p := Percent{Value: int64(v), Digits: len(part)}
	if p.Float() > 1000 {
		return Percent{}, errors.New("not a rate: more than 1000 percent")
	}
	return p, nil
}

// Float is the rate in percent.
func (p Percent) Float() float64 {
	f := float64(p.Value)
	for range p.Digits {
		f /= 10
	}
	return f
}

// String has a point and the digits as printed.
func (p Percent) String() string { return strconv.FormatFloat(p.Float(), 'f', p.Digits, 64) }

// Rate is part / whole in percent, rounded half up to digits decimals. whole is not 0.
func Rate(part, whole int64, digits int) Percent {
	n := big.NewInt(100)
	for range digits {
		n.Mul(n, big.NewInt(10))
	}
	n.Mul(n, big.NewInt(2*part)).Add(n, big.NewInt(whole))
	n.Div(n, big.NewInt(2*whole))
	return Percent{Value: n.Int64(), Digits: digits}
}

// Checked is a quoted rate beside the one that follows from the counts of its day.
type Checked struct {
	Quote
	Computed Percent // with as many digits
	Known    bool    // whether there are counts
	Differs  bool
}

// Quotes checks the quoted rates of a unit, newest first.
func (l *Ledger) Quotes(unit string) (checked []Checked) {
	for _, q := range slices.Backward(l.quotes[unit]) {
		c := Checked{Quote: q}
		if s := l.At(unit, q.AsOf); s.RateKnown {
			c.Known = true
			c.Computed = Rate(s.RateInstalls, s.RateSmartphones, q.Percent.Digits)
			c.Differs = c.Computed != q.Percent
		}
		checked = append(checked, c)
	}
	return checked
}

// maxPoints bounds a trend.
const maxPoints = 60

// Trend is how a unit stood on each day on which a count of installs in it changed, oldest
// first, at most the newest 60.
func (l *Ledger) Trend(unit, until string) (points []Standing, days []string) {
	seen := map[string]bool{}
	var walk func(string)
	walk = func(code string) {
		for _, f := range l.series[seriesKey{code, Installs}] {
			if f.AsOf <= until {
				seen[f.AsOf] = true
			}
		}
		for _, b := range l.below[code] {
			walk(b)
		}
	}
	walk(unit)
	for d := range seen {
		days = append(days, d)
	}
	slices.Sort(days)
	days = days[max(0, len(days)-maxPoints):]
	for _, d := range days {
		points = append(points, l.At(unit, d))
	}
	return points, days
}

// Share is what a unit has to do with the national goal.
type Share struct {
	OfGoal  Percent // installs of the unit in percent of the goal
	Quota   int64   // the unit's part of the goal, by its part of the people; 0 if unknown
	PerDay  int64   // installs a day needed from now on to reach it; 0 if reached
	Days    int     // left
	Differs bool    // the goal counts another thing than the unit does
}

// ShareOf is the part of a standing in the goal, as of a day. ok is false without a goal
// or installs.
func (l *Ledger) ShareOf(s Standing, day string) (share Share, ok bool) {
	g := l.Goal
	if g.Target == 0 || !s.Installs.Known {
		return share, false
	}
	share.OfGoal = Rate(s.Installs.Value, g.Target, 2)
	share.Differs = s.Installs.Mixed() || s.Installs.Of[0] != g.Of
	from, err := time.Parse(time.DateOnly, day)
	until, err2 := time.Parse(time.DateOnly, g.Until)
	if err != nil || err2 != nil {
		return share, false
	}
	share.Days = max(0, int(until.Sub(from).Hours()/24))
	if s.People.Known {
		q := big.NewInt(s.People.Value)
		q.Mul(q, big.NewInt(2*g.Target)).Add(q, big.NewInt(g.People))
		share.Quota = q.Div(q, big.NewInt(2*g.People)).Int64()
		if missing := share.Quota - s.Installs.Value; missing > 0 && share.Days > 0 {
			share.PerDay = (missing + int64(share.Days) - 1) / int64(share.Days)
		}
	}
	return share, true
}

// Path is a unit and those above it, the highest first.
func (l *Ledger) Path(code string) (path []Unit) {
	for range len(levels) {
		u, known := l.Units[code]
		if !known {
			break
		}
		path = append(path, u)
		code = u.Parent
	}
	slices.Reverse(path)
	return path
}

// String says where a figure comes from.
func (f Figure) String() string { return fmt.Sprintf("%d %s %s on %s", f.Value, f.Of, f.Unit, f.AsOf) }
