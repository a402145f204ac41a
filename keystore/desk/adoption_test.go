package desk

import (
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func (c *clerk) figures(by Account, lines ...string) error {
	figures, err := ReadFigures(strings.NewReader(strings.Join(FigureHeader, ",") + "\n" + strings.Join(lines, "\n")))
	if err != nil {
		return err
	}
	return c.AddFigures(by, figures, nil)
}

func TestArticle(t *testing.T) {
	c := newClerk(t)
	a := c.admin()
	c.units(a, "31,,province,Hải Phòng,", "312,31,district,Huyện An Dương,2025-07-01")
	if err := c.figures(a,
		"312,installs,subscribers,53463,2020-08-26,Cổng thông tin điện tử thành phố Hải Phòng,",
		"312,smartphones,smartphones,197225,2020-08-26,Cổng thông tin điện tử thành phố Hải Phòng,",
	); err != nil {
		t.Fatal(err)
	}
	printed, err := ParsePercent("27,72")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AddQuote(a, Quote{Unit: "312", AsOf: "2020-08-26", Percent: printed, Source: "như trên"}); err != nil {
		t.Fatal(err)
	}
	c.reopen()
	l := c.Ledger()
	q := l.Quotes("312")
	if len(q) != 1 || !q[0].Differs || q[0].Computed.String() != "27.11" || q[0].Percent.String() != "27.72" {
		t.Errorf("%+v", q)
	}
	if below := l.Below("31", "2026-01-01"); len(below) != 0 {
		t.Error("a closed unit is still there")
	}
	if s := l.At("31", "2020-12-31"); !s.Installs.Sum || s.Installs.Value != 53463 || !s.RateKnown {
		t.Errorf("%+v", s)
	}
	if l.At("312", "2020-08-25").Installs.Known {
		t.Error("a figure is known before its day")
	}
}

func TestRate(t *testing.T) {
	for _, r := range []struct {
		part, whole int64
		digits      int
		want        string
	}{
		{53463, 197225, 2, "27.11"}, {53463, 197225, 4, "27.1076"}, {1, 8, 2, "12.50"}, {1, 3, 0, "33"},
		{1, 200, 0, "1"}, {5, 1000, 0, "1"}, {0, 7, 2, "0.00"}, {MaxFigure, 1, 0, "100000000000"}, {2, 3, 1, "66.7"},
	} {
		if got := Rate(r.part, r.whole, r.digits).String(); got != r.want {
			t.Errorf("%d/%d: %s, want %s", r.part, r.whole, got, r.want)
		}
	}
	for _, bad := range []string{"", ",", "27,", ",5", "27,72 %", "-1", "+1", "1e3", "007", "1.2.3", "1001", "0,12345", "٢٧"} {
		if p, err := ParsePercent(bad); err == nil {
			t.Errorf("%q is %v", bad, p)
		}
	}
}

func TestFiguresAreOnlyAdded(t *testing.T) {
	c := newClerk(t)
	a, b := c.admin(), c.join(District, "lan")
	c.units(a, "31,,province,Hải Phòng,", "31-1,31,commune,An Dương,", "31-2,31,commune,Hồng Bàng,")
	b.Unit = "31-1"
	figure := func(value int64) Figure {
		return Figure{Unit: "31-1", Kind: Installs, Of: OfSubscribers, Value: value, AsOf: "2026-11-20", Source: "báo cáo"}
	}
	add := func(by Account, seen uint64, f Figure) error { return c.AddFigures(by, []Figure{f}, &seen) }
	if err := add(a, 0, figure(100)); err != nil {
		t.Fatal(err)
	}
	if err := add(b, 0, figure(120)); !errors.Is(err, ErrMeanwhile) {
		t.Errorf("two at once: %v", err)
	}
	if err := add(b, 1, figure(120)); err != nil {
		t.Fatal(err)
	}
	if v := c.Ledger().At("31-1", "2026-11-23").Installs.Value; v != 120 {
		t.Error(v)
	}
	moved := figure(125)
	moved.AsOf, moved.Corrects = "2026-11-19", 2
	if err := add(b, 2, moved); err != nil {
		t.Fatal(err)
	}
	// Figure 2 is corrected away, so figure 1 stays replaced by it: nothing comes back.
	s := c.Ledger().At("31-1", "2026-11-23")
	if s.Installs.Value != 125 || s.Installs.AsOf != "2026-11-19" {
		t.Errorf("%+v", s.Installs)
	}
	record, inForce := c.Ledger().Record("31-1")
	if len(record) != 3 || !inForce[3] || inForce[2] || inForce[1] {
		t.Error(record, inForce)
	}
	gone := Figure{Unit: "31-1", Kind: Installs, Of: OfSubscribers, AsOf: "2026-11-19", Source: "nhầm", Corrects: 3, Withdrawn: true}
	if err := add(b, 3, gone); err != nil || c.Ledger().At("31-1", "2026-11-23").Installs.Known {
		t.Error("a withdrawn figure stays", err)
	}
	for name, bad := range map[string]func(*Figure){
		"unit":   func(f *Figure) { f.Unit = "99" },
		"kind":   func(f *Figure) { f.Kind = "rate" },
		"of":     func(f *Figure) { f.Of = OfPeople },
		"value":  func(f *Figure) { f.Value = -1 },
		"as_of":  func(f *Figure) { f.AsOf = "2026-11-24" },
		"source": func(f *Figure) { f.Source = " \u200b" },
		"basis":  func(f *Figure) { f.Basis = strings.Repeat("x", 1<<20) },
	} {
		f := figure(1)
		bad(&f)
		var field *FieldError
		if err := add(a, 9, f); !errors.As(err, &field) || field.Field != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := figure(1)
	other.Unit = "31-2"
	if err := add(b, 9, other); !errors.Is(err, ErrNotYours) {
		t.Error(err)
	}
	if err := c.AddQuote(b, Quote{Unit: "31-2", AsOf: "2026-11-20", Source: "x"}); !errors.Is(err, ErrNotYours) {
		t.Error(err)
	}
}

// TestPhonesOfUnitsWithoutPeople: smartphones of units whose people nobody counted are no
// smartphones too many.
func TestPhonesOfUnitsWithoutPeople(t *testing.T) {
	c := newClerk(t)
	a := c.admin()
	c.units(a, "31,,province,Hải Phòng,", "a,31,commune,A,", "b,31,commune,B,")
	if err := c.figures(a,
		"a,smartphones,smartphones,200,2026-11-20,x,", "a,people,people,300,2026-11-20,x,",
		"b,smartphones,smartphones,1000,2026-11-21,x,"); err != nil {
		t.Fatal(err)
	}
	if s := c.Ledger().At("31", "2026-11-23"); s.MoreThanPeople || s.Smartphones.Value != 1200 || s.People.Value != 300 {
		t.Errorf("%+v", s)
	}
}

func TestSumsSayWhatTheyAdd(t *testing.T) {
	c := newClerk(t)
	a := c.admin()
	c.units(a, "31,,province,Hải Phòng,", "a,31,commune,A,", "b,31,commune,B,", "c,31,commune,C,")
	if err := c.figures(a,
		"a,installs,subscribers,100,2026-11-20,x,", "a,smartphones,smartphones,400,2026-11-20,x,", "a,people,people,300,2026-11-20,x,",
		"b,installs,users,50,2026-11-21,x,", "b,smartphones,smartphones,100,2026-11-21,x,",
		"c,installs,users,999,2026-11-21,x,"); err != nil {
		t.Fatal(err)
	}
	l := c.Ledger()
	s := l.At("31", "2026-11-23")
	if !s.Installs.Mixed() || s.Installs.Value != 1149 || s.Installs.Have != 3 || s.Installs.Want != 3 || s.Installs.AsOf != "2026-11-20" {
		t.Errorf("%+v", s.Installs)
	}
	// C has no smartphones, so its installs are not in the rate.
	if s.RateInstalls != 150 || s.RateSmartphones != 500 || !s.RateMixed {
		t.Errorf("%+v", s)
	}
	if !l.At("a", "2026-11-23").MoreThanPeople {
		t.Error("more smartphones than people is not flagged")
	}
	if s.MoreThanPeople == false {
		t.Error("the sum has more smartphones than people, too")
	}
	if err := c.SetGoal(a, Goal{Target: 50_000_000, Of: OfUsers, People: 100_000_000, Until: "2026-12-23", Source: "x"}); err != nil {
		t.Fatal(err)
	}
	l = c.Ledger()
	share, ok := l.ShareOf(l.At("a", "2026-11-23"), "2026-11-23")
	if !ok || share.Quota != 150 || share.Days != 30 || share.PerDay != 2 || !share.Differs {
		t.Errorf("%+v %v", share, ok)
	}
	points, days := l.Trend("31", "2026-11-23")
	if len(points) != 2 || days[0] != "2026-11-20" || points[0].Installs.Value != 100 || points[1].Installs.Value != 1149 {
		t.Errorf("%v %+v", days, points)
	}
}

func TestFilesAreWholeOrNot(t *testing.T) {
	c := newClerk(t)
	a := c.admin()
	c.units(a, "31,,province,Hải Phòng,")
	good := "31,installs,users,5,2026-11-20,x,"
	for name, f := range map[string]struct {
		text, want string
	}{
		"no header":     {good, "row 1, column unit: required"},
		"empty":         {"", "row 1, column unit: required"},
		"short row":     {"unit,kind,of,value,as_of,source,basis\n" + good + "\n31,installs", "row 3, column of: required"},
		"long row":      {"unit,kind,of,value,as_of,source,basis\n" + good + ",,", "row 2, column 8: unknown"},
		"bad number":    {"unit,kind,of,value,as_of,source,basis\n" + good + "\n31,installs,users,5.000,2026-11-20,x,", "row 3, column value: number"},
		"leading zero":  {"unit,kind,of,value,as_of,source,basis\n31,installs,users,05,2026-11-20,x,", "row 2, column value: number"},
		"bad day":       {"unit,kind,of,value,as_of,source,basis\n" + good + "\n31,installs,users,5,20/11/2026,x,", "row 3, column as_of: date"},
		"unknown unit":  {"unit,kind,of,value,as_of,source,basis\n" + good + "\n32,installs,users,5,2026-11-20,x,", "row 3, column unit: unknown"},
		"quote":         {"unit,kind,of,value,as_of,source,basis\n31,\"installs,users", "row 2, column kind: quote"},
		"stray quote":   {"unit,kind,of,value,as_of,source,basis\n" + good + "\n31,installs,users,5,2026-11-20,a\"b,", "row 3, column source: quote"},
		"not UTF-8":     {"unit,kind,of,value,as_of,source,basis\n" + good + "\n31,installs,users,5,2026-11-20,C\xf4ng,", "row 3, column source: encoding"},
		"blank line":    {"unit,kind,of,value,as_of,source,basis\n\n" + good, "row 2, column unit: required"},
		"twice":         {"unit,kind,of,value,as_of,source,basis\n" + good + "\n" + good, "row 3, column unit: same"},
		"extra heading": {"unit,kind,of,value,as_of,source,basis,rate\n", "row 1, column 8: unknown"},
	} {
		figures, err := ReadFigures(strings.NewReader(f.text))
		if err == nil {
			err = c.AddFigures(a, figures, nil)
		}
		if err == nil || !strings.HasPrefix(err.Error(), f.want) {
			t.Errorf("%s: %v, want %s", name, err, f.want)
		}
	}
	if n := c.Ledger().Newest("31"); n != 0 {
		t.Error("a bad file entered something")
	}
	broken := "unit,kind,of,value,as_of,source,basis\r\n31,installs,users,5,2026-11-20,\"x\r\n\r\ny\",\r\n32" + good[2:] + "\n\n\n"
	if figures, err := ReadFigures(strings.NewReader(broken)); err != nil || len(figures) != 2 {
		t.Error("lines that break within quotes, and blank ones at the end:", figures, err)
	}
	if figures, err := ReadFigures(strings.NewReader("\ufeffunit;kind;of;value;as_of;source;basis\r\n31;installs;users;5;2026-11-20;x, y;\r\n")); err != nil || figures[0].Source != "x, y" {
		t.Error("a file as a spreadsheet writes it", figures, err)
	}
	for name, f := range map[string]struct{ text, want string }{
		"twice":       {"a,31,commune,A,\na,31,commune,B,", "row 3, column code: same"},
		"no parent":   {"a,99,commune,A,", "row 2, column parent: unknown"},
		"upside down": {"a,,commune,A,\nb,a,district,B,", "row 3, column parent: unknown"},
		"itself":      {"a,a,commune,A,", "row 2, column parent: unknown"},
		"level":       {"a,31,village,A,", "row 2, column level: unknown"},
		"code":        {"../a,31,commune,A,", "row 2, column code: unknown"},
		"name":        {"a,31,commune,,", "row 2, column name: required"},
		"demoted":     {"31,,commune,X,", "row 2, column level: range"},
	} {
		if name == "demoted" {
			c.units(a, "k,31,commune,K,")
		}
		units, err := ReadUnits(strings.NewReader(strings.Join(UnitHeader, ",") + "\n" + f.text))
		if err == nil {
			err = c.SetUnits(a, units)
		}
		if err == nil || err.Error() != f.want {
			t.Errorf("%s: %v, want %s", name, err, f.want)
		}
	}
}

func FuzzReadFigures(f *testing.F) {
	f.Add("unit,kind,of,value,as_of,source,basis\n31,installs,users,5,2026-11-20,x,")
	f.Fuzz(func(t *testing.T, s string) {
		figures, err := ReadFigures(strings.NewReader(s))
		for _, x := range figures {
			if err == nil && (x.Value < 0 || fmt.Sprint(x.Value) == "") {
				t.Error(x)
			}
		}
	})
}

func FuzzParsePercent(f *testing.F) {
	f.Add("27,72")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParsePercent(s); err == nil && strings.Replace(s, ",", ".", 1) != p.String() {
			t.Errorf("%q is %v", s, p)
		}
	})
}

