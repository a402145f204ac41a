package console

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"bluekey/keystore/desk"
)

// reportCSV is the table as a file. Rates have a point and no sign, days are YYYY-MM-DD:
// it is for machines and spreadsheets, in any language.
func (c *Console) reportCSV(v *visit) error {
	d, err := v.report()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	b.WriteString("\ufeff") // or spreadsheets take it for another encoding
	out := csv.NewWriter(&b)
	out.UseCRLF = true
	write := func(cells ...string) {
		for i := range cells {
			cells[i] = desk.SpreadsheetSafe(cells[i])
		}
		_ = out.Write(cells) // a buffer takes every write
	}
	write("code", "name", "installs", "installs_of", "installs_as_of", "installs_source", "smartphones", "smartphones_as_of", "smartphones_source", "people", "rate_percent", "flags")
	rows := d.Rows
	if d.Total != nil {
		rows = append(rows[:len(rows):len(rows)], *d.Total)
	}
	for _, r := range rows {
		s, rate := r.Standing, ""
		if s.RateKnown {
			rate = r.Rate.String()
		}
		write(s.Unit.Code, s.Unit.Name, plain(s.Installs), strings.Join(s.Installs.Of, "+"), s.Installs.AsOf, source(s.Installs),
			plain(s.Smartphones), s.Smartphones.AsOf, source(s.Smartphones), plain(s.People), rate, strings.Join(flags(r), " "))
	}
	out.Flush()
	return v.file("text/csv; charset=utf-8", "adoption-"+d.Day+".csv", b.Bytes(), false)
}

func plain(c desk.Count) string {
	if !c.Known {
		return ""
	}
	return fmt.Sprint(c.Value)
}

func source(c desk.Count) string {
	if c.From == nil {
		if c.Sum {
			return fmt.Sprintf("sum %d/%d", c.Have, c.Want)
		}
		return ""
	}
	if c.From.Basis != "" {
		return c.From.Source + " (" + c.From.Basis + ")"
	}
	return c.From.Source
}

// flags are the names of what is odd about a row.
func flags(r standingRow) (names []string) {
	for _, f := range []struct {
		on   bool
		name string
	}{
		{r.Quoted, "quoted_rate_differs"}, {r.Standing.MoreThanPeople, "more_smartphones_than_people"},
		{r.Standing.MoreThanPhones, "more_installs_than_smartphones"}, {r.mixed(), "mixed_units_of_count"},
	} {
		if f.on {
			names = append(names, f.name)
		}
	}
	return names
}

// reportPDF is the table on paper, ending with the sentence.
func (c *Console) reportPDF(v *visit) error {
	d, err := v.report()
	if err != nil {
		return err
	}
	w := v.say()
	p := newPaper("P", "A4")
	p.heading(w.T("report.heading", d.Above.Name))
	p.line(w.T("report.asof", w.Day(d.Day)))
	p.space(3)
	columns := []column{
		{w.T("adoption.unit"), 62, false}, {w.T("adoption.installs"), 34, true}, {w.T("adoption.smartphones"), 34, true}, {w.T("adoption.people"), 28, true}, {w.T("adoption.rate"), 22, true},
	}
	var cells [][]string
	add := func(r standingRow) {
		rate := "–"
		s := r.Standing
		if s.RateKnown {
			rate = w.Percent(r.Rate)
		}
		cells = append(cells, []string{s.Unit.Name, w.counted(s.Installs), w.counted(s.Smartphones), w.counted(s.People), rate})
	}
	for _, r := range d.Rows {
		add(r)
	}
	if d.Total != nil {
		add(*d.Total)
	}
	p.table(columns, cells, 1, d.Total != nil)
	p.space(3)
	l := c.Office.Ledger()
	rows := d.Rows
	if d.Total != nil {
		rows = append(rows[:len(rows):len(rows)], *d.Total)
	}
	for _, r := range rows {
		for _, q := range l.Quotes(r.Standing.Unit.Code) {
			if q.Differs && q.AsOf <= d.Day {
				p.line("• " + r.Standing.Unit.Name + ": " + w.T("adoption.quote.differs", w.Percent(q.Percent), q.Source, w.Percent(q.Computed)))
			}
		}
		for _, f := range flags(r) {
			if f != "quoted_rate_differs" {
				p.line("• " + r.Standing.Unit.Name + ": " + w.T("flag."+f))
			}
		}
		for _, count := range []desk.Count{r.Standing.Installs, r.Standing.Smartphones} {
			if count.From != nil {
				p.soft(r.Standing.Unit.Name + ": " + w.T("adoption.from", w.N(count.Value), w.T("of."+count.From.Of), source(count), w.Day(count.AsOf)))
			}
		}
	}
	if d.Sentence != "" {
		p.space(4)
		p.boxed(d.Sentence)
	}
	return p.answer(v, "adoption-"+d.Day+".pdf")
}

