package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"bluekey/keystore/desk"
)

// window is a tab of a real browser at a console that really listens.
type window struct {
	*site // nil: the console is another process
	t     *testing.T
	ctx   context.Context
	at    string       // the console's address
	heard fmt.Stringer // what the console logs
}

// openTab starts Debian's Chromium; without it the test is skipped, except in CI.
func openTab(t *testing.T) *window {
	t.Helper()
	need(t, "chromium")
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("/usr/bin/chromium"), chromedp.NoSandbox, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.UserDataDir(t.TempDir()))
	alloc, closeAlloc := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, closeTab := chromedp.NewContext(alloc)
	t.Cleanup(func() {
		closeTab()
		closeAlloc()
	})
	return &window{t: t, ctx: ctx}
}

// openWindow starts a console of the test and a browser beside it.
func openWindow(t *testing.T) *window {
	t.Helper()
	need(t, "chromium")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	s := newSite(t, func(c *Config) { c.URL = "http://localhost:" + port })
	served, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(served, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w := openTab(t)
	w.site, w.at, w.heard = s, s.URL, s.log
	w.size(360, 740)
	return w
}

// do runs one action and ends the test if it does not succeed in time.
func (w *window) do(what string, a chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	if err := chromedp.Do(w.ctx, func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		return a(ctx, t)
	}); err != nil {
		w.t.Fatalf("%s: %v\n%s", what, err, w.heard)
	}
}

func (w *window) size(width, height int64) { w.do("resize", chromedp.EmulateViewport(width, height)) }
func (w *window) open(path string) {
	w.t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = w.at + path
	}
	w.do("open "+path, chromedp.Navigate(path))
}
func (w *window) fill(sel, text string) {
	w.t.Helper()
	w.do("fill "+sel, chromedp.SetValue(chromedp.CSS(sel), text))
}

// press clicks what leads to another page, and waits for it.
func (w *window) press(sel string) {
	w.t.Helper()
	eval[bool](w, "window.pressed = true")
	w.do("press "+sel, chromedp.Click(chromedp.CSS(sel)))
	w.await("a page after "+sel, "!window.pressed && document.readyState === 'complete'")
}

func (w *window) await(what, condition string) {
	w.t.Helper()
	for began := time.Now(); time.Since(began) < 20*time.Second; time.Sleep(30 * time.Millisecond) {
		ok, err := chromedp.Run(w.ctx, chromedp.Evaluate[bool](condition))
		if err == nil && ok {
			return
		}
	}
	w.t.Fatalf("%s does not come: %s\n%s", what, w.text(), w.heard)
}

func eval[T any](w *window, script string) T {
	w.t.Helper()
	v, err := chromedp.Run(w.ctx, chromedp.Evaluate[T](script))
	if err != nil {
		w.t.Fatalf("%s: %v", script, err)
	}
	return v
}

func (w *window) text() string {
	w.t.Helper()
	return eval[string](w, "document.body.innerText")
}

func (w *window) wants(parts ...string) {
	w.t.Helper()
	text := w.text()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			w.t.Errorf("no %q on the page:\n%s", p, text)
		}
	}
}

// fits checks that a page needs no sideways scroll.
func (w *window) fits(path string) {
	w.t.Helper()
	if over := eval[float64](w, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); over > 0 {
		w.t.Errorf("%s is %v px too wide: %s", path, over, eval[string](w,
			`[...document.querySelectorAll("main *, header *")].filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth && !e.closest(".wide")).slice(0,4).map(e => e.tagName + "." + e.className).join(" ")`))
	}
}

func (w *window) join(link, name, display string) {
	w.t.Helper()
	w.open(link)
	w.fill("#display", display)
	w.fill("#name", name)
	w.fill("#password", goodPassword)
	w.fill("#again", goodPassword)
	w.press("main form button")
}

