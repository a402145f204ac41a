package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// memDisk is Pebble's in-memory disk, which can crash, as an FS.
type memDisk struct{ *vfs.MemFS }

func (d memDisk) Create(name string) (File, error) { return d.MemFS.Create(name, "test") }
func (d memDisk) MkdirAll(dir string) error        { return d.MemFS.MkdirAll(dir, 0o755) }
func (d memDisk) SyncDir(dir string) error {
	f, err := d.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
func (d memDisk) Open(name string) (Blob, error) {
	f, err := d.MemFS.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return memBlob{f, info.Size()}, nil
}

type memBlob struct {
	vfs.File
	size int64
}

func (b memBlob) Size() int64 { return b.size }

// stopDisk fails every call after the first n, as a process does that is killed.
type stopDisk struct {
	FS
	left *int
}

var errStopped = errors.New("stopped")

func (d stopDisk) step() error {
	if *d.left == 0 {
		return errStopped
	}
	*d.left--
	return nil
}

func (d stopDisk) Create(name string) (File, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	f, err := d.FS.Create(name)
	return stopFile{f, d}, err
}
func (d stopDisk) Rename(a, b string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.FS.Rename(a, b)
}
func (d stopDisk) Remove(name string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.FS.Remove(name)
}
func (d stopDisk) MkdirAll(dir string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.FS.MkdirAll(dir)
}
func (d stopDisk) SyncDir(dir string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.FS.SyncDir(dir)
}

type stopFile struct {
	File
	d stopDisk
}

func (f stopFile) Write(p []byte) (int, error) {
	if err := f.d.step(); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}
func (f stopFile) Sync() error {
	if err := f.d.step(); err != nil {
		return err
	}
	return f.File.Sync()
}

// TestCrashAtEveryStep publishes a file and replaces another, and cuts the power after
// every step, with any part of what was not synced lost.
func TestCrashAtEveryStep(t *testing.T) {
	big := bytes.Repeat([]byte("export"), 1000)
	publish := func(disk FS, staged *Staged) error {
		staging, err := NewStaging(disk, "/data/staging")
		if err != nil {
			return err
		}
		folder, err := NewFolder(disk, "/data/public")
		if err != nil {
			return err
		}
		f, err := staging.Create()
		if err != nil {
			return err
		}
		if _, err := f.Write(big); err != nil {
			return err
		}
		if *staged, err = f.Finish(); err != nil {
			return err
		}
		if err := folder.Adopt(staging, staged.Name(), "exports/a.zip"); err != nil {
			return err
		}
		return folder.Put("checkpoint", []byte("new"))
	}
	for steps := 0; ; steps++ {
		mem := vfs.NewCrashableMem()
		if err := mem.MkdirAll("/data", 0o755); err != nil {
			t.Fatal(err)
		}
		root, _ := mem.OpenDir("/")
		root.Sync()
		before, err := NewFolder(memDisk{mem}, "/data/public")
		if err != nil {
			t.Fatal(err)
		}
		if err := before.Put("checkpoint", []byte("old")); err != nil {
			t.Fatal(err)
		}
		left := steps
		var staged Staged
		err = publish(stopDisk{memDisk{mem}, &left}, &staged)
		for percent := 0; percent <= 100; percent += 50 {
			crashed := memDisk{mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(uint64(steps), uint64(percent)))})}
			folder, openErr := NewFolder(crashed, "/data/public")
			if openErr != nil {
				t.Fatal(openErr)
			}
			checkpoint, getErr := folder.Get("checkpoint", 100)
			if getErr != nil || string(checkpoint) != "old" && string(checkpoint) != "new" {
				t.Fatalf("%d steps, %d%% kept: checkpoint %q, %v", steps, percent, checkpoint, getErr)
			}
			export, getErr := folder.Get("exports/a.zip", 1<<20)
			switch {
			case errors.Is(getErr, fs.ErrNotExist) && string(checkpoint) == "old":
			case getErr != nil || !bytes.Equal(export, big):
				t.Fatalf("%d steps, %d%% kept: checkpoint %q with an export of %d bytes, %v", steps, percent, checkpoint, len(export), getErr)
			}
			if err == nil && (string(checkpoint) != "new" || export == nil) {
				t.Fatalf("%d%% kept: what was published is gone", percent)
			}
			if staged.Size > 0 && export == nil && string(checkpoint) == "old" {
				// Recovery: adopting again must work wherever the crash left the file.
				staging, _ := NewStaging(crashed, "/data/staging")
				if err := folder.Adopt(staging, staged.Name(), "exports/a.zip"); err != nil {
					t.Fatalf("%d steps, %d%% kept: adopting again: %v", steps, percent, err)
				}
			}
		}
		if err == nil {
			if steps < 10 {
				t.Fatalf("only %d steps seen", steps)
			}
			return
		}
		if !errors.Is(err, errStopped) {
			t.Fatal(err)
		}
	}
}

