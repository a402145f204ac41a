package bluezone

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
)

const testPeriod = 4 * time.Hour

// site is a door on a real listener over a real disk.
type site struct {
	t     *testing.T
	dir   string
	store *keystore.Store
	door  *Door
	url   string
	log   *lockedBuffer
	now   atomic.Int64
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), log: &lockedBuffer{}}
	s.set(time.Date(2026, 3, 2, 13, 20, 0, 0, time.UTC))
	logger := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	s.store, err = keystore.Open(keystore.Options{
		Dir: s.dir, CodeKey: [32]byte{1}, DedupeKey: [32]byte{2}, Period: testPeriod, Hold: testPeriod,
		CacheSize: 8 << 20, Now: s.Now, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	if s.door, err = New(Config{Store: s.store, Now: s.Now, Logger: logger}); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.door)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *site) Now() time.Time  { return time.Unix(s.now.Load(), 0).UTC() }
func (s *site) set(t time.Time) { s.now.Store(t.Unix()) }

func (s *site) issue() string {
	s.t.Helper()
	code, err := s.store.Desk().IssueDoor(context.Background(), "lan", diagnosis.ConfirmedTest, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return code
}

// seeds are those in the store, once all of them are due.
func (s *site) seeds() (keys map[diagnosis.Secret]diagnosis.Key) {
	s.t.Helper()
	end := s.Now().Add(48 * time.Hour).Truncate(testPeriod)
	s.set(end)
	ctx := context.Background()
	if _, err := s.store.CloseWindow(ctx, diagnosis.Bluezone, end); err != nil {
		s.t.Fatal(err)
	}
	if err := s.store.Ungroup(ctx); err != nil {
		s.t.Fatal(err)
	}
	keys = map[diagnosis.Secret]diagnosis.Key{}
	for k, err := range s.store.DueKeys(diagnosis.Bluezone, end) {
		if err != nil {
			s.t.Fatal(err)
		}
		keys[k.Secret] = k
	}
	return keys
}

// phone is a Bluezone app: what it holds, and how it sends it.
type phone struct {
	url     string
	base    [32]byte
	first   time.Time // the midnight of its first day
	token   string
	number  string
	history string
}

func newPhone(s *site, daysOld int) *phone {
	p := &phone{url: s.url, first: s.Now().Truncate(24*time.Hour).AddDate(0, 0, -daysOld)}
	rand.Read(p.base[:])
	p.token = "fcm-" + randomHex(70)
	p.number = "0904512387"
	var history strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&history, "%s\t%s\t-%d\t%d\n", strings.ToUpper(randomHex(12)), strings.ToUpper(randomHex(12)), 40+i%50, s.Now().UnixMilli()-int64(i)*7000)
	}
	p.history = history.String()
	return p
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// daily is the key of a day.
func (p *phone) daily(day time.Time) [32]byte {
	k := p.base
	for d := p.first; d.Before(day); d = d.AddDate(0, 0, 1) {
		k = diagnosis.NextDailyKey(k)
	}
	return k
}

// infoF is what the phone says of itself at a time, in the app's own form.
func (p *phone) infoF(now time.Time) string {
	start := now.Truncate(24*time.Hour).AddDate(0, 0, -14)
	if start.Before(p.first) {
		start = p.first
	}
	daily := p.daily(start)
	return infoF(fmt.Sprintf("%X", p.base), p.first.Unix(), fmt.Sprintf("%X", daily), start.Unix())
}

// answer is the envelope as the app reads it.
type answer struct {
	HTTP   int
	OK     *bool `json:"isOk"`
	Status *int
	Object map[string]any
}

func (a answer) String() string {
	if a.OK == nil || a.Status == nil || a.Object == nil {
		return fmt.Sprintf("HTTP %d and no envelope", a.HTTP)
	}
	return fmt.Sprintf("HTTP %d isOk %t Status %d", a.HTTP, *a.OK, *a.Status)
}

const (
	answeredOK      = "HTTP 200 isOk true Status 0"
	answeredFault   = "HTTP 200 isOk false Status 1"
	answeredBad     = "HTTP 200 isOk false Status 2"
	answeredInvalid = "HTTP 200 isOk false Status 51"
	answeredExpired = "HTTP 200 isOk false Status 52"
)

func (p *phone) post(path string, header http.Header, body io.Reader) (string, error) {
	r, err := http.NewRequest(http.MethodPost, p.url+path, body)
	if err != nil {
		return "", err
	}
	r.Header = header
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	a := answer{HTTP: resp.StatusCode}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		return "", fmt.Errorf("HTTP %d: %w", a.HTTP, err)
	}
	return a.String(), nil
}

