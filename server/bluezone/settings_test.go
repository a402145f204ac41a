package bluezone

import (
	"encoding/json"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var fullSettings = Settings{
	Android:      Build{Version: "3.0.4", Link: "https://a.example/app", Force: [][2]string{{"0.0", "2.9.9"}}, Recommend: [][2]string{{"3.0.0", "3.0.3"}}},
	IOS:          Build{Version: "3.1", Link: "https://i.example/app?a=1&b=2"},
	LinkAPK:      "https://apk.example/app.apk",
	LinkHuawei:   "https://h.example/app",
	SupportPhone: "+84 24 1022", MailTo: "help@yte.example",
	DetailVi: "https://yte.example/vi", DetailEn: "https://yte.example/en",
	RulesVi: "https://yte.example/r/vi", RulesEn: "https://yte.example/r/en",
	ShareVi: "Cài đặt Bluezone\nngay", ShareEn: "Install <Bluezone>",
	TextsVersion: "3.0.9",
	TextsVi:      map[string]string{"home.title": "Khẩu trang điện tử"},
	TextsEn:      map[string]string{"home.title": "Electronic mask"},
}

// fetch gets a file from the door as the app's library does.
func fetch(t *testing.T, s Settings, name string) map[string]any {
	t.Helper()
	d, err := New(Config{Settings: s})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, httptest.NewRequest("GET", "/api/App/"+name, nil))
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != 200 {
		t.Fatalf("%s: %d, %v", name, w.Code, err)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json; charset=utf-8" {
		t.Errorf("%s: %s", name, got)
	}
	head := httptest.NewRecorder()
	d.ServeHTTP(head, httptest.NewRequest("HEAD", "/api/App/"+name, nil))
	if head.Body.Len() != 0 || head.Header().Get("Content-Length") != w.Header().Get("Content-Length") {
		t.Errorf("%s: HEAD differs", name)
	}
	return v
}

// The app splits versions at their dots and reads the lengths of lists, without asking
// whether they are there.
func TestVersionApp(t *testing.T) {
	number := regexp.MustCompile(`^\d+(\.\d+)*$`)
	for _, s := range []Settings{{}, fullSettings} {
		v := fetch(t, s, "versionApp.json")
		for _, name := range []string{"VersionAndroid", "VersionIOS"} {
			if text, ok := v[name].(string); !ok || !number.MatchString(text) {
				t.Errorf("%s is %v", name, v[name])
			}
		}
		for _, name := range []string{"forceUpdateAndroid", "forceUpdateIOS", "recommendedUpdateAndroid", "recommendedUpdateIOS"} {
			ranges, ok := v[name].([]any)
			if !ok {
				t.Errorf("%s is %v", name, v[name])
			}
			for _, r := range ranges {
				if pair, ok := r.([]any); !ok || len(pair) != 2 || !number.MatchString(pair[0].(string)) {
					t.Errorf("%s has %v", name, r)
				}
			}
		}
		for _, name := range []string{"LinkShareAndroid", "LinkShareIOS", "LinkDownloadApk", "LinkHuawei"} {
			if _, ok := v[name].(string); !ok {
				t.Errorf("%s is %v", name, v[name])
			}
		}
		if _, ok := v["VersionResource"]; ok != (s.TextsVersion != "") {
			t.Error("texts are asked for only if there are some")
		}
	}
	if v := fetch(t, fullSettings, "versionApp.json"); v["VersionResource"] != "3.0.9" || v["LinkShareIOS"] != fullSettings.IOS.Link {
		t.Errorf("%v", v)
	}
}

