package phone

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
)

type noticesVector struct {
	About    string              `json:"about"`
	Good     []textVector        `json:"good"`
	Refused  []textVector        `json:"refused"`
	Shown    []shownVector       `json:"shown"` // of the first good one
	Reads    []noticesReadVector `json:"reads"`
	Keys     []contactKey        `json:"keys"`
	Contacts []contactVector     `json:"contacts"`
}

type textVector struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

type shownVector struct {
	Now           int64       `json:"now"`
	Languages     []string    `json:"languages"`
	Title         string      `json:"title"`
	Text          string      `json:"text"`
	ToDo          string      `json:"to_do"`
	Hotline       string      `json:"hotline"`
	Announcements [][3]string `json:"announcements"`
}

// noticesReadVector is what lies in a tree, under the policy of tree/.
type noticesReadVector struct {
	Name    string        `json:"name"`
	Service string        `json:"service"` // origin of the keyring
	Text    string        `json:"text"`
	Proof   string        `json:"proof"`
	Known   *knownNotices `json:"known"` // null: none
	Taken   bool          `json:"taken"`
}

type knownNotices struct {
	Origin string `json:"origin"`
	Entry  uint64 `json:"entry"`
	Time   int64  `json:"time"`
	Text   string `json:"text"`
}

type contactKey struct {
	Scheme int    `json:"scheme"`
	Secret hexes  `json:"secret"`
	Start  uint32 `json:"start"`
	Count  uint8  `json:"count"`
	Report int    `json:"report_type"`
	Onset  *int8  `json:"days_since_onset"` // null: unknown
}

type contactVector struct {
	Name     string         `json:"name"`
	Rule     Matching       `json:"rule"`
	Heard    []heardVector  `json:"heard"`
	Contacts []contactFound `json:"contacts"`
}

type heardVector struct {
	ID   string `json:"id"`
	Seen int64  `json:"seen"`
}

type contactFound struct {
	Day     uint32 `json:"day"`
	Minutes int    `json:"minutes"`
}

// noticesVectors are texts, reads of the tree of a service, and contacts.
func noticesVectors(t *testing.T, s *service) *noticesVector {
	t.Helper()
	f := &noticesVector{
		About: "notices as they are written and as they are not, what is shown of the first good one, whether those of a tree are taken, and who is warned by which rule",
		Good:  []textVector{{"everything", goodNotices}, {"all are over", noNotices}, {"no tolerance", changed(`"tolerance": 60`, `"tolerance": 0`)}},
	}
	for _, row := range f.Good {
		readNotices(t, row.Text)
	}
	bad := badNotices()
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		if text := bad[name]; utf8.ValidString(text) && len(text) < 16<<10 { // JSON cannot hold the others, or should not
			f.Refused = append(f.Refused, textVector{name, text})
		}
	}
	f.Shown = shownVectors(t)
	f.Reads = noticesReads(t, s)
	f.Keys, f.Contacts = contactVectors(t)
	return f
}

func shownVectors(t *testing.T) (list []shownVector) {
	t.Helper()
	n := readNotices(t, goodNotices)
	for _, row := range []struct {
		now       int64
		languages string
	}{
		{day*86400 + 17*3600 - 1, "vi"}, {day*86400 + 17*3600 - 1, "ko-KR en_US vi"}, {day*86400 + 17*3600, "EN"}, {(day+1)*86400 + 17*3600 - 1, "eng fr"}, {(day+1)*86400 + 17*3600, ""},
	} {
		languages := strings.Fields(row.languages)
		w := n.Warning(languages...)
		v := shownVector{Now: row.now, Languages: languages, Title: w.Title, Text: w.Text, ToDo: w.ToDo, Hotline: w.Hotline, Announcements: [][3]string{}}
		for _, a := range n.Announcements(time.Unix(row.now, 0), languages...) {
			v.Announcements = append(v.Announcements, [3]string{a.Title, a.Text, a.Until})
		}
		list = append(list, v)
	}
	return list
}

