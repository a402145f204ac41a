package console

import (
	"bytes"
	"encoding/csv"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"bluekey/keystore/desk"
)

var (
	onceField = regexp.MustCompile(`name="once" value="([^"]+)"`)
	codeField = regexp.MustCompile(`name="code" value="([0-9A-Z]+)"`)
	teamLink  = regexp.MustCompile(`://[^/]+(/team/[\w-]+)`)
)

func first(t *testing.T, re *regexp.Regexp, page string) string {
	t.Helper()
	m := re.FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("no %v on the page:\n%s", re, page)
	}
	return m[1]
}

// TestOfficer issues a code, loses it, issues it again and revokes it.
func TestOfficer(t *testing.T) {
	s := newSite(t)
	s.admin()
	b := s.as(desk.Officer, "lan", "")
	_, form := b.get("/codes")
	fields := []string{"once", first(t, onceField, form), "report", "confirmed-test", "onset", "2026-11-20"}
	code, page := b.post("/codes", fields...)
	if code != 200 {
		t.Fatal(code, page)
	}
	one := first(t, codeField, page)
	for _, want := range []string{"<span>" + one[:3] + "</span><span>" + one[3:6] + "</span><span>" + one[6:] + "</span>", "<svg class=\"qr\"", "20/11/2026", "11:00 ngày 23/11/2026", "countdown short"} {
		if !strings.Contains(page, want) {
			t.Errorf("the slip has no %q", want)
		}
	}
	if code, _ := b.post("/codes", fields...); code != http.StatusConflict {
		t.Errorf("the form a second time: %d", code)
	}
	code, page = b.post("/codes/again", "once", first(t, onceField, page), "code", one, "report", "confirmed-test", "onset", "2026-11-20")
	two := first(t, codeField, page)
	if code != 200 || two == one {
		t.Fatal(code, one, two)
	}
	if _, page := b.post("/codes/revoke", "code", one); !strings.Contains(page, "Không có mã nào như vậy") {
		t.Error("the code issued before is still alive")
	}
	if _, page := b.post("/codes/revoke", "code", two[:3]+" "+two[3:]); !strings.Contains(page, "Mã đã bị thu hồi") {
		t.Error(page)
	}
	b.get("/codes")
	code, page = b.post("/codes/sheet", "once", desk.NewOnce(), "report", "clinical", "onset", "2026-11-20", "count", "30")
	if n := strings.Count(page, `class="slip"`); code != 200 || n != 30 {
		t.Errorf("a sheet of %d: %d", n, code)
	}
	if code, page := b.post("/codes/sheet", "once", desk.NewOnce(), "report", "clinical", "onset", "2026-11-20", "count", "40"); code != http.StatusTooManyRequests {
		t.Errorf("beyond the cap: %d %s", code, page)
	}
	for name, onset := range map[string]string{"future": "2026-11-24", "long ago": "2026-01-01", "the epoch": "1970-01-01", "no day": "x"} {
		if code, _ := b.post("/codes", "once", desk.NewOnce(), "report", "clinical", "onset", onset); code != http.StatusUnprocessableEntity {
			t.Errorf("onset %s: %d", name, code)
		}
	}
	// Issued again when the day's codes are used up: the one in hand stays good.
	b.post("/codes/sheet", "once", desk.NewOnce(), "report", "clinical", "onset", "2026-11-20", "count", "27")
	_, page = b.post("/codes", "once", desk.NewOnce(), "report", "clinical", "onset", "2026-11-20")
	last := first(t, codeField, page)
	if code, _ := b.post("/codes/again", "once", first(t, onceField, page), "code", last, "report", "clinical", "onset", "2026-11-20"); code != http.StatusTooManyRequests {
		t.Errorf("issued again beyond the cap: %d", code)
	}
	if _, page := b.post("/codes/revoke", "code", last); !strings.Contains(page, "Mã đã bị thu hồi") {
		t.Error("a code was ended and none came in its place")
	}
	// No page, no journal and no log knows a code any more.
	a := s.as(desk.Admin, "minh", "")
	for _, path := range []string{"/", "/codes", "/journal", "/journal.txt", "/status", "/accounts"} {
		if _, page := a.get(path); strings.Contains(page, one) || strings.Contains(page, two) {
			t.Errorf("%s shows a code", path)
		}
	}
	if _, journal := a.get("/journal.txt"); !strings.Contains(journal, "issue\t30 long clinical") {
		t.Error(journal)
	} else if head, _, err := desk.VerifyJournal(strings.NewReader(journal), desk.Head{}); err != nil || head != s.office.JournalHead() {
		t.Error(err)
	}
	if strings.Contains(s.log.String(), one) {
		t.Error("the log holds a code")
	}
}

