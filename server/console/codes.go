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
	Retired   bool
	Door      bool // the Bluezone door is open
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
		Retired: c.retired(), Door: c.Door != nil,
		Once: desk.NewOnce(), Today: c.Office.Today(), Oldest: now.Add(-desk.MaxOnsetAge * 24 * time.Hour).Format(time.DateOnly),
		Status: c.Office.CodeStatus(), Used: used, Cap: limit, MaxSheet: maxSheet,
	})
}

// maxSheet bounds the codes of a sheet.
const maxSheet = 100

// kind is one of the forms in which a code is handed out.
type kind string

const (
	shortCode kind = "short" // nine digits, to be read out
	longCode  kind = "long"  // for slips and QR
	doorCode  kind = "door"  // six digits, for the Bluezone door
)

// life is how long a code of the kind can be used.
func (k kind) life() time.Duration {
	return map[kind]time.Duration{shortCode: desk.ShortTTL, longCode: desk.LongTTL, doorCode: desk.DoorTTL}[k]
}

// wish is what kind of code an officer asks for, and for which case.
type wish struct {
	kind   kind
	report diagnosis.ReportType
	onset  string // YYYY-MM-DD
	day    uint32 // the same, UTC day since the epoch
	count  int
	// instead is a code that ends once there is the new one; empty: none does.
	instead string
}

// slip is what is shown of codes just made, and shown once.
type slip struct {
	Codes  []slipCode
	Kind   kind
	Report diagnosis.ReportType
	Onset  string // YYYY-MM-DD
	Until  time.Time
	Once   string // for another one
	Host   string
}

type slipCode struct {
	Code   string
	Groups []string
	QR     template.HTML
}

// wish reads what kind of code is wanted.
func (v *visit) wish() (w wish, err error) {
	if v.retired() {
		return w, errRetired
	}
	if err := v.form(); err != nil {
		return w, err
	}
	w = wish{kind: kind(v.r.PostFormValue("kind")), onset: v.r.PostFormValue("onset"), count: 1}
	if w.kind == "" {
		w.kind = shortCode
	}
	if w.kind.life() == 0 || w.kind == doorCode && v.Door == nil {
		return w, &desk.FieldError{Field: "kindofcode", Problem: "unknown"}
	}
	if w.report, err = diagnosis.ParseReportType(v.r.PostFormValue("report")); err != nil {
		return w, &desk.FieldError{Field: "report", Problem: "required"}
	}
	day, err := time.Parse(time.DateOnly, w.onset)
	if err != nil || day.Year() < 2000 {
		return w, &desk.FieldError{Field: "onset", Problem: "date"}
	}
	if w.onset > v.Office.Today() {
		return w, &desk.FieldError{Field: "onset", Problem: "future"}
	}
	// Before seven in the morning the day in Viet Nam is ahead of the desk's.
	w.day = min(uint32(day.Unix()/86400), uint32(v.Office.Now().Unix()/86400))
	return w, nil
}

// errRetired says where codes come from now.
var errRetired = &sorry{http.StatusConflict, "error.retired", nil}

func (c *Console) retired() bool {
	if c.Retired == nil {
		return false
	}
	_, over := c.Retired()
	return over
}

func (c *Console) issue(v *visit) error {
	w, err := v.wish()
	if err != nil {
		return err
	}
	return c.hand(v, w)
}

// issueAgain makes another code like the last one, which ends. If there can be no other
// one, the last one lives on.
func (c *Console) issueAgain(v *visit) error {
	w, err := v.wish()
	if err != nil {
		return err
	}
	w.instead = v.r.PostFormValue("code")
	return c.hand(v, w)
}

func (c *Console) sheet(v *visit) error {
	w, err := v.wish()
	if err != nil {
		return err
	}
	n, err := desk.ParseCount(v.r.PostFormValue("count"))
	if err != nil || n < 1 || n > maxSheet {
		return &desk.FieldError{Field: "count", Problem: "range"}
	}
	w.kind, w.count = longCode, int(n)
	return c.hand(v, w)
}

// hand issues codes and shows them.
func (c *Console) hand(v *visit, w wish) error {
	if !c.onces.use(v.r.PostFormValue("once"), c.Office.Now()) {
		return &sorry{http.StatusConflict, "error.once", nil}
	}
	made, err := c.codesFor(v, w)
	if err != nil {
		return err
	}
	if w.instead != "" {
		if _, err := c.end(v, w.instead); err != nil {
			return err
		}
	}
	life := w.kind.life()
	s := slip{Kind: w.kind, Report: w.report, Onset: w.onset, Until: c.Office.Now().Add(life), Once: desk.NewOnce(), Host: c.Origin}
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

func (c *Console) codesFor(v *visit, w wish) ([]string, error) {
	if w.kind == doorCode {
		code, err := c.Door.IssueDoor(v.r.Context(), v.account.ID, w.report, w.day)
		return []string{code}, err
	}
	return c.Codes.Issue(v.r.Context(), desk.Request{
		Officer: v.account.ID, Report: w.report, OnsetDay: w.day, Count: w.count, Long: w.kind == longCode, TTL: w.kind.life(),
	})
}

// end revokes a code of any kind. It reports whether there was one.
func (c *Console) end(v *visit, typed string) (bool, error) {
	typed = strings.TrimSpace(typed)
	if digits := strings.NewReplacer(" ", "", "-", "").Replace(typed); c.Door != nil {
		if _, err := desk.ParseDoor(digits); err == nil {
			return c.Door.RevokeDoor(v.r.Context(), v.account.ID, digits)
		}
	}
	return c.Codes.Revoke(v.r.Context(), v.account.ID, typed)
}

func (c *Console) revoke(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	ended, err := c.end(v, v.r.PostFormValue("code"))
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
