package server

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const exportName = "exports/1764547200-1764561600-0123456789abcdef"

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func TestHeaders(t *testing.T) {
	a := start(t)
	text := bytes.Repeat([]byte("bản xuất "), 100)
	const (
		forever = "public, max-age=31536000, immutable"
		export  = "public, max-age=86400, immutable"
		minutes = "public, max-age=300, stale-if-error=86400"
		plain   = "text/plain; charset=utf-8"
		binary  = "application/octet-stream"
	)
	for _, row := range []struct{ path, kind, cache string }{
		{"checkpoint", plain, "public, max-age=5, stale-if-error=86400"},
		{"tile/0/000.p/7", binary, forever},
		{"tile/entries/x001/234", binary, forever},
		{"policy", plain, minutes},
		{"policy-ed25519", plain, minutes},
		{"index.json", "application/json", minutes},
		{exportName + ".zip", "application/zip", export},
		{exportName + ".keys", binary, export},
		{exportName + ".ids", binary, export},
		{exportName + ".zip.tlog-proof", plain, minutes},
		{"gaen/index.txt", plain, minutes},
		{"gaen/keys/452-v1.pem", "application/x-pem-file", minutes},
		{"keyring", binary, minutes},
		{"notice/vi.json", "application/json", minutes},
		{"feeds.json", "application/json", minutes},
	} {
		a.put(row.path, text)
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			res, body := a.do(method, a.url+"/"+row.path, nil)
			h := res.Header
			if res.StatusCode != 200 || h.Get("Content-Type") != row.kind || h.Get("Cache-Control") != row.cache {
				t.Errorf("%s %s: %d, %s, %s", method, row.path, res.StatusCode, h.Get("Content-Type"), h.Get("Cache-Control"))
			}
			if res.ContentLength != int64(len(text)) {
				t.Errorf("%s %s: length %d, want %d", method, row.path, res.ContentLength, len(text))
			}
			if h.Get("Access-Control-Allow-Origin") != "*" || h.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s %s: %v", method, row.path, h)
			}
			if tag := h.Get("Etag"); len(tag) < 18 || tag[0] != '"' {
				t.Errorf("%s %s: ETag %q is not a strong one", method, row.path, tag)
			}
			for _, name := range []string{"Set-Cookie", "Last-Modified", "Server"} {
				if h.Get(name) != "" {
					t.Errorf("%s %s: has %s", method, row.path, name)
				}
			}
			want := text
			if method == http.MethodHead {
				want = nil
			}
			if !bytes.Equal(body, want) {
				t.Errorf("%s %s: wrong body of %d bytes", method, row.path, len(body))
			}
		}
	}
}

func TestEncodings(t *testing.T) {
	a := start(t)
	text := sampleIndex(t, 20)
	a.put("index.json", text)
	tags := map[string]string{}
	for _, row := range []struct{ accept, want string }{
		{"identity", ""},
		{"gzip", "gzip"},
		{"x-gzip", "gzip"},
		{"zstd", "zstd"},
		{"gzip, deflate, br, zstd", "zstd"},
		{"gzip, deflate, br", "gzip"},
		{"br", ""},
		{"*", "zstd"},
		{"zstd;q=0, *", "gzip"},
		{"zstd;q=0, gzip;q=0", ""},
		{"gzip;q=1.0, zstd;q=0.5", "gzip"},
		{"GZIP", "gzip"},
		{"gzip;q=0.001", "gzip"},
		{"gzip;q=0.5, identity;q=0.9", ""},
		{"gzip;q=2", ""},
		{"gzip;q=x", ""},
		{"identity;q=0", ""},
		{";;,,", ""},
	} {
		res, body := a.get("/index.json", "Accept-Encoding", row.accept)
		if got := res.Header.Get("Content-Encoding"); got != row.want {
			t.Errorf("%q gives %q, want %q", row.accept, got, row.want)
			continue
		}
		if res.ContentLength != int64(len(body)) || res.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%q: length %d of %d, Vary %q", row.accept, res.ContentLength, len(body), res.Header.Get("Vary"))
		}
		if !bytes.Equal(decode(t, row.want, body), text) {
			t.Errorf("%q: does not decode to the file", row.accept)
		}
		if row.want != "" && len(body) > len(text)/2 {
			t.Errorf("%s: %d bytes of %d", row.want, len(body), len(text))
		}
		if was, ok := tags[row.want]; ok && was != res.Header.Get("Etag") {
			t.Errorf("%s: two ETags", row.want)
		}
		tags[row.want] = res.Header.Get("Etag")
	}
	if tags[""] == tags["gzip"] || tags["gzip"] == tags["zstd"] || tags[""] == tags["zstd"] {
		t.Errorf("encodings share an ETag: %v", tags)
	}

	// An ETag of one encoding validates that encoding only.
	for _, enc := range []string{"identity", "gzip", "zstd"} {
		for other, tag := range tags {
			want := 200
			if other == strings.TrimPrefix(enc, "identity") {
				want = 304
			}
			res, body := a.get("/index.json", "Accept-Encoding", enc, "If-None-Match", tag)
			if res.StatusCode != want || want == 304 && (len(body) != 0 || res.Header.Get("Etag") != tag || res.Header.Get("Cache-Control") == "") {
				t.Errorf("%s with the ETag of %q: %d, %v", enc, other, res.StatusCode, res.Header)
			}
		}
	}

	// A range of an encoded file is a range of its encoded bytes.
	_, whole := a.get("/index.json", "Accept-Encoding", "gzip")
	res, part := a.get("/index.json", "Accept-Encoding", "gzip", "Range", "bytes=10-99", "If-Range", tags["gzip"])
	if res.StatusCode != 206 || !bytes.Equal(part, whole[10:100]) {
		t.Errorf("range of the gzip form: %d, %d bytes", res.StatusCode, len(part))
	}
	res, part = a.get("/index.json", "Accept-Encoding", "gzip", "Range", "bytes=10-99", "If-Range", tags["zstd"])
	if res.StatusCode != 200 || !bytes.Equal(part, whole) {
		t.Errorf("a range begun in another encoding: %d, %d bytes", res.StatusCode, len(part))
	}

	// The length is told for answers beyond the server's own buffer too.
	long := []byte(hex.EncodeToString(noise(50_000)))
	a.put("policy", long)
	for _, enc := range []string{"identity", "gzip", "zstd"} {
		if res, body := a.get("/policy", "Accept-Encoding", enc); res.ContentLength != int64(len(body)) || len(body) < 50_000 {
			t.Errorf("%s: length %d of %d", enc, res.ContentLength, len(body))
		}
	}

	// What does not shrink is sent as it is.
	a.put("tile/0/000", noise(8192))
	if res, body := a.get("/tile/0/000", "Accept-Encoding", "gzip, zstd"); res.Header.Get("Content-Encoding") != "" || len(body) != 8192 {
		t.Errorf("a tile of hashes: %v", res.Header)
	}
}

