package console

import (
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"bluekey/keystore"
	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
)

const goodPassword = "bốn con gà mái ghẹ"

// site is a console over a store of its own, with a clock that the test moves.
type site struct {
	*Console
	t      testing.TB
	office *desk.Office
	desk   *desk.Desk
	log    *strings.Builder

	mu  sync.Mutex
	now time.Time
}

func (s *site) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *site) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

func newSite(t testing.TB, change ...func(*Config)) *site {
	t.Helper()
	s := &site{t: t, log: &strings.Builder{}, now: time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)}
	logger := slog.New(slog.NewTextHandler(s.log, nil))
	store, err := keystore.Open(keystore.Options{
		Dir: t.TempDir(), CodeKey: [32]byte{1}, DedupeKey: [32]byte{2}, Period: 4 * time.Hour, Hold: 4 * time.Hour, CodeCap: 60,
		Now: s.clock, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	s.desk = store.Desk()
	if s.office, err = desk.OpenOffice(store.Desk()); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Office: s.office, Codes: s.office, Door: s.office, URL: "https://console.example.org", InstallURL: "https://install.example.org/app",
		PublicURL: "https://keys.example.org", Origin: "keys.example.org/hai-phong", Region: "VN-HP", Logger: logger,
		PolicyDigest: func() string { return strings.Repeat("0a", 32) },
		Status: func() Status {
			now := s.clock()
			return Status{LastExport: now.Add(-3 * time.Hour), Delay: 5 * time.Hour, NextExport: now.Add(time.Hour), Held: map[string]int{"gaen": 7, "bluezone": 1500}, HeldFloor: 150,
				LogSize: 1234, Checkpoint: now.Add(-3 * time.Hour), DiskUsed: 123456789, DiskFree: 40e9, WindowEnd: now.Add(-3 * time.Hour), Version: "v1"}
		},
		API: func(officer string) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, officer, len(r.Header["Cookie"])) })
		},
		Exports: func() []Export {
			now := s.clock()
			return []Export{{Path: "exports/1-2-0123456789abcdef.zip", Start: now.Add(-8 * time.Hour), End: now.Add(-4 * time.Hour), Size: 54321}}
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	if s.Console, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return s
}

// browser keeps cookies and follows nothing.
type browser struct {
	s       *site
	cookies map[string]string
}

func (s *site) browser() *browser { return &browser{s, map[string]string{}} }

func (b *browser) do(r *http.Request) *http.Response {
	r.Host = b.s.host
	for name, value := range b.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	w := httptest.NewRecorder()
	b.s.ServeHTTP(w, r)
	res := w.Result()
	for _, c := range res.Cookies() {
		b.cookies[c.Name] = c.Value
		if c.MaxAge < 0 {
			delete(b.cookies, c.Name)
		}
	}
	return res
}

// get gives a page's status and text.
func (b *browser) get(path string) (int, string) {
	return read(b.do(httptest.NewRequest("GET", path, nil)))
}

// post sends a form, with fields in pairs.
func (b *browser) post(path string, fields ...string) (int, string) {
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Add(fields[i], fields[i+1])
	}
	r := httptest.NewRequest("POST", path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return read(b.do(r))
}

// upload sends a file.
func (b *browser) upload(path, text string) (int, string) {
	body := "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f.csv\"\r\n\r\n" + text + "\r\n--x--\r\n"
	r := httptest.NewRequest("POST", path, strings.NewReader(body))
	r.Header.Set("Content-Type", "multipart/form-data; boundary=x")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return read(b.do(r))
}

func read(res *http.Response) (int, string) {
	body, err := io.ReadAll(res.Body)
	if err != nil {
		panic(err)
	}
	if where := res.Header.Get("Location"); where != "" {
		return res.StatusCode, where
	}
	return res.StatusCode, html.UnescapeString(string(body))
}