func TestStagingSweeps(t *testing.T) {
	s, err := NewStaging(Disk{}, filepath.Join(t.TempDir(), "staging"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range 3 {
		f, _ := s.Create()
		fmt.Fprint(f, i)
		staged, err := f.Finish()
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, staged.Name())
	}
	if f, err := s.Create(); err != nil || f.Discard() != nil {
		t.Fatal("discarding failed")
	}
	if err := s.Sweep(map[string]bool{names[1]: true}); err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(s.root)
	if len(left) != 1 || left[0].Name() != names[1] {
		t.Fatalf("left %v", left)
	}
}

func TestPathsStayInside(t *testing.T) {
	f, err := NewFolder(Disk{}, filepath.Join(t.TempDir(), "tree"))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", ".", "..", "../x", "/x", "a/../../x", "a//b", `a\b`, "a\x00"} {
		if f.Put(bad, nil) == nil || f.Remove(bad) == nil {
			t.Errorf("%q was written or removed", bad)
		}
		if _, err := FolderSource(f.root).Open(context.Background(), bad, 1); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestPutLeavesEqualFilesAlone(t *testing.T) {
	f, err := NewFolder(Disk{}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f.Put("index.json", []byte("x"))
	name := filepath.Join(f.root, "index.json")
	past := time.Now().Add(-time.Hour)
	os.Chtimes(name, past, past)
	f.Put("index.json", []byte("x"))
	if info, _ := os.Stat(name); info.ModTime().After(past.Add(time.Minute)) {
		t.Error("an equal file was written again")
	}
	f.Put("index.json", []byte("y"))
	if data, _ := f.Get("index.json", 10); string(data) != "y" {
		t.Errorf("index.json holds %q", data)
	}
}

func TestWebSource(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "stolen") }))
	defer elsewhere.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/t/here", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "content") })
	mux.HandleFunc("/t/gone", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
	mux.HandleFunc("/t/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	mux.HandleFunc("/t/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/t/here", http.StatusFound) })
	mux.HandleFunc("/t/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) })
	mux.HandleFunc("/t/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/t/loop", http.StatusFound) })
	mux.HandleFunc("/t/endless", func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	source, err := NewSource(srv.URL + "/t/")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ path, want string }{
		{"here", ""}, {"moved", ""},
		{"missing", fs.ErrNotExist.Error()}, {"gone", fs.ErrNotExist.Error()},
		{"broken", "502"}, {"away", "another place"}, {"loop", "too often"}, {"endless", "more than the 100 bytes"},
	} {
		data, err := ReadAll(context.Background(), source, row.path, 100)
		switch {
		case row.want == "" && (err != nil || string(data) != "content"):
			t.Errorf("%s: %q, %v", row.path, data, err)
		case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
			t.Errorf("%s: %v, want %s", row.path, err, row.want)
		}
	}
	for _, bad := range []string{"http://", "https:///x", "http://a/?q", "http://u:p@a/", "http://a/#f"} {
		if _, err := NewSource(bad); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestLocate(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"tree/index.json", "tree/exports/a.zip", "loose/a.zip", "loose/b.keys", "loose/README", "empty/README"} {
		os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755)
		os.WriteFile(filepath.Join(dir, name), nil, 0o644)
	}
	for _, row := range []struct{ target, source, files string }{
		{dir + "/tree", dir + "/tree", "[]"},
		{dir + "/loose", dir + "/loose", "[a.zip b.keys]"},
		{dir + "/loose/a.zip", dir + "/loose", "[a.zip]"},
		{dir + "/loose/README", dir + "/loose", "[README]"},
		{"http://h/t", "http://h/t", "[]"},
		{"http://h/t/", "http://h/t", "[]"},
		{"http://h/t/exports/a.zip", "http://h/t/exports", "[a.zip]"},
	} {
		p, err := Locate(row.target, ".zip", ".keys")
		if err != nil || p.Source.String() != row.source || fmt.Sprint(p.Files) != row.files {
			t.Errorf("%s: %v %v, %v", row.target, p.Source, p.Files, err)
		}
	}
	for _, bad := range []string{dir + "/missing", dir + "/empty"} {
		if _, err := Locate(bad, ".zip", ".keys"); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); err == nil {
		t.Fatal("two work at the same place")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if _, err := Lock(filepath.Join(path, "missing", "lock")); err == nil {
		t.Error("locked in a folder that is not there")
	}
}
