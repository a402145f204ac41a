package console

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"bluekey/keystore"
	"bluekey/keystore/desk"
	"bluekey/server"
)

// TestNotOnThePublicListener asks the public listener for every route of the console.
func TestNotOnThePublicListener(t *testing.T) {
	s := newSite(t)
	b := s.admin()
	store, err := keystore.Open(keystore.Options{
		Dir: t.TempDir(), CodeKey: [32]byte{1}, DedupeKey: [32]byte{2}, Period: 4 * time.Hour, Hold: 4 * time.Hour, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	public, err := server.New(server.Config{Store: store, Tree: t.TempDir(), Home: s.Home(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- public.Run(ctx, server.Listeners{Public: l}) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, rt := range routes {
		if rt.pattern == "GET /{$}" {
			continue // the page for people, which knows nobody
		}
		method, pattern, _ := strings.Cut(rt.pattern, " ")
		path := strings.NewReplacer("{name}", "console.css", "{token}", "x", "{chapter}", "it", "{code}", "312", "{file}", "poster-a4.pdf", "{call}", "Issue").Replace(pattern)
		r, err := http.NewRequest(method, "http://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range b.cookies {
			r.AddCookie(&http.Cookie{Name: name, Value: value})
		}
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s answers %d on the public listener", rt.pattern, res.StatusCode)
		}
	}
}

// FuzzOurs: wherever the language button is told to go back to, a browser stays here.
func FuzzOurs(f *testing.F) {
	for _, seed := range []string{"/", "//x", "/\\x", "https://x", "/a?b", "/\t/x", "/%2f/x"} {
		f.Add(seed)
	}
	base, err := url.Parse("https://console.example.org/signin")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, back string) {
		// Browsers drop tabs and line ends, and take a backslash for a slash.
		seen := strings.NewReplacer("\t", "", "\r", "", "\n", "", "\\", "/").Replace(ours(back))
		if to, err := base.Parse(seen); err == nil && to.Host != base.Host {
			t.Errorf("%q leads to %s", back, to)
		}
	})
}

func FuzzParseTexts(f *testing.F) {
	f.Add("[a]\nvi một\nen one\n")
	f.Fuzz(func(t *testing.T, s string) {
		texts := map[string]entry{}
		if parseTexts(s, texts) == nil {
			for key, e := range texts {
				if key == "" || len(e) > 2 {
					t.Error(key, e)
				}
			}
		}
	})
}

// TestPublic shows what anybody sees: no cookie, no way in, no small cell.
func TestPublic(t *testing.T) {
	s := newSite(t)
	b := s.admin()
	s.anDuong(b)
	b.upload("/adoption/units", "code,parent,level,name,closed\nk,31,district,Đảo nhỏ,\n")
	b.upload("/adoption/import", "unit,kind,of,value,as_of,source,basis\nk,installs,subscribers,4,2026-11-20,x,\nk,smartphones,smartphones,600,2026-11-20,x,\n")
	for _, l := range []string{"", "?lang=en"} {
		w := httptest.NewRecorder()
		s.Home().ServeHTTP(w, httptest.NewRequest("GET", "/"+l, nil))
		page := w.Body.String()
		if w.Code != 200 || len(w.Result().Cookies()) > 0 || strings.Contains(page, "%!") || !strings.Contains(page, "Huyện An Dương") || !strings.Contains(page, "exports/1-2-") {
			t.Error(w.Code, page)
		}
		if strings.Contains(page, "<script") || strings.Contains(page, "/signin") {
			t.Error("the public page leads to the console, or runs something")
		}
	}
	w := httptest.NewRecorder()
	s.AdoptionJSON().ServeHTTP(w, httptest.NewRequest("GET", "/adoption.json", nil))
	var file struct {
		Units []struct {
			Code, Rate string
			Installs   *int
			Hidden     []string
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &file); err != nil {
		t.Fatal(err)
	}
	hidden := 0
	for _, u := range file.Units {
		if u.Code == "k" && (u.Installs != nil || len(u.Hidden) != 1) {
			t.Errorf("a small cell is shown: %s", w.Body)
		}
		hidden += len(u.Hidden)
	}
	if hidden != 2 {
		t.Errorf("%d cells hidden, want the small one and another:\n%s", hidden, w.Body)
	}
}

// TestPageDetails: what people notice when it is wrong.
func TestPageDetails(t *testing.T) {
	s := newSite(t)
	b := s.admin()
	home := func() string {
		page, err := s.home(vietnamese)
		if err != nil {
			t.Fatal(err)
		}
		return string(page)
	}
	if !strings.Contains(home(), "– VN-HP</h1>") {
		t.Error("without units the public page does not name the region")
	}
	s.anDuong(b)
	if !strings.Contains(home(), "– Thành phố Hải Phòng</h1>") {
		t.Error("the public page does not name the province")
	}
	const typed = "Nội dung đã nhập vẫn còn"
	if _, page := b.get("/nowhere"); strings.Contains(page, typed) {
		t.Error("a page that is not there speaks of what was typed")
	}
	if _, page := b.post("/adoption/unit/312/quote", "percent", "x"); !strings.Contains(page, typed) {
		t.Error("a refused form does not say that what was typed is still there")
	}
	if _, page := b.get("/adoption/unit/312"); !strings.Contains(page, `<a href="/adoption" aria-current="page">`) {
		t.Error("a page of a section does not mark it in the navigation")
	}
	token, err := s.office.ResetLink(desk.Local, s.named("hoa"))
	if err != nil {
		t.Fatal(err)
	}
	if _, page := s.browser().get("/join/" + token); !strings.Contains(page, "<h1>Đặt mật khẩu mới</h1>") || strings.Contains(page, "Tạo tài khoản") {
		t.Error("a link for a new password offers to make an account")
	}
	b.post("/notices", "kind", "warning", "title_vi", "A", "title_en", "A", "text_vi", "A", "text_en", "A", "to_do_vi", "A", "to_do_en", "A",
		"hotline", "1900", "minutes", "15", "tolerance", "120", "onset_from", "-2", "onset_to", "10")
	if _, page := b.get("/notices"); !strings.Contains(page, "Rút lại") || strings.Contains(page, "Không duyệt") {
		t.Error("whoever proposed a warning is offered to refuse it")
	}
	if _, page := b.get("/outreach"); strings.Count(page, "<select") != 2 || strings.Count(page, `formaction="/outreach/`) != len(posterNames) {
		t.Error("the sheets to print are not offered in one form")
	}
}
