package mirror

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
)

func options(p *exportlog.Policy, now int64) AuditOptions {
	return AuditOptions{Policy: p, Now: func() time.Time { return time.Unix(now, 0) }}
}

// pass is one pass of a mirror into a folder of the disk.
func pass(t testing.TB, src tree.Source, dir string, p *exportlog.Policy, now int64) *Copied {
	t.Helper()
	c, err := Mirror(context.Background(), src, Place{Disk: tree.Disk{}, Root: dir, Temp: t.TempDir()}, options(p, now))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// readFolder is what a folder holds.
func readFolder(t testing.TB, dir string) memory {
	t.Helper()
	m := memory{map[string][]byte{}}
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		m.files[filepath.ToSlash(rel)] = data
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// next closes one more period of a history.
func (s *site) next(now int64) {
	s.t.Helper()
	for _, scheme := range diagnosis.Schemes {
		s.window(window{scheme: scheme, start: now - period, end: now, keys: s.draw(scheme, 10, now)})
	}
	for _, scheme := range diagnosis.Schemes {
		if now-retain > start0 {
			s.erase(now, scheme, now-retain)
		}
	}
	s.publish(now)
}

// A mirror that runs every period has, every time, all that its source has, and no more.
func TestMirrorFollows(t *testing.T) {
	s, now := history(t, 0)
	dir, again := t.TempDir(), t.TempDir()
	removed := 0
	for range 70 { // past the first full tile
		now += period
		s.next(now)
		c := pass(t, s.copy(), dir, s.pinned(), now)
		if !c.Moved || !c.Clean || c.Written == 0 {
			t.Fatalf("moved %v: %s", c.Moved, findings(c.Report))
		}
		removed += c.Removed
	}
	found(t, auditAt(t, tree.FolderSource(dir), s.pinned(), nil, now), "")
	if removed != (70-6)*3*2 { // archive and two key sets, and their proofs
		t.Errorf("%d files removed", removed)
	}
	got := readFolder(t, dir)
	for path, data := range s.files {
		if strings.Contains(path, ".p/") {
			continue // of sizes that are over
		}
		if !bytes.Equal(got.files[path], data) {
			t.Errorf("%s differs", path)
		}
	}
	for path := range got.files {
		if _, ok := s.files[path]; !ok {
			t.Errorf("%s is not in the source", path)
		}
	}
	if _, ok := got.files["tile/0/000.p/255"]; ok {
		t.Error("a partial tile stays beside its full one")
	}

	// A second pass changes nothing; a mirror of the mirror is the same again.
	if c := pass(t, s.copy(), dir, s.pinned(), now); !c.Moved || c.Written+c.Removed != 0 {
		t.Errorf("%d written, %d removed by a pass without news", c.Written, c.Removed)
	}
	pass(t, tree.FolderSource(dir), again, s.pinned(), now)
	second := readFolder(t, again)
	for path := range second.files {
		if !bytes.Equal(second.files[path], got.files[path]) {
			t.Errorf("%s differs in the second mirror", path)
		}
	}
	found(t, auditAt(t, tree.FolderSource(again), s.pinned(), nil, now), "")
	if ok, lines := verify(t, VerifyOptions{Policy: s.pinned()}, again); !ok {
		t.Error(lines)
	}
}

func TestMirrorRefuses(t *testing.T) {
	s, now := history(t, 7)
	dir := t.TempDir()
	pass(t, s.copy(), dir, s.pinned(), now)
	before := readFolder(t, dir)
	newer, now := history(t, 8)
	older, _ := history(t, 6)
	var newFile string
	for path := range newer.files {
		if _, ok := s.files[path]; !ok && strings.HasSuffix(path, ".keys") {
			newFile = path
		}
	}
	for _, row := range []struct {
		name   string
		source func() memory
		code   Code
	}{
		{"an old checkpoint", older.copy, CodeRollback},
		{"a fork", forked(t, 8, 4).copy, CodeFork},
		{"a new file with one bit flipped", func() memory { m := newer.copy(); m.flip(newFile); return m }, CodeFileBytes},
		{"a new file missing", func() memory { m := newer.copy(); delete(m.files, newFile); return m }, CodeFileMissing},
		{"a tile with one bit flipped", func() memory { m := newer.copy(); m.flip(newer.partial("tile/0/")); return m }, CodeTile},
		{"an index that hides a window", func() memory { m := newer.copy(); m.files["index.json"] = newer.indexWithout(t, 2); return m }, CodeIndex},
		{"a signature missing", func() memory {
			m := newer.copy()
			m.files["checkpoint"] = m.files["checkpoint"][:len(m.files["checkpoint"])-1]
			return m
		}, CodeCheckpoint},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := pass(t, row.source(), dir, s.pinned(), now)
			if c.Moved || !slices.Contains(codes(c.Report), string(row.code)) {
				t.Errorf("moved %v: %s", c.Moved, findings(c.Report))
			}
			if !maps.EqualFunc(readFolder(t, dir).files, before.files, bytes.Equal) {
				t.Error("the copy changed")
			}
		})
	}
	if c := pass(t, newer.copy(), dir, s.pinned(), now); !c.Moved {
		t.Errorf("the honest tree is refused: %s", findings(c.Report))
	}
}

