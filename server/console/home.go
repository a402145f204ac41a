package console

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"bluekey/keystore/desk"
)

// Export is one line of the newest exports on the public page.
type Export struct {
	Path       string // in the public tree, without a slash before it
	Start, End time.Time
	Size       int64
}

type homeData struct {
	Origin, Place, PublicURL string
	Exports                  []Export
	Checkpoint               time.Time
	Age                      time.Duration
	LogSize                  uint64
	PolicyDigest             string
	Public                   publicData
	Notices                  []desk.Notice
	Style                    template.CSS
}

// homeStyle is the console's stylesheet without its fonts: the public page is one file,
// and a phone has letters of its own.
var homeStyle = func() string {
	css := string(assets["console.css"].data)
	var kept []string
	for line := range strings.Lines(css) {
		if !strings.HasPrefix(line, "@font-face") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}()

// Home answers "/" on the public listener: what this server is, for whoever looks. It
// sets no cookie and asks for nothing; ?lang=en is the other language.
func (c *Console) Home() http.Handler {
	digest := sha256.Sum256([]byte(homeStyle))
	home := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(digest[:]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l, _ := parseLang(r.URL.Query().Get("lang"))
		page, err := c.homes[l].get(func() ([]byte, error) { return c.home(l) })
		if err != nil {
			c.Logger.Error("the public page failed", "err", err)
			http.Error(w, "internal error", http.StatusInternalServerError)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", home)
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "public, max-age=60")
		_, _ = w.Write(page)
	})
}

// place is whose service this is, as people call it: the one unit at the top of the tree.
// Until there is one it is the region's code.
func (c *Console) place() string {
	if top := c.Office.Ledger().Below("", c.Office.Today()); len(top) == 1 {
		return top[0].Name
	}
	return c.Region
}

func (c *Console) home(l lang) ([]byte, error) {
	rows, day := c.publicRows()
	d := homeData{
		Origin: c.Origin, Place: c.place(), PublicURL: c.PublicURL,
		Public: publicData{rows, day, desk.SmallCell}, Style: template.CSS(homeStyle),
	}
	if c.Exports != nil {
		d.Exports = c.Exports()
	}
	if c.Status != nil {
		s := c.Status()
		d.Checkpoint, d.LogSize = s.Checkpoint, s.LogSize
		d.Age = max(0, c.Office.Now().Sub(s.Checkpoint))
	}
	if c.PolicyDigest != nil {
		d.PolicyDigest = c.PolicyDigest()
	}
	notices, err := c.Office.Notices()
	if err != nil {
		return nil, err
	}
	for _, n := range notices {
		if n.Kind == desk.Announcement && c.Office.Live(n) {
			d.Notices = append(d.Notices, n)
		}
	}
	v := view{words: words{c.pages.printers[l], l}, D: d}
	v.Title = v.T("home.title")
	var b bytes.Buffer
	if err := c.pages.templates["home"].ExecuteTemplate(&b, "home", v); err != nil {
		return nil, fmt.Errorf("make the public page: %w", err)
	}
	return b.Bytes(), nil
}
