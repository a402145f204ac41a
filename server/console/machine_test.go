package console

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"bluekey/keystore/desk"
)

// TestRetired: once another service follows, nobody hands out a code that no phone can use.
func TestRetired(t *testing.T) {
	over := false
	s := newSite(t, func(c *Config) { c.Retired = func() (string, bool) { return "moved", over } })
	b := s.admin()
	_, page := b.get("/codes")
	fields := []string{"once", first(t, onceField, page), "report", "confirmed-test", "onset", "2026-11-20"}
	_, page = b.post("/codes", fields...)
	code := first(t, codeField, page)
	over = true
	const why = "Dịch vụ này đã được thay bằng một dịch vụ khác"
	for path, more := range map[string][]string{"/codes": nil, "/codes/again": {"code", code}, "/codes/sheet": {"count", "5"}} {
		status, page := b.post(path, append([]string{"once", desk.NewOnce(), "report", "confirmed-test", "onset", "2026-11-20"}, more...)...)
		if status != http.StatusConflict || !strings.Contains(page, why) {
			t.Errorf("%s: %d", path, status)
		}
	}
	if n := s.office.CodeStatus().ShortAlive; n != 1 {
		t.Errorf("%d codes are alive, want the one issued before", n)
	}
	for _, path := range []string{"/", "/codes", "/status"} {
		if _, page := b.get(path); !strings.Contains(page, "đã được thay bằng một dịch vụ khác") && !strings.Contains(page, "Một dịch vụ khác đã") && !strings.Contains(page, why) {
			t.Errorf("%s does not say so", path)
		}
	}
	if _, page := b.get("/codes"); strings.Contains(page, `action="/codes"`) {
		t.Error("the page still offers codes")
	}
	if _, page := b.post("/codes/revoke", "code", code); !strings.Contains(page, "Mã đã bị thu hồi") {
		t.Error("the code issued before cannot be revoked")
	}
}

// TestDoorCode issues the six digits of the Bluezone door, where there is one.
func TestDoorCode(t *testing.T) {
	s := newSite(t)
	b := s.admin()
	issue := func(path string, more ...string) (int, string) {
		return b.post(path, append([]string{"once", desk.NewOnce(), "report", "confirmed-test", "onset", "2026-11-20", "kind", "door"}, more...)...)
	}
	status, page := issue("/codes")
	one := first(t, codeField, page)
	if status != 200 || len(one) != 6 || !strings.Contains(page, "<span>"+one[:3]+"</span><span>"+one[3:]+"</span>") || !strings.Contains(page, "10:10 ngày 23/11/2026") {
		t.Fatal(status, page)
	}
	status, page = issue("/codes/again", "code", one)
	two := first(t, codeField, page)
	if status != 200 || two == one || s.office.CodeStatus().Door.Alive != 1 {
		t.Error(status, one, two, s.office.CodeStatus().Door)
	}
	if _, page := b.post("/codes/revoke", "code", " "+two[:3]+" "+two[3:]); !strings.Contains(page, "Mã đã bị thu hồi") || s.office.CodeStatus().Door.Alive != 0 {
		t.Error(page)
	}
	for range desk.MaxDoorAlive {
		issue("/codes")
	}
	if status, page := issue("/codes"); status != http.StatusTooManyRequests || !strings.Contains(page, "quá nhiều mã Bluezone") {
		t.Error(status, page)
	}
	if _, journal := b.get("/journal.txt"); !strings.Contains(journal, "issue\t1 door confirmed-test") || strings.Contains(journal, two) {
		t.Error(journal)
	}

	s = newSite(t, func(c *Config) { c.Door = nil })
	b = s.admin()
	if status, _ := issue("/codes"); status != http.StatusUnprocessableEntity {
		t.Errorf("without a door: %d", status)
	}
	if _, page := b.get("/codes"); strings.Contains(page, `value="door"`) {
		t.Error("the page offers codes for a door that is not there")
	}
}