// Misconduct of the operator is copied, reported, and does not freeze a mirror for ever.
func TestMirrorCopiesEvidence(t *testing.T) {
	s, now := history(t, 2)
	now += 5 * period
	s.window(window{scheme: diagnosis.GAEN, start: now - period, end: now, keys: s.draw(diagnosis.GAEN, 5, now)})
	s.publish(now)
	dir := t.TempDir()
	c := pass(t, s.copy(), dir, s.pinned(), now)
	if !c.Moved || c.Clean {
		t.Errorf("moved %v, clean %v: %s", c.Moved, c.Clean, findings(c.Report))
	}
}

// counting remembers what was asked of a source.
type counting struct {
	memory
	asked map[string]bool
	mu    *sync.Mutex
}

func (c counting) Open(ctx context.Context, path string, limit int64) (tree.Blob, error) {
	c.mu.Lock()
	c.asked[path] = true
	c.mu.Unlock()
	return c.memory.Open(ctx, path, limit)
}

// What a copy has is not fetched again.
func TestMirrorFetchesNewFilesOnly(t *testing.T) {
	s, now := history(t, 7)
	dir := t.TempDir()
	pass(t, s.copy(), dir, s.pinned(), now)
	source := counting{s.copy(), map[string]bool{}, new(sync.Mutex)}
	pass(t, source, dir, s.pinned(), now)
	for path := range source.asked {
		if row, _ := exportlog.Lookup(path); row.Class == exportlog.ClassExport || row.Class == exportlog.ClassTile {
			t.Errorf("%s was fetched again", path)
		}
	}
}

// A tree that moves on while it is read may have full tiles where its checkpoint, as read,
// implies partial ones. What they hold beyond it is not copied: nothing has checked it.
func TestMirrorCutsTiles(t *testing.T) {
	s, now := history(t, 3)
	old := s.copy()
	for range 300 {
		s.add(exportlog.Incident{Time: now, Text: "a busy day"})
	}
	s.publish(now)
	moving := s.copy()
	for path, data := range old.files {
		row, _ := exportlog.Lookup(path)
		if row.Class != exportlog.ClassTile {
			moving.files[path] = data
		} else if strings.Contains(path, ".p/") {
			delete(moving.files, path)
		}
	}
	for _, path := range []string{"tile/0/000", "tile/entries/000"} { // and those lie about the rest
		moving.files[path] = bytes.Clone(moving.files[path])
		moving.files[path][len(moving.files[path])-1] ^= 1
	}
	dir := t.TempDir()
	if c := pass(t, moving, dir, s.pinned(), now); !c.Moved {
		t.Fatal(findings(c.Report))
	}
	got := readFolder(t, dir)
	if _, ok := got.files["tile/0/000"]; ok {
		t.Error("a tile was copied that nothing vouches for")
	}
	for path, data := range old.files {
		if strings.HasPrefix(path, "tile/") && got.files[path] != nil && !bytes.Equal(got.files[path], data) {
			t.Errorf("%s differs", path)
		}
	}
	found(t, auditAt(t, tree.FolderSource(dir), s.pinned(), nil, now), "")
	if c := pass(t, s.copy(), dir, s.pinned(), now); !c.Moved {
		t.Error(findings(c.Report))
	}
	found(t, auditAt(t, tree.FolderSource(dir), s.pinned(), nil, now), "")
}

