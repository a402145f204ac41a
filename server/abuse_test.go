package server

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	v1 "bluekey/server/api/bluekey/v1"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
)

// TestFailedConditions: a cache on the way keeps no answer that somebody made fail by the
// headers of a request, which is not the answer that others should get.
func TestFailedConditions(t *testing.T) {
	a := start(t)
	a.put("index.json", sampleIndex(t, 20))
	a.put(exportName+".zip", noise(5000))
	for _, path := range []string{"/index.json", "/" + exportName + ".zip"} {
		for _, row := range []struct {
			name, value string
			want        int
		}{
			{"If-Match", `"another"`, 412},
			{"If-Match", "*", 200},
			{"Range", "bytes=9999999-", 416},
			{"Range", "bytes=0-0," + strings.Repeat("5-4,", 3000), 416},
			{"If-Unmodified-Since", "Mon, 01 Jan 2001 00:00:00 GMT", 200},
			{"If-Modified-Since", "Mon, 01 Jan 2029 00:00:00 GMT", 200},
			{"Range", "bytes=0-0" + strings.Repeat(",0-", 1000), 200},
		} {
			for _, method := range []string{"GET", "HEAD"} {
				res, body := a.do(method, a.url+path, nil, row.name, row.value, "Accept-Encoding", "gzip")
				if res.StatusCode != row.want {
					t.Errorf("%s %s with %s: %d, want %d", method, path, row.name, res.StatusCode, row.want)
				}
				if res.StatusCode < 400 {
					continue
				}
				for _, h := range []string{"Etag", "Content-Encoding"} {
					if res.Header.Get(h) != "" {
						t.Errorf("%s %s with %s: %d with %s", method, path, row.name, res.StatusCode, h)
					}
				}
				if c := res.Header.Get("Cache-Control"); c != "" && c != "no-store" || int(res.ContentLength) != len(body) && method == "GET" {
					t.Errorf("%s %s with %s: %d, %d bytes, %v", method, path, row.name, res.StatusCode, len(body), res.Header)
				}
			}
		}
	}
}

// TestCompressedByQuery: a call by GET has its message in the URL, and that is not
// decompressed either, however the parameter is spelled.
func TestCompressedByQuery(t *testing.T) {
	a := start(t)
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(nil)
	w.Close()
	message := url.QueryEscape(base64.RawURLEncoding.EncodeToString(z.Bytes()))
	for _, name := range []string{"compression", "%63ompression", "compressio%6e"} {
		res, body := a.get(bluekeyv1connect.ExportServiceListExportsProcedure + "?connect=v1&encoding=proto&base64=1&" + name + "=gzip&message=" + message)
		if res.StatusCode != 501 || !strings.Contains(string(body), "not read") {
			t.Errorf("%s: %d %q", name, res.StatusCode, body)
		}
	}
	res, body := a.get(bluekeyv1connect.ExportServiceListExportsProcedure + "?connect=v1&encoding=proto&compression=identity&message=")
	if res.StatusCode != 200 {
		t.Errorf("uncompressed: %d %q", res.StatusCode, body)
	}
}