const (
	declarePath = "/api/AppHistoryContact/ReportHistory_ConfirmDeclare"
	noFile      = "_NoFile"
)

// build is how one build of the app writes its two requests.
type build struct {
	name                 string
	withFile, without    http.Header
	boundary             string
	quoted, noNumber     bool
	lowerHeaders, length bool // of the parts of the request without the file
}

var builds = []build{
	{
		name: "Android", boundary: "RNFetchBlob-x8w2l0qf3",
		withFile: http.Header{"Accept": {"application/json"}, "Content-Type": {"multipart/form-data; charset=utf-8; boundary=RNFetchBlob-x8w2l0qf3"}},
		without:  http.Header{"Content-Type": {"multipart/form-data; boundary=RNFetchBlob-x8w2l0qf3"}}, lowerHeaders: true, length: true,
	},
	{
		name: "iOS", boundary: "RNFetchBlob19283746", quoted: true,
		withFile: http.Header{"Accept": {"application/json"}, "Content-Type": {"application/octet-stream", "multipart/form-data; charset=utf-8; boundary=RNFetchBlob19283746"}},
		without:  http.Header{"Content-Type": {"multipart/form-data"}}, lowerHeaders: true,
	},
	{
		name: "old native Android", boundary: "*****", quoted: true, noNumber: true,
		withFile: http.Header{"Content-Type": {"multipart/form-data;boundary=*****"}},
		without:  http.Header{},
	},
	{
		name: "with a wrong header", boundary: "RNFetchBlob-1",
		withFile: http.Header{"Content-Type": {"application/octet-stream"}},
		without:  http.Header{"Content-Type": {"multipart/form-data; boundary=another"}},
	},
}

// form writes a body. The file comes first, as in the app.
func (b build) form(p *phone, info, code string, file bool) string {
	var w strings.Builder
	name := func(s string) string {
		if b.quoted || !file {
			return `"` + s + `"`
		}
		return s
	}
	if file {
		fmt.Fprintf(&w, "--%s\r\nContent-Disposition: form-data; name=%s; filename=%s\r\nContent-Type: text/xml\r\n\r\n%s\r\n",
			b.boundary, name("history"), name("data_trace.txt"), p.history)
	}
	fields := [][2]string{{"TokenFirebase", p.token}, {"InfoF", info}, {"PhoneNumber", p.number}, {"OTP", code}}
	for _, f := range fields {
		if b.noNumber && f[0] == "PhoneNumber" {
			continue
		}
		disposition := "Content-Disposition"
		if !file && b.lowerHeaders {
			disposition = "content-disposition"
		}
		fmt.Fprintf(&w, "--%s\r\n%s: form-data; name=%s\r\n", b.boundary, disposition, name(f[0]))
		if file {
			w.WriteString("Content-Type: text/plain\r\n")
		} else if b.length {
			fmt.Fprintf(&w, "Content-Length: %d\r\n", len(f[1]))
		}
		fmt.Fprintf(&w, "\r\n%s\r\n", f[1])
	}
	return w.String() + "--" + b.boundary + "--\r\n"
}

// declare sends both requests side by side, as the app does, and gives both answers.
func (p *phone) declare(t *testing.T, b build, info, code string) (withFile, without string) {
	t.Helper()
	var group sync.WaitGroup
	send := func(answer *string, path string, h http.Header, file bool) {
		group.Go(func() {
			var err error
			if *answer, err = p.post(path, h.Clone(), strings.NewReader(b.form(p, info, code, file))); err != nil {
				t.Error(err)
			}
		})
	}
	send(&without, declarePath+noFile, b.without, false)
	send(&withFile, declarePath, b.withFile, true)
	group.Wait()
	return withFile, without
}

