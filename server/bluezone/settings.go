package bluezone

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Settings are what the app reads at its start. What is left empty is not sent, and the app
// keeps what was built into it; so the zero Settings change nothing on a phone.
//
// The app takes over whatever stands in configApp.json, also its own phone number, token and
// language. Only the fields below are ever sent, beside those that match what the server
// computes: 96 IDs a day, kept for 14 days.
type Settings struct {
	Android, IOS Build
	// LinkAPK and LinkHuawei are where builds from outside Google's store are updated.
	LinkAPK, LinkHuawei string

	SupportPhone string // digits, spaces and a plus
	MailTo       string
	// Detail is the page that explains the app, in Vietnamese and English, and Rules the one
	// with its terms.
	DetailVi, DetailEn string
	RulesVi, RulesEn   string
	// Share is the text with which the app is passed on.
	ShareVi, ShareEn string

	// TextsVersion is the version of the texts below. A phone takes them if it is higher
	// than its own build's. Required with texts.
	TextsVersion string
	// TextsVi and TextsEn replace texts of the app, by its names for them.
	TextsVi, TextsEn map[string]string
}

// Build is one platform's app.
type Build struct {
	// Version is the newest build, such as 3.0.3. Phones with a lower one are advised to
	// update.
	Version string
	// Link is where it is installed from; it is shared and shown as a QR code, too.
	Link string
	// Force names the versions, from and to, both included, that cannot be used any longer.
	// Recommend, if it is not empty, names those that are advised instead of every lower one.
	Force, Recommend [][2]string
}

const (
	maxText  = 4000 // characters of a text
	maxTexts = 2000 // texts of a language
	maxLink  = 500
)

// noVersion is lower than every version there is.
const noVersion = "0.0.0"

var versionForm = regexp.MustCompile(`^[0-9]{1,5}(\.[0-9]{1,5}){0,3}$`)

// configApp, versionApp and resourceApp are the app's own forms.
type configApp struct {
	MaxNumberSubKeyPerDay int
	PeriodDay             int
	LinkQRAndroid         string `json:",omitempty"`
	LinkQRIOS             string `json:",omitempty"`
	LinkShareAndroid      string `json:",omitempty"`
	LinkShareIOS          string `json:",omitempty"`
	SupportPhoneNumber    string `json:",omitempty"`
	MailTo                string `json:",omitempty"`
	LinkDetail            string `json:",omitempty"`
	LinkDetailEn          string `json:",omitempty"`
	LinkRulesVi           string `json:",omitempty"`
	LinkRulesEn           string `json:",omitempty"`
	ShareMessageText      string `json:",omitempty"`
	ShareMessageTextEn    string `json:"ShareMessageText_en,omitempty"`
}

// versionApp has every field always: the app calls methods on them without asking.
type versionApp struct {
	VersionAndroid           string
	VersionIOS               string
	ForceUpdateAndroid       [][2]string `json:"forceUpdateAndroid"`
	ForceUpdateIOS           [][2]string `json:"forceUpdateIOS"`
	RecommendedUpdateAndroid [][2]string `json:"recommendedUpdateAndroid"`
	RecommendedUpdateIOS     [][2]string `json:"recommendedUpdateIOS"`
	LinkShareAndroid         string
	LinkShareIOS             string
	LinkDownloadApk          string
	LinkHuawei               string
	VersionResource          string `json:",omitempty"` // without it no texts are asked for
}

type resourceApp struct {
	Version string            `json:"version"`
	Vi      map[string]string `json:"vi"`
	En      map[string]string `json:"en"`
}