// admin is a browser signed in as the first account.
func (s *site) admin() *browser {
	s.t.Helper()
	token, err := s.office.SetUpLink()
	if err != nil {
		s.t.Fatal(err)
	}
	b := s.browser()
	if code, page := b.post("/join/"+token, "name", "hoa", "display", "Nguyễn Thị Hoa", "password", goodPassword, "again", goodPassword); code != 200 {
		s.t.Fatal(code, page)
	}
	return b
}

// as is a browser signed in with a role.
func (s *site) as(role desk.Role, name, unit string) *browser {
	s.t.Helper()
	token, err := s.office.Invite(desk.Local, role, unit)
	if err != nil {
		s.t.Fatal(err)
	}
	b := s.browser()
	if code, page := b.post("/join/"+token, "name", name, "display", name, "password", goodPassword, "again", goodPassword); code != 200 {
		s.t.Fatal(code, page)
	}
	return b
}

const anDuongUnits = "code,parent,level,name,closed\n31,,province,Thành phố Hải Phòng,\n312,31,district,Huyện An Dương,\n303,31,district,Quận Hồng Bàng,\n"

const anDuongFigures = `unit,kind,of,value,as_of,source,basis
312,installs,subscribers,53463,2020-08-26,Cổng thông tin điện tử thành phố Hải Phòng,
312,smartphones,smartphones,197225,2020-08-26,Cổng thông tin điện tử thành phố Hải Phòng,
312,installs,subscribers,41200,2020-08-19,báo cáo tuần,
312,smartphones,smartphones,197225,2020-08-19,báo cáo tuần,
303,installs,subscribers,31000,2020-08-26,báo cáo tuần,
303,smartphones,smartphones,88000,2020-08-26,báo cáo tuần,
`

// anDuong enters the article's figures.
func (s *site) anDuong(b *browser) {
	s.t.Helper()
	if code, page := b.upload("/adoption/units", anDuongUnits); code != 200 {
		s.t.Fatal(code, page)
	}
	if code, page := b.upload("/adoption/import", anDuongFigures); code != 200 {
		s.t.Fatal(code, page)
	}
	if code, page := b.post("/adoption/unit/312/quote", "percent", "27,72 %", "as_of", "2020-08-26", "source", "Cổng thông tin điện tử"); code != 303 {
		s.t.Fatal(code, page)
	}
}

// mayBe is who may use each route, written down a second time: a slip of the table must
// not pass by itself. a admin, o officer, d district, u auditor, n nobody signed in.
var mayBe = map[string]string{
	"GET /assets/{name}": "aodun", "GET /signin": "aodun", "POST /signin": "aodun", "POST /signin/recover": "aodun",
	"GET /join/{token}": "aodun", "POST /join/{token}": "aodun", "POST /language": "aodun",
	"GET /team/{token}": "aodun", "POST /team/{token}": "aodun",
	"POST /passkey/signin/begin": "aodun", "POST /passkey/signin/finish": "aodun",
	"GET /{$}": "aodu", "POST /signout": "aodu", "GET /help": "aodu", "GET /help/{chapter}": "aodu", "GET /account": "aodu",
	"POST /account/password": "aodu", "POST /account/recovery": "aodu", "POST /account/passkey/begin": "aodu",
	"POST /account/passkey/finish": "aodu", "POST /account/passkey/remove": "aodu",
	"GET /codes": "ao", "POST /codes": "ao", "POST /codes/again": "ao", "POST /codes/revoke": "ao", "POST /codes/sheet": "ao",
	"GET /adoption": "aodu", "GET /adoption/unit/{code}": "aodu", "GET /adoption/report.csv": "aodu", "GET /adoption/report.pdf": "aodu", "GET /adoption/public": "aodu",
	"GET /adoption/import": "ad", "POST /adoption/import": "ad", "POST /adoption/unit/{code}/figure": "ad", "POST /adoption/unit/{code}/withdraw": "ad", "POST /adoption/unit/{code}/quote": "ad",
	"GET /adoption/units": "a", "POST /adoption/units": "a", "POST /adoption/goal": "a",
	"GET /teams": "aodu", "POST /teams": "aod", "POST /teams/end": "aod", "GET /teams/tally.pdf": "aodu",
	"GET /outreach": "aodu", "GET /outreach/{file}": "aodu", "POST /outreach/text": "aod",
	"GET /notices": "aodu", "POST /notices/preview": "ad", "POST /notices": "ad", "POST /notices/approve": "ad", "POST /notices/withdraw": "ad",
	"GET /journal": "au", "GET /journal.txt": "au", "GET /status": "aodu", "POST /status/backup": "a",
	"POST /accounts/key": "a", "POST /accounts/key/end": "a", "POST /bluekey.v1.CodeService/{call}": "aodun",
	"GET /accounts": "au", "POST /accounts/invite": "a", "POST /accounts/reset": "a", "POST /accounts/end": "a", "POST /accounts/role": "a",
}