// The story of a case: an officer reads six digits out, the app sends all it has, twice, and
// nothing but day seeds is left of it.
func TestCase(t *testing.T) {
	for _, b := range builds {
		t.Run(b.name, func(t *testing.T) {
			s := newSite(t)
			p, code, now := newPhone(s, 200), s.issue(), s.Now()
			info := p.infoF(now)
			first, second := p.declare(t, b, info, code)
			if first != answeredOK || second != answeredOK {
				t.Fatalf("with the file %s, without it %s", first, second)
			}
			// The app repeats what it heard no answer to.
			if first, second := p.declare(t, b, info, code); first != answeredOK || second != answeredOK {
				t.Fatalf("again: with the file %s, without it %s", first, second)
			}
			open := dataFolder(t, s.dir)
			stored := s.seeds()
			if len(stored) != 15 {
				t.Fatalf("%d seeds stored", len(stored))
			}
			for day := now.Truncate(24*time.Hour).AddDate(0, 0, -14); !day.After(now); day = day.AddDate(0, 0, 1) {
				k, ok := stored[diagnosis.DaySeed(p.daily(day))]
				if !ok || k.Scheme.Time(k.Start) != day || k.Count != 96 || k.Report != diagnosis.ConfirmedTest || k.Onset != 0 && k.Onset != 6 {
					t.Errorf("the seed of %s is stored as %+v", day.Format(time.DateOnly), k)
				}
			}
			for when, files := range map[string]map[string][]byte{"while the window was open": open, "afterwards": dataFolder(t, s.dir)} {
				for name, data := range files { // only where rows are: the others are full of numbers
					if strings.Contains(name, ".log") || strings.Contains(name, ".sst") {
						if bytes.Contains(data, []byte(code)) {
							t.Errorf("%s: %s holds the code", when, name)
						}
					}
				}
				seed := diagnosis.DaySeed(p.daily(now.Truncate(24 * time.Hour)))
				if !holds(files, seed[:]) {
					t.Errorf("%s: the search finds not even what must be there", when)
				}
				for name, secret := range p.secrets(now) {
					for _, form := range [][]byte{secret, []byte(hex.EncodeToString(secret)), []byte(strings.ToUpper(hex.EncodeToString(secret)))} {
						if holds(files, form) || strings.Contains(s.log.String(), string(form)) {
							t.Errorf("%s: the data folder or the log holds the %s", when, name)
						}
					}
				}
			}
		})
	}
}

// secrets are what no file may hold.
func (p *phone) secrets(now time.Time) map[string][]byte {
	secrets := map[string][]byte{
		"root key": p.base[:], "token": []byte(p.token), "phone number": []byte(p.number),
		"name of the history": []byte("data_trace"), "name of a key": []byte("daily_key"),
	}
	for day := p.first; !day.After(now.AddDate(0, 0, 20)); day = day.AddDate(0, 0, 1) {
		k := p.daily(day)
		secrets["daily key of "+day.Format(time.DateOnly)] = k[:]
	}
	for i, row := range strings.Split(strings.TrimSpace(p.history), "\n") {
		if i%500 != 0 {
			continue
		}
		columns := strings.Split(row, "\t")
		secrets[fmt.Sprintf("row %d of the history", i)] = []byte(row)
		for _, id := range columns[:2] {
			raw, _ := hex.DecodeString(id)
			secrets["ID "+id] = raw
		}
	}
	return secrets
}

