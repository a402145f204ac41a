package desk

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/text/unicode/norm"
)

// NoticeKind says what a notice is.
type NoticeKind string

const (
	// Warning is what a contact reads, and the settings by which phones decide who is one.
	// There is one at a time; it takes two persons to change it.
	Warning NoticeKind = "warning"
	// Announcement is a short text for everybody, for a time.
	Announcement NoticeKind = "announcement"
)

// Wording is a text in both languages: plain, no markup.
type Wording struct {
	VI string `json:"vi"`
	EN string `json:"en"`
}

// Matching is how a phone decides that its owner was near a case.
type Matching struct {
	Minutes   int `json:"minutes"`    // near one case, in one day, at least
	Tolerance int `json:"tolerance"`  // seconds that two clocks may differ
	OnsetFrom int `json:"onset_from"` // days after the onset, negative before it
	OnsetTo   int `json:"onset_to"`
}

// DefaultMatching is what the first warning is proposed with.
var DefaultMatching = Matching{Minutes: 15, Tolerance: 120, OnsetFrom: -2, OnsetTo: 10}

// Notice is a warning or an announcement, proposed, published, or over.
type Notice struct {
	Number   uint64     `json:"n"`
	Kind     NoticeKind `json:"kind"`
	Title    Wording    `json:"title"`
	Text     Wording    `json:"text"`
	ToDo     Wording    `json:"to_do"`    // of a warning
	Hotline  string     `json:"hotline"`  // of a warning
	Matching Matching   `json:"matching"` // of a warning
	Until    string     `json:"until,omitempty"`

	By        string    `json:"by"`
	At        time.Time `json:"at"`
	Approved  string    `json:"approved,omitempty"` // by whom; for an announcement, who wrote it
	Published time.Time `json:"published,omitzero"`
	Ended     time.Time `json:"ended,omitzero"` // withdrawn, refused or replaced
}

var (
	// ErrTwoPersons means that who proposed a warning may not approve it.
	ErrTwoPersons = errors.New("a second person has to approve it")
	// ErrNoticesFull means that phones would not read the file with this notice in it.
	ErrNoticesFull = errors.New("the notices are more than phones read: withdraw some first")
	// ErrNoNotice means that the notice is not there or no longer waits.
	ErrNoNotice = errors.New("no such notice, or it is settled already")
)

// MaxNotice bounds a text, in characters.
const MaxNotice = 2000

// maxNoticeFile is how many bytes phones read (server/PHONES.md, section 11).
const maxNoticeFile = 256 << 10

// CleanLines is CleanText for a text of several lines.
func CleanLines(s string, limit int) (string, bool) {
	if len(s) > 8*limit || !utf8.ValidString(s) {
		return "", false
	}
	s = norm.NFC.String(strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n"))
	s = strings.Map(func(r rune) rune {
		if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == 0x2028 || r == 0x2029) {
			return -1
		}
		return r
	}, s)
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRightFunc(lines[i], unicode.IsSpace)
	}
	s = strings.Trim(strings.Join(lines, "\n"), "\n")
	for strings.Contains(s, "\n\n\n") {
		s = strings.ReplaceAll(s, "\n\n\n", "\n\n")
	}
	return s, utf8.RuneCountInString(s) <= limit
}

func cleanWording(field string, w *Wording, limit int) error {
	for _, part := range []struct {
		name string
		text *string
	}{{field + "_vi", &w.VI}, {field + "_en", &w.EN}} {
		clean, fits := CleanLines(*part.text, limit)
		switch {
		case !fits:
			return &FieldError{Field: part.name, Problem: "long"}
		case clean == "":
			return &FieldError{Field: part.name, Problem: "required"}
		}
		*part.text = clean
	}
	return nil
}