// TestNothingHiddenCanBeDerived makes random trees, hides their small cells and then
// solves the totals for them, as somebody with pencil and paper would.
func TestNothingHiddenCanBeDerived(t *testing.T) {
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		values, below := []int64{0}, [][]int{nil}
		var grow func(int, int)
		grow = func(at, depth int) {
			for range rnd.IntN(5) + depth {
				i := len(values)
				values, below = append(values, 0), append(below, nil)
				below[at] = append(below[at], i)
				if depth < 2 && rnd.IntN(2) == 0 {
					grow(i, depth+1)
				}
				if len(below[i]) == 0 {
					values[i] = []int64{rnd.Int64N(4), rnd.Int64N(20), rnd.Int64N(500)}[rnd.IntN(3)]
				}
			}
		}
		grow(0, 0)
		for i := len(values) - 1; i >= 0; i-- {
			for _, b := range below[i] {
				values[i] += values[b]
			}
		}
		hidden := make([]bool, len(values))
		hide(len(values), func(i int) Count { return Count{Value: values[i], Known: true} },
			func(i int) []int { return below[i] }, func(i int) { hidden[i] = true })
		var column []int // of each hidden cell
		for i, h := range hidden {
			if h {
				column = append(column, i)
			} else if values[i] < SmallCell {
				t.Fatalf("seed %d: %d is shown", seed, values[i])
			}
		}
		var rows [][]*big.Rat
		for i := range values {
			row := make([]*big.Rat, len(column))
			for k, c := range column {
				row[k] = new(big.Rat)
				switch {
				case c == i && len(below[i]) > 0:
					row[k].SetInt64(-1)
				case slices.Contains(below[i], c):
					row[k].SetInt64(1)
				}
			}
			rows = append(rows, row)
		}
		for _, k := range determined(rows, len(column)) {
			if values[column[k]] < SmallCell && len(below[0]) > 0 {
				t.Fatalf("seed %d: cell %d (%d) follows from the others\nvalues %v\nhidden %v\nbelow %v", seed, column[k], values[column[k]], values, hidden, below)
			}
		}
	}
}

