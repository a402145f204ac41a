package console

import (
	"bytes"
	"cmp"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/text/collate"
	"golang.org/x/text/language"

	"bluekey/keystore/desk"
)

// unitChoice is a unit in a list to choose from, set in by its depth.
type unitChoice struct {
	Code, Name string
}

// unitChoices lists the units of today at and below one (empty: all).
func (c *Console) unitChoices(above string) (choices []unitChoice) {
	l, today := c.Office.Ledger(), c.Office.Today()
	var walk func(string, int)
	walk = func(code string, depth int) {
		for _, u := range sorted(l.Below(code, today)) {
			choices = append(choices, unitChoice{u.Code, strings.Repeat("\u2003", depth) + u.Name})
			walk(u.Code, depth+1)
		}
	}
	depth := 0
	if u, known := l.Units[above]; known {
		choices, depth = append(choices, unitChoice{u.Code, u.Name}), 1
	}
	walk(above, depth)
	return choices
}

// sorted brings units into the order of the Vietnamese alphabet.
func sorted(units []desk.Unit) []desk.Unit {
	order, buffer := collate.New(language.Vietnamese), new(collate.Buffer)
	keys := make(map[string][]byte, len(units))
	for _, u := range units {
		keys[u.Code] = order.KeyFromString(buffer, u.Name)
	}
	slices.SortStableFunc(units, func(a, b desk.Unit) int { return bytes.Compare(keys[a.Code], keys[b.Code]) })
	return units
}

// day is the day that a page looks at: today, or an earlier one that was asked for.
func (v *visit) day() (string, error) {
	day, today := v.r.URL.Query().Get("day"), v.Office.Today()
	if day == "" {
		return today, nil
	}
	if _, err := time.Parse(time.DateOnly, day); err != nil || day > today {
		return "", &desk.FieldError{Field: "day", Problem: "date"}
	}
	return day, nil
}

// standingRow is a row of the table.
//
// The standing has a name of its own: a template finds the fields of an embedded one so
// slowly that it shows with a thousand rows.
type standingRow struct {
	Standing desk.Standing
	Rate     desk.Percent
	Meter    float64 // 0 to 100
	Quoted   bool    // a quoted rate differs from its counts
	Country  desk.Share
	HasGoal  bool
}

type adoptionData struct {
	Day, Today string
	Above      desk.Unit // whose parts the table shows; the zero Unit: the top
	Total      *standingRow
	Path       []desk.Unit
	Rows       []standingRow
	Chart      template.HTML
	Sentence   string
	Goal       desk.Goal
	Mixed      bool
	Query      template.URL
	Writer     bool
}

func (c *Console) rowOf(l *desk.Ledger, s desk.Standing, day string) standingRow {
	r := standingRow{Standing: s}
	if s.RateKnown {
		r.Rate = desk.Rate(s.RateInstalls, s.RateSmartphones, 2)
		r.Meter = min(r.Rate.Float(), 100)
	}
	for _, q := range l.Quotes(s.Unit.Code) {
		r.Quoted = r.Quoted || q.Differs && q.AsOf <= day
	}
	r.Country, r.HasGoal = l.ShareOf(s, day)
	return r
}

