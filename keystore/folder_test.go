package keystore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/keystore/diagnosis"
)

func TestReopenOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	o := testOptionsOnDisk(dir)
	s := mustOpen(t, o)
	code := mustIssue(t, s, 2)
	keys := caseKeys(t, diagnosis.Bluezone, 1, testStart, 9)
	answer := mustUpload(t, s, code[0], keys)
	if got, err := s.Fix("origin", "key.example.vn"); err != nil || got != "key.example.vn" {
		t.Fatal(got, err)
	}
	start := s.WindowStart(diagnosis.Bluezone)
	mustClose(t, s)

	// A day later, when the period of the first start is long over.
	o.Now = func() time.Time { return testStart.Add(20 * time.Hour) }
	s = mustOpen(t, o)
	defer mustClose(t, s)
	if m := s.Metrics(); m.LogBytes != 0 || m.LongCodes != 1 {
		t.Errorf("after a clean end: %+v", m)
	}
	if got := s.WindowStart(diagnosis.Bluezone); !got.Equal(start) || !got.Equal(testStart.Truncate(testPeriod)) {
		t.Errorf("the chain starts at %v, before the restart at %v", got, start)
	}
	if got, err := s.Fix("origin", "other.example"); err != nil || got != "key.example.vn" {
		t.Errorf("origin %q, %v", got, err)
	}
	if got := mustUpload(t, s, code[0], keys); got != answer {
		t.Errorf("answered %v, before the restart %v", got, answer)
	}
	if n := len(dueKeys(t, s, diagnosis.Bluezone, testStart)); n != len(keys) {
		t.Errorf("%d keys, want %d", n, len(keys))
	}
}

// A folder that was made is there after a power cut, however deep it lies.
func TestMadeFolderOutlivesAPowerCut(t *testing.T) {
	disk := vfs.NewCrashableMem()
	if err := mkdirSynced(disk, "srv/bluekey/data"); err != nil {
		t.Fatal(err)
	}
	after := disk.CrashClone(vfs.CrashCloneCfg{})
	if info, err := after.Stat("srv/bluekey/data"); err != nil || !info.IsDir() {
		t.Errorf("after the power cut: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	for range 2 {
		if err := MakeDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MakeDir(filepath.Join(dir, "file", "below")); err == nil {
		t.Error("made a folder in a file")
	}
}

func TestVersion(t *testing.T) {
	for _, row := range []struct{ name, text, want string }{
		{"newer", "bluekey data 2\n", "layout 2, this program knows layouts up to 1"},
		{"much newer", "bluekey data 4711\n", "layout 4711, this program knows layouts up to 1"},
		{"zero", "bluekey data 0\n", "not the VERSION"},
		{"empty", "", "not the VERSION"},
		{"something else", "1\n", "not the VERSION"},
		{"a second spelling", "bluekey data 01\n", "not the VERSION"},
		{"no line end", "bluekey data 1", "not the VERSION"},
		{"more behind it", "bluekey data 1\n\n", "not the VERSION"},
		{"beyond any number", "bluekey data 99999999999999999999\n", "not the VERSION"},
		{"this one", "bluekey data 1\n", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			disk := vfs.NewMem()
			mustClose(t, mustOpen(t, testOptions(disk, newClock())))
			if err := writeSynced(disk, "data", "VERSION", row.text); err != nil {
				t.Fatal(err)
			}
			before := disk.String()
			s, err := Open(testOptions(disk, newClock()))
			if row.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				mustClose(t, s)
				return
			}
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %s", err, row.want)
			}
			if disk.String() != before {
				t.Error("a refused folder was changed")
			}
		})
	}
	t.Run("lost", func(t *testing.T) {
		disk := vfs.NewMem()
		mustClose(t, mustOpen(t, testOptions(disk, newClock())))
		if err := disk.Remove("data/VERSION"); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(testOptions(disk, newClock())); err == nil || !strings.Contains(err.Error(), "no VERSION") {
			t.Errorf("got %v", err)
		}
	})
}

func TestLock(t *testing.T) {
	const inUse = "in use by another process"
	if dir := os.Getenv("BLUEKEY_DIR"); dir != "" {
		_, err := Open(testOptionsOnDisk(dir))
		if err == nil || !strings.Contains(err.Error(), inUse) {
			t.Fatalf("got %v", err)
		}
		return
	}
	parent := t.TempDir()
	dir, link := filepath.Join(parent, "data"), filepath.Join(parent, "link")
	s := mustOpen(t, testOptionsOnDisk(dir))
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, link, dir + "/../data/"} {
		if _, err := Open(testOptionsOnDisk(name)); err == nil || !strings.Contains(err.Error(), inUse) {
			t.Errorf("opened twice, as %s: %v", name, err)
		}
	}
	if out, err := child(t, "open", dir).CombinedOutput(); err != nil {
		t.Errorf("another process: %v\n%s", err, out)
	}
	mustClose(t, s)
	mustClose(t, mustOpen(t, testOptionsOnDisk(dir)))
}

// What is in a message of the database about a row is its kind only.
func TestRowsAreRedacted(t *testing.T) {
	k := dayKey(t, diagnosis.GAEN, 1, testStart, 1)
	row := appendKeyRow(nil, &k, 1)
	o := testOptions(vfs.NewMem(), newClock())
	format := engineOptions(&o, &health{}).Comparer.FormatKey
	for _, verb := range []string{"%s", "%v", "%x", "%q", "%d", "%+v", "%#v"} {
		if got := fmt.Sprintf(verb, format(row)); got != `['k' row]` {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}