// TestGuessing shows staff that somebody tries codes.
func TestGuessing(t *testing.T) {
	s := newSite(t)
	b := s.admin()
	for range 10_001 {
		if _, err := s.desk.Redeem("000000000", desk.Short, [32]byte{}); errors.Is(err, desk.ErrPaused) {
			break
		}
	}
	for _, path := range []string{"/", "/codes"} {
		if _, page := b.get(path); !strings.Contains(page, "Có người đang dò mã.") {
			t.Errorf("%s does not say that codes are guessed", path)
		}
	}
	if code, _ := b.post("/codes", "once", desk.NewOnce(), "report", "confirmed-test", "onset", "2026-11-20", "kind", "long"); code != 200 {
		t.Errorf("a long code meanwhile: %d", code)
	}
}

// TestSumWithAGap: a sum that lacks a unit says so, and is held against nothing.
func TestSumWithAGap(t *testing.T) {
	s := newSite(t)
	b := s.admin()
	s.anDuong(b)
	if code, page := b.upload("/adoption/import", "unit,kind,of,value,as_of,source,basis\n312,people,people,240000,2020-08-26,x,\n"); code != 200 {
		t.Fatal(code, page)
	}
	_, page := b.get("/adoption")
	if !strings.Contains(page, "240.000<br><span class=\"soft small\">tổng của 1/2 đơn vị") || strings.Contains(page, "số điện thoại thông minh nhiều hơn dân số") {
		t.Error(page)
	}
}

// TestTheArticle enters what the newspaper printed, and reports it.
func TestTheArticle(t *testing.T) {
	s := newSite(t)
	b := s.admin()
	s.anDuong(b)
	_, page := b.get("/adoption/unit/312")
	for _, want := range []string{
		"Tính đến ngày 26/8/2020, Huyện An Dương đạt 53.463 thuê bao trong tổng số 197.225 smart phone, đạt 27,11 %.",
		"Nguồn ghi tỷ lệ 27,72 % (Cổng thông tin điện tử), nhưng tính từ số liệu là 27,11 %.", `<svg class="chart"`, "tỷ lệ nêu trong nguồn không khớp số liệu",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q", want)
		}
	}
	_, page = b.get("/adoption")
	if strings.Index(page, "Quận Hồng Bàng") > strings.Index(page, "Huyện An Dương") {
		t.Error("the table is not sorted by rate")
	}
	b.post("/language", "lang", "en", "back", "/adoption")
	if _, page := b.get("/adoption/unit/312"); !strings.Contains(page, "As of 26 August 2020, Huyện An Dương counts 53,463 subscribers among 197,225 smartphones, a rate of 27.11 %.") {
		t.Error("the sentence in English")
	}
	b.post("/language", "lang", "vi", "back", "/")
	_, text := b.get("/adoption/report.csv")
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(text, "\ufeff"))).ReadAll()
	if err != nil || len(rows) != 4 || rows[2][1] != "Huyện An Dương" || rows[2][10] != "27.11" || rows[2][11] != "quoted_rate_differs" {
		t.Error(rows, err)
	}
	if code, page := b.post("/adoption/goal", "target", "50.000.000", "of", "users", "people", "97.580.000", "until", "2026-12-31", "source", "Bộ Y tế"); code != 303 {
		t.Fatal(code, page)
	}
	if _, page := b.get("/adoption/unit/312"); !strings.Contains(page, "Đóng góp 0,11 % vào mục tiêu.") || !strings.Contains(page, "đơn vị đếm khác nhau") {
		t.Error("the share of the goal")
	}
	b.upload("/adoption/import", "unit,kind,of,value,as_of,source,basis\n312,people,people,195717,2020-08-26,niên giám,\n")
	if _, page := b.get("/adoption/unit/312"); !strings.Contains(page, "Chỉ tiêu của đơn vị tính theo dân số: 100.285.") || !strings.Contains(page, `class="ahead"`) {
		t.Error("the way to the goal is not drawn")
	}
	pdf := render(t, b, "/adoption/report.pdf?unit=312&day=2020-12-31")
	if out, err := exec.Command("pdftotext", "-layout", pdf, "-").Output(); err == nil {
		plain := strings.Join(strings.Fields(string(out)), " ")
		for _, want := range []string{"đạt 53.463 thuê bao trong tổng số 197.225 smart phone, đạt 27,11 %.", "27,72 %", "Báo cáo tỷ lệ cài đặt"} {
			if !strings.Contains(plain, want) {
				t.Errorf("the PDF has no %q:\n%s", want, plain)
			}
		}
	}
}

