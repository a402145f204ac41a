package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/export/exportlog"
	"bluekey/keystore"
	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
	v1 "bluekey/server/api/bluekey/v1"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

// appliance is a server on real listeners, over a store on a disk in memory and a tree
// in a temporary folder.
type appliance struct {
	t       testing.TB
	store   *keystore.Store
	keys    *PhoneKeys
	clock   *clock
	file    *publicFile   // the keyring as published
	ring    *seal.Keyring // and as phones have it
	sealing string        // folder of seeds
	tree    string
	url     string
	ops     string
	admin   string
	client  *http.Client
	log     *lockedBuffer
	stop    func() error // ends Run and gives what it returned
}

// lockedBuffer is a log that may be read while it is written.
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

func start(t testing.TB, adjust ...func(*Config)) *appliance {
	t.Helper()
	return startOn(t, vfs.NewMem(), adjust...)
}

func startOn(t testing.TB, disk vfs.FS, adjust ...func(*Config)) *appliance {
	t.Helper()
	a := &appliance{
		t: t, tree: t.TempDir(), sealing: filepath.Join(t.TempDir(), "sealing"), log: new(lockedBuffer),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, clock: newClock(), file: new(publicFile),
	}
	logger := slog.New(slog.NewTextHandler(a.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	a.store, err = keystore.Open(keystore.Options{
		Dir: "data", FS: disk, CodeKey: [32]byte{1}, DedupeKey: [32]byte{2}, Period: 4 * time.Hour, Hold: 4 * time.Hour, CodeCap: 1 << 20, CacheSize: 8 << 20,
		Now: a.clock.Now, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	a.keys = testKeys(t, a.sealing, a.file, a.store, a.clock.Now, logger)
	a.ring = a.file.ring(t)
	cfg := Config{Store: a.store, Tree: a.tree, Keys: a.keys, Now: a.clock.Now, Logger: logger}
	for _, f := range adjust {
		f(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	a.admin = filepath.Join(t.TempDir(), "admin.sock")
	admin, err := ListenAdmin(a.admin)
	if err != nil {
		t.Fatal(err)
	}
	l := Listeners{Public: listen(), Ops: listen(), Admin: admin}
	a.url, a.ops = "http://"+l.Public.Addr().String(), "http://"+l.Ops.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l) }()
	a.stop = sync.OnceValue(func() error {
		cancel()
		a.client.CloseIdleConnections()
		return <-ended
	})
	t.Cleanup(func() {
		if err := a.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := a.store.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	return a
}

func (a *appliance) phone(opts ...connect.ClientOption) bluekeyv1connect.PhoneServiceClient {
	return bluekeyv1connect.NewPhoneServiceClient(a.client, a.url, opts...)
}

func (a *appliance) exports(opts ...connect.ClientOption) bluekeyv1connect.ExportServiceClient {
	return bluekeyv1connect.NewExportServiceClient(a.client, a.url, opts...)
}

// put writes a file of the public tree, as publishing does: beside it and renamed.
func (a *appliance) put(path string, body []byte) {
	a.t.Helper()
	name := filepath.Join(a.tree, path)
	err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name+".tmp", body, 0o644), os.Rename(name+".tmp", name))
	if err != nil {
		a.t.Fatal(err)
	}
}

// get asks for a path and reads the answer whole.
func (a *appliance) get(path string, header ...string) (*http.Response, []byte) {
	a.t.Helper()
	return a.do(http.MethodGet, a.url+path, nil, header...)
}

func (a *appliance) do(method, url string, body io.Reader, header ...string) (*http.Response, []byte) {
	a.t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		a.t.Fatal(err)
	}
	// Without a value of our own the transport asks for gzip and hides that it did.
	req.Header.Set("Accept-Encoding", "identity")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := a.client.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return res, b
}

// codes issues codes at the desk.
func (a *appliance) codes(n int) []string {
	a.t.Helper()
	codes, err := a.store.Desk().Issue(a.t.Context(), desk.Request{
		Officer: "test", Report: diagnosis.ConfirmedTest, OnsetDay: today(), Count: n, Long: true,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return codes
}

// refused takes apart the error of a call.
func refused(t testing.TB, err error) (connect.Code, *v1.Refusal) {
	t.Helper()
	e := (*connect.Error)(nil)
	if !errors.As(err, &e) {
		t.Fatalf("not a Connect error: %v", err)
	}
	for _, d := range e.Details() {
		if v, err := d.Value(); err == nil {
			if r, ok := v.(*v1.Refusal); ok {
				return e.Code(), r
			}
		}
	}
	t.Fatalf("no Refusal in %v", err)
	return 0, nil
}

func TestRoutes(t *testing.T) {
	a := start(t)
	post := func(base, path string) int {
		res, _ := a.do(http.MethodPost, base+path, strings.NewReader("{}"), "Content-Type", "application/json")
		return res.StatusCode
	}
	for _, row := range []struct {
		name string
		got  int
		want int
	}{
		{"codes are issued on the socket only", post(a.url, bluekeyv1connect.CodeServiceIssueProcedure), 405},
		{"codes are revoked on the socket only", post(a.url, bluekeyv1connect.CodeServiceRevokeProcedure), 405},
		{"the operations listener issues none", post(a.ops, bluekeyv1connect.CodeServiceIssueProcedure), 404},
		{"the operations listener takes no request", post(a.ops, bluekeyv1connect.PhoneServiceExchangeProcedure), 404},
		{"an empty request is malformed", post(a.url, bluekeyv1connect.PhoneServiceExchangeProcedure), 400},
		{"exports are listed", post(a.url, bluekeyv1connect.ExportServiceListExportsProcedure), 200},
		{"an unknown method", post(a.url, "/bluekey.v1.PhoneService/Download"), 404},
		{"a service without method", post(a.url, "/bluekey.v1.PhoneService"), 405},
	} {
		if row.got != row.want {
			t.Errorf("%s: %d, want %d", row.name, row.got, row.want)
		}
	}
	for path, want := range map[string]int{
		"/": 404, "/livez": 404, "/readyz": 404, "/metrics": 404, "/debug/pprof/": 404, "/index.html": 404,
	} {
		if res, _ := a.get(path); res.StatusCode != want {
			t.Errorf("GET %s on the public listener: %d, want %d", path, res.StatusCode, want)
		}
	}
}

func TestHome(t *testing.T) {
	a := start(t, func(c *Config) {
		c.Home = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "xin chào") })
	})
	if res, body := a.get("/"); res.StatusCode != 200 || string(body) != "xin chào" {
		t.Fatalf("%d %q", res.StatusCode, body)
	}
}

func TestAdminSocket(t *testing.T) {
	a := start(t)
	info, err := os.Stat(a.admin)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("socket: %v, mode %v, want 0600", err, info.Mode())
	}
	desk := AdminClient(a.admin)
	issued, err := desk.Issue(t.Context(), &v1.IssueRequest{Report: v1.ReportType_REPORT_TYPE_CONFIRMED_TEST, OnsetDay: today(), Count: 2})
	if err != nil || len(issued.Codes) != 2 {
		t.Fatalf("issuing: %v, %d codes", err, len(issued.GetCodes()))
	}
	gone, err := desk.Revoke(t.Context(), &v1.RevokeRequest{Code: issued.Codes[0]})
	if err != nil || !gone.Revoked {
		t.Fatalf("revoking: %v, %v", err, gone)
	}
	_, err = a.redeem(issued.Codes[0])
	if r := (permit.Refusal{}); !errors.As(err, &r) || r.Reason != permit.ReasonCode {
		t.Errorf("a revoked code: %v", err)
	}
	if _, err := a.redeem(issued.Codes[1]); err != nil {
		t.Errorf("the other code: %v", err)
	}
	_, err = desk.Issue(t.Context(), &v1.IssueRequest{Count: 1})
	if _, r := refused(t, err); r.Reason != "malformed" || r.Field != "report" {
		t.Errorf("no report type: %v", r)
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(a.admin); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays after the end: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(a.admin)); len(left) != 0 {
		t.Errorf("left beside the socket: %v", left)
	}
}

func TestAdminSocketOverDeadOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false) // as a killed process leaves it
	dead.Close()
	l, err := ListenAdmin(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestOps(t *testing.T) {
	var fault error
	var mu sync.Mutex
	set := func(err error) { mu.Lock(); fault = err; mu.Unlock() }
	a := start(t, func(c *Config) {
		c.Ready = func() error { mu.Lock(); defer mu.Unlock(); return fault }
		c.Published = func() (time.Time, time.Duration) { return time.Unix(1764547200, 0), 90 * time.Minute }
	})
	ops := func(path string) (int, string) {
		res, body := a.do(http.MethodGet, a.ops+path, nil)
		return res.StatusCode, string(body)
	}
	if code, body := ops("/livez"); code != 200 || body != "ok\n" {
		t.Errorf("/livez: %d %q", code, body)
	}
	if code, body := ops("/readyz"); code != 200 {
		t.Errorf("/readyz: %d %q", code, body)
	}
	set(errors.New("the tree is read-only"))
	if code, body := ops("/readyz"); code != 503 || !strings.Contains(body, "the tree is read-only") {
		t.Errorf("/readyz with a fault: %d %q", code, body)
	}
	if code, _ := ops("/livez"); code != 200 {
		t.Errorf("/livez with a fault: %d", code)
	}
	set(nil)

	a.get("/checkpoint")
	a.get("/made-up-by-a-client")
	if _, err := a.redeem("0123456789ABCDEF"); err == nil {
		t.Fatal("a made-up code is taken")
	}
	if _, err := a.upload(a.held(), teks(14)); err != nil {
		t.Fatal(err)
	}
	a.post("application/proto", []byte("no request"))
	_, text := ops("/metrics")
	for _, want := range []string{
		`bluekey_requests_total{route="checkpoint",status="404"} 1`,
		`bluekey_requests_total{route="other",status="404"} 1`,
		`bluekey_requests_total{route="phone",status="answered"} 4`,
		"bluekey_uploads_total 0\n", // its window is still open
		"bluekey_codes_redeemed_total 0\n",
		"bluekey_keys_total 0\n",
		"bluekey_ready 1\n",
		"bluekey_last_publication_timestamp_seconds 1.7645472e+09\n",
		"bluekey_publication_delay_seconds 5400\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if strings.Contains(text, "made-up") {
		t.Error("a client's path is a label")
	}
}

// TestCleanEnd stops the server while an upload is half sent: it is finished and
// answered, and what comes later is not taken.
func TestCleanEnd(t *testing.T) {
	a := start(t)
	request := frame(a.sealedUpload(a.held(), teks(14)))
	c := a.speak(request[:300])
	time.Sleep(50 * time.Millisecond) // the request is under way
	ended := make(chan error, 1)
	go func() { ended <- a.stop() }()
	for {
		if res, _ := a.do(http.MethodGet, a.ops+"/readyz", nil); res.StatusCode == 503 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(a.url, "http://")); err == nil {
		t.Error("a new connection is taken")
	}
	c.Write(request[300:])
	reply, _ := io.ReadAll(c)
	if !bytes.HasPrefix(reply, []byte("HTTP/1.1 200 ")) {
		t.Errorf("the upload in flight: %q", reply)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// TestEndWaits: a request that outlasts the time for the end loses its connection, and is
// over all the same when Run returns.
func TestEndWaits(t *testing.T) {
	inside := make(chan struct{})
	var over atomic.Bool
	a := start(t, func(c *Config) {
		c.ShutdownTimeout = 20 * time.Millisecond
		c.Home = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(inside)
			time.Sleep(200 * time.Millisecond) // as a slow disk does
			over.Store(true)
		})
	})
	go a.client.Get(a.url + "/")
	<-inside
	if err := a.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if !over.Load() {
		t.Error("Run returned before the request was over")
	}
}

// sampleIndex is an index of one window.
func sampleIndex(t *testing.T, size uint64) []byte {
	t.Helper()
	m := exportlog.Manifest{
		Origin: "example.org/bluekey", Region: "VN-HP", Scheme: diagnosis.GAEN, Start: 1764547200, End: 1764561600,
		Period: 14400, Hold: 14400, Retain: 1209600, Metadata: exportlog.Coarse, Encoder: "1",
	}
	entry, err := m.Format()
	if err != nil {
		t.Fatal(err)
	}
	index := exportlog.Index{Origin: m.Origin, Region: m.Region, Size: size}
	for i := range size {
		index.Exports = append(index.Exports, exportlog.IndexEntry{Entry: i, Manifest: string(entry)})
	}
	text, err := index.Format()
	if err != nil {
		t.Fatal(err)
	}
	return text
}