func decode(t *testing.T, encoding string, body []byte) []byte {
	t.Helper()
	var r io.Reader = bytes.NewReader(body)
	var err error
	switch encoding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "zstd":
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRanges(t *testing.T) {
	a := start(t)
	data := noise(300_000)
	path := "/" + exportName + ".zip"
	a.put(path[1:], data)
	res, _ := a.get(path)
	tag := res.Header.Get("Etag")
	for _, row := range []struct {
		name     string
		ranges   string
		ifRange  string
		status   int
		from, to int
	}{
		{"the first bytes", "bytes=0-99", "", 206, 0, 100},
		{"the rest of a broken download", "bytes=123456-", tag, 206, 123456, 300_000},
		{"the last bytes", "bytes=-1000", "", 206, 299_000, 300_000},
		{"past the end", "bytes=299990-400000", "", 206, 299_990, 300_000},
		{"of another file", "bytes=123456-", `"fedcba9876543210.zip"`, 200, 0, 300_000},
		{"of a weak validator", "bytes=123456-", "W/" + tag, 200, 0, 300_000},
		{"nonsense units", "keys=0-1", "", 416, 0, 0},
		{"nothing there", "bytes=300000-", "", 416, 0, 0},
	} {
		header := []string{"Range", row.ranges}
		if row.ifRange != "" {
			header = append(header, "If-Range", row.ifRange)
		}
		res, body := a.get(path, header...)
		if res.StatusCode != row.status || row.status != 416 && !bytes.Equal(body, data[row.from:row.to]) {
			t.Errorf("%s: %d, %d bytes", row.name, res.StatusCode, len(body))
		}
		if row.status == 416 && res.Header.Get("Cache-Control") == "public, max-age=86400, immutable" {
			t.Errorf("%s: a failure is cached", row.name)
		}
	}
	if res, body := a.get(path, "If-None-Match", `"x", `+tag); res.StatusCode != 304 || len(body) != 0 {
		t.Errorf("If-None-Match: %d", res.StatusCode)
	}
}

// TestReplaced: a file renamed into place is served at once, in every encoding.
func TestReplaced(t *testing.T) {
	a := start(t)
	for i := range 5 {
		text := bytes.Repeat([]byte{'a' + byte(i)}, 1000) // of the same length every time
		a.put("checkpoint", text)
		for _, enc := range []string{"", "gzip", "zstd"} {
			if _, body := a.get("/checkpoint", "Accept-Encoding", enc); !bytes.Equal(decode(t, enc, body), text) {
				t.Fatalf("version %d as %q: old bytes", i, enc)
			}
		}
	}
	if err := os.Remove(filepath.Join(a.tree, "checkpoint")); err != nil {
		t.Fatal(err)
	}
	if res, _ := a.get("/checkpoint"); res.StatusCode != 404 {
		t.Errorf("removed: %d", res.StatusCode)
	}
}

func TestMethods(t *testing.T) {
	a := start(t)
	a.put("checkpoint", []byte("x"))
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"} {
		for _, path := range []string{"/checkpoint", "/", "/nothing"} {
			res, _ := a.do(method, a.url+path, nil)
			if res.StatusCode != 405 || res.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d, Allow %q", method, path, res.StatusCode, res.Header.Get("Allow"))
			}
		}
	}
}