// The app takes over whatever it is sent, so it is sent nothing else.
func TestConfigApp(t *testing.T) {
	allowed := []string{
		"MaxNumberSubKeyPerDay", "PeriodDay", "LinkQRAndroid", "LinkQRIOS", "LinkShareAndroid", "LinkShareIOS", "SupportPhoneNumber", "MailTo",
		"LinkDetail", "LinkDetailEn", "LinkRulesVi", "LinkRulesEn", "ShareMessageText", "ShareMessageText_en",
	}
	full := fetch(t, fullSettings, "configApp.json")
	if len(full) != len(allowed) {
		t.Errorf("%d fields, want %d", len(full), len(allowed))
	}
	for name := range full {
		if !slices.Contains(allowed, name) {
			t.Errorf("the field %s is sent", name)
		}
	}
	if full["ShareMessageText"] != fullSettings.ShareVi || full["ShareMessageText_en"] != fullSettings.ShareEn {
		t.Errorf("%v", full)
	}
	for _, v := range []map[string]any{full, fetch(t, Settings{}, "configApp.json")} {
		if v["MaxNumberSubKeyPerDay"] != 96.0 || v["PeriodDay"] != 14.0 {
			t.Errorf("%v", v)
		}
	}
	if empty := fetch(t, Settings{}, "configApp.json"); len(empty) != 2 {
		t.Errorf("without settings the app is sent %v", empty)
	}
}

func TestResourceApp(t *testing.T) {
	for _, s := range []Settings{{}, fullSettings} {
		v := fetch(t, s, "resourceApp.json")
		for language, want := range map[string]map[string]string{"vi": s.TextsVi, "en": s.TextsEn} {
			got, ok := v[language].(map[string]any)
			if !ok || len(got) != len(want) {
				t.Errorf("%s is %v", language, v[language])
			}
			for name, text := range want {
				if got[name] != text {
					t.Errorf("%s is %v", name, got[name])
				}
			}
		}
		if _, ok := v["version"].(string); !ok {
			t.Error("no version")
		}
	}
}

func TestWrongSettings(t *testing.T) {
	with := func(change func(*Settings)) Settings {
		s := fullSettings
		change(&s)
		return s
	}
	for _, row := range []struct {
		name, about string
		s           Settings
	}{
		{"a link without TLS", "Android", with(func(s *Settings) { s.Android.Link = "http://a.example" })},
		{"a script as a link", "detail", with(func(s *Settings) { s.DetailVi = "javascript:alert(1)" })},
		{"a version with letters", "iOS version", with(func(s *Settings) { s.IOS.Version = "3.0.3b" })},
		{"an open range", "update", with(func(s *Settings) { s.Android.Force = [][2]string{{"", "3"}} })},
		{"updates from nowhere", "link", with(func(s *Settings) { s.IOS = Build{Version: "3", Force: [][2]string{{"0", "2"}}} })},
		{"letters in a number", "phone", with(func(s *Settings) { s.SupportPhone = "call me" })},
		{"two addresses", "mail", with(func(s *Settings) { s.MailTo = "a@b, c@d" })},
		{"texts without a version", "version", with(func(s *Settings) { s.TextsVersion = "" })},
		{"texts with a bad version", "version", with(func(s *Settings) { s.TextsVersion = "v1" })},
		{"a text without a name", "name", with(func(s *Settings) { s.TextsEn = map[string]string{"": "x"} })},
		{"a text too long", "longer", with(func(s *Settings) { s.ShareVi = strings.Repeat("ạ", maxText+1) })},
	} {
		if _, err := New(Config{Settings: row.s}); err == nil || !strings.Contains(err.Error(), row.about) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

func TestParseSettings(t *testing.T) {
	for _, row := range []struct {
		name, text string
		ok         bool
	}{
		{"nothing", "", true},
		{"some", "supportphone: '1022'\nandroid: {version: 3.0.4, link: 'https://a.example', force: [['0.0', '2.9.9']]}\ntextsversion: 3.1.0\ntextsvi: {a: b}\n", true},
		{"an unknown name", "phonenumber: '1022'\n", false},
		{"a name twice", "mailto: a@b.example\nmailto: a@b.example\n", false},
		{"two documents", "mailto: a@b.example\n---\nmailto: a@b.example\n", false},
		{"a value that New refuses", "mailto: nobody\n", false},
		{"no settings", "[1, 2]", false},
	} {
		if s, err := ParseSettings([]byte(row.text)); (err == nil) != row.ok || row.name == "some" && s.Android.Force[0][1] != "2.9.9" {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}
