package console

import (
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"sync"
	"time"

	"rsc.io/qr"

	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
)

// onces remembers for an hour which forms were used, so that going back or reloading does
// not issue a second code. A restart forgets them: the worst is one code too many.
type onces struct {
	mu   sync.Mutex
	used map[string]time.Time
}

const maxOnces = 10_000

// use reports whether the form is used for the first time.
func (o *onces) use(once string, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.used == nil {
		o.used = map[string]time.Time{}
	}
	if _, again := o.used[once]; again || len(once) != len(desk.NewOnce()) {
		return false
	}
	for name, at := range o.used {
		if now.Sub(at).Abs() > time.Hour || len(o.used) >= maxOnces {
			delete(o.used, name)
		}
	}
	o.used[once] = now
	return true
}

type codesData struct {
	Once      string
	Today     string
	Oldest    string
	Status    desk.Status
	Used, Cap int
	MaxSheet  int
}

func (c *Console) codesPage(v *visit) error {
	used, limit, err := c.Office.IssuedToday(v.account.ID)
	if err != nil {
		return err
	}
	now := c.Office.Now()
	return v.show(http.StatusOK, "codes", "codes.title", codesData{
		Once: desk.NewOnce(), Today: c.Office.Today(), Oldest: now.Add(-desk.MaxOnsetAge * 24 * time.Hour).Format(time.DateOnly),
		Status: c.Office.CodeStatus(), Used: used, Cap: limit, MaxSheet: maxSheet,
	})
}

// maxSheet bounds the codes of a sheet.
const maxSheet = 100

// slip is what is shown of codes just made, and shown once.
type slip struct {
	Codes  []slipCode
	Report diagnosis.ReportType
	Onset  string // YYYY-MM-DD, empty if nobody knows
	Until  time.Time
	Long   bool
	Hours  int
	Once   string // for another one
	Host   string
}

type slipCode struct {
	Code   string
	Groups []string
	QR     template.HTML
}

// request reads what kind of code is wanted.
func (v *visit) request() (desk.Request, string, error) {
	if err := v.form(); err != nil {
		return desk.Request{}, "", err
	}
	r := desk.Request{Officer: v.account.ID, Count: 1}
	var err error
	if r.Report, err = diagnosis.ParseReportType(v.r.PostFormValue("report")); err != nil {
		return r, "", &desk.FieldError{Field: "report", Problem: "required"}
	}
	onset := v.r.PostFormValue("onset")
	day, err := time.Parse(time.DateOnly, onset)
	if err != nil || day.Year() < 2000 {
		return r, "", &desk.FieldError{Field: "onset", Problem: "date"}
	}
	if onset > v.Office.Today() {
		return r, "", &desk.FieldError{Field: "onset", Problem: "future"}
	}
	r.OnsetDay = uint32(day.Unix() / 86400)
	// Before seven in the morning the day in Viet Nam is ahead of the desk's.
	r.OnsetDay = min(r.OnsetDay, uint32(v.Office.Now().Unix()/86400))
	if r.Long = v.r.PostFormValue("long") != ""; r.Long {
		r.TTL = desk.LongTTL
	}
	return r, onset, nil
}

func (c *Console) issue(v *visit) error {
	r, onset, err := v.request()
	if err != nil {
		return err
	}
	return c.hand(v, r, onset)
}

// issueAgain makes another code like the last one, which ends.
func (c *Console) issueAgain(v *visit) error {
	r, onset, err := v.request()
	if err != nil {
		return err
	}
	if _, err := c.Codes.Revoke(v.r.Context(), v.account.ID, v.r.PostFormValue("code")); err != nil {
		return err
	}
	return c.hand(v, r, onset)
}

func (c *Console) sheet(v *visit) error {
	r, onset, err := v.request()
	if err != nil {
		return err
	}
	n, err := desk.ParseCount(v.r.PostFormValue("count"))
	if err != nil || n < 1 || n > maxSheet {
		return &desk.FieldError{Field: "count", Problem: "range"}
	}
	r.Count, r.Long, r.TTL = int(n), true, desk.LongTTL
	return c.hand(v, r, onset)
}

