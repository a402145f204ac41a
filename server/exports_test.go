package server

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	v1 "bluekey/server/api/bluekey/v1"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
)

func TestExportService(t *testing.T) {
	a := start(t)
	ctx := t.Context()
	if list, err := a.exports().ListExports(ctx, &v1.ListExportsRequest{}); err != nil || len(list.Exports) != 0 {
		t.Fatalf("before the first publication: %v, %v", list, err)
	}
	a.put("index.json", sampleIndex(t, 3))
	list, err := a.exports().ListExports(ctx, &v1.ListExportsRequest{})
	if err != nil || list.Origin != "example.org/bluekey" || list.Region != "VN-HP" || list.Size != 3 || len(list.Exports) != 3 {
		t.Fatalf("%v, %v", list, err)
	}
	one, err := a.exports().GetManifest(ctx, &v1.GetManifestRequest{Entry: 2})
	if err != nil || one.Export.Entry != 2 || one.Export.Manifest != list.Exports[2].Manifest {
		t.Fatalf("%v, %v", one, err)
	}
	_, err = a.exports().GetManifest(ctx, &v1.GetManifestRequest{Entry: 3})
	if code, r := refused(t, err); code != connect.CodeNotFound || r.Reason != "not_found" {
		t.Errorf("an entry that is not there: %v %v", code, r)
	}
	a.put("index.json", sampleIndex(t, 4))
	if list, err := a.exports().ListExports(ctx, &v1.ListExportsRequest{}); err != nil || len(list.Exports) != 4 {
		t.Errorf("after the next publication: %d, %v", len(list.GetExports()), err)
	}
	a.put("index.json", []byte("{}"))
	if _, err := a.exports().ListExports(ctx, &v1.ListExportsRequest{}); connect.CodeOf(err) != connect.CodeInternal || err.Error() != "internal: internal error" {
		t.Errorf("a damaged index: %v", err)
	}
	if !strings.Contains(a.log.String(), "reading the index of exports") {
		t.Error("a damaged index is not logged")
	}
}

func TestListIsCacheable(t *testing.T) {
	a := start(t)
	a.put("index.json", sampleIndex(t, 3))
	var seen *http.Response
	client := bluekeyv1connect.NewExportServiceClient(roundTrip(func(r *http.Request) (*http.Response, error) {
		res, err := a.client.Do(r)
		seen = res
		return res, err
	}), a.url, connect.WithHTTPGet())
	if _, err := client.ListExports(t.Context(), &v1.ListExportsRequest{}); err != nil {
		t.Fatal(err)
	}
	if seen.Request.Method != http.MethodGet || seen.Header.Get("Cache-Control") != "public, max-age=300, stale-if-error=86400" || seen.Header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("%s: %v", seen.Request.Method, seen.Header)
	}
	if _, err := client.GetManifest(t.Context(), &v1.GetManifestRequest{Entry: 7}); err == nil || seen.Header.Get("Cache-Control") != "" {
		t.Errorf("a failure is cached: %v, %v", err, seen.Header)
	}
	if res, _ := a.get(bluekeyv1connect.PhoneServiceExchangeProcedure + "?encoding=json&message=%7B%7D"); res.StatusCode != 405 {
		t.Errorf("an exchange by GET: %d", res.StatusCode)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) Do(r *http.Request) (*http.Response, error) { return f(r) }

func TestFetchExport(t *testing.T) {
	a := start(t)
	data := noise(5*chunkSize + 123)
	a.put(exportName+".keys", data)
	a.put(exportName+".ids", nil)
	a.put("checkpoint", []byte("x"))
	fetch := func(path string, opts ...connect.ClientOption) ([]byte, error) {
		stream, err := a.exports(opts...).FetchExport(t.Context(), &v1.FetchExportRequest{Path: path})
		if err != nil {
			return nil, err
		}
		defer stream.Close()
		var b bytes.Buffer
		for stream.Receive() {
			b.Write(stream.Msg().Chunk)
		}
		return b.Bytes(), stream.Err()
	}
	for name, opts := range map[string][]connect.ClientOption{"Connect": nil, "gRPC-Web": {connect.WithGRPCWeb()}, "JSON": {connect.WithProtoJSON()}} {
		if got, err := fetch(exportName+".keys", opts...); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if got, err := fetch(exportName + ".ids"); err != nil || len(got) != 0 {
		t.Errorf("an empty file: %d bytes, %v", len(got), err)
	}
	for path, want := range map[string]string{
		exportName + ".zip":             "not_found",
		"checkpoint":                    "malformed",
		"":                              "malformed",
		"exports/../../seed":            "malformed",
		"/" + exportName + ".keys":      "malformed",
		exportName + ".keys.tlog-proof": "malformed",
	} {
		_, err := fetch(path)
		if err == nil {
			t.Errorf("%q is fetched", path)
			continue
		}
		if _, r := refused(t, err); r.Reason != want {
			t.Errorf("%q: %v", path, r)
		}
	}
}

func TestHealthAndReflection(t *testing.T) {
	a := start(t)
	health := grpchealth.NewClient(a.client, a.url)
	for service, want := range map[string]connect.Code{
		"": 0, bluekeyv1connect.PhoneServiceName: 0, bluekeyv1connect.ExportServiceName: 0,
		bluekeyv1connect.CodeServiceName: connect.CodeNotFound,
	} {
		res, err := health.Check(t.Context(), &grpchealth.CheckRequest{Service: service})
		if want == 0 && (err != nil || res.Status != grpchealth.StatusServing) || want != 0 && connect.CodeOf(err) != want {
			t.Errorf("%q: %v, %v", service, res, err)
		}
	}

	stream := grpcreflect.NewClient(h2Client(t), a.url).NewStream(t.Context())
	defer stream.Close()
	names, err := stream.ListServices()
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, n := range names {
		listed[string(n)] = true
	}
	if !listed[bluekeyv1connect.PhoneServiceName] || !listed[bluekeyv1connect.ExportServiceName] || listed[bluekeyv1connect.CodeServiceName] {
		t.Errorf("reflection lists %v", names)
	}
	files, err := stream.FileContainingSymbol("bluekey.v1.ExchangeRequest")
	if err != nil || len(files) == 0 {
		t.Errorf("reflection on ExchangeRequest: %d files, %v", len(files), err)
	}
}
