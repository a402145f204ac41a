package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a bucket does on a server that works is tested in export/mirror, on one.

const s3Secret, s3Token = "wJalrXUtnFEMI/K7MDENG", "a+temporary+token"

func everything(path string) (string, string, bool) {
	if strings.HasPrefix(path, "exports/") {
		return "application/zip", "public, immutable", true
	}
	return "text/plain", "public", true
}

func TestBucketURL(t *testing.T) {
	for _, row := range []struct{ url, endpoint, want string }{
		{"s3://public", "", "s3://public"},
		{"s3://public/", "", "s3://public"},
		{"s3://public/hai/phong/", "http://127.0.0.1:9", "s3://public/hai/phong"},
		{"s3://public/x?endpoint=https://s3.example.vn:9000", "", "s3://public/x"},
	} {
		b, err := NewBucket(row.url, Access{Endpoint: row.endpoint}, nil)
		if err != nil || b.String() != row.want {
			t.Errorf("%s: %v, %v", row.url, b, err)
		}
	}
	for _, row := range []struct {
		url    string
		access Access
	}{
		{"s3://", Access{}}, {"s3:///x", Access{}}, {"https://public/x", Access{}}, {"public", Access{}}, {"s3://PUBLIC", Access{}}, {"s3://a", Access{}},
		{"s3://key:" + s3Secret + "@public/", Access{}}, {"s3://public/a/../b", Access{}}, {"s3://public/a//b", Access{}}, {"s3://public#x", Access{}},
		{"s3://public?secret=" + s3Secret, Access{}}, {"s3://public?endpoint=a&endpoint=b", Access{}}, {"s3://public?endpoint=s3.example.vn", Access{}},
		{"s3://public?endpoint=https://key:" + s3Secret + "@host", Access{}}, {"s3://public?endpoint=https://host/path", Access{}},
		{"s3://public", Access{Endpoint: "ftp://host"}}, {"s3://public", Access{Secret: s3Secret}}, {"s3://public", Access{KeyID: "AKIA"}},
	} {
		if _, err := NewBucket(row.url, row.access, nil); err == nil || strings.Contains(err.Error(), s3Secret) {
			t.Errorf("%s: %v", row.url, err)
		}
	}
}

func TestAccessIsRedacted(t *testing.T) {
	a := Access{KeyID: "AKIAIOSFODNN7EXAMPLE", Secret: s3Secret, Token: s3Token}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "access", a, "inside", struct{ A Access }{a})
	for _, text := range []string{fmt.Sprint(a), fmt.Sprintf("%+v %#v %s %q %x", a, a, a, a, a), fmt.Sprintf("%+v", struct{ A *Access }{&a}), fmt.Sprintf("%v", []Access{a}), log.String()} {
		if strings.Contains(text, s3Secret) || strings.Contains(text, s3Token) || strings.Contains(text, "7EXAMPLE") {
			t.Errorf("printed: %s", text)
		}
	}
}