func TestRolesAndRoutes(t *testing.T) {
	s := newSite(t)
	s.admin()
	if len(mayBe) != len(routes) {
		t.Errorf("%d routes, %d in this table", len(routes), len(mayBe))
	}
	roles := map[byte]desk.Role{'a': desk.Admin, 'o': desk.Officer, 'd': desk.District, 'u': desk.Auditor}
	for letter, name := range map[byte]string{'a': "binh", 'o': "lan", 'd': "minh", 'u': "nga", 'n': ""} {
		b := s.browser()
		if name != "" {
			b = s.as(roles[letter], name, "")
		}
		cookies := b.cookies
		for _, rt := range routes {
			b.cookies = map[string]string{}
			for k, v := range cookies {
				b.cookies[k] = v
			}
			method, pattern, _ := strings.Cut(rt.pattern, " ")
			if rt.pattern == "POST /signout" && name != "" {
				continue // it would end the session of the rest
			}
			path := strings.NewReplacer("{$}", "", "{name}", "console.css", "{token}", "x", "{chapter}", "it", "{code}", "x", "{file}", "x.pdf").Replace(pattern)
			var code int
			var page string
			if method == "GET" {
				code, page = b.get(path)
			} else {
				code, page = b.post(path)
			}
			refused := code == http.StatusForbidden && strings.Contains(page, "Tài khoản của bạn không có quyền làm việc này.")
			if name == "" && rt.roles != nil {
				refused = code == http.StatusUnauthorized || code == http.StatusSeeOther
			}
			if may := strings.Contains(mayBe[rt.pattern], string(letter)); refused == may {
				t.Errorf("%s as %q: %d", rt.pattern, roles[letter], code)
			}
			if code >= 500 {
				t.Errorf("%s as %q: %d\n%s", rt.pattern, roles[letter], code, s.log)
			}
			if method == "POST" {
				if code, _ := b.get(path); code == 200 && mayBe["GET "+pattern] == "" {
					t.Errorf("%s is done by GET", rt.pattern)
				}
			}
		}
	}
	if s.log.Len() > 0 {
		t.Error(s.log)
	}
}

