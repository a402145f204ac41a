package phone

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/export/exportlog"
	"bluekey/keystore/desk"
	"bluekey/signing"
)

// goodNotices has everything: a warning, an announcement that ends on day, one that goes on.
const goodNotices = `{
 "warning": {
  "title": {
   "vi": "Cảnh báo tiếp xúc gần",
   "en": "Close contact"
  },
  "text": {
   "vi": "Bạn đã ở gần một ca bệnh.\nHãy bình tĩnh.",
   "en": "You were near a case.\nStay calm."
  },
  "to_do": {
   "vi": "Ở nhà \u0026 gọi \"đường dây nóng\".",
   "en": "Stay at home \u0026 call the \"hotline\"."
  },
  "hotline": "0225 3.888.888",
  "matching": {
   "minutes": 10,
   "tolerance": 60,
   "onset_from": -2,
   "onset_to": 5
  }
 },
 "announcements": [
  {
   "title": {
    "vi": "Tiêm chủng",
    "en": "Vaccination"
   },
   "text": {
    "vi": "Tại trạm y tế.",
    "en": "At the health station."
   },
   "until": "2026-09-02"
  },
  {
   "title": {
    "vi": "Chợ đóng cửa",
    "en": "The market is closed"
   },
   "text": {
    "vi": "Hôm nay.",
    "en": "Today."
   },
   "until": "2026-09-01"
  }
 ]
}
`

const noNotices = "{\n \"announcements\": []\n}\n"

// post puts notices into the tree and its log.
func (p *place) post(text string, at int64) {
	p.t.Helper()
	p.write(noticesPath, []byte(text))
	p.proveFile(exportlog.SmallFile{Time: at, Path: noticesPath, Size: int64(len(text)), SHA256: sha256.Sum256([]byte(text))}, noticesPath)
}