// A server may answer anything: what it says is an error, in words of ours.
func TestBucketDistrustsItsServer(t *testing.T) {
	answer := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>you sent %s</Message></Error>", code, r.Header.Get("X-Amz-Security-Token"))
		}
	}
	modified := func(w http.ResponseWriter) {
		w.Header().Set("Last-Modified", time.Unix(0, 0).UTC().Format(http.TimeFormat))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/public/t/denied", answer(http.StatusForbidden, "AccessDenied"))
	mux.HandleFunc("/public/t/missing", answer(http.StatusNotFound, "NoSuchKey"))
	mux.HandleFunc("/public/t/bucketless", answer(http.StatusNotFound, "NoSuchBucket"))
	mux.HandleFunc("/public/t/echo", func(w http.ResponseWriter, r *http.Request) {
		answer(http.StatusBadRequest, r.Header.Get("X-Amz-Security-Token"))(w, r)
	})
	mux.HandleFunc("/public/t/endless", func(w http.ResponseWriter, _ *http.Request) {
		modified(w)
		for _, err := w.Write(make([]byte, 4096)); err == nil; _, err = w.Write(make([]byte, 4096)) {
		}
	})
	mux.HandleFunc("/public/t/large", func(w http.ResponseWriter, _ *http.Request) {
		modified(w)
		w.Header().Set("Content-Length", "1000000000000")
	})
	mux.HandleFunc("/public/t/cut", func(w http.ResponseWriter, _ *http.Request) {
		modified(w)
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "half")
	})
	mux.HandleFunc("/public/t/exports/other", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			answer(http.StatusPreconditionFailed, "PreconditionFailed")(w, r)
			return
		}
		modified(w)
		fmt.Fprint(w, "other")
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	b, err := NewBucket("s3://public/t", Access{KeyID: "AKIA", Secret: s3Secret, Token: s3Token, Endpoint: srv.URL}, everything)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for _, row := range []struct {
		path, want string
		is         error
	}{
		{"denied", "403 AccessDenied", nil},
		{"missing", "", fs.ErrNotExist},
		{"bucketless", "404 NoSuchBucket", nil},
		{"echo", "400 Bad Request", nil},
		{"endless", "100 bytes", ErrTooLarge},
		{"large", "100 bytes", ErrTooLarge},
		{"cut", "unexpected EOF", nil},
	} {
		_, err := ReadAll(ctx, b, row.path, 100)
		if err == nil || !strings.Contains(err.Error(), row.want) || row.is != nil && !errors.Is(err, row.is) || row.is == nil && errors.Is(err, fs.ErrNotExist) ||
			strings.Contains(err.Error(), s3Token) || strings.Contains(err.Error(), s3Secret) {
			t.Errorf("%s: %v", row.path, err)
		}
	}
	disk := b.Disk(ctx)
	blob, err := disk.Open("large")
	if err != nil || blob.Size() != 1e12 || blob.Close() != nil {
		t.Errorf("a large file is not only looked at: %v", err)
	}
	if _, err := disk.Open("endless"); err == nil {
		t.Error("an object without a size is opened")
	}
	folder, err := NewFolder(disk, ".")
	if err != nil {
		t.Fatal(err)
	}
	if err := folder.Put("exports/other", []byte("mine!")); !errors.Is(err, ErrTaken) {
		t.Errorf("an immutable file was replaced: %v", err)
	}
	if err := folder.Put("exports/other", []byte("other")); err != nil {
		t.Errorf("a repeated put: %v", err)
	}
	if _, err := ReadAll(ctx, b, "../x", 100); err == nil {
		t.Error("a path that leads out of the tree was read")
	}
	srv.Close()
	if _, err := ReadAll(ctx, b, "denied", 100); err == nil || errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), s3Token) {
		t.Errorf("a server that is gone: %v", err)
	}
}

func TestBucketForReading(t *testing.T) {
	b, err := NewBucket("s3://public", Access{Endpoint: "http://127.0.0.1:9"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "checkpoint"), []byte("x"), 0o644)
	order := func(string) (int, bool) { return 0, true }
	if _, err := b.Sync(context.Background(), FolderSource(dir), order); !errors.Is(err, errReadOnly) {
		t.Errorf("Sync: %v", err)
	}
	disk := b.Disk(context.Background())
	f, _ := disk.Create("checkpoint.new")
	f.Close()
	if err := disk.Rename("checkpoint.new", "checkpoint"); !errors.Is(err, errReadOnly) {
		t.Errorf("Rename: %v", err)
	}
}

func TestStamp(t *testing.T) {
	dir := t.TempDir()
	order := func(path string) (int, bool) { return 0, !strings.HasSuffix(path, tempSuffix) }
	stamps := map[string]string{}
	step := func(what string, do func() error, changes bool) {
		t.Helper()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		stamp, err := FolderSource(dir).Stamp(order)
		if err != nil {
			t.Fatal(err)
		}
		if before, ok := stamps[stamp]; ok == changes {
			t.Errorf("after %s the stamp is that after %q", what, before)
		}
		stamps[stamp] = what
	}
	write := func(name, text string) func() error {
		return func() error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) }
	}
	step("nothing", func() error { return nil }, true)
	step("a file", write("checkpoint", "one"), true)
	step("looking again", func() error { return nil }, false)
	step("a file that is not whole", write("checkpoint.new", "two"), false)
	step("its place taken", func() error { return os.Rename(dir+"/checkpoint.new", dir+"/checkpoint") }, true)
	step("another file", write("index.json", "{}"), true)
	step("its removal", func() error { return os.Remove(dir + "/index.json") }, false) // as before it
	if _, err := FolderSource(dir + "/missing").Stamp(order); err == nil {
		t.Error("a folder that is missing has a stamp")
	}
}

// A URL that is taken means one place: what the bucket is called opens it again.
func FuzzBucketURL(f *testing.F) {
	for _, seed := range []string{"s3://public", "s3://public/a/b/", "s3://public/x?endpoint=http://h:1", "s3://u:p@public", "s3://public/%2e%2e/x", "s3://public?endpoint=%"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		b, err := NewBucket(target, Access{}, nil)
		if err != nil {
			return
		}
		if CheckPath(b.key("x")) != nil {
			t.Fatalf("%q: key %q", target, b.key("x"))
		}
		again, err := NewBucket((&url.URL{Scheme: "s3", Host: b.name, Path: "/" + b.prefix}).String(), Access{}, nil)
		if err != nil || again.name != b.name || again.prefix != b.prefix {
			t.Fatalf("%q is %s, which is %v, %v", target, b, again, err)
		}
	})
}