// counted is a count for a cell, or a dash.
func (w words) counted(c desk.Count) string {
	if !c.Known {
		return "–"
	}
	return w.N(c.Value)
}

// publicCell is a count of the public table.
type publicCell struct {
	Value  int64
	Known  bool
	Hidden bool
	Of     []string
}

type publicRow struct {
	Name                          string
	Depth                         int
	Installs, Smartphones, People publicCell
	Rate                          desk.Percent
	RateShown                     bool
	Mixed                         bool
}

func (c *Console) publicRows() (rows []publicRow, day string) {
	day = c.Office.Today()
	for _, r := range c.Office.Ledger().Public(day) {
		cell := func(n desk.Count, hidden bool) publicCell {
			if hidden {
				return publicCell{Hidden: true}
			}
			return publicCell{Value: n.Value, Known: n.Known, Of: n.Of}
		}
		row := publicRow{
			Name: r.Unit.Name, Depth: r.Depth, Mixed: r.RateMixed,
			Installs: cell(r.Installs, r.Hidden[0]), Smartphones: cell(r.Smartphones, r.Hidden[1]), People: cell(r.People, r.Hidden[2]),
		}
		if r.RateKnown && !r.RateHidden() {
			row.Rate, row.RateShown = desk.Rate(r.RateInstalls, r.RateSmartphones, 2), true
		}
		rows = append(rows, row)
	}
	return rows, day
}

type publicData struct {
	Rows  []publicRow
	Day   string
	Small int
}

// publicView is where the template of the public table finds it.
type publicView struct{ Public publicData }

// publicPreview shows staff what anybody sees.
func (c *Console) publicPreview(v *visit) error {
	rows, day := c.publicRows()
	return v.show(http.StatusOK, "public", "public.title", publicView{publicData{rows, day, desk.SmallCell}})
}

// AdoptionJSON is /adoption.json of the public listener: the table that anybody may see.
// A hidden count is absent and its name is listed.
func (c *Console) AdoptionJSON() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := c.figures.get(c.adoptionJSON)
		if err != nil {
			c.Logger.Error("a page of the console failed", "route", "/adoption.json", "err", err)
			http.Error(w, "internal error", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Cache-Control", "public, max-age=300")
		_, _ = w.Write(data)
	})
}

func (c *Console) adoptionJSON() ([]byte, error) {
	type unit struct {
		Code        string   `json:"code"`
		Parent      string   `json:"parent,omitempty"`
		Level       string   `json:"level"`
		Name        string   `json:"name"`
		Installs    *int64   `json:"installs,omitempty"`
		InstallsOf  []string `json:"installs_of,omitempty"`
		AsOf        string   `json:"installs_as_of,omitempty"`
		Smartphones *int64   `json:"smartphones,omitempty"`
		People      *int64   `json:"people,omitempty"`
		Rate        string   `json:"rate_percent,omitempty"`
		Hidden      []string `json:"hidden,omitempty"`
	}
	file := struct {
		Region string `json:"region"`
		Day    string `json:"day"`
		Small  int    `json:"hidden_below"`
		Units  []unit `json:"units"`
	}{c.Region, c.Office.Today(), desk.SmallCell, []unit{}}
	for _, r := range c.Office.Ledger().Public(file.Day) {
		u := unit{Code: r.Unit.Code, Parent: r.Unit.Parent, Level: string(r.Unit.Level), Name: r.Unit.Name}
		for i, n := range []desk.Count{r.Installs, r.Smartphones, r.People} {
			switch {
			case !n.Known:
			case r.Hidden[i]:
				u.Hidden = append(u.Hidden, desk.Kinds[i])
			default:
				*[]**int64{&u.Installs, &u.Smartphones, &u.People}[i] = &n.Value
				if i == 0 {
					u.InstallsOf, u.AsOf = n.Of, n.AsOf
				}
			}
		}
		if r.RateKnown && !r.RateHidden() {
			u.Rate = desk.Rate(r.RateInstalls, r.RateSmartphones, 2).String()
		}
		file.Units = append(file.Units, u)
	}
	data, err := json.MarshalIndent(file, "", " ")
	return append(data, '\n'), err
}