func TestTextsAreComplete(t *testing.T) {
	texts, err := loadTexts(textFiles)
	if err != nil {
		t.Fatal(err)
	}
	verb := regexp.MustCompile(`%%|%\[?\d*\]?[a-z]`)
	for key, e := range texts {
		for _, l := range []lang{vietnamese, english} {
			if e[l] == "" {
				t.Errorf("%s is missing in %s", key, l)
			}
		}
		if a, b := verb.FindAllString(e[vietnamese], -1), verb.FindAllString(e[english], -1); fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("%s: %v in Vietnamese, %v in English", key, a, b)
		}
	}
	// Every key that pages and code name is there; a family named by a pattern has a member.
	named := regexp.MustCompile(`(?:\bT "|\bT\("|printf "|"(?:error|status\.care|tally|poster|school|field|codes\.revoke|accounts|teams|card|help|notices|adoption|sheet|slip|start|report|signin|join|recovery|account|journal|units|import|public|outreach|key)\.)[a-z_.%-]*[a-z0-9s-]*"`)
	used := map[string]bool{}
	for _, source := range sources(t) {
		for _, m := range named.FindAllString(source, -1) {
			key := strings.Trim(strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(m, `T "`), `T("`), `printf "`), `"`)
			used[key] = true
		}
	}
	for key := range used {
		if strings.Contains(key, "%s") {
			pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(key), "%s", ".+") + "$")
			found := false
			for k := range texts {
				found = found || pattern.MatchString(k)
			}
			if !found {
				t.Errorf("no text like %s", key)
			}
		} else if texts[key] == nil && strings.Contains(key, ".") && !strings.HasSuffix(key, ".") && !regexp.MustCompile(`\.(pdf|csv|txt|css|js|html|json|1f)$`).MatchString(key) && !strings.HasPrefix(key, "%") {
			t.Errorf("no text %s", key)
		}
	}
	for _, family := range []struct {
		format string
		of     []string
	}{
		{"role.%s", strs(desk.Roles[:])}, {"role.%s.hint", strs(desk.Roles[:])}, {"place.%s", desk.Places[:]}, {"tally.%s", desk.TallyFields[:]},
		{"kind.%s", desk.Kinds[:]}, {"of.%s", []string{desk.OfUsers, desk.OfSubscribers, desk.OfSmartphones, desk.OfPeople}},
		{"level.%s", []string{"province", "district", "commune"}}, {"scheme.%s", []string{diagnosis.GAEN.String(), diagnosis.Bluezone.String()}}, {"poster.%s", posterNames}, {"help.%s", chapters},
		{"problem.%s", []string{"required", "long", "unknown", "number", "range", "date", "future", "same", "quote", "encoding"}},
		{"report.%s", []string{"confirmed-test", "clinical", "self-report"}}, {"notice.kind.%s", []string{"warning", "announcement"}},
		{"act.%s", []string{"issue", "revoke", "invite", "reset", "join", "password", "end", "recovery codes", "recover", "passkey added", "passkey removed", "figures", "quote", "goal", "units", "team", "end team", "notice", "approve", "withdraw", "text", "api key", "end api key", "role", "backup"}},
	} {
		for _, x := range family.of {
			if key := fmt.Sprintf(family.format, x); texts[key] == nil {
				t.Errorf("no text %s", key)
			}
		}
	}
	// The terms that are fixed once.
	for key, term := range map[string]string{
		"codes.title": "Mã tải lên", "status.log": "Nhật ký minh bạch", "status.witnesses": "Nhân chứng", "place.checkpoint": "Chốt kiểm soát",
		"place.one_stop": "Bộ phận Một cửa", "poster.leaflet": "Tờ rơi", "spoken.title": "truyền thanh cơ sở", "teams.title": "Tổ hướng dẫn lưu động",
		"of.subscribers": "thuê bao", "adoption.title": "Tỷ lệ cài đặt", "status.held": "Khóa chẩn đoán", "status.last": "Bản xuất", "notice.kind.warning": "tiếp xúc gần",
	} {
		if !strings.Contains(texts[key][vietnamese], term) {
			t.Errorf("%s: %q, want the term %q", key, texts[key][vietnamese], term)
		}
	}
	// Only letters that the embedded font has.
	for key, e := range texts {
		for _, r := range e[vietnamese] + e[english] {
			if !inFont(r) {
				t.Errorf("%s: %q is not in the font", key, r)
			}
		}
	}
}

// TestSpoken: the texts for loudspeakers last as long as their titles say.
func TestSpoken(t *testing.T) {
	s := newSite(t)
	for name, want := range map[string]int{"short": 30, "long": 120} {
		text := s.wording("spoken." + name)
		for l, got := range map[string]int{"vi": seconds(text.VI, 2.8), "en": seconds(text.EN, 2.2)} {
			if got < want*85/100 || got > want*115/100 {
				t.Errorf("%s in %s: about %d seconds, want %d", name, l, got, want)
			}
		}
		if n := max(len([]rune(text.VI)), len([]rune(text.EN))); n > desk.MaxNotice {
			t.Errorf("%s: %d characters cannot be edited", name, n)
		}
	}
}

