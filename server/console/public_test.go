package console

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"bluekey/keystore"
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