func TestRoleChange(t *testing.T) {
	s := newSite(t)
	a, b := s.admin(), s.as(desk.Officer, "lan", "")
	s.anDuong(a)
	id := ""
	accounts, err := s.office.Accounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, account := range accounts {
		if account.Name == "lan" {
			id = account.ID
		}
	}
	if status, _ := a.post("/accounts/role", "account", id, "role", "district", "unit", " 312 "); status != http.StatusSeeOther {
		t.Fatal(status)
	}
	if status, _ := b.get("/codes"); status != http.StatusForbidden {
		t.Errorf("no officer any more, and issues codes: %d", status)
	}
	for unit, want := range map[string]int{"312": http.StatusSeeOther, "303": http.StatusForbidden} {
		if status, _ := b.post("/adoption/unit/"+unit+"/quote", "percent", "1", "as_of", "2026-11-20", "source", "x"); status != want {
			t.Errorf("a figure for %s: %d", unit, status)
		}
	}
	for name, bad := range map[string][]string{
		"no role": {"account", id}, "made-up role": {"account", id, "role", "king"}, "no account": {"role", "officer"},
		"no unit": {"account", id, "role", "district", "unit", "99"}, "last admin": {"account", s.named("hoa"), "role", "officer"},
	} {
		if status, _ := a.post("/accounts/role", bad...); status < 400 || status >= 500 {
			t.Errorf("%s: %d", name, status)
		}
	}
	if _, page := a.get("/journal"); !strings.Contains(page, "đổi vai trò") || !strings.Contains(page, "lan district 312, was officer") {
		t.Error("the journal does not have it")
	}
}

// named is the account with a name.
func (s *site) named(name string) string {
	accounts, err := s.office.Accounts()
	if err != nil {
		s.t.Fatal(err)
	}
	return accounts[slices.IndexFunc(accounts, func(a desk.Account) bool { return a.Name == name })].ID
}

// TestLinksFromTheFolder are those that whoever owns the data folder hands out.
func TestLinksFromTheFolder(t *testing.T) {
	s := newSite(t)
	link, err := s.SetUp()
	if err != nil || !strings.HasPrefix(link, "https://console.example.org/join/") {
		t.Fatal(link, err)
	}
	if status, page := s.browser().get(strings.TrimPrefix(link, "https://console.example.org")); status != 200 || !strings.Contains(page, "tài khoản đầu tiên") {
		t.Error(status, page)
	}
	s.admin()
	if link, err := s.SetUp(); link != "" || err != nil {
		t.Errorf("a set-up link beside an account: %q, %v", link, err)
	}
	link, expires, err := s.Invite("admin", "")
	if err != nil || !expires.Equal(s.clock().Add(desk.InviteLife)) {
		t.Fatal(expires, err)
	}
	b := s.browser()
	if status, page := b.post(strings.TrimPrefix(link, s.URL), "name", "minh", "display", "Minh", "password", goodPassword, "again", goodPassword); status != 200 {
		t.Fatal(status, page)
	}
	if status, _ := b.get("/accounts"); status != 200 {
		t.Errorf("the invited admin: %d", status)
	}
	for role, unit := range map[string]string{"king": "", "": "", "district": "99"} {
		if link, _, err := s.Invite(role, unit); link != "" || err == nil {
			t.Errorf("%q in %q: %q, %v", role, unit, link, err)
		}
	}
}

// TestStatus shows what wants looking after, one thing at a time.
func TestStatus(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	well := Status{LastExport: now.Add(-time.Hour), WindowEnd: now.Add(-time.Hour), Checkpoint: now.Add(-time.Hour), DiskUsed: 1e9, DiskFree: 40e9}
	for name, row := range map[string]struct {
		spoil func(*statusData)
		want  string
	}{
		"all well":          {func(*statusData) {}, ""},
		"cannot publish":    {func(d *statusData) { d.Problem = "x" }, "status.care.problem"},
		"no export":         {func(d *statusData) { d.LastExport = now.Add(-13 * time.Hour) }, "status.care.export"},
		"clock set back":    {func(d *statusData) { d.WindowEnd = now.Add(time.Minute) }, "status.care.clock"},
		"disk":              {func(d *statusData) { d.DiskFree = 1e9 }, "status.care.disk"},
		"no checkpoint":     {func(d *statusData) { d.Checkpoint = now.Add(-25 * time.Hour) }, "status.care.checkpoint"},
		"never a backup":    {func(d *statusData) { d.Backup = time.Time{} }, "status.care.nobackup"},
		"no backup lately":  {func(d *statusData) { d.Backup = now.Add(-49 * time.Hour) }, "status.care.backup"},
		"certificate":       {func(d *statusData) { d.Certificates = []certificate{{"a:443", now.Add(time.Hour)}} }, "status.care.cert"},
		"own certificate":   {func(d *statusData) { d.CertEnds = now.Add(13 * 24 * time.Hour) }, "status.care.cert"},
		"good for long":     {func(d *statusData) { d.CertEnds = now.Add(15 * 24 * time.Hour) }, ""},
		"address is silent": {func(d *statusData) { d.Certificates = []certificate{{Host: "a:443"}} }, ""},
		"guessing":          {func(d *statusData) { d.Codes.Paused = true }, "status.care.guessing"},
		"door":              {func(d *statusData) { d.Codes.Door.Paused = true }, "status.care.door"},
		"retired, at rest":  {func(d *statusData) { d.Retired, d.LastExport = true, now.Add(-99*time.Hour) }, "status.care.retired"},
	} {
		d := statusData{Status: well, Now: now, Backup: now.Add(-time.Hour)}
		row.spoil(&d)
		if got := strings.Join(d.cares(), " "); got != row.want {
			t.Errorf("%s: %q", name, got)
		}
	}

	s := newSite(t)
	b, reader := s.admin(), s.as(desk.Auditor, "nga", "")
	_, page := b.get("/status")
	for _, want := range []string{"dưới 150", "Chưa có bản sao lưu nào được ghi nhận.", "đã dùng 123 MB, còn trống 40,0 GB", "1.234 mục"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q", want)
		}
	}
	if status, _ := b.post("/status/backup"); status != http.StatusSeeOther {
		t.Fatal(status)
	}
	s.pass(3 * time.Hour)
	b.do(signInRequest("hoa", goodPassword))
	if _, page := b.get("/status"); !strings.Contains(page, "10:00 ngày 23/11/2026 (3 giờ trước)") || strings.Contains(page, "Chưa có bản sao lưu") {
		t.Error(page)
	}
	reader.do(signInRequest("nga", goodPassword))
	if _, page := reader.get("/status"); strings.Contains(page, "/status/backup") {
		t.Error("an auditor is offered to record a backup")
	}
}