// render keeps a PDF in a file of the test.
func render(t *testing.T, b *browser, path string) string {
	t.Helper()
	res := b.do(httptest.NewRequest("GET", path, nil))
	var buf bytes.Buffer
	buf.ReadFrom(res.Body)
	if res.StatusCode != 200 || !bytes.HasPrefix(buf.Bytes(), []byte("%PDF-")) {
		t.Fatalf("%s: %d", path, res.StatusCode)
	}
	file := filepath.Join(t.TempDir(), "x.pdf")
	if err := os.WriteFile(file, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// need finds a program; without it the test is skipped, except in CI.
func need(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("%s is not installed", name)
	}
}

// TestPosters scans the QR of every sheet as printed.
func TestPosters(t *testing.T) {
	need(t, "pdftoppm")
	need(t, "zbarimg")
	s := newSite(t)
	b := s.admin()
	s.anDuong(b)
	for _, name := range posterNames {
		file := render(t, b, "/outreach/"+name+".pdf?unit=312&lang=vi")
		image := strings.TrimSuffix(file, ".pdf")
		if out, err := exec.Command("pdftoppm", "-r", "150", "-png", "-singlefile", file, image).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		out, err := exec.Command("zbarimg", "-q", "--raw", image+".png").Output()
		want := map[string]int{"leaflet": 2, "desk-card": 4}[name]
		if want == 0 {
			want = 1
		}
		if err != nil || strings.Count(string(out), "https://install.example.org/app\n") != want {
			t.Errorf("%s: scanned %q, %v", name, out, err)
		}
		if text, err := exec.Command("pdftotext", file, "-").Output(); err != nil || strings.Count(string(text), strings.Repeat("0a", 32)) != want || strings.Count(string(text), "Huyện An Dương") < want {
			t.Errorf("%s: the policy digest or the commune is missing: %s %v", name, text, err)
		}
		pages, _ := exec.Command("pdfinfo", file).Output()
		if !strings.Contains(string(pages), "Pages:           1\n") {
			t.Errorf("%s: %s", name, pages)
		}
	}
	render(t, b, "/teams/tally.pdf")
	for path, want := range map[string]int{"/outreach/nothing.pdf": 404, "/outreach/poster-a4.pdf?unit=x": 404, "/outreach/..%2f..%2fgo.mod": 404, "/assets/..%2fconsole.go": 404, "/assets/NotoSans-Regular.ttf": 404} {
		if code, _ := b.get(path); code != want {
			t.Errorf("%s: %d", path, code)
		}
	}
	none := newSite(t, func(c *Config) { c.InstallURL = "" })
	if code, _ := none.admin().get("/outreach/poster-a4.pdf"); code != http.StatusConflict {
		t.Errorf("a poster without an address: %d", code)
	}
}

func TestTeamPage(t *testing.T) {
	s := newSite(t)
	b := s.admin()
	s.anDuong(b)
	_, page := b.post("/teams", "place", "market", "unit", "312", "label", "Chợ Hỗ")
	link := regexp.MustCompile(`https://console.example.org(/team/[\w-]+)`).FindStringSubmatch(page)[1]
	helper := s.browser() // no account
	_, page = helper.get(link)
	once := first(t, onceField, page)
	for range 3 {
		if code, page := helper.post(link, "once", once, "tap", "helped"); code != 200 || !strings.Contains(page, `Đã hướng dẫn cài</span><span>1</span>`) {
			t.Fatal(code, page)
		}
	}
	if code, page := helper.post(link, "once", desk.NewOnce(), "helped", "12", "refused", "3", "had", ""); code != 200 || !strings.Contains(page, `<span>13</span>`) {
		t.Fatal(code, page)
	}
	if code, _ := helper.post(link, "once", desk.NewOnce(), "helped", "501"); code != http.StatusUnprocessableEntity {
		t.Error(code)
	}
	if code, _ := helper.get("/teams"); code != http.StatusSeeOther {
		t.Errorf("a team reads the office: %d", code)
	}
	if s.office.Ledger().At("312", s.office.Today()).Installs.Value != 53463 {
		t.Error("helped was added to installs")
	}
	s.pass(desk.TeamLife)
	if code, _ := helper.get(link); code != http.StatusGone {
		t.Errorf("the link after its day: %d", code)
	}
}

func TestNoticesTakeTwo(t *testing.T) {
	s := newSite(t)
	a, d := s.admin(), s.as(desk.District, "minh", "")
	warning := []string{"kind", "warning", "title_vi", "Tiếp xúc gần", "title_en", "Contact", "text_vi", "Một.\r\nHai.", "text_en", "One.\r\nTwo.", "to_do_vi", "Gọi.", "to_do_en", "Call.",
		"hotline", "1900 9095", "minutes", "15", "tolerance", "120", "onset_from", "-2", "onset_to", "10", "until", ""}
	if code, page := a.post("/notices/preview", warning...); code != 200 || !strings.Contains(page, "Tiếp xúc gần") {
		t.Fatal(code, page)
	}
	if code, page := a.post("/notices", warning...); code != 303 {
		t.Fatal(code, page)
	}
	if code, _ := a.post("/notices/approve", "notice", "1"); code != http.StatusForbidden {
		t.Errorf("approved by its author: %d", code)
	}
	if code, _ := d.post("/notices/approve", "notice", "1"); code != 303 {
		t.Error(code)
	}
	if file, err := s.office.NoticeFile(); err != nil || !bytes.Contains(file, []byte(`"vi": "Một.\nHai."`)) {
		t.Errorf("%s %v", file, err)
	}
	if code, _ := d.post("/notices/approve", "notice", "1"); code != http.StatusConflict {
		t.Error(code)
	}
}

// TestSessions covers fixation, expiry, lock-out and what other sites may do.
func TestSessions(t *testing.T) {
	s := newSite(t)
	b := s.admin()
	kept := b.cookies["__Host-session"]

	victim := s.browser()
	victim.cookies["__Host-session"] = "set-by-an-attacker"
	if code, where := read(victim.do(signInRequest("Hoa ", goodPassword))); code != 303 || where != "/" {
		t.Fatal(code, where)
	}
	if victim.cookies["__Host-session"] == "set-by-an-attacker" {
		t.Error("session fixation")
	}
	// Signing in over a living session ends it.
	again := s.browser()
	again.cookies["__Host-session"] = kept
	again.do(signInRequest("hoa", goodPassword))
	if code, _ := b.get("/account"); code != http.StatusSeeOther {
		t.Error("the session before goes on")
	}
	b = again
	for name, spoil := range map[string]func(*http.Request){
		"cross-site":     func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"same-site":      func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
		"another origin": func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "https://evil.example") },
		"null origin":    func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "null") },
	} {
		r := httptest.NewRequest("POST", "/signout", nil)
		spoil(r)
		if code, _ := read(b.do(r)); code != http.StatusForbidden {
			t.Errorf("%s: %d", name, code)
		}
		if code, _ := b.get("/account"); code != 200 {
			t.Fatalf("%s signed the user out", name)
		}
	}
	for back, want := range map[string]string{"/adoption": "/adoption", "//evil.example": "/", "/\\evil.example": "/", "https://evil.example": "/", "": "/", "/x\r\nSet-Cookie: a=b": "/"} {
		if _, where := b.post("/language", "lang", "vi", "back", back); where != want {
			t.Errorf("back to %q goes to %q", back, where)
		}
	}
	for range 5 {
		s.browser().do(signInRequest("hoa", "wrong"))
	}
	if code, page := read(s.browser().do(signInRequest("hoa", goodPassword))); code != http.StatusTooManyRequests || !strings.Contains(page, "31 giây") && !strings.Contains(page, "30 giây") {
		t.Errorf("brute force: %d", code)
	}
	if code, _ := b.get("/"); code != 200 {
		t.Error("a lock-out ends a session")
	}
	s.pass(desk.SessionIdle)
	if code, _ := b.get("/"); code != http.StatusSeeOther {
		t.Error("an idle session goes on")
	}
	if code, _ := b.post("/codes", "once", desk.NewOnce()); code != http.StatusUnauthorized {
		t.Error(code)
	}
}