// A damaged copy heals from an honest source.
func TestMirrorHeals(t *testing.T) {
	s, now := history(t, 8)
	dir := t.TempDir()
	pass(t, s.copy(), dir, s.pinned(), now)
	for _, path := range []string{s.path(".zip"), s.partial("tile/0/"), s.partial("tile/entries/"), "index.json", "policy", s.path(".tlog-proof")} {
		m := readFolder(t, dir)
		m.flip(path)
		if err := os.WriteFile(filepath.Join(dir, path), m.files[path], 0o644); err != nil {
			t.Fatal(err)
		}
		if c := pass(t, s.copy(), dir, s.pinned(), now); !c.Moved || c.Written != 1 {
			t.Errorf("%s: moved %v, %d written: %s", path, c.Moved, c.Written, findings(c.Report))
		}
		if !maps.EqualFunc(readFolder(t, dir).files, s.files, bytes.Equal) {
			// Earlier partial tiles are only in the source.
			found(t, auditAt(t, tree.FolderSource(dir), s.pinned(), nil, now), "")
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "checkpoint"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Mirror(context.Background(), s.copy(), Place{Disk: tree.Disk{}, Root: dir}, options(s.pinned(), now))
	if err == nil || !strings.Contains(err.Error(), "move "+dir+" away") {
		t.Errorf("a copy that does not know what it has seen: %v", err)
	}
}

// What must go goes, also when the source has fallen silent or is away.
func TestMirrorExpires(t *testing.T) {
	s, now := history(t, 3)
	dir := t.TempDir()
	pass(t, s.copy(), dir, s.pinned(), now)
	later := now + retain + period + 1
	_, err := Mirror(context.Background(), failing{s.copy(), "checkpoint"}, Place{Disk: tree.Disk{}, Root: dir}, options(s.pinned(), later))
	if err == nil {
		t.Error("a source that is away")
	}
	if names, err := os.ReadDir(filepath.Join(dir, "exports")); err != nil || len(names) > 0 {
		t.Errorf("%d files stay, error %v", len(names), err)
	}
	// The source, meanwhile, still serves them.
	if c := pass(t, s.copy(), dir, s.pinned(), later); !c.Moved || !slices.Contains(codes(c.Report), "file-late") {
		t.Errorf("moved %v: %s", c.Moved, findings(c.Report))
	}
	if names, err := os.ReadDir(filepath.Join(dir, "exports")); err != nil || len(names) > 0 {
		t.Errorf("%d files are back, error %v", len(names), err)
	}
}

func TestMirrorAll(t *testing.T) {
	a, now := history(t, 2)
	b := newSiteOf(t, "log.example/ha-noi")
	b.add(exportlog.Incident{Time: now, Text: "the log begins"})
	b.publish(now)
	both, err := exportlog.ParsePolicy([]byte(strings.Replace(string(a.policy), "quorum log-mldsa\n", "", 1) +
		strings.Replace(strings.Replace(string(b.policy), "witness log-mldsa", "witness other", 1), "quorum log-mldsa", "group one any log-mldsa other\nquorum one", 1)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	place := Place{Disk: tree.Disk{}, Root: dir, Temp: t.TempDir()}
	all, err := MirrorAll(context.Background(), []tree.Source{a.copy(), b.copy()}, place, options(both, now))
	if err != nil || !all[0].Moved || !all[1].Moved {
		t.Fatal(err, findings(all[0].Report), findings(all[1].Report))
	}
	digest := func(s *site) string { d := sha(s.policy); return hex.EncodeToString(d[:]) }
	want := `{
 "feeds": [
  {
   "origin": "log.example/ha-noi",
   "path": "log.example_ha-noi/",
   "policy": "` + digest(b) + `"
  },
  {
   "origin": "log.example/hai-phong",
   "path": "log.example_hai-phong/",
   "policy": "` + digest(a) + `"
  }
 ]
}
`
	if got := string(readFolder(t, dir).files["feeds.json"]); got != want {
		t.Errorf("feeds.json:\n%s", got)
	}
	for _, sub := range []string{"log.example_ha-noi", "log.example_hai-phong"} {
		found(t, auditAt(t, tree.FolderSource(filepath.Join(dir, sub)), both, nil, now), "")
	}

	// One that is away, one that lies, and the same twice: the others go on.
	lying := b.copy()
	lying.flip("checkpoint")
	all, err = MirrorAll(context.Background(), []tree.Source{failing{b.copy(), "checkpoint"}, lying, a.copy(), a.copy()}, place, options(both, now))
	if err == nil || all[0].Moved || all[1].Moved || !all[2].Moved || all[3].Moved || len(all[1].Findings) == 0 {
		t.Errorf("error %v, %+v", err, all)
	}
	if got := string(readFolder(t, dir).files["feeds.json"]); got != want {
		t.Errorf("feeds.json afterwards:\n%s", got)
	}
	for origin, want := range map[string]string{"a/b": "a_b", "..": "_.", "Ä b": "___b", ".x": "_x"} {
		if got := folderOf(origin); got != want {
			t.Errorf("folder of %q is %q", origin, got)
		}
	}
}

// memDisk is Pebble's in-memory disk, which can lose what was not synced, as a tree.FS.
type memDisk struct{ *vfs.MemFS }

func (d memDisk) Create(name string) (tree.File, error) {
	f, err := d.MemFS.Create(name, "test")
	return memFile{f}, err
}

// memFile hands on a copy of what is written: under the race detector Pebble's file spoils
// the caller's bytes, which no writer may.
type memFile struct{ vfs.File }

func (f memFile) Write(p []byte) (int, error) { return f.File.Write(bytes.Clone(p)) }

func (d memDisk) MkdirAll(dir string) error { return d.MemFS.MkdirAll(dir, 0o755) }
func (d memDisk) SyncDir(dir string) error {
	f, err := d.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
func (d memDisk) Open(name string) (tree.Blob, error) {
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

// fullDisk fails every call that needs space after the first n.
type fullDisk struct {
	tree.FS
	left *int
}

var errFull = errors.New("no space left on device")

func (d fullDisk) step() error {
	if *d.left == 0 {
		return errFull
	}
	*d.left--
	return nil
}

func (d fullDisk) Create(name string) (tree.File, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	f, err := d.FS.Create(name)
	return fullFile{f, d}, err
}

func (d fullDisk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.FS.Rename(from, to)
}

func (d fullDisk) SyncDir(dir string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.FS.SyncDir(dir)
}

type fullFile struct {
	tree.File
	disk fullDisk
}

func (f fullFile) Write(p []byte) (int, error) {
	if err := f.disk.step(); err != nil {
		n, _ := f.File.Write(p[:len(p)/2])
		return n, err
	}
	return f.File.Write(p)
}

func (f fullFile) Sync() error {
	if err := f.disk.step(); err != nil {
		return err
	}
	return f.File.Sync()
}

// diskSource reads a tree on any disk.
type diskSource struct {
	tree.FS
	root string
}

func (d diskSource) String() string { return d.root }
func (d diskSource) Open(_ context.Context, path string, limit int64) (tree.Blob, error) {
	return d.FS.Open(filepath.Join(d.root, path))
}

// A disk that is full, or a power cut, at any point: the copy is the old one, or the new
// one, whole; and the next pass finishes.
func TestMirrorStoppedAnywhere(t *testing.T) {
	const root = "/mirror"
	s, now := history(t, 7)
	newer, later := history(t, 8)
	at := func(disk tree.FS, src tree.Source, now int64) (*Copied, error) {
		return Mirror(context.Background(), src, Place{Disk: disk, Root: root, Temp: t.TempDir()}, options(s.pinned(), now))
	}
	sizes := map[uint64]int{}
	steps := 1 // in CI every seventh; all of them when asked to
	if os.Getenv("BLUEKEY_EXHAUSTIVE") == "" {
		steps = 7
	}
	for n := 0; ; n += steps {
		mem := memDisk{vfs.NewCrashableMem()}
		if _, err := at(mem, s.copy(), now); err != nil {
			t.Fatal(err)
		}
		left := n
		c, err := at(fullDisk{mem, &left}, newer.copy(), later)
		if err == nil && !c.Moved {
			t.Fatal(findings(c.Report))
		}
		stopped := err != nil
		for _, disk := range []memDisk{mem, {mem.CrashClone(vfs.CrashCloneCfg{})}} {
			r := auditAt(t, diskSource{disk, root}, s.pinned(), nil, later)
			if !r.Clean {
				t.Fatalf("stopped after %d calls: %s", n, findings(r))
			}
			sizes[r.Size]++
			if c, err := at(disk, newer.copy(), later); err != nil || !c.Moved {
				t.Fatalf("stopped after %d calls, the next pass: %v", n, err)
			}
			if r := auditAt(t, diskSource{disk, root}, s.pinned(), nil, later); !r.Clean || r.Size != newer.log.Size() {
				t.Fatalf("stopped after %d calls, then finished: %d entries, %s", n, r.Size, findings(r))
			}
		}
		if !stopped {
			break
		}
	}
	if len(sizes) != 2 {
		t.Errorf("sizes after a stop: %v", sizes)
	}
}

// A copy is of one log: another that takes its place, by a mistyped folder or because the
// source serves another than a moment ago, leaves it as it is.
func TestMirrorOfAnotherLog(t *testing.T) {
	a, now := history(t, 2)
	b := newSiteOf(t, "log.example/ha-noi")
	b.add(exportlog.Incident{Time: now, Text: "the log begins"})
	b.publish(now)
	both, err := exportlog.Union(a.pinned(), b.pinned())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if c := pass(t, a.copy(), dir, both, now); !c.Moved {
		t.Fatal(findings(c.Report))
	}
	before := readFolder(t, dir)
	c, err := Mirror(context.Background(), b.copy(), Place{Disk: tree.Disk{}, Root: dir, Temp: t.TempDir()}, options(both, now))
	if err == nil || c.Moved || !strings.Contains(err.Error(), "is for a copy of log.example/hai-phong") {
		t.Errorf("another log into the same folder: %v", err)
	}
	if after := readFolder(t, dir); !maps.EqualFunc(before.files, after.files, bytes.Equal) {
		t.Error("the copy is another")
	}
	place := Place{Disk: tree.Disk{}, Root: t.TempDir(), Temp: t.TempDir()}
	turncoat := replacing{a.copy(), b.copy(), exportlog.CheckpointPath, new(atomic.Bool)}
	if _, err := MirrorAll(context.Background(), []tree.Source{turncoat}, place, options(both, now)); err == nil {
		t.Error("a source that changes sides: no error")
	}
	if _, err := os.Stat(filepath.Join(place.Root, "log.example_hai-phong", exportlog.CheckpointPath)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of one log has another: %v", err)
	}
}