// hand issues codes and shows them.
func (c *Console) hand(v *visit, r desk.Request, onset string) error {
	if !c.onces.use(v.r.PostFormValue("once"), c.Office.Now()) {
		return &sorry{http.StatusConflict, "error.once", nil}
	}
	made, err := c.Codes.Issue(v.r.Context(), r)
	if err != nil {
		return err
	}
	life := desk.ShortTTL
	if r.TTL > 0 {
		life = r.TTL
	}
	s := slip{Report: r.Report, Onset: onset, Until: c.Office.Now().Add(life), Long: r.Long, Hours: int(life.Hours()), Once: desk.NewOnce(), Host: c.Origin}
	for _, code := range made {
		picture, err := qrSVG(code)
		if err != nil {
			return err
		}
		s.Codes = append(s.Codes, slipCode{code, groups(code), picture})
	}
	// When its time is over the code leaves the screen, too.
	v.w.Header().Set("Refresh", fmt.Sprintf("%d; url=/codes", int(life.Seconds())))
	if len(made) > 1 {
		return v.show(http.StatusOK, "sheet", "sheet.title", s)
	}
	return v.show(http.StatusOK, "slip", "slip.title", s)
}

func (c *Console) revoke(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	ended, err := c.Codes.Revoke(v.r.Context(), v.account.ID, v.r.PostFormValue("code"))
	if err != nil {
		return err
	}
	text := "codes.revoke.none"
	if ended {
		text = "codes.revoke.done"
	}
	return v.show(http.StatusOK, "done", "codes.revoke.title", doneData{v.T(text), "/codes"})
}

// qrSVG draws a QR code, black on white with the quiet zone that readers want.
func qrSVG(text string) (template.HTML, error) {
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		return "", fmt.Errorf("make a QR code: %w", err)
	}
	const quiet = 4
	var path strings.Builder
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			from := x
			for x < code.Size && code.Black(x, y) {
				x++
			}
			if x > from {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", from+quiet, y+quiet, x-from, x-from)
			}
		}
	}
	size := code.Size + 2*quiet
	return template.HTML(fmt.Sprintf(`<svg class="qr" viewBox="0 0 %d %d" role="img" aria-label="QR" shape-rendering="crispEdges"><path d="%s"/></svg>`, size, size, path.String())), nil
}

const journalLines = 100

type journalData struct {
	Lines []journalLine
	Head  string
	More  uint64 // the number before which older lines begin; 0: none
}

type journalLine struct {
	desk.Line
	Name string
}

func (c *Console) journalPage(v *visit) error {
	before := uint64(0)
	if s := v.r.URL.Query().Get("before"); s != "" {
		n, err := desk.ParseCount(s)
		if err != nil || n == 0 {
			return notFound
		}
		before = uint64(n)
	}
	lines, err := c.Office.Journal(before, journalLines)
	if err != nil {
		return err
	}
	names, err := c.names()
	if err != nil {
		return err
	}
	d := journalData{Head: c.Office.JournalHead().String()}
	for _, l := range lines {
		d.Lines = append(d.Lines, journalLine{l, names[l.Who]})
	}
	if n := len(lines); n > 0 && lines[n-1].Number > 1 {
		d.More = lines[n-1].Number
	}
	return v.show(http.StatusOK, "journal", "journal.title", d)
}

// names are what colleagues call the accounts.
func (c *Console) names() (map[string]string, error) {
	accounts, err := c.Office.Accounts()
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, a := range accounts {
		names[a.ID] = a.Display
	}
	return names, nil
}

func (c *Console) journalText(v *visit) error {
	var b strings.Builder
	if err := c.Office.WriteJournal(&b); err != nil {
		return err
	}
	return v.file("text/plain; charset=utf-8", "journal.txt", []byte(b.String()), false)
}