// dataFolder reads every file of a data folder.
func dataFolder(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && d.IsDir() {
			return nil // the store removes what it no longer needs
		}
		if err == nil {
			files[path], err = os.ReadFile(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func holds(files map[string][]byte, needle []byte) bool {
	for _, data := range files {
		if bytes.Contains(data, needle) {
			return true
		}
	}
	return false
}

func TestRefusedCases(t *testing.T) {
	s := newSite(t)
	p, other := newPhone(s, 30), newPhone(s, 3)
	now := s.Now()
	spent := s.issue()
	if a, b := p.declare(t, builds[0], p.infoF(now), spent); a != answeredOK || b != answeredOK {
		t.Fatal(a, b)
	}
	late := s.issue()
	s.set(now.Add(10 * time.Minute))
	code := s.issue()
	wrong := "000000"
	for wrong == spent || wrong == late || wrong == code {
		wrong = "111111"
	}
	for _, row := range []struct{ name, info, code, want string }{
		{"a code that nobody issued", other.infoF(now), wrong, answeredInvalid},
		{"a code that is none", other.infoF(now), "12a456", answeredInvalid},
		{"no code", other.infoF(now), "", answeredInvalid},
		{"a code spent on another phone", other.infoF(now), spent, answeredInvalid},
		{"a code too late", other.infoF(now), late, answeredExpired},
		{"a phone without a key", "", code, answeredBad},
		{"a record of two phones", strings.Replace(other.infoF(now), fmt.Sprintf("%X", other.base), fmt.Sprintf("%X", p.base), 1), code, answeredBad},
	} {
		t.Run(row.name, func(t *testing.T) {
			a, b := other.declare(t, builds[0], row.info, row.code)
			if a != row.want || b != row.want {
				t.Errorf("with the file %s, without it %s, want %s", a, b, row.want)
			}
		})
	}
	// Nothing of that spent the good code.
	if a, b := other.declare(t, builds[1], other.infoF(now), code); a != answeredOK || b != answeredOK {
		t.Error(a, b)
	}
	if n := len(s.seeds()); n != 15+4 {
		t.Errorf("%d seeds stored", n)
	}
}

// One code, many phones at the same instant: one of them has it.
func TestRaceForACode(t *testing.T) {
	s := newSite(t)
	code := s.issue()
	var won atomic.Int32
	var group sync.WaitGroup
	for range 16 {
		p := newPhone(s, 2)
		group.Go(func() {
			a, err := p.post(declarePath+noFile, http.Header{}, strings.NewReader(builds[0].form(p, p.infoF(s.Now()), code, false)))
			if err != nil || a != answeredOK && a != answeredInvalid {
				t.Error(a, err)
			}
			if a == answeredOK {
				won.Add(1)
			}
		})
	}
	group.Wait()
	if won.Load() != 1 || len(s.seeds()) != 3 {
		t.Errorf("%d phones used one code", won.Load())
	}
}

func TestGuessing(t *testing.T) {
	s := newSite(t)
	p, code := newPhone(s, 2), s.issue()
	guess := func(code string) string {
		a, err := p.post(declarePath+noFile, http.Header{}, strings.NewReader(builds[0].form(p, p.infoF(s.Now()), code, false)))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	invalid := 0
	for n := range 40 {
		wrong := fmt.Sprintf("%06d", n)
		if wrong == code {
			continue
		}
		if guess(wrong) == answeredInvalid {
			invalid++
		}
	}
	if invalid != 20 {
		t.Errorf("%d guesses were answered", invalid)
	}
	if a := guess(code); a != answeredFault {
		t.Errorf("the right code while the door pauses: %s", a)
	}
	status := s.store.Desk().Status().Door
	if !status.Paused {
		t.Error("staff are not told")
	}
	s.set(status.PausedUntil)
	if a := guess(s.issue()); a != answeredOK {
		t.Errorf("after the pause: %s", a)
	}
}

// Every other call of the app is answered as it expects, and nothing of it is left.
func TestOtherCalls(t *testing.T) {
	s := newSite(t)
	p := newPhone(s, 100)
	before := dataFolder(t, s.dir)
	asJSON := http.Header{"Content-Type": {"application/json;charset=utf-8"}}
	person := `"PhoneNumber":"` + p.number + `","TokenFirebase":"` + p.token + `","Fullname":"Nguyen Thi Lan","Address":"12 An Duong"`
	guid := builds[0].form(p, p.infoF(s.Now()), "", true)
	guid = strings.Replace(guid, "name=OTP", "name=FindGUID", 1)
	const history = "/api/AppHistoryContact/"
	for _, row := range []struct {
		path   string
		header http.Header
		body   string
		want   string
	}{
		{"/api/App/RegisterUser", asJSON, `{"TokenFirebase":"` + p.token + `","TypeOS":"android"}`, answeredOK},
		{"/api/App/UpdateTokenFirebase", asJSON, "{" + person + "}", answeredOK},
		{"/api/App/CreateAndSendOTPCode", asJSON, "{" + person + "}", "HTTP 200 isOk false Status 23"},
		{"/api/App/ConfirmOTPCode", asJSON, "{" + person + `,"OTPCode":"123456"}`, "HTTP 200 isOk false Status 33"},
		{"/api/App/DeclareInformation", asJSON, "{" + person + "}", answeredBad},
		{history + "ReportHistory_ConfirmContact", builds[0].withFile, guid, answeredOK},
		{history + "ReportHistory_ConfirmContact_NoFile", builds[0].without, guid, answeredOK},
		{history + "ReportHistory_GetInfo", builds[0].withFile, guid, answeredOK},
		{history + "ReportHistory_GetInfo_NoFile", builds[0].without, guid, answeredOK},
		{history + "DeclareInformation", asJSON, "{" + person + `,"FindGUID":"x"}`, "HTTP 200 isOk false Status 61"},
		{history + "PushInfoApp", asJSON, "{" + person + "}", answeredOK},
		{"/api/AppLog/SaveFile", builds[0].withFile, guid, answeredOK},
		{"/api/App/RegisterUser", nil, "", answeredOK},
		{"/api/AppLog/SaveFile", nil, strings.Repeat("log\n", 2<<20), answeredOK},
	} {
		if !s.door.Handles(row.path) || !slices.Contains(s.door.Paths(), row.path) {
			t.Errorf("%s is not of the door", row.path)
		}
		if got, err := p.post(row.path, row.header.Clone(), strings.NewReader(row.body)); err != nil || got != row.want {
			t.Errorf("%s: %s, %v, want %s", row.path, got, err, row.want)
		}
	}
	after := dataFolder(t, s.dir)
	for path := range after {
		if !bytes.Equal(before[path], after[path]) {
			t.Errorf("%s changed", path)
		}
	}
	if s.log.String() != "" && strings.Contains(s.log.String(), p.number) {
		t.Error("the log holds the number")
	}
}

func TestWrongMethodsAndPaths(t *testing.T) {
	s := newSite(t)
	for _, row := range []struct {
		method, path string
		want         int
	}{
		{"GET", declarePath, 405}, {"PUT", declarePath, 405}, {"POST", "/api/App/configApp.json", 405},
		{"GET", "/api/App", 404}, {"POST", "/api/App/register", 404}, {"POST", declarePath + "/", 404}, {"GET", "/", 404},
	} {
		r := httptest.NewRequest(row.method, row.path, nil)
		w := httptest.NewRecorder()
		s.door.ServeHTTP(w, r)
		if w.Code != row.want {
			t.Errorf("%s %s: %d, want %d", row.method, row.path, w.Code, row.want)
		}
	}
}

func TestWrongBodies(t *testing.T) {
	s := newSite(t)
	p, code := newPhone(s, 2), s.issue()
	good := builds[0].form(p, p.infoF(s.Now()), code, false)
	for _, row := range []struct {
		name   string
		header http.Header
		body   string
	}{
		{"compressed", http.Header{"Content-Encoding": {"gzip"}}, good},
		{"cut", nil, good[:len(good)/2]},
		{"another boundary within", nil, strings.Replace(good, builds[0].boundary, "other", 2)},
		{"JSON", nil, `{"OTP":"` + code + `"}`},
		{"nothing", nil, ""},
	} {
		if got, err := p.post(declarePath, row.header.Clone(), strings.NewReader(row.body)); err != nil || got != answeredBad {
			t.Errorf("%s: %s, %v", row.name, got, err)
		}
	}
	// A length beyond every bound is refused before a byte of it is read.
	r := httptest.NewRequest("POST", declarePath, io.MultiReader())
	r.ContentLength = maxBody + 1
	w := httptest.NewRecorder()
	s.door.ServeHTTP(w, r)
	if !strings.Contains(w.Body.String(), `"Status":2`) {
		t.Error(w.Body.String())
	}
	if got, err := p.post(declarePath, http.Header{}, strings.NewReader(good)); err != nil || got != answeredOK {
		t.Errorf("the code after all this: %s, %v", got, err)
	}
}

// pipes is a listener of connections in memory.
type pipes chan net.Conn

func (l pipes) Accept() (net.Conn, error) {
	c, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l pipes) Close() error   { return nil }
func (l pipes) Addr() net.Addr { return &net.UnixAddr{} }

// Whoever sends a byte now and then is gone after a minute, whatever the server's own limit.
func TestSlowSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		door, err := New(Config{}) // the store is never reached
		if err != nil {
			t.Fatal(err)
		}
		l := make(pipes)
		server := &http.Server{Handler: door, ReadTimeout: 5 * time.Second}
		go server.Serve(l)
		defer func() { close(l); server.Close() }()
		near, far := net.Pipe()
		l <- far
		var sent atomic.Int64
		var sender sync.WaitGroup
		sender.Go(func() {
			fmt.Fprintf(near, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n--b\r\nContent-Disposition: form-data; name=history\r\n\r\n", declarePath)
			for {
				if _, err := near.Write([]byte("x")); err != nil {
					return
				}
				sent.Add(1)
				time.Sleep(time.Second)
			}
		})
		began := time.Now()
		reply, err := io.ReadAll(near)
		if took := time.Since(began); took < patience || took > patience+10*time.Second {
			t.Errorf("gone after %v, %d bytes", took, sent.Load())
		}
		if !strings.Contains(string(reply), `"Status":2`) || err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("%q, %v", reply, err)
		}
		near.Close()
		sender.Wait()
	})
}