func TestHandbook(t *testing.T) {
	for _, name := range chapters {
		vi, err := readChapter(name, vietnamese)
		if err != nil {
			t.Fatal(err)
		}
		en, err := readChapter(name, english)
		if err != nil {
			t.Fatal(err)
		}
		if len(vi) != len(en) {
			t.Fatalf("%s: %d pieces and %d", name, len(vi), len(en))
		}
		for i := range vi {
			if vi[i].Kind != en[i].Kind || len(vi[i].Lines) != len(en[i].Lines) {
				t.Errorf("%s, piece %d: %s with %d lines and %s with %d", name, i, vi[i].Kind, len(vi[i].Lines), en[i].Kind, len(en[i].Lines))
			}
		}
	}
	if officer, _ := readChapter("officer", vietnamese); len(officer[1].Lines) != 4 {
		t.Error("an officer has four steps")
	}
}

func strs[T ~string](list []T) (made []string) {
	for _, x := range list {
		made = append(made, string(x))
	}
	return made
}

// TestHeadersAndCookies holds for every page.
func TestHeadersAndCookies(t *testing.T) {
	s := newSite(t)
	b := s.admin()
	if b.cookies["__Host-session"] == "" {
		t.Fatal(b.cookies)
	}
	for _, path := range []string{"/", "/signin", "/nowhere", "/assets/console.css", "/adoption/report.csv"} {
		res := b.do(httptest.NewRequest("GET", path, nil))
		for name, want := range map[string]string{"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"} {
			if got := res.Header.Get(name); got != want {
				t.Errorf("%s: %s %q", path, name, got)
			}
		}
		if cache := res.Header.Get("Cache-Control"); cache != "no-store" {
			t.Errorf("%s: %s", path, cache)
		}
	}
	res := s.browser().do(signInRequest("hoa", goodPassword))
	cookie := res.Cookies()[0]
	if !cookie.Secure || !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" || cookie.Domain != "" || cookie.MaxAge <= 0 {
		t.Errorf("%+v", cookie)
	}
	r := httptest.NewRequest("GET", "/signin", nil)
	w := httptest.NewRecorder()
	r.Host = "evil.example"
	s.ServeHTTP(w, r)
	if w.Code != http.StatusMisdirectedRequest {
		t.Errorf("another host: %d", w.Code)
	}
	// Everything that pages refer to is ours, and nothing is inline.
	for _, path := range []string{"/", "/codes", "/adoption", "/teams", "/outreach", "/notices", "/status", "/account", "/accounts", "/journal", "/help/officer"} {
		code, page := b.get(path)
		if code != 200 {
			t.Errorf("%s: %d\n%s", path, code, s.log)
		}
		for _, bad := range []string{"<style", " style=", "onclick", "http://", "javascript:"} {
			if strings.Contains(page, bad) {
				t.Errorf("%s holds %s", path, bad)
			}
		}
		if strings.Contains(page, "%!") {
			t.Errorf("%s: a text and its arguments do not fit: %s", path, regexp.MustCompile(`.{30}%!.{30}`).FindString(page))
		}
	}
}

func signInRequest(name, password string) *http.Request {
	r := httptest.NewRequest("POST", "/signin", strings.NewReader(url.Values{"name": {name}, "password": {password}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return r
}

func TestBadConfig(t *testing.T) {
	for _, bad := range []string{"", "console.example.org", "http://console.example.org", "https://x.example/path", "ftp://x", "https://u:p@x"} {
		if _, err := New(Config{URL: bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := New(Config{URL: "http://localhost:8082", InstallURL: "http://x"}); err == nil {
		t.Error("an install address without https is taken")
	}
	if _, err := New(Config{URL: "http://127.0.0.1:8082"}); err != nil {
		t.Error(err)
	}
}