// TestHostileInput puts markup, formulas and a megabyte into every field.
func TestHostileInput(t *testing.T) {
	s := newSite(t)
	b := s.admin()
	s.anDuong(b)
	const evil = `<script>alert(1)</script>"'=cmd|x`
	if code, _ := b.upload("/adoption/units", "code,parent,level,name,closed\nz,31,commune,\"=HYPERLINK(\"\"x\"\")<script>alert(1)</script>\",\n"); code != 200 {
		t.Fatal(code)
	}
	for path, fields := range map[string][]string{
		"/adoption/unit/z/figure":   {"seen", "0", "kind", "installs", "of", "users", "value", "1.234", "as_of", "2026-11-20", "source", evil, "basis", evil},
		"/adoption/unit/312/figure": {"seen", "99", "kind", "people", "of", "people", "value", "7", "as_of", "2026-11-20", "source", evil, "basis", evil},
		"/adoption/unit/z/quote":    {"percent", "1,5", "as_of", "2026-11-20", "source", evil},
		"/teams":                    {"place", "school", "unit", "z", "label", evil},
		"/outreach/text":            {"name", "short", "text_vi", evil, "text_en", evil},
		"/accounts/key":             {"label", evil},
		"/notices":                  {"kind", "announcement", "until", "2026-11-30", "title_vi", evil, "title_en", evil, "text_vi", evil, "text_en", evil},
	} {
		if code, page := b.post(path, fields...); code >= 400 {
			t.Fatalf("%s: %d %s", path, code, page)
		}
	}
	token, err := s.office.Invite(desk.Local, desk.Officer, "z")
	if err != nil {
		t.Fatal(err)
	}
	if code, page := s.browser().post("/join/"+token, "name", "lan", "display", evil, "password", goodPassword, "again", goodPassword); code != 200 {
		t.Fatal(code, page)
	}
	render(t, b, "/outreach/poster-a4.pdf?unit=z")
	raw := func(path string) string {
		res := b.do(httptest.NewRequest("GET", path, nil))
		var buf bytes.Buffer
		buf.ReadFrom(res.Body)
		return buf.String()
	}
	for _, path := range []string{"/", "/adoption", "/adoption/unit/z", "/adoption/unit/312", "/adoption/units", "/teams", "/outreach", "/notices", "/journal", "/adoption/public", "/accounts",
		"/adoption?unit=%3Cscript%3Ealert(1)", "/adoption?day=%3Cscript%3Ealert(1)", "/%3Cscript%3Ealert(1)", "/journal?before=%3Cscript%3E"} {
		if strings.Contains(raw(path), "<script>alert") {
			t.Errorf("%s carries a script", path)
		}
	}
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(raw("/adoption/report.csv"), "\ufeff"))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		for _, cell := range row {
			if strings.HasPrefix(cell, "=") {
				t.Errorf("a formula in the file: %s", cell)
			}
		}
	}
	w := httptest.NewRecorder()
	s.Home().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if strings.Contains(w.Body.String(), "<script") {
		t.Error("the public page carries a script")
	}
	big := strings.Repeat("á", 1<<19)
	for _, path := range []string{"/signin", "/language", "/adoption/unit/312/quote", "/notices", "/outreach/text", "/codes"} {
		if code, _ := b.post(path, "name", big, "lang", big, "source", big, "text_vi", big); code != http.StatusRequestEntityTooLarge && code != http.StatusBadRequest {
			t.Errorf("a megabyte to %s: %d", path, code)
		}
	}
	if code, _ := b.upload("/adoption/import", strings.Repeat("x", 3<<20)); code != http.StatusRequestEntityTooLarge {
		t.Errorf("a file of 3 MB: %d", code)
	}
	if code, page := b.upload("/adoption/import", strings.Replace(anDuongFigures, "88000", "88x", 1)); code != 422 || !strings.Contains(page, "Dòng 7, cột value: không phải là số hợp lệ. Chưa nhập dòng nào.") {
		t.Errorf("%d %s", code, page)
	}
	if code, _ := b.post("/adoption/unit/312/figure", "seen", "0", "kind", "installs", "of", "users", "value", "1,5", "as_of", "2026-11-20", "source", "x"); code != 422 {
		t.Error(code)
	}
	if s.log.Len() > 0 {
		t.Error(s.log)
	}
}