// rows are the units directly below one, the highest rate first, those without one last.
func (c *Console) rows(l *desk.Ledger, above, day string) []standingRow {
	var rows []standingRow
	for _, u := range sorted(l.Below(above, day)) {
		rows = append(rows, c.rowOf(l, l.At(u.Code, day), day))
	}
	slices.SortStableFunc(rows, func(a, b standingRow) int {
		if a.Standing.RateKnown != b.Standing.RateKnown {
			if a.Standing.RateKnown {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.Rate.Float(), a.Rate.Float())
	})
	return rows
}

// report is what the table, its file and its PDF are made of.
func (v *visit) report() (d adoptionData, err error) {
	l := v.Office.Ledger()
	if d.Day, err = v.day(); err != nil {
		return d, err
	}
	d.Today, d.Goal = v.Office.Today(), l.Goal
	code := v.r.URL.Query().Get("unit")
	if code == "" {
		// A tree with one top shows what is below it.
		if top := l.Below("", d.Day); len(top) == 1 {
			code = top[0].Code
		}
	} else if _, known := l.Units[code]; !known {
		return d, desk.ErrNoUnit
	}
	d.Rows = v.rows(l, code, d.Day)
	if code != "" {
		total := v.rowOf(l, l.At(code, d.Day), d.Day)
		d.Above, d.Path, d.Total = l.Units[code], l.Path(code), &total
		d.Sentence = v.say().sentence(total)
		d.Mixed = total.mixed()
	}
	d.Query = template.URL(url.Values{"unit": {code}, "day": {d.Day}}.Encode())
	d.Writer = v.account.Role == desk.Admin || v.account.Role == desk.District
	return d, nil
}

func (c *Console) adoptionPage(v *visit) error {
	d, err := v.report()
	if err != nil {
		return err
	}
	if d.Above.Code != "" {
		points, days := c.Office.Ledger().Trend(d.Above.Code, d.Day)
		d.Chart = v.say().trend(points, days)
	}
	return v.show(http.StatusOK, "adoption", "adoption.title", d)
}

// sentence is ready to be pasted into a report. A sum is as old as the oldest count in it.
func (w words) sentence(r standingRow) string {
	s := r.Standing
	if !s.RateKnown || !s.Installs.Known {
		return ""
	}
	of := make([]string, len(s.Installs.Of))
	for i, name := range s.Installs.Of {
		of[i] = w.T("of." + name)
	}
	return w.T("adoption.sentence", w.Day(s.Installs.AsOf), s.Unit.Name, w.N(s.RateInstalls), strings.Join(of, " + "), w.N(s.RateSmartphones), w.Percent(r.Rate))
}

// mixed reports whether different things were added up for the row.
func (r standingRow) mixed() bool { return r.Standing.Installs.Mixed() || r.Standing.RateMixed }

type unitData struct {
	Unit     desk.Unit
	Path     []desk.Unit
	Row      standingRow
	Day      string
	Below    []desk.Unit
	Chart    template.HTML
	Pace     template.HTML // the way to the national goal
	Sentence string
	Quotes   []desk.Checked
	Record   []recordRow
	Newest   uint64
	Kinds    []string
	Counted  map[string][]string
	Ofs      []string
	Goal     desk.Goal
	Writer   bool
}

type recordRow struct {
	desk.Figure
	InForce bool
	Name    string // of who entered it
}

func (c *Console) unitPage(v *visit) error {
	l, code := c.Office.Ledger(), v.r.PathValue("code")
	u, known := l.Units[code]
	if !known {
		return desk.ErrNoUnit
	}
	day, err := v.day()
	if err != nil {
		return err
	}
	names, err := c.names()
	if err != nil {
		return err
	}
	points, days := l.Trend(code, day)
	row := c.rowOf(l, l.At(code, day), day)
	d := unitData{
		Unit: u, Path: l.Path(code), Row: row, Day: day, Below: sorted(l.Below(code, day)),
		Chart: v.say().trend(points, days), Pace: v.say().pace(points, days, day, row.Country, l.Goal.Until), Sentence: v.say().sentence(row),
		Quotes: l.Quotes(code), Newest: l.Newest(code), Kinds: desk.Kinds[:], Ofs: []string{desk.OfSubscribers, desk.OfUsers, desk.OfSmartphones, desk.OfPeople},
		Goal:   l.Goal,
		Writer: slices.Contains(writers, v.account.Role) && l.Within(code, v.account.Unit),
	}
	record, inForce := l.Record(code)
	for _, f := range record {
		d.Record = append(d.Record, recordRow{f, inForce[f.Number], names[f.By]})
	}
	return v.show(http.StatusOK, "unit", "unit.title", d)
}

func (v *visit) unitPath() string {
	return "/adoption/unit/" + url.PathEscape(v.r.PathValue("code"))
}

// count reads a count from a form. People group digits, so points and spaces between
// groups of three are taken.
func (v *visit) count(field string) (int64, error) {
	s := strings.TrimSpace(v.r.PostFormValue(field))
	if s == "" {
		return 0, &desk.FieldError{Field: field, Problem: "required"}
	}
	for _, mark := range []string{".", ",", " ", "\u00a0"} {
		parts := strings.Split(s, mark)
		if len(parts) > 1 && len(parts[0]) > 0 && len(parts[0]) <= 3 && !slices.ContainsFunc(parts[1:], func(p string) bool { return len(p) != 3 }) {
			s = strings.Join(parts, "")
			break
		}
	}
	n, err := desk.ParseCount(s)
	if err != nil {
		return 0, &desk.FieldError{Field: field, Problem: "number"}
	}
	return n, nil
}

func (c *Console) addFigure(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	value, err := v.count("value")
	if err != nil {
		return err
	}
	return c.enter(v, desk.Figure{Value: value, Kind: v.r.PostFormValue("kind"), Of: v.r.PostFormValue("of")})
}

func (c *Console) withdrawFigure(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	number, err := desk.ParseCount(v.r.PostFormValue("figure"))
	if err != nil {
		return notFound
	}
	record, _ := c.Office.Ledger().Record(v.r.PathValue("code"))
	i := slices.IndexFunc(record, func(f desk.Figure) bool { return f.Number == uint64(number) })
	if i < 0 {
		return notFound
	}
	old := record[i]
	return c.enter(v, desk.Figure{Kind: old.Kind, Of: old.Of, AsOf: old.AsOf, Corrects: old.Number, Withdrawn: true})
}

// enter adds one figure to the unit of the page.
func (c *Console) enter(v *visit, f desk.Figure) error {
	seen, err := desk.ParseCount(v.r.PostFormValue("seen"))
	if err != nil {
		return &sorry{http.StatusBadRequest, "error.form", nil}
	}
	number := uint64(seen)
	f.Unit, f.Source, f.Basis = v.r.PathValue("code"), v.r.PostFormValue("source"), v.r.PostFormValue("basis")
	if f.AsOf == "" {
		f.AsOf = v.r.PostFormValue("as_of")
	}
	if f.Of == "" {
		if of := desk.Counted[f.Kind]; len(of) > 0 {
			f.Of = of[0]
		}
	}
	if err := c.Office.AddFigures(v.account, []desk.Figure{f}, &number); err != nil {
		return err
	}
	return v.see(v.unitPath())
}

func (c *Console) addQuote(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	percent, err := desk.ParsePercent(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v.r.PostFormValue("percent")), "%")))
	if err != nil {
		return &desk.FieldError{Field: "percent", Problem: "number"}
	}
	q := desk.Quote{Unit: v.r.PathValue("code"), AsOf: v.r.PostFormValue("as_of"), Percent: percent, Source: v.r.PostFormValue("source")}
	if err := c.Office.AddQuote(v.account, q); err != nil {
		return err
	}
	return v.see(v.unitPath())
}