func noticesReads(t *testing.T, s *service) (list []noticesReadVector) {
	t.Helper()
	p, now := s.place, int64(day*86400+3600)
	logged := func(text string, at int64) (proof string, known *knownNotices) {
		p.post(text, at)
		return string(p.read(noticesPath + exportlog.ProofSuffix)), &knownNotices{origin, p.log.Size() - 1, at, text}
	}
	newer := changed("Close contact", "Close contact 2")
	keyring := string(p.read(exportlog.KeyringPath + exportlog.ProofSuffix))
	oldProof, old := logged(goodNotices, now)
	newProof, known := logged(newer, now-60)
	badProof, _ := logged("{}\n", now+60)
	p.proveFile(exportlog.SmallFile{Time: now, Path: "notice/other.json", Size: int64(len(newer)), SHA256: sha256.Sum256([]byte(newer))}, noticesPath)
	pathProof := string(p.read(noticesPath + exportlog.ProofSuffix))
	other := *known
	other.Text = noNotices
	for _, row := range []noticesReadVector{
		{"the first ones seen", origin, goodNotices, oldProof, nil, true},
		{"newer ones, although a clock went back", origin, newer, newProof, old, true},
		{"the same again", origin, newer, newProof, known, true},
		{"older ones", origin, goodNotices, oldProof, known, false},
		{"the entry that is known, with another text", origin, newer, newProof, &other, false},
		{"known ones of a predecessor", origin, newer, newProof, &knownNotices{"before.example", 99, now - 60, goodNotices}, true},
		{"known ones of a successor", origin, newer, newProof, &knownNotices{"after.example", 0, now, goodNotices}, false},
		{"of another log than the keyring", "other.example", newer, newProof, nil, false},
		{"with the proof of older ones", origin, newer, oldProof, nil, false},
		{"with the proof of the keyring", origin, newer, keyring, nil, false},
		{"logged under another path", origin, newer, pathProof, nil, false},
		{"logged, and no notices", origin, "{}\n", badProof, old, false},
	} {
		p.write(noticesPath, []byte(row.Text))
		p.write(noticesPath+exportlog.ProofSuffix, []byte(row.Proof))
		c := s.client()
		c.keyring = s.keyring()
		c.keyring.Origin = row.Service
		var seen *Notices
		if k := row.Known; k != nil {
			n, err := newNotices(k.Origin, k.Entry, time.Unix(k.Time, 0), []byte(k.Text))
			if err != nil {
				t.Fatal(err)
			}
			seen = n
		}
		got, err := c.Notices(context.Background(), seen)
		if (err == nil) != row.Taken || (got != seen) != row.Taken {
			t.Errorf("notices %q: %v", row.Name, err)
		}
		list = append(list, row)
	}
	return list
}

// contactVectors are those of TestContacts that no ID set is needed for.
func contactVectors(t *testing.T) (keys []contactKey, list []contactVector) {
	t.Helper()
	_, gaen, seeds := contactTree(t)
	for _, k := range slices.Concat(gaen[:8], seeds[:8]) {
		v := contactKey{Scheme: int(k.Scheme), Secret: k.Bytes(), Start: uint32(k.Start), Count: k.Count, Report: int(k.Report)}
		if k.Onset != diagnosis.OnsetUnknown {
			v.Onset = (*int8)(&k.Onset)
		}
		keys = append(keys, v)
	}
	for _, row := range contactRows(gaen, seeds) {
		if strings.HasPrefix(row.name, "an ID set") {
			continue
		}
		v := contactVector{Name: row.name, Rule: row.rule, Heard: []heardVector{}, Contacts: []contactFound{}}
		for _, h := range row.heard {
			v.Heard = append(v.Heard, heardVector{hex.EncodeToString(h.ID[:h.Scheme.IDLen()]), h.Seen})
		}
		for _, c := range row.want {
			v.Contacts = append(v.Contacts, contactFound(c))
		}
		list = append(list, v)
	}
	return keys, list
}
