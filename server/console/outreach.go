package console

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"bluekey/keystore/desk"
)

// The texts of outreach that staff may edit.
var spokenTexts = []string{"short", "long"}

type outreachData struct {
	Kinds  []string
	Units  []unitChoice
	Ready  bool // there is an address to put into the QR
	URL    string
	Spoken []spoken
	Writer bool
}

type spoken struct {
	Name    string
	Text    desk.Wording
	Edited  bool
	Seconds map[string]int
}

func (c *Console) outreachPage(v *visit) error {
	d := outreachData{Kinds: posterNames, Units: c.unitChoices(""), Ready: c.InstallURL != "", URL: c.InstallURL, Writer: slices.Contains(staff, v.account.Role)}
	for _, name := range spokenTexts {
		s := spoken{Name: name}
		var err error
		if s.Text, s.Edited, err = c.Office.Text("spoken." + name); err != nil {
			return err
		}
		if !s.Edited {
			s.Text = c.wording("spoken." + name)
		}
		s.Seconds = map[string]int{"vi": seconds(s.Text.VI, 2.8), "en": seconds(s.Text.EN, 2.2)}
		d.Spoken = append(d.Spoken, s)
	}
	return v.show(http.StatusOK, "outreach", "outreach.title", d)
}

// wording is a text of the catalog in both languages.
func (c *Console) wording(key string) desk.Wording {
	say := func(l lang) string {
		return broken(words{c.pages.printers[l], l}.T(key))
	}
	return desk.Wording{VI: say(vietnamese), EN: say(english)}
}

// broken begins a new line where a text of the catalog, which has one, asks for it.
func broken(text string) string { return strings.ReplaceAll(text, " | ", "\n") }

// seconds is about how long a text takes to read out slowly, at so many written words a
// second. A Vietnamese word on paper is a syllable.
func seconds(text string, perSecond float64) int {
	return int(float64(len(strings.Fields(text)))/perSecond + 0.5)
}

func (c *Console) setText(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	name := v.r.PostFormValue("name")
	if !slices.Contains(spokenTexts, name) {
		return notFound
	}
	w := desk.Wording{VI: v.r.PostFormValue("text_vi"), EN: v.r.PostFormValue("text_en")}
	if err := c.Office.SetText(v.account, "spoken."+name, w); err != nil {
		return err
	}
	return v.see("/outreach")
}

var posterNames = []string{"poster-a4", "poster-a3", "leaflet", "desk-card", "school"}

var errNoInstall = &sorry{http.StatusConflict, "error.install", nil}

// outreachPDF makes a poster. Everything on it comes from the catalogs, the units and the
// configuration: nothing is typed for it.
func (c *Console) outreachPDF(v *visit) error {
	name, ok := strings.CutSuffix(v.r.PathValue("file"), ".pdf")
	if !ok || !slices.Contains(posterNames, name) {
		return notFound
	}
	if c.InstallURL == "" {
		return errNoInstall
	}
	place := ""
	if code := v.r.URL.Query().Get("unit"); code != "" {
		u, known := c.Office.Unit(code)
		if !known {
			return desk.ErrNoUnit
		}
		place = u.Name
	}
	w := v.say()
	if l, ok := parseLang(v.r.URL.Query().Get("lang")); ok {
		w = words{c.pages.printers[l], l}
	}
	hotline, err := c.hotline()
	if err != nil {
		return err
	}
	f := flyer{c, w, place, hotline}
	p, err := f.draw(name)
	if err != nil {
		return err
	}
	return p.answer(v, name+".pdf")
}

// hotline is that of the published warning; empty if there is none.
func (c *Console) hotline() (string, error) {
	notices, err := c.Office.Notices()
	for _, n := range notices {
		if n.Kind == desk.Warning && c.Office.Live(n) {
			return n.Hotline, err
		}
	}
	return "", err
}

// flyer is what is said on paper, in whatever size.
type flyer struct {
	*Console
	w       words
	place   string
	hotline string
}

func (f flyer) draw(name string) (*paper, error) {
	switch name {
	case "poster-a3":
		p := newPaper("P", "A3")
		return p, f.poster(p, 0, 0, p.width, p.height)
	case "leaflet": // two to a sheet, to be cut
		p := newPaper("L", "A4")
		for i := range 2 {
			if err := f.poster(p, float64(i)*p.width/2, 0, p.width/2, p.height); err != nil {
				return nil, err
			}
		}
		p.cut(p.width/2, 0, p.width/2, p.height)
		return p, nil
	case "desk-card": // four to a sheet
		p := newPaper("L", "A4")
		for i := range 4 {
			if err := f.card(p, float64(i%2)*p.width/2, float64(i/2)*p.height/2, p.width/2, p.height/2); err != nil {
				return nil, err
			}
		}
		p.cut(p.width/2, 0, p.width/2, p.height)
		p.cut(0, p.height/2, p.width, p.height/2)
		return p, nil
	case "school":
		p := newPaper("P", "A4")
		return p, f.school(p)
	default:
		p := newPaper("P", "A4")
		return p, f.poster(p, 0, 0, p.width, p.height)
	}
}