type importData struct {
	Header, Example string
	Done            int
	Kinds           []string
	Counted         map[string][]string
}

func (c *Console) importPage(v *visit) error {
	return v.show(http.StatusOK, "import", "import.title", importData{
		Header: strings.Join(desk.FigureHeader, ","), Kinds: desk.Kinds[:], Counted: desk.Counted,
		Example: "312,installs,subscribers,53463,2020-08-26,Cổng thông tin điện tử thành phố Hải Phòng,",
	})
}

// upload is the file of a form.
func (v *visit) upload() (string, error) {
	if err := v.form(); err != nil {
		return "", err
	}
	f, h, err := v.r.FormFile("file")
	if err != nil {
		return "", &desk.FieldError{Field: "file", Problem: "required"}
	}
	defer f.Close()
	data := make([]byte, h.Size)
	if _, err := f.ReadAt(data, 0); err != nil && h.Size > 0 {
		return "", fmt.Errorf("read an uploaded file: %w", err)
	}
	return string(data), nil
}

func (c *Console) importFigures(v *visit) error {
	text, err := v.upload()
	if err != nil {
		return err
	}
	figures, err := desk.ReadFigures(strings.NewReader(text))
	if err == nil {
		err = c.Office.AddFigures(v.account, figures, nil)
	}
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "done", "import.title", doneData{v.T("import.done", len(figures)), "/adoption"})
}

type unitsData struct {
	Units   []unitRow
	Header  string
	Goal    desk.Goal
	Counted []string
}

type unitRow struct {
	desk.Unit
	Depth int
}

func (c *Console) unitsPage(v *visit) error {
	l := c.Office.Ledger()
	d := unitsData{Header: strings.Join(desk.UnitHeader, ","), Goal: l.Goal, Counted: desk.Counted[desk.Installs]}
	var walk func(string, int)
	walk = func(code string, depth int) {
		for _, u := range sorted(l.Below(code, "")) {
			d.Units = append(d.Units, unitRow{u, depth})
			walk(u.Code, depth+1)
		}
	}
	walk("", 0)
	return v.show(http.StatusOK, "units", "units.title", d)
}

func (c *Console) importUnits(v *visit) error {
	text, err := v.upload()
	if err != nil {
		return err
	}
	units, err := desk.ReadUnits(strings.NewReader(text))
	if err == nil {
		err = c.Office.SetUnits(v.account, units)
	}
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "done", "units.title", doneData{v.T("units.done", len(units)), "/adoption/units"})
}

func (c *Console) setGoal(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	target, err := v.count("target")
	if err != nil {
		return err
	}
	people, err := v.count("people")
	if err != nil {
		return err
	}
	g := desk.Goal{Target: target, People: people, Of: v.r.PostFormValue("of"), Until: v.r.PostFormValue("until"), Source: v.r.PostFormValue("source")}
	if err := c.Office.SetGoal(v.account, g); err != nil {
		return err
	}
	return v.see("/adoption/units")
}