func (n *Notice) check(today string) error {
	err := cmp.Or(cleanWording("title", &n.Title, 80), cleanWording("text", &n.Text, MaxNotice))
	if n.Kind == Announcement {
		n.ToDo, n.Hotline, n.Matching = Wording{}, "", Matching{}
		err = cmp.Or(err, checkDay("until", n.Until, ""))
		if err == nil && n.Until < today {
			err = &FieldError{Field: "until", Problem: "range"}
		}
		return err
	}
	if n.Kind != Warning {
		return &FieldError{Field: "kind", Problem: "unknown"}
	}
	n.Until = ""
	hotline, fits := CleanText(n.Hotline, 20)
	n.Hotline = hotline
	err = cmp.Or(err, cleanWording("to_do", &n.ToDo, MaxNotice))
	m := n.Matching
	switch {
	case err != nil:
		return err
	case !fits || hotline == "" || strings.Trim(hotline, "+0123456789 .-") != "":
		return &FieldError{Field: "hotline", Problem: "number"}
	case m.Minutes < 1 || m.Minutes > 240:
		return &FieldError{Field: "minutes", Problem: "range"}
	case m.Tolerance < 0 || m.Tolerance > 3600:
		return &FieldError{Field: "tolerance", Problem: "range"}
	case m.OnsetFrom < -14 || m.OnsetFrom > 14:
		return &FieldError{Field: "onset_from", Problem: "range"}
	case m.OnsetTo < m.OnsetFrom || m.OnsetTo > 14:
		return &FieldError{Field: "onset_to", Problem: "range"}
	}
	return nil
}

// Propose writes a notice. An announcement is published at once; a warning waits for
// Approve.
func (o *Office) Propose(by Account, n Notice) (Notice, error) {
	return n, o.write(func(b *pebble.Batch) error {
		if err := n.check(o.Today()); err != nil {
			return err
		}
		n.Number, n.By, n.At = o.last.notice+1, by.ID, o.Now()
		n.Approved, n.Published, n.Ended = "", time.Time{}, time.Time{}
		if n.Kind == Announcement {
			n.Approved, n.Published = by.ID, n.At
		}
		if err := o.hasRoomFor(n); err != nil {
			return err
		}
		if err := put(b, noticePaper, numbered(n.Number), n); err != nil {
			return err
		}
		return o.note(b, by.ID, "notice", fmt.Sprintf("%d %s", n.Number, n.Kind))
	}, func() { o.last.notice++; o.notify() })
}

// hasRoomFor is ErrNoticesFull if phones would not read the file once a notice is in it.
func (o *Office) hasRoomFor(n Notice) error {
	notices, err := o.Notices()
	if err != nil {
		return err
	}
	n.Published = o.Now()
	// A warning comes in the place of the last one: noticeFile takes the last that it sees.
	file, err := o.noticeFile(append(notices, n))
	if err == nil && len(file) > maxNoticeFile {
		err = ErrNoticesFull
	}
	return err
}

// Approve publishes a warning that somebody else proposed, in the place of the last one.
func (o *Office) Approve(by Account, number uint64) error {
	return o.write(func(b *pebble.Batch) error {
		n, found, err := fetch[Notice](o.desk.DB, noticePaper, numbered(number))
		if err != nil {
			return err
		}
		if !found || !n.Waits() {
			return ErrNoNotice
		}
		if n.By == by.ID {
			return ErrTwoPersons
		}
		if err := o.hasRoomFor(n); err != nil {
			return err
		}
		old, err := o.Notices()
		if err != nil {
			return err
		}
		for _, other := range old {
			if other.Kind == Warning && other.live("") {
				other.Ended = o.Now()
				if err := put(b, noticePaper, numbered(other.Number), other); err != nil {
					return err
				}
			}
		}
		n.Approved, n.Published = by.ID, o.Now()
		if err := put(b, noticePaper, numbered(number), n); err != nil {
			return err
		}
		return o.note(b, by.ID, "approve", fmt.Sprintf("notice %d", number))
	}, o.notify)
}

// Withdraw ends an announcement, or refuses a warning that waits. A published warning is
// replaced, never withdrawn: phones need one.
func (o *Office) Withdraw(by Account, number uint64) error {
	return o.write(func(b *pebble.Batch) error {
		n, found, err := fetch[Notice](o.desk.DB, noticePaper, numbered(number))
		if err != nil {
			return err
		}
		if !found || !n.Ended.IsZero() || n.Kind == Warning && !n.Waits() {
			return ErrNoNotice
		}
		n.Ended = o.Now()
		if err := put(b, noticePaper, numbered(number), n); err != nil {
			return err
		}
		return o.note(b, by.ID, "withdraw", fmt.Sprintf("notice %d", number))
	}, o.notify)
}