// TestHeld: a count of waiting keys is shown from the floor on only. Fewer would tell that a
// case has just come in.
func TestHeld(t *testing.T) {
	held, floor := map[string]int{}, 150
	s := newSite(t, func(c *Config) {
		c.Status = func() Status {
			return Status{Held: held, HeldFloor: floor, CertEnds: time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC)}
		}
	})
	b := s.admin()
	for _, row := range []struct {
		n    int
		lang string
		want string
	}{
		{0, "vi", "Bluezone: dưới 150<"}, {149, "vi", "Bluezone: dưới 150<"}, {150, "vi", "Bluezone: 150<"}, {1500, "vi", "Bluezone: 1.500<"},
		{149, "en", "Bluezone: fewer than 150<"}, {1500, "en", "Bluezone: 1,500<"},
	} {
		held["gaen"], held["bluezone"] = 7, row.n
		b.post("/language", "lang", row.lang, "back", "/")
		_, page := b.get("/status")
		if !strings.Contains(page, row.want) || strings.Contains(page, ">149<") || strings.Contains(page, "GAEN: 7") {
			t.Errorf("%d in %s: no %q", row.n, row.lang, row.want)
		}
	}
	floor = 0 // not known
	if _, page := b.get("/status"); strings.Contains(page, "Bluezone:") {
		t.Error("keys are shown without a floor")
	}
}

func TestCertificates(t *testing.T) {
	site := httptest.NewTLSServer(http.NotFoundHandler())
	defer site.Close()
	host := strings.TrimPrefix(site.URL, "https://")
	if got := certificateEnds(t.Context(), host); !got.Equal(site.Certificate().NotAfter) {
		t.Errorf("%v, want %v", got, site.Certificate().NotAfter)
	}
	site.Close()
	if got := certificateEnds(t.Context(), host); !got.IsZero() {
		t.Errorf("an address that is silent: %v", got)
	}
	c := Console{Config: Config{URL: "https://console.example", PublicURL: "https://keys.example:8443/tree"}}
	if got := strings.Join(c.secureHosts(), " "); got != "console.example:443 keys.example:8443" {
		t.Error(got)
	}
	c = Console{Config: Config{URL: "http://localhost:8082"}}
	if got := c.secureHosts(); got != nil {
		t.Error(got)
	}
}

// TestPublicPagesAreKept: anybody may ask as often as they like.
func TestPublicPagesAreKept(t *testing.T) {
	made := 0
	s := newSite(t, func(c *Config) { c.Exports = func() []Export { made++; return nil } })
	home := s.Home()
	for range 50 {
		for _, path := range []string{"/", "/?lang=en"} {
			w := httptest.NewRecorder()
			home.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if w.Code != 200 || !strings.Contains(w.Body.String(), `lang="`+map[string]string{"/": "vi", "/?lang=en": "en"}[path]+`"`) {
				t.Fatal(path, w.Code)
			}
		}
	}
	if made > 4 {
		t.Errorf("made %d times for 100 requests", made)
	}
}

func TestDiskSpace(t *testing.T) {
	used, free := DiskSpace(t.TempDir())
	if free <= 0 || used < 0 {
		t.Error(used, free)
	}
	if used, free := DiskSpace("/nowhere/at/all"); used != 0 || free != 0 {
		t.Error(used, free)
	}
}