// TestBrowser is the first day of a province, in a real browser on a small screen.
func TestBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	w := openWindow(t)
	if _, err := chromedp.Run(w.ctx, func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		_, err := chromedp.Call(ctx, webauthn.Enable, webauthn.EnableParams{})
		_, err2 := chromedp.Call(ctx, webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{Options: &webauthn.VirtualAuthenticatorOptions{
			Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
			HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true,
		}})
		return chromedp.Void{}, errors.Join(err, err2)
	}); err != nil {
		t.Fatal(err)
	}
	token, err := w.office.SetUpLink()
	if err != nil {
		t.Fatal(err)
	}
	// The first account, a passkey, and in again with it.
	w.join("/join/"+token, "hoa", "Nguyễn Thị Hoa")
	w.wants("Mã khôi phục")
	w.open("/account")
	w.press("#passkey-add")
	w.wants("Thêm lúc")
	w.press("header form[action='/signout'] button")
	w.wants("Đăng nhập")
	w.press("#passkey-signin")
	w.wants("Xin chào, Nguyễn Thị Hoa")

	// An invitation, taken up by an officer, who signs in with the password.
	w.open("/accounts")
	w.press("form[action='/accounts/invite'] button")
	link := eval[string](w, "document.querySelector('main code').innerText")
	w.press("header form[action='/signout'] button")
	w.join(link, "lan", "Trần Thị Lan")
	w.press("header form[action='/signout'] button")
	w.fill("#name", "lan")
	w.fill("#password", goodPassword)
	w.press("form[action='/signin'] button")
	w.wants("Xin chào, Trần Thị Lan")

	// A code, on screen and on paper.
	w.open("/codes")
	w.press("form[action='/codes'] button")
	w.wants("Mã tải lên", "Cấp lại")
	code := strings.Join(strings.Fields(eval[string](w, "document.querySelector('#code').innerText")), "")
	if _, kind, err := desk.Parse(code); err != nil || kind != desk.Short {
		t.Errorf("%q on the slip: %v", code, err)
	}
	if left := eval[string](w, "getComputedStyle(document.querySelector('.countdown'), '::after').getPropertyValue('--left')"); !strings.Contains(left, "59") && !strings.Contains(left, "60") {
		t.Errorf("the countdown says %q", left)
	}
	w.fits("the slip")
	w.printed(strings.Join(groups(code), " "))

	// A wrong role, the other language.
	w.open("/accounts")
	w.wants("Tài khoản của bạn không có quyền làm việc này.")
	w.open("/codes")
	w.press("button[name=lang][value=en]")
	w.wants("Issue an upload code")

	// Keyboard only: the first press of Tab offers to skip, and a form is sent by Enter.
	w.open("/codes")
	w.do("tab", chromedp.KeyEvent(kb.Tab))
	if got := eval[string](w, "document.activeElement.className"); got != "skip" {
		t.Errorf("the first stop of the keyboard is %q", got)
	}
	eval[bool](w, "document.querySelector('form[action=\"/codes\"] button').focus() === undefined && (window.pressed = true)")
	w.do("enter", chromedp.KeyEvent(kb.Enter))
	w.await("the slip", "!window.pressed && !!document.querySelector('#code')")

	// A session ends.
	w.pass(desk.SessionIdle)
	w.open("/codes")
	w.wants("Sign in")

	// Adoption, from a file to a chart.
	w.fill("#name", "hoa")
	w.fill("#password", goodPassword)
	w.press("form[action='/signin'] button")
	for path, text := range map[string]string{"/adoption/units": anDuongUnits} {
		w.uploadFile(path, text)
	}
	w.uploadFile("/adoption/import", anDuongFigures)
	w.open("/adoption/unit/312")
	if eval[float64](w, "document.querySelectorAll('svg.chart circle').length") != 2 {
		t.Error("the chart has not two points")
	}
	w.wants("27.11 %", "53,463")

	// A team's page, without an account.
	w.open("/teams")
	w.press("form[action='/teams'] button")
	link = eval[string](w, "document.querySelector('main code').innerText")
	w.press("header form[action='/signout'] button")
	w.open(link)
	w.press("button[value=helped]")
	w.wants("Counted.")
	w.fits("the team's page")
}

// printed checks what of a slip comes out of the printer: one page, the code, no buttons.
func (w *window) printed(code string) {
	w.t.Helper()
	need(w.t, "pdftotext")
	pdf, err := chromedp.Run(w.ctx, func(ctx context.Context, t *chromedp.Target) ([]byte, error) {
		r, err := chromedp.Call(ctx, page.PrintToPDF, page.PrintToPDFParams{})
		return r.Data, err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command("pdftotext", "-", "-")
	cmd.Stdin = bytes.NewReader(pdf)
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(out)), " ")
	if !strings.Contains(strings.ReplaceAll(text, " ", ""), strings.ReplaceAll(code, " ", "")) || strings.Contains(text, "Cấp lại") || strings.Contains(text, "Đăng xuất") || strings.Count(string(out), "\f") != 1 {
		w.t.Errorf("the printed slip reads %q", text)
	}
}

func (w *window) uploadFile(path, text string) {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "f.csv")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.open(path)
	w.do("choose a file", chromedp.SetUploadFiles(chromedp.CSS("#file"), []string{file}))
	w.press("form[enctype] button")
}