// Waits reports whether the notice waits for a second person.
func (n Notice) Waits() bool { return n.Published.IsZero() && n.Ended.IsZero() }

// live reports whether it is published on a day (empty: whatever the day).
func (n Notice) live(day string) bool {
	return !n.Published.IsZero() && n.Ended.IsZero() && (n.Until == "" || day <= n.Until)
}

// Live reports whether the notice is published today.
func (o *Office) Live(n Notice) bool { return n.live(o.Today()) }

// Notices lists all notices, newest first.
func (o *Office) Notices() ([]Notice, error) {
	notices, err := all[Notice](o.desk.DB, noticePaper)
	slices.Reverse(notices)
	return notices, err
}

// notify wakes KeepNotices.
func (o *Office) notify() {
	select {
	case o.noticed <- struct{}{}:
	default: // it is about to look, and will find this change too
	}
}

// KeepNotices publishes what NoticeFile gives, once at first, then when it has changed, and
// once an hour, since announcements end by themselves; until ctx is done. Putting the same
// file again must change nothing. What fails is told, and tried again in a minute.
func (o *Office) KeepNotices(ctx context.Context, put func(context.Context, []byte) error, failed func(error)) {
	for {
		again := time.Hour
		file, err := o.NoticeFile()
		if err == nil && file != nil {
			err = put(ctx, file)
		}
		if err != nil && ctx.Err() == nil {
			failed(err)
			again = time.Minute
		}
		select {
		case <-ctx.Done():
			return
		case <-o.noticed:
		case <-time.After(again):
		}
	}
}

// NoticeFile is what phones read: the warning and the announcements of today, as JSON
// with sorted, fixed fields. The same notices give the same bytes. It is nil until the
// first notice is published; once all are over it says that there are none, so that what
// was withdrawn does not stay on phones.
func (o *Office) NoticeFile() ([]byte, error) {
	notices, err := o.Notices()
	if err != nil {
		return nil, err
	}
	return o.noticeFile(notices)
}

func (o *Office) noticeFile(notices []Notice) ([]byte, error) {
	type announcement struct {
		Title Wording `json:"title"`
		Text  Wording `json:"text"`
		Until string  `json:"until"`
	}
	type warning struct {
		Title    Wording  `json:"title"`
		Text     Wording  `json:"text"`
		ToDo     Wording  `json:"to_do"`
		Hotline  string   `json:"hotline"`
		Matching Matching `json:"matching"`
	}
	var file struct {
		Warning       *warning       `json:"warning,omitempty"`
		Announcements []announcement `json:"announcements"`
	}
	file.Announcements = []announcement{}
	ever := false
	for _, n := range notices {
		ever = ever || !n.Published.IsZero()
		switch {
		case !o.Live(n):
		case n.Kind == Warning:
			file.Warning = &warning{n.Title, n.Text, n.ToDo, n.Hotline, n.Matching}
		default:
			file.Announcements = append(file.Announcements, announcement{n.Title, n.Text, n.Until})
		}
	}
	if !ever {
		return nil, nil
	}
	data, err := json.MarshalIndent(file, "", " ")
	return append(data, '\n'), err
}

// Text is an edited text of the outreach pages; false if it was never edited.
func (o *Office) Text(name string) (Wording, bool, error) {
	return fetch[Wording](o.desk.DB, textPaper, name)
}

// SetText edits a text of the outreach pages.
func (o *Office) SetText(by Account, name string, w Wording) error {
	return o.write(func(b *pebble.Batch) error {
		if err := cleanWording("text", &w, MaxNotice); err != nil {
			return err
		}
		if err := put(b, textPaper, name, w); err != nil {
			return err
		}
		return o.note(b, by.ID, "text", name)
	}, nil)
}

// CheckNotice cleans a notice and says what is wrong with it, without keeping it.
func (o *Office) CheckNotice(n *Notice) error { return n.check(o.Today()) }