func TestLaboratoryKey(t *testing.T) {
	s := newSite(t)
	b := s.admin()
	_, page := b.post("/accounts/key", "label", "LIS bệnh viện")
	key := first(t, regexp.MustCompile(`<code>(bluekey-[\w-]+)</code>`), page)
	call := func(header string) (int, string) {
		r := httptest.NewRequest("POST", "/bluekey.v1.CodeService/Issue", strings.NewReader("{}"))
		r.Header.Set("Authorization", header)
		return read(b.do(r))
	}
	code, officer := call("Bearer " + key)
	if code != 200 || !strings.HasPrefix(officer, "key-") || !strings.HasSuffix(officer, "0") {
		t.Fatal(code, officer)
	}
	for _, bad := range []string{"", key, "Bearer ", "Bearer " + key + "x", "Bearer " + b.cookies["__Host-session"]} {
		if code, _ := call(bad); code != http.StatusUnauthorized {
			t.Errorf("%.20s: %d", bad, code)
		}
	}
	_, page = b.get("/accounts")
	if strings.Contains(page, key) {
		t.Error("a key is shown again")
	}
	b.post("/accounts/key/end", "key", strings.TrimSuffix(strings.TrimPrefix(officer, "key-"), "0"))
	if code, _ := call("Bearer " + key); code != http.StatusUnauthorized {
		t.Errorf("an ended key: %d", code)
	}
	if _, journal := b.get("/journal.txt"); !strings.Contains(journal, "LIS bệnh viện") || strings.Contains(journal, key) {
		t.Error(journal)
	}
}