// TestScreenshots opens every page in both languages, on a phone and on a monitor, and
// checks that none needs a sideways scroll. With BLUEKEY_SHOTS=folder it keeps pictures;
// with BLUEKEY_AXE=axe.min.js (npm axe-core) it looks for what keeps people out:
//
//	BLUEKEY_SHOTS=/tmp/shots go test -run 'Screenshots|KeepPapers' ./server/console
func TestScreenshots(t *testing.T) {
	dir := os.Getenv("BLUEKEY_SHOTS")
	if dir == "" && os.Getenv("CI") != "true" {
		t.Skip("BLUEKEY_SHOTS names no folder")
	}
	w := openWindow(t)
	token, err := w.office.SetUpLink()
	if err != nil {
		t.Fatal(err)
	}
	w.open("/signin")
	w.keep(dir, "signin")
	w.open("/join/" + token)
	w.keep(dir, "join")
	w.join("/join/"+token, "hoa", "Nguyễn Thị Hoa")
	w.keep(dir, "recovery")
	b := w.browser()
	for range 2 { // twice: the second request carries what the first set
		b.do(signInRequest("hoa", goodPassword))
	}
	w.anDuong(b)
	b.post("/adoption/goal", "target", "50.000.000", "of", "users", "people", "97.580.000", "until", "2026-12-31", "source", "Bộ Y tế")
	b.upload("/adoption/import", "unit,kind,of,value,as_of,source,basis\n312,people,people,195717,2020-08-26,niên giám thống kê,\n")
	_, made := b.post("/teams", "place", "market", "unit", "312", "label", "Chợ Hỗ")
	team := first(t, teamLink, made)
	b.post("/notices", "kind", "announcement", "until", "2026-11-30", "title_vi", "Chợ Hỗ mở cửa trở lại", "title_en", "Ho market is open again", "text_vi", "Đề nghị bà con đeo khẩu trang.", "text_en", "Please wear a mask.")
	b.post("/notices", "kind", "warning", "title_vi", "Bạn có thể đã tiếp xúc gần", "title_en", "You may have been a close contact", "text_vi", "Điện thoại của bạn đã ở gần một ca bệnh.", "text_en", "Your phone was near a case.",
		"to_do_vi", "Gọi đường dây nóng.", "to_do_en", "Call the hotline.", "hotline", "1900 9095", "minutes", "15", "tolerance", "120", "onset_from", "-2", "onset_to", "10")
	public := httptest.NewServer(w.Home())
	defer public.Close()
	for _, l := range []string{"vi", "en"} {
		w.open("/account")
		w.press("button[name=lang][value=" + l + "]")
		for name, path := range map[string]string{
			"start": "/", "codes": "/codes", "adoption": "/adoption", "unit": "/adoption/unit/312", "import": "/adoption/import", "units": "/adoption/units", "public": "/adoption/public",
			"teams": "/teams", "team": team, "outreach": "/outreach", "notices": "/notices", "status": "/status", "journal": "/journal", "accounts": "/accounts", "account": "/account",
			"help-officer": "/help/officer", "help-it": "/help/it", "missing": "/nowhere",
		} {
			w.open(path)
			w.keep(dir, l+"-"+name)
		}
		w.open("/codes")
		w.press("form[action='/codes'] button")
		w.keep(dir, l+"-slip")
		w.open(public.URL + "/?lang=" + l)
		w.keep(dir, l+"-home")
	}
}

// accessible runs axe-core, if there is one.
func (w *window) accessible(name string) {
	w.t.Helper()
	file := os.Getenv("BLUEKEY_AXE")
	if file == "" {
		return
	}
	script, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := chromedp.Run(w.ctx, chromedp.Evaluate[bool](string(script)+";window.found = null; axe.run().then(r => window.found = r.violations.filter(v => v.impact === 'serious' || v.impact === 'critical').map(v => v.id + ' ' + v.nodes[0].html.slice(0, 150)).join('\\n')); true")); err != nil {
		w.t.Fatal(err)
	}
	w.await("axe", "window.found !== null")
	if found := eval[string](w, "window.found"); found != "" {
		w.t.Errorf("%s: %s", name, found)
	}
}

// keep looks at a page on a phone and on a monitor. The phone is a tall one: far below the
// screen the browser does not draw what scrolls by itself.
func (w *window) keep(dir, name string) {
	w.t.Helper()
	for _, screen := range []struct {
		name          string
		width, height int64
	}{{"desk", 1280, 800}, {"phone", 360, 1600}} {
		w.size(screen.width, screen.height)
		w.fits(name + " on a " + screen.name)
		w.accessible(name + " on a " + screen.name)
		if dir == "" {
			continue
		}
		picture, err := chromedp.Run(w.ctx, chromedp.FullScreenshot(100))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name+"-"+screen.name+".png"), picture, 0o600)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}