func readNotices(t testing.TB, text string) *Notices {
	t.Helper()
	n, err := newNotices(origin, 3, time.Unix(day*86400, 0).UTC(), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestNoticesAreShown: in the owner's language, and no longer than they hold.
func TestNoticesAreShown(t *testing.T) {
	n := readNotices(t, goodNotices)
	en := Warning{Title: "Close contact", Text: "You were near a case.\nStay calm.", ToDo: `Stay at home & call the "hotline".`, Hotline: "0225 3.888.888"}
	for _, row := range []struct {
		languages string
		en        bool
	}{{"", false}, {"vi", false}, {"en", true}, {"EN-gb", true}, {"en_US", true}, {"fr ko", false}, {"ko en-US vi", true}, {"vi-VN en", false}, {"eng", false}, {"e", false}} {
		got := n.Warning(strings.Fields(row.languages)...)
		if (got == en) != row.en || !row.en && got.Title != "Cảnh báo tiếp xúc gần" {
			t.Errorf("%q: %+v", row.languages, got)
		}
	}
	if got := n.Matching(); got != (Matching{Minutes: 10, Tolerance: 60, OnsetFrom: -2, OnsetTo: 5}) {
		t.Errorf("%+v", got)
	}
	// Days are Viet Nam's: 1 September ends there at 17:00 UTC.
	for _, row := range []struct {
		at   time.Time
		want int
	}{
		{time.Date(2026, 9, 1, 16, 59, 59, 0, time.UTC), 2},
		{time.Date(2026, 9, 1, 17, 0, 0, 0, time.UTC), 1},
		{time.Date(2026, 9, 3, 1, 0, 0, 0, time.FixedZone("", 9*3600)), 1},
		{time.Date(2026, 9, 3, 3, 0, 0, 0, time.FixedZone("", 9*3600)), 0},
	} {
		list := n.Announcements(row.at, "en")
		if len(list) != row.want || row.want > 0 && list[0] != (Announcement{"Vaccination", "At the health station.", "2026-09-02"}) {
			t.Errorf("at %v: %+v", row.at, list)
		}
	}
}

// TestBuiltInNotices: a phone that has seen no warning has one, which says what it is.
func TestBuiltInNotices(t *testing.T) {
	for name, n := range map[string]*Notices{"none": nil, "announcements only": readNotices(t, noNotices)} {
		for lang, word := range map[string]string{"vi": "có sẵn trong ứng dụng", "en": "came with the app"} {
			w := n.Warning(lang)
			if !w.BuiltIn || w.Hotline != "" || w.Title == "" || w.ToDo == "" || !strings.Contains(w.Text, word) {
				t.Errorf("%s: %+v", name, w)
			}
		}
		if n.Matching() != (Matching{Minutes: 15, Tolerance: 120, OnsetFrom: -2, OnsetTo: 10}) || len(n.Announcements(time.Now(), "vi")) > 0 {
			t.Errorf("%s: %+v", name, n.Matching())
		}
	}
}

// changed is goodNotices with one piece of text for another.
func changed(old, new string) string { return strings.Replace(goodNotices, old, new, 1) }

// badNotices are texts that are no notices.
func badNotices() map[string]string {
	return map[string]string{
		"empty":                    "",
		"null":                     "null\n",
		"another kind":             "[]\n",
		"no announcements":         "{}\n",
		"announcements null":       "{\n \"announcements\": null\n}\n",
		"no line end":              strings.TrimSuffix(goodNotices, "\n"),
		"more behind":              goodNotices + "{}\n",
		"a mark in front":          "\ufeff" + goodNotices,
		"CRLF":                     strings.ReplaceAll(goodNotices, "\n", "\r\n"),
		"spaces":                   changed(`"minutes": 10`, `"minutes":  10`),
		"an escape":                changed("Close", `\u0043lose`),
		"no escape":                changed(`\u0026`, "&"),
		"an unknown member":        changed(`"hotline"`, "\"url\": \"x\",\n  \"hotline\""),
		"a member twice":           changed(`  "hotline": "0225 3.888.888",`, "  \"hotline\": \"0225 3.888.888\",\n  \"hotline\": \"0225 3.888.888\","),
		"another order":            changed("\"vi\": \"Hôm nay.\",\n    \"en\": \"Today.\"", "\"en\": \"Today.\",\n    \"vi\": \"Hôm nay.\""),
		"another case":             changed(`"minutes"`, `"Minutes"`),
		"not UTF-8":                changed("Close", "Clo\xffse"),
		"half a surrogate pair":    changed("Close", `Close\ud800`),
		"one language":             changed("Close contact", ""),
		"blank":                    changed("Close contact", "  "),
		"a long title":             changed("Close contact", strings.Repeat("x", 81)),
		"a long text":              changed("At the health station.", strings.Repeat("ế", 2001)),
		"a control character":      changed("Close", `Clo\u0007se`),
		"a tab":                    changed("Close", `Clo\tse`),
		"C1":                       changed("Close", "Clo\u0085se"),
		"writing that turns":       changed("Close", "\u202eClose"),
		"a character of no width":  changed("Close", "Clo\u200bse"),
		"a line separator":         changed("Close", `Clo\u2028se`),
		"letters in the hotline":   changed("0225 3.888.888", "call me"),
		"a link as hotline":        changed("0225 3.888.888", "tel:113"),
		"no hotline":               changed("0225 3.888.888", ""),
		"a long hotline":           changed("0225 3.888.888", strings.Repeat("1", 21)),
		"0 minutes":                changed(`"minutes": 10`, `"minutes": 0`),
		"241 minutes":              changed(`"minutes": 10`, `"minutes": 241`),
		"a fraction of a minute":   changed(`"minutes": 10`, `"minutes": 10.5`),
		"10.0 minutes":             changed(`"minutes": 10`, `"minutes": 10.0`),
		"minutes as text":          changed(`"minutes": 10`, `"minutes": "10"`),
		"a negative tolerance":     changed(`"tolerance": 60`, `"tolerance": -1`),
		"a tolerance of -0":        changed(`"tolerance": 60`, `"tolerance": -0`),
		"a tolerance of an hour+1": changed(`"tolerance": 60`, `"tolerance": 3601`),
		"15 days before":           changed(`"onset_from": -2`, `"onset_from": -15`),
		"15 days after":            changed(`"onset_to": 5`, `"onset_to": 15`),
		"the end before the start": changed(`"onset_to": 5`, `"onset_to": -3`),
		"30 February":              changed("2026-09-02", "2026-02-30"),
		"no date":                  changed("2026-09-02", ""),
		"a date and more":          changed("2026-09-02", "2026-09-02T00:00"),
		"the year 9999":            changed("2026-09-02", "9999-09-02"),
		"too large":                changed(`"announcements": [`, `"announcements": [`+strings.Repeat(largeAnnouncement, 70)),
	}
}

var largeAnnouncement = func() string {
	text := strings.Repeat("x", 2000)
	return "\n  {\n   \"title\": {\n    \"vi\": \"x\",\n    \"en\": \"x\"\n   },\n   \"text\": {\n    \"vi\": \"" + text + "\",\n    \"en\": \"" + text + "\"\n   },\n   \"until\": \"2026-09-02\"\n  },"
}()

func TestNoticesAreReadStrictly(t *testing.T) {
	for name, text := range badNotices() {
		if text == goodNotices {
			t.Fatalf("%s: the row changes nothing", name)
		}
		if n, err := newNotices(origin, 3, time.Time{}, []byte(text)); err == nil {
			t.Errorf("%s: taken, with %d announcements", name, len(n.file.Announcements))
		}
	}
	for name, text := range map[string]string{
		"longest": changed("At the health station.", strings.Repeat("ế", 2000)), "many": changed(`"announcements": [`, `"announcements": [`+strings.Repeat(largeAnnouncement, 50)),
		"0 seconds": changed(`"tolerance": 60`, `"tolerance": 0`), "one day": changed(`"onset_to": 5`, `"onset_to": -2`),
	} {
		if _, err := newNotices(origin, 3, time.Time{}, []byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNoticesAreKept: whatever a tree serves, it takes no notices away from a phone that has
// seen them, and shows it none that the log does not name.
func TestNoticesAreKept(t *testing.T) {
	const proof = noticesPath + exportlog.ProofSuffix
	now := int64(day * 86400)
	newer := changed("Close contact", "Close contact 2")
	for _, row := range []struct {
		name   string
		tamper func(s *service)
		says   string // empty: the new ones are taken
		first  bool   // a phone that knows none takes what is there
	}{
		{"newer ones", func(s *service) { s.place.post(newer, now+7) }, "", true},
		{"the same again", func(*service) {}, "", true},
		{"the same, logged again", func(s *service) { s.place.post(goodNotices, now+7) }, "", true},
		{"all are over", func(s *service) { s.place.post(noNotices, now+7) }, "", true},
		{"withheld", func(s *service) { s.place.remove(noticesPath); s.place.remove(proof) }, "not exist", true},
		{"its proof withheld", func(s *service) { s.place.remove(proof) }, "tlog-proof is missing", false},
		{"altered", func(s *service) { s.place.write(noticesPath, []byte(newer)) }, "not the file of its entry", false},
		{"its proof altered", func(s *service) {
			b := s.place.read(proof)
			b[strings.Index(string(b), "\n\n")-5] ^= 1
			s.place.write(proof, b)
		}, "proof", false},
		{"a large file", func(s *service) { s.place.write(noticesPath, make([]byte, maxNotices+1)) }, "too large", false},
		{"no notices, by an entry", func(s *service) { s.place.post("{}\n", now+7) }, "not in the form", false},
		{"of the year 2242", func(s *service) { s.place.post(newer, 1<<33) }, "of 2242", false},
		{"the proof of the keyring", func(s *service) { s.place.write(proof, s.place.read(exportlog.KeyringPath+exportlog.ProofSuffix)) }, "of another file", false},
		{"a file under another path", func(s *service) {
			s.place.proveFile(exportlog.SmallFile{Time: now, Path: "notice/other.json", Size: int64(len(goodNotices)), SHA256: sha256.Sum256([]byte(goodNotices))}, noticesPath)
		}, "of another file", false},
		{"of a log that is not pinned", func(s *service) {
			foreign := newPlaceOf(t, "other.example", 9, exportlog.PolicyTerms{})
			foreign.post(newer, now+7)
			s.place.write(noticesPath, foreign.read(noticesPath))
			s.place.write(proof, foreign.read(proof))
		}, "no log of this origin", false},
		{"the whole tree is gone", func(s *service) {
			if err := os.RemoveAll(s.place.dir); err != nil {
				t.Fatal(err)
			}
		}, "not exist", false},
	} {
		s, ctx := newService(t), context.Background()
		s.place.post(goodNotices, now)
		known, err := s.client().Notices(ctx, nil)
		if err != nil || known.Warning("en").Title != "Close contact" {
			t.Fatalf("%v, %v", known, err)
		}
		row.tamper(s)
		got, err := s.client().Notices(ctx, known)
		switch {
		case row.says == "" && (err != nil || !bytes.Equal(got.text, s.place.read(noticesPath))):
			t.Errorf("%s: %v", row.name, err)
		case row.says != "" && (err == nil || !strings.Contains(err.Error(), row.says) || got != known):
			t.Errorf("%s: kept %v, %v; want %q", row.name, got == known, err, row.says)
		}
		if got, err := s.client().Notices(ctx, nil); (err == nil) != row.first || err != nil && got != nil {
			t.Errorf("%s, by a phone that knows none: %v, %v", row.name, got, err)
		}
	}
}

// TestOlderNotices: an old file with its true proof takes no newer one's place; nor does
// another log, unless it is that of the service, and later.
func TestOlderNotices(t *testing.T) {
	const proof = noticesPath + exportlog.ProofSuffix
	s, ctx := newService(t), context.Background()
	now := int64(day * 86400)
	s.place.post(noNotices, now)
	old := map[string][]byte{noticesPath: s.place.read(noticesPath), proof: s.place.read(proof)}
	s.place.post(goodNotices, now-5) // a clock that went back: the log's order counts
	known, err := s.client().Notices(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range old {
		s.place.write(path, data)
	}
	if got, err := s.client().Notices(ctx, known); err == nil || !strings.Contains(err.Error(), "older than those seen") || got != known {
		t.Errorf("an older file: %v, %v", got, err)
	}
	if got, err := s.client().Notices(ctx, nil); err != nil || got == nil {
		t.Errorf("a phone that knows none cannot tell: %v", err)
	}
	for _, row := range []struct {
		name  string
		known Notices
		says  string
	}{
		{"of a predecessor", Notices{Origin: "before.example", Entry: 99, Time: time.Unix(now, 0)}, ""},
		{"of a successor", Notices{Origin: "after.example", Entry: 0, Time: time.Unix(now+1, 0)}, "older than those seen"},
		{"the same entry, another text", Notices{Origin: origin, Entry: 1, Time: time.Unix(now, 0), text: []byte(goodNotices)}, "two stories"},
	} {
		got, err := s.client().Notices(ctx, &row.known)
		if row.says == "" && (err != nil || got == &row.known) || row.says != "" && (err == nil || !strings.Contains(err.Error(), row.says) || got != &row.known) {
			t.Errorf("known is one %s: %v", row.name, err)
		}
	}
	// A policy may name several logs. Only that of the keyring counts.
	other := newPlaceOf(t, "other.example", 9, exportlog.PolicyTerms{})
	other.post(goodNotices, now+7)
	both, err := exportlog.Union(s.place.policy, other.policy)
	if err != nil {
		t.Fatal(err)
	}
	s.place.write(noticesPath, other.read(noticesPath))
	s.place.write(proof, other.read(proof))
	c := s.client()
	c.Policy = both
	if got, err := c.Notices(ctx, nil); err == nil || !strings.Contains(err.Error(), "they are of other.example") || got != nil {
		t.Errorf("another province's: %v, %v", got, err)
	}
}

// TestQuorumOfNotices: witnesses of the pinned policy have to have seen them.
func TestQuorumOfNotices(t *testing.T) {
	w, err := signing.NewWitnessKeys("witness.example", [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	p := newPlaceOf(t, origin, 1, exportlog.PolicyTerms{Quorum: 1, Witnesses: []exportlog.PolicyWitness{{Name: "w", Ed25519: w.VKeys()[0], MLDSA44: w.VKeys()[1]}}})
	s, ctx := newServiceAt(t, p), context.Background()
	p.post(goodNotices, day*86400)
	c := s.client()
	keyring := s.keyring()
	c.keyring = keyring // known before
	if got, err := c.Notices(ctx, nil); !errors.Is(err, exportlog.ErrQuorum) || got != nil {
		t.Errorf("without its witness: %v, %v", got, err)
	}
	c.Policy = nil
	var notes []string
	c.Note = func(n string) { notes = append(notes, n) }
	if _, err := c.Notices(ctx, nil); err != nil || len(notes) != 1 || !strings.Contains(notes[0], "can write them") {
		t.Errorf("by the tree's own word: %v, notes %q", err, notes)
	}
}

// TestNoticesOfTheConsole: what staff publish is what phones read.
func TestNoticesOfTheConsole(t *testing.T) {
	db, err := pebble.Open("db", &pebble.Options{FS: vfs.NewMem(), Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	now := time.Date(2026, 9, 1, 3, 0, 0, 0, time.UTC)
	d, err := desk.Open(desk.Config{DB: db, Key: [32]byte{1}, Cap: 20, Now: func() time.Time { return now }, Gate: new(sync.RWMutex)})
	if err != nil {
		t.Fatal(err)
	}
	office, err := desk.OpenOffice(d)
	if err != nil {
		t.Fatal(err)
	}
	if m := desk.DefaultMatching; Matching(m) != builtIn.Matching {
		t.Errorf("a console proposes %+v, phones have %+v built in", m, builtIn.Matching)
	}
	words := desk.Wording{VI: "Đừng ra ngoài <b>& gọi</b> \"115\" \\ ế\r\n\tngay", EN: strings.Repeat("ế", 78) + "\n."}
	one, two := desk.Account{ID: "one"}, desk.Account{ID: "two"}
	warning, err := office.Propose(one, desk.Notice{Kind: desk.Warning, Title: desk.Wording{VI: "a", EN: "b"}, Text: words, ToDo: words, Hotline: "+84 (0225)", Matching: desk.DefaultMatching})
	if err == nil {
		t.Fatal("brackets in a hotline")
	}
	warning, err = office.Propose(one, desk.Notice{Kind: desk.Warning, Title: desk.Wording{VI: "a", EN: "b"}, Text: words, ToDo: words, Hotline: "+84 225-1.2", Matching: desk.DefaultMatching})
	if err == nil {
		err = office.Approve(two, warning.Number)
	}
	if err == nil {
		_, err = office.Propose(one, desk.Notice{Kind: desk.Announcement, Title: words, Text: words, Until: "2026-09-01"})
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // with the announcement, then without
		text, err := office.NoticeFile()
		if err != nil {
			t.Fatal(err)
		}
		n := readNotices(t, string(text))
		w, list := n.Warning("vi"), n.Announcements(now, "en")
		if w.Text != "Đừng ra ngoài <b>& gọi</b> \"115\" \\ ế\nngay" || w.Hotline != "+84 225-1.2" || w.BuiltIn {
			t.Errorf("%+v", w)
		}
		if live := now.Day() == 1; live != (len(list) == 1) || live && list[0].Title != words.EN {
			t.Errorf("at %v: %+v", now, list)
		}
		now = now.Add(24 * time.Hour)
	}
}

// quiet is a database's logger.
type quiet struct{}

func (quiet) Infof(string, ...any)      {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatalf(s string, a ...any) { panic(fmt.Sprintf(s, a...)) }

func FuzzNotices(f *testing.F) {
	f.Add([]byte(goodNotices))
	f.Add([]byte(noNotices))
	for _, text := range badNotices() {
		if len(text) < 8<<10 {
			f.Add([]byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := newNotices(origin, 3, time.Time{}, text)
		if err != nil {
			return
		}
		for _, lang := range []string{"vi", "en"} {
			if w := n.Warning(lang); strings.TrimSpace(w.Title) == "" || strings.ContainsAny(w.Title+w.Text+w.ToDo+w.Hotline, "\x00\x1b\u202e\u200b") {
				t.Fatalf("shown: %+v", w)
			}
			n.Announcements(time.Time{}, lang)
		}
		s := State{Notices: n}
		stored, err := s.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseState(stored)
		if err != nil || !reflect.DeepEqual(back.Notices, n) {
			t.Fatalf("stored and read again: %v", err)
		}
	})
}