// render checks the settings and writes the files, by their paths.
func (s *Settings) render() (map[string][]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for path, v := range map[string]any{
		"/api/App/configApp.json": configApp{
			MaxNumberSubKeyPerDay: 96, PeriodDay: 14,
			LinkQRAndroid: s.Android.Link, LinkQRIOS: s.IOS.Link,
			LinkShareAndroid: s.Android.Link, LinkShareIOS: s.IOS.Link,
			SupportPhoneNumber: s.SupportPhone, MailTo: s.MailTo,
			LinkDetail: s.DetailVi, LinkDetailEn: s.DetailEn,
			LinkRulesVi: s.RulesVi, LinkRulesEn: s.RulesEn,
			ShareMessageText: s.ShareVi, ShareMessageTextEn: s.ShareEn,
		},
		"/api/App/versionApp.json": versionApp{
			VersionAndroid: or(s.Android.Version, noVersion), VersionIOS: or(s.IOS.Version, noVersion),
			ForceUpdateAndroid: list(s.Android.Force), ForceUpdateIOS: list(s.IOS.Force),
			RecommendedUpdateAndroid: list(s.Android.Recommend), RecommendedUpdateIOS: list(s.IOS.Recommend),
			LinkShareAndroid: s.Android.Link, LinkShareIOS: s.IOS.Link,
			LinkDownloadApk: s.LinkAPK, LinkHuawei: s.LinkHuawei,
			VersionResource: s.TextsVersion,
		},
		"/api/App/resourceApp.json": resourceApp{
			Version: or(s.TextsVersion, noVersion), Vi: texts(s.TextsVi), En: texts(s.TextsEn),
		},
	} {
		data, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", path, err)
		}
		files[path] = data
	}
	return files, nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// list and texts keep null out of the files: the app reads .length and spreads.
func list(l [][2]string) [][2]string {
	if l == nil {
		return [][2]string{}
	}
	return l
}

func texts(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func (s *Settings) check() error {
	for name, link := range map[string]string{
		"link of the Android app": s.Android.Link, "link of the iOS app": s.IOS.Link,
		"link of the APK": s.LinkAPK, "link of Huawei's store": s.LinkHuawei,
		"Vietnamese detail page": s.DetailVi, "English detail page": s.DetailEn,
		"Vietnamese rules page": s.RulesVi, "English rules page": s.RulesEn,
	} {
		u, err := url.Parse(link)
		if link != "" && (err != nil || u.Scheme != "https" || u.Host == "" || len(link) > maxLink) {
			return fmt.Errorf("%s: want an https address", name)
		}
	}
	if err := errors.Join(s.Android.check("Android"), s.IOS.check("iOS")); err != nil {
		return err
	}
	if strings.Trim(s.SupportPhone, "+0123456789 ") != "" || len(s.SupportPhone) > 20 {
		return errors.New("support phone: want up to 20 digits")
	}
	if s.MailTo != "" && (strings.Count(s.MailTo, "@") != 1 || strings.ContainsAny(s.MailTo, " ?&<>\"\r\n") || len(s.MailTo) > 200) {
		return errors.New("mail: want one address")
	}
	if err := errors.Join(checkText("Vietnamese share text", s.ShareVi), checkText("English share text", s.ShareEn)); err != nil {
		return err
	}
	return s.checkTexts()
}

func (b *Build) check(name string) error {
	if b.Version != "" && !versionForm.MatchString(b.Version) {
		return fmt.Errorf("%s version: want numbers and dots", name)
	}
	for _, ranges := range [][][2]string{b.Force, b.Recommend} {
		for _, r := range ranges {
			if !versionForm.MatchString(r[0]) || !versionForm.MatchString(r[1]) {
				return fmt.Errorf("%s versions to update: want pairs of numbers and dots", name)
			}
		}
	}
	if len(b.Force)+len(b.Recommend) > 0 && b.Link == "" {
		return fmt.Errorf("%s versions to update: a link to update from is missing", name)
	}
	return nil
}

func (s *Settings) checkTexts() error {
	if s.TextsVersion == "" && len(s.TextsVi)+len(s.TextsEn) > 0 {
		return errors.New("texts: their version is missing")
	}
	if s.TextsVersion != "" && !versionForm.MatchString(s.TextsVersion) {
		return errors.New("version of the texts: want numbers and dots")
	}
	for language, m := range map[string]map[string]string{"Vietnamese": s.TextsVi, "English": s.TextsEn} {
		if len(m) > maxTexts {
			return fmt.Errorf("%s texts: more than %d", language, maxTexts)
		}
		for name, text := range m {
			if name == "" || len(name) > 100 {
				return fmt.Errorf("%s texts: a name is empty or too long", language)
			}
			if err := checkText(language+" text "+strconv.Quote(name), text); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkText(name, text string) error {
	if !utf8.ValidString(text) || utf8.RuneCountInString(text) > maxText {
		return fmt.Errorf("%s: not UTF-8, or longer than %d characters", name, maxText)
	}
	return nil
}

// servePaper sends one of the files.
func servePaper(w http.ResponseWriter, r *http.Request, paper []byte) {
	h := w.Header()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "this is a file: GET or HEAD", http.StatusMethodNotAllowed)
		return
	}
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("Content-Length", strconv.Itoa(len(paper)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(paper) // an error means that the phone is gone
	}
}