func TestAbsent(t *testing.T) {
	a := start(t)
	a.put(exportName+".zip", []byte("x"))
	for path, want := range map[string]int{
		"/checkpoint":                 404,
		"/tile/0/000":                 404,
		"/gaen/keys/452-v1.pem":       404,
		"/" + exportName + ".keys":    410,
		"/" + exportName + ".zip":     200,
		"/" + exportName + ".exe":     404,
		"/exports/1-2-0123.zip":       404,
		"/exports/":                   404,
		"/exports":                    404,
		"/tile":                       404,
		"/notice/":                    404,
		"/store/MANIFEST-000001":      404,
		"/seed":                       404,
		"/" + exportName + ".zip.tmp": 404,
	} {
		res, body := a.get(path)
		if res.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, res.StatusCode, want)
		}
		if want == 404 && res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", path, res.Header)
		}
		if want >= 400 && bytes.Contains(body, []byte(a.tree)) {
			t.Errorf("%s: the answer names the folder", path)
		}
	}
}

// TestTraversal sends request lines that a well-behaved client would not.
func TestTraversal(t *testing.T) {
	a := start(t)
	const secret = "outside of the tree"
	outside := filepath.Join(filepath.Dir(a.tree), "secret")
	if err := os.WriteFile(outside, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	// Links that somebody put into the tree.
	a.put("notice/real.txt", []byte("inside"))
	for name, to := range map[string]string{"notice/abs.txt": outside, "notice/rel.txt": "../../secret", "keyring": outside} {
		if err := os.Symlink(to, filepath.Join(a.tree, name)); err != nil {
			t.Fatal(err)
		}
	}
	a.put("checkpoint", []byte("inside"))
	if err := os.Mkdir(filepath.Join(a.tree, "policy"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{
		"/../secret", "/notice/../../secret", "/notice/../checkpoint", "/./checkpoint", "//checkpoint", "/checkpoint/",
		"/%2e%2e/secret", "/..%2fsecret", "/%2e%2e%2fsecret", "/notice/%2e%2e/%2e%2e/secret", "/..%5csecret", "/..\\secret",
		"/%63heckpoint", "/notice/real.txt%00.json", "/notice/abs.txt", "/notice/rel.txt", "/keyring", "/policy",
		"/tile/0/../../../secret", "/exports/../../secret", "/notice/..;/secret", "/CHECKPOINT", "/notice/.real.txt", "*", "secret", "http://x/../secret",
	} {
		c := a.speak([]byte("GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		body, _ := io.ReadAll(res.Body)
		c.Close()
		if res.StatusCode < 400 || strings.Contains(string(body), secret) || strings.Contains(string(body), "inside") {
			t.Errorf("%s: %d %q", target, res.StatusCode, body)
		}
	}
}

func TestDocumentsForget(t *testing.T) {
	d := newDocuments()
	dir := t.TempDir()
	body := bytes.Repeat([]byte("x"), 1<<20)
	for i := range 100 {
		name := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(name, body, 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.get(name, info, bytes.NewReader(body), false); err != nil {
			t.Fatal(err)
		}
	}
	if want := documentsSize >> 20; d.size != documentsSize || d.order.Len() != want || len(d.known) != want {
		t.Errorf("%d bytes in %d documents, %d by name", d.size, d.order.Len(), len(d.known))
	}
	info, err := os.Stat(filepath.Join(dir, "0"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.get("large", info, io.LimitReader(zeros{}, maxDocument+1), false); err == nil || d.known["large"] != nil {
		t.Errorf("a file beyond the limit: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestSlowReaders: who stops reading is cut off, who reads slowly is not.
func TestSlowReaders(t *testing.T) {
	a := start(t, func(c *Config) { c.WriteTimeout = 2 * time.Second; c.MaxConns = 1 })
	data := noise(16 << 20) // more than the buffers of a socket hold
	a.put(exportName+".zip", data)
	stalled := a.speak([]byte("GET /" + exportName + ".zip HTTP/1.1\r\nHost: x\r\n\r\n"))

	// There is one place, so this one is served after the other is cut off.
	began := time.Now()
	res, err := a.client.Get(a.url + "/" + exportName + ".zip")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var got bytes.Buffer
	for {
		n, err := io.CopyN(&got, res.Body, 1<<20)
		if n < 1<<20 || err != nil {
			break
		}
		time.Sleep(160 * time.Millisecond) // longer than WriteTimeout in all
	}
	if !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%d of %d bytes in %v", got.Len(), len(data), time.Since(began))
	}
	if rest, _ := io.ReadAll(stalled); len(rest) >= len(data) {
		t.Error("the stalled download went on")
	}
}