// determined solves homogeneous rows and gives the unknowns that have one value only.
func determined(rows [][]*big.Rat, n int) (fixed []int) {
	rank := 0
	for col := range n {
		p := slices.IndexFunc(rows[rank:], func(r []*big.Rat) bool { return r[col].Sign() != 0 })
		if p < 0 {
			continue
		}
		rows[rank], rows[rank+p] = rows[rank+p], rows[rank]
		inv := new(big.Rat).Inv(rows[rank][col])
		for _, x := range rows[rank] {
			x.Mul(x, inv)
		}
		for i, r := range rows {
			if i != rank && r[col].Sign() != 0 {
				f := new(big.Rat).Set(r[col])
				for k := range r {
					r[k].Sub(r[k], new(big.Rat).Mul(f, rows[rank][k]))
				}
			}
		}
		if rank++; rank == len(rows) {
			break
		}
	}
	for _, r := range rows {
		one := -1
		for k, x := range r {
			if x.Sign() != 0 {
				if one >= 0 {
					one = -2
					break
				}
				one = k
			}
		}
		if one >= 0 {
			fixed = append(fixed, one)
		}
	}
	return fixed
}

func TestPublicTable(t *testing.T) {
	c := newClerk(t)
	a := c.admin()
	c.units(a, "31,,province,Hải Phòng,", "a,31,commune,A,", "b,31,commune,B,", "c,31,commune,C,")
	for i, v := range []int{4, 30, 500} {
		code := string(rune('a' + i))
		if err := c.figures(a, fmt.Sprintf("%s,installs,users,%d,2026-11-20,x,", code, v), fmt.Sprintf("%s,smartphones,smartphones,1000,2026-11-20,x,", code)); err != nil {
			t.Fatal(err)
		}
	}
	table := c.Ledger().Public("2026-11-23")
	var shown []string
	for _, r := range table {
		shown = append(shown, fmt.Sprint(r.Unit.Code, r.Hidden[0], r.RateHidden()))
	}
	if got := strings.Join(shown, " "); got != "31false false a true true b true true c false false" && got != "31false false atrue true btrue true cfalse false" {
		t.Error(got)
	}
}
