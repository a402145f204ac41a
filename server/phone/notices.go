package phone

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	noticesPath = "notice/notices.json"
	maxNotices  = 256 << 10 // bytes; a warning takes 50 kB at most, an announcement 25, and mostly a tenth of that
	maxTitle    = 80        // characters
	maxText     = 2000      // characters
	maxHotline  = 20        // characters
)

// Notices are what the health authority tells every phone: the warning that a contact
// reads, by which rule a phone decides who is one, and announcements. nil stands for none
// that was ever seen: then there are the built-in ones, which say that they are.
//
// Texts are plain, no markup, lines divided by LF. An app shows them as they are and makes
// no links of them.
type Notices struct {
	Origin string    // of the log that names them
	Entry  uint64    // which does
	Time   time.Time // of that entry
	text   []byte    // the file
	file   noticeFile
}

// noticeFile is the file /notice/notices.json, members in this order.
type noticeFile struct {
	Warning       *warningPart       `json:"warning,omitempty"`
	Announcements []announcementPart `json:"announcements"` // newest first
}

type warningPart struct {
	Title    wording  `json:"title"`
	Text     wording  `json:"text"`
	ToDo     wording  `json:"to_do"`
	Hotline  string   `json:"hotline"`
	Matching Matching `json:"matching"`
}

type announcementPart struct {
	Title wording `json:"title"`
	Text  wording `json:"text"`
	Until string  `json:"until"`
}

// Matching is the rule by which a phone decides that its owner was near a case.
type Matching struct {
	Minutes   int `json:"minutes"`    // near one case, in one day, at least
	Tolerance int `json:"tolerance"`  // seconds that two clocks may differ
	OnsetFrom int `json:"onset_from"` // first day of the case that counts, in days after its onset
	OnsetTo   int `json:"onset_to"`   // last one
}

// Warning is what a contact reads, in one language.
type Warning struct {
	Title, Text, ToDo string
	Hotline           string // a telephone number; empty if BuiltIn
	BuiltIn           bool   // the app's own words: the authority has published none
}

// Announcement is a text for everybody, in one language.
type Announcement struct {
	Title, Text string
	Until       string // its last day in Viet Nam, as 2006-01-02
}

// vietNam is the time zone of every day in a notice.
var vietNam = time.FixedZone("+07", 7*3600)

// builtIn is the warning of a phone that has seen none.
var builtIn = warningPart{
	Title: wording{
		VI: "Có thể bạn đã tiếp xúc gần với ca bệnh",
		EN: "You may have been close to a case",
	},
	Text: wording{
		VI: "Điện thoại của bạn đã ở gần điện thoại của một người sau đó được xác định mắc bệnh.\nNội dung này có sẵn trong ứng dụng: ngành y tế chưa công bố hướng dẫn riêng.",
		EN: "Your phone was near the phone of somebody who was later found to be ill.\nThis text came with the app: the health service has published none of its own yet.",
	},
	ToDo: wording{
		VI: "Hãy ở nhà, hạn chế gặp người khác và gọi trạm y tế nơi bạn ở để được hướng dẫn.",
		EN: "Stay at home, keep away from others and call your local health station. They will tell you what to do.",
	},
	Matching: Matching{Minutes: 15, Tolerance: 120, OnsetFrom: -2, OnsetTo: 10},
}

func (n *Notices) warning() *warningPart {
	if n == nil || n.file.Warning == nil {
		return &builtIn
	}
	return n.file.Warning
}

// Matching is the rule in force.
func (n *Notices) Matching() Matching { return n.warning().Matching }

// Warning is what a contact reads. languages are those of the phone, the best first, as
// "en-GB": the first that there is, else Vietnamese.
func (n *Notices) Warning(languages ...string) Warning {
	w, lang := n.warning(), language(languages)
	return Warning{Title: w.Title.in(lang), Text: w.Text.in(lang), ToDo: w.ToDo.in(lang), Hotline: w.Hotline, BuiltIn: w == &builtIn}
}

// Announcements are those that have not expired, newest first. languages: see Warning.
func (n *Notices) Announcements(now time.Time, languages ...string) (list []Announcement) {
	if n == nil {
		return nil
	}
	today, lang := now.In(vietNam).Format(time.DateOnly), language(languages)
	for _, a := range n.file.Announcements {
		if today <= a.Until {
			list = append(list, Announcement{Title: a.Title.in(lang), Text: a.Text.in(lang), Until: a.Until})
		}
	}
	return list
}

// Notices reads the notices and gives those that hold: the ones read or, with an error, the
// ones known. A tree that withholds the file, damages it, or serves one that is older than
// what this phone knows takes nothing away. nil and no error mean that none were published.
func (c *Client) Notices(ctx context.Context, known *Notices) (*Notices, error) {
	keyring, err := c.Keyring(ctx)
	if err != nil {
		return known, err
	}
	next, err := c.readNotices(ctx, keyring.Origin)
	if known == nil && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = next.follows(known)
	}
	if err != nil {
		return known, fmt.Errorf("notices of %s: %w", c.source, err)
	}
	return next, nil
}