// cut draws where to cut.
func (p *paper) cut(x1, y1, x2, y2 float64) {
	p.SetDrawColor(150, 150, 150)
	p.SetDashPattern([]float64{2, 2}, 0)
	p.Line(x1, y1, x2, y2)
	p.SetDashPattern(nil, 0)
	p.SetDrawColor(0, 0, 0)
}

// poster fills a box: a band with the call, the code in the middle, three steps, who asks.
func (f flyer) poster(p *paper, x, y, width, height float64) error {
	p.SetAutoPageBreak(false, 0)
	k := width / 210 // sizes are those of A4
	p.SetFillColor(11, 83, 148)
	p.Rect(x, y, width, height*0.2, "F")
	p.SetTextColor(255, 255, 255)
	p.fit(broken(f.w.T("poster.call")), x+10*k, y+height*0.035, width-20*k, height*0.1, 40*k, "B")
	p.fit(f.w.T("poster.under"), x+10*k, y+height*0.145, width-20*k, height*0.05, 18*k, "")
	p.SetTextColor(0, 0, 0)
	side := min(width*0.5, height*0.34)
	if err := p.qr(f.InstallURL, x+(width-side)/2, y+height*0.215, side); err != nil {
		return err
	}
	at := y + height*0.225 + side
	p.fit(f.shown(), x+8*k, at, width-16*k, 9*k, 16*k, "B")
	at += 12 * k
	for i, key := range []string{"poster.step1", "poster.step2", "poster.step3"} {
		p.SetFillColor(11, 83, 148)
		r := 6 * k
		cy := at + float64(i)*15*k + r
		p.Circle(x+20*k, cy, r, "F")
		p.SetTextColor(255, 255, 255)
		p.fit(string(rune('1'+i)), x+14*k, cy-4.2*k, 12*k, 10*k, 16*k, "B")
		p.SetTextColor(0, 0, 0)
		p.SetFont(fontName, "", 15*k)
		p.SetXY(x+30*k, cy-4.5*k)
		p.CellFormat(width-40*k, 9*k, f.w.T(key), "", 0, "L", false, 0, "")
	}
	at += 48 * k
	p.fit(f.w.T("poster.privacy"), x+12*k, at, width-24*k, 18*k, 12*k, "")
	f.foot(p, x, y+height-24*k, width, k)
	return nil
}

// foot says who asks, whom to call and how to check the service.
func (f flyer) foot(p *paper, x, y, width, k float64) {
	var lines []string
	if f.place != "" {
		lines = append(lines, f.place)
	}
	if f.hotline != "" {
		lines = append(lines, f.w.T("poster.hotline", f.hotline))
	}
	p.fit(strings.Join(lines, " – "), x+8*k, y, width-16*k, 9*k, 14*k, "B")
	if f.PolicyDigest != nil {
		if digest := f.PolicyDigest(); digest != "" {
			p.SetTextColor(81, 96, 109)
			p.fit(f.w.T("poster.policy", f.Origin)+"\n"+digest, x+8*k, y+10*k, width-16*k, 10*k, 8*k, "")
			p.SetTextColor(0, 0, 0)
		}
	}
}

// shown is the install address as people read it.
func (f flyer) shown() string {
	u, err := url.Parse(f.InstallURL)
	if err != nil {
		return f.InstallURL
	}
	return u.Host + strings.TrimSuffix(u.Path, "/")
}

// card stands on a desk: the code on one side, the words on the other.
func (f flyer) card(p *paper, x, y, width, height float64) error {
	p.SetAutoPageBreak(false, 0)
	side := height * 0.62
	if err := p.qr(f.InstallURL, x+5, y+height*0.12, side); err != nil {
		return err
	}
	left, room := x+side+8, width-side-14
	p.SetTextColor(11, 83, 148)
	p.fit(broken(f.w.T("poster.call")), left, y+height*0.14, room, height*0.26, 18, "B")
	p.SetTextColor(0, 0, 0)
	p.fit(broken(f.w.T("card.text")), left, y+height*0.42, room, height*0.33, 12, "")
	p.fit(f.shown(), x+5, y+height*0.76, width-10, 6, 11, "B")
	f.foot(p, x, y+height*0.83, width, 0.7)
	return nil
}

// school is a letter that goes home with pupils, and what a teacher says.
func (f flyer) school(p *paper) error {
	p.heading(f.w.T("school.heading"))
	p.space(2)
	if f.place != "" {
		p.bold(12)
		p.paragraph(f.place, "L")
		p.space(2)
	}
	for _, key := range []string{"school.parents", "school.how", "school.privacy"} {
		p.regular(12)
		p.paragraph(f.w.T(key), "L")
		p.space(3)
	}
	y := p.GetY() + 2
	if err := p.qr(f.InstallURL, (p.width-70)/2, y, 70); err != nil {
		return err
	}
	p.fit(f.shown(), 16, y+71, p.width-32, 8, 13, "B")
	p.SetXY(16, y+84)
	p.bold(12)
	p.paragraph(f.w.T("school.teacher.heading"), "L")
	p.regular(12)
	p.paragraph(f.w.T("school.teacher"), "L")
	p.SetAutoPageBreak(false, 0)
	f.foot(p, 0, p.height-24, p.width, 1)
	return nil
}