// TestStalledKeepNobodyOut: who opens conversations and says nothing, or asks and does not
// read, keeps out others who do the same.
func TestStalledKeepNobodyOut(t *testing.T) {
	const places = 8
	a := start(t, func(c *Config) { c.MaxInFlight = places })
	a.put("index.json", sampleIndex(t, 100))
	a.put(exportName+".zip", noise(16<<20)) // more than sockets hold
	list := func() error {
		_, err := a.exports().ListExports(t.Context(), &v1.ListExportsRequest{})
		return err
	}
	healthy := func() error {
		_, err := grpchealth.NewClient(a.client, a.url).Check(t.Context(), &grpchealth.CheckRequest{})
		return err
	}
	download := func(client *http.Client) error {
		stream, err := bluekeyv1connect.NewExportServiceClient(client, a.url).FetchExport(t.Context(), &v1.FetchExportRequest{Path: exportName + ".zip"})
		if err != nil {
			return err
		}
		t.Cleanup(func() { stream.Close() })
		stream.Receive()
		return stream.Err()
	}

	client := h2Client(t)
	for range maxTalks {
		stream := grpcreflect.NewClient(client, a.url).NewStream(t.Context())
		defer stream.Close()
		if _, err := stream.ListServices(); err != nil {
			t.Fatal(err)
		}
	}
	more := grpcreflect.NewClient(h2Client(t), a.url).NewStream(t.Context())
	defer more.Close()
	if _, err := more.ListServices(); err == nil {
		t.Error("any number of conversations is held")
	}
	for range places {
		if err := download(&http.Client{Transport: new(http.Transport)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, r := refused(t, download(a.client)); r.Reason != "busy" || !r.Retry {
		t.Errorf("one download more: %v", r)
	}
	if err := errors.Join(list(), healthy()); err != nil {
		t.Errorf("beside conversations and downloads: %v", err)
	}

	// One is inside before it has its place, which list may take instead: hence more of them.
	for n := 0; list() == nil; n++ {
		if n == 100*places {
			t.Fatal("lists that nobody reads are all done")
		}
		fields := h2Fields("POST", bluekeyv1connect.ExportServiceListExportsProcedure, "content-type", "application/json")
		a.speak([]byte(h2Opening), h2NoWindow, h2Frame(headersFrame, endHeaders, 1, fields), h2Frame(dataFrame, endStream, 1, []byte("{}")))
	}
	if err := healthy(); err != nil {
		t.Errorf("beside lists: %v", err)
	}
	if _, err := a.upload(a.held(), teks(14)); err != nil {
		t.Errorf("beside lists: %v", err)
	}
}

// TestExportsAreNotCompressedAgain: no client makes the server do in vain what was done.
func TestExportsAreNotCompressedAgain(t *testing.T) {
	a := start(t)
	a.put("index.json", sampleIndex(t, 50))
	a.put(exportName+".zip", bytes.Repeat([]byte("x"), 100_000))
	var seen *http.Response
	client := bluekeyv1connect.NewExportServiceClient(roundTrip(func(r *http.Request) (*http.Response, error) {
		res, err := a.client.Do(r)
		seen = res
		return res, err
	}), a.url)
	stream, err := client.FetchExport(t.Context(), &v1.FetchExportRequest{Path: exportName + ".zip"})
	if err != nil {
		t.Fatal(err)
	}
	for stream.Receive() {
	}
	if err := stream.Close(); err != nil || seen.Header.Get("Connect-Content-Encoding") != "" {
		t.Errorf("compressed by %q, %v", seen.Header.Get("Connect-Content-Encoding"), err)
	}
	if _, err := client.ListExports(t.Context(), &v1.ListExportsRequest{}); err != nil || seen.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("the list is sent as %q, %v", seen.Header.Get("Content-Encoding"), err)
	}
}

// TestRequestsAreBounded: a few connections with many streams that nobody reads hold a
// bounded number of requests, and those beyond are told to come again.
func TestRequestsAreBounded(t *testing.T) {
	const most = 2 * 5
	a := start(t, func(c *Config) { c.MaxConns = most / 2 })
	a.put("index.json", sampleIndex(t, 100))
	a.put("checkpoint", []byte("x"))
	stalled := a.speak([]byte(h2Opening), h2NoWindow)
	stall := func(stream uint32) {
		if _, err := stalled.Write(h2Frame(headersFrame, endHeaders|endStream, stream, h2Fields("GET", "/index.json"))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint32(most - 1) {
		stall(2*i + 1)
	}
	a.inside("index", most-1)
	if res, _ := a.get("/checkpoint"); res.StatusCode != 200 {
		t.Fatalf("the last place: %d", res.StatusCode)
	}
	a.inside("checkpoint", 0)
	// One is inside before it has its place, which /checkpoint may take instead: hence more.
	var res *http.Response
	for n := most; ; n++ {
		if n == most+5 {
			t.Fatal("any number of requests is held")
		}
		stall(uint32(2*n - 1))
		a.inside("index", n)
		if res, _ = a.get("/checkpoint"); res.StatusCode != 200 {
			break
		}
	}
	if h := res.Header; res.StatusCode != 503 || h.Get("Retry-After") == "" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", res.StatusCode, h)
	}
	_, err := a.phone().Exchange(t.Context(), &v1.ExchangeRequest{})
	if code, r := refused(t, err); code != connect.CodeUnavailable || r.Reason != "busy" {
		t.Errorf("a phone: %v", err)
	}
	if n, err := a.metric(`bluekey_requests_total{route="phone",status="shed"}`); n != 1 {
		t.Errorf("%d are counted as shed, %v", n, err)
	}
	stalled.Close()
	a.inside("index", 0)
	if res, _ := a.get("/checkpoint"); res.StatusCode != 200 {
		t.Errorf("after they went: %d", res.StatusCode)
	}
}