// readNotices reads the file, which the log of the service must name. A policy may name
// other logs, too: their notices, and those of a log that this one follows, are not these.
func (c *Client) readNotices(ctx context.Context, origin string) (*Notices, error) {
	if c.Policy == nil {
		c.Note(c.source.String() + ": its notices are judged by the policy that lies there itself: whoever runs the place can write them")
	}
	f, err := readSmall(ctx, c.source, c.Policy, noticesPath, maxNotices)
	if err != nil {
		return nil, err
	}
	if f.origin != origin {
		return nil, fmt.Errorf("they are of %s, the service is %s", f.origin, origin)
	}
	if f.entry.Time > math.MaxUint32 { // which a State could not hold
		return nil, fmt.Errorf("their entry is of %v", time.Unix(f.entry.Time, 0).UTC())
	}
	return newNotices(origin, f.index, time.Unix(f.entry.Time, 0).UTC(), f.data)
}

// follows says why n may not take the place of what is known. The log orders its own
// entries; where another log follows, time does.
func (n *Notices) follows(known *Notices) error {
	switch {
	case known == nil:
	case n.Origin != known.Origin && n.Time.Before(known.Time), n.Origin == known.Origin && n.Entry < known.Entry:
		return fmt.Errorf("of %v, older than those seen before, of %v: a cache, or who runs the place, holds the newer ones back", n.Time, known.Time)
	case n.Origin == known.Origin && n.Entry == known.Entry && !bytes.Equal(n.text, known.text):
		return fmt.Errorf("entry %d is not what it was: the log tells two stories, tell an auditor", n.Entry)
	}
	return nil
}

// newNotices reads the file in the one form in which it is written.
func newNotices(origin string, entry uint64, at time.Time, text []byte) (*Notices, error) {
	n := &Notices{Origin: origin, Entry: entry, Time: at, text: text}
	if len(text) > maxNotices {
		return nil, fmt.Errorf("%d bytes, more than the %d allowed", len(text), maxNotices)
	}
	if err := json.Unmarshal(text, &n.file); err != nil {
		return nil, err
	}
	// JSON has many spellings. What is unknown, repeated, or not UTF-8 shows here, too.
	again, err := json.MarshalIndent(n.file, "", " ")
	if err != nil || !bytes.Equal(append(again, '\n'), text) {
		return nil, errors.Join(errors.New("not in the form in which they are written"), err)
	}
	return n, n.file.check()
}

func (f *noticeFile) check() error {
	if f.Announcements == nil {
		return errors.New("no list of announcements")
	}
	var errs []error
	if w := f.Warning; w != nil {
		errs = append(errs, w.Title.check(maxTitle), w.Text.check(maxText), w.ToDo.check(maxText), w.Matching.check())
		if n := len(w.Hotline); n < 1 || n > maxHotline || strings.Trim(w.Hotline, "+0123456789 .-") != "" {
			errs = append(errs, errors.New("the hotline is not a telephone number"))
		}
	}
	for i, a := range f.Announcements {
		if err := errors.Join(a.Title.check(maxTitle), a.Text.check(maxText), checkDay(a.Until)); err != nil {
			errs = append(errs, fmt.Errorf("announcement %d: %w", i+1, err))
		}
	}
	return errors.Join(errs...)
}

func (m Matching) check() error {
	if m.Minutes < 1 || m.Minutes > 240 || m.Tolerance < 0 || m.Tolerance > 3600 || m.OnsetFrom < -14 || m.OnsetTo < m.OnsetFrom || m.OnsetTo > 14 {
		return fmt.Errorf("matching by %+v", m)
	}
	return nil
}

func checkDay(day string) error {
	t, err := time.Parse(time.DateOnly, day)
	if err != nil || t.Year() < 2000 || t.Year() > 2199 {
		return fmt.Errorf("%.20q is not a day", day)
	}
	return nil
}

// wording is a text in both languages.
type wording struct {
	VI string `json:"vi"`
	EN string `json:"en"`
}

func (w wording) in(lang string) string {
	if lang == "en" {
		return w.EN
	}
	return w.VI
}

// check refuses what is no plain text: what could reorder, hide or break it on the screen.
func (w wording) check(most int) error {
	for _, s := range []string{w.VI, w.EN} {
		if strings.TrimSpace(s) == "" || utf8.RuneCountInString(s) > most {
			return fmt.Errorf("a text of %d characters, want 1 to %d in both languages", utf8.RuneCountInString(s), most)
		}
		for _, r := range s {
			if r != '\n' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
				return fmt.Errorf("a text with the character %U", r)
			}
		}
	}
	return nil
}

// language picks vi or en.
func language(wanted []string) string {
	for _, w := range wanted {
		if name := strings.ToLower(w[:min(2, len(w))]); (name == "vi" || name == "en") && (len(w) == 2 || w[2] == '-' || w[2] == '_') {
			return name
		}
	}
	return "vi"
}
