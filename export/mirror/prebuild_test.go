package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/match"
	"bluekey/export/match/idset"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
)

// province is a site with every kind of window: archives and keys, archives alone in two
// parts, keys alone, ID set alone, and an empty one.
func province(t testing.TB, name string, keys int) (*site, int64) {
	s := newSiteOf(t, name)
	s.signer("v1", start0)
	end := func(n int64) int64 { return start0 + n*period }
	draw := func(scheme diagnosis.Scheme, n int64) []diagnosis.Key { return s.draw(scheme, keys, end(n)) }
	s.window(window{scheme: diagnosis.GAEN, start: start0, end: end(1), keys: draw(diagnosis.GAEN, 1)})
	s.window(window{scheme: diagnosis.Bluezone, start: start0, end: end(1), keys: draw(diagnosis.Bluezone, 1)})
	s.window(window{scheme: diagnosis.GAEN, start: end(1), end: end(2), keys: draw(diagnosis.GAEN, 2), split: keys - 1, files: func(m *exportlog.Manifest, s *site) {
		m.Files = m.Files[:2] // the key set goes
	}})
	alone := draw(diagnosis.Bluezone, 2)
	s.window(window{scheme: diagnosis.Bluezone, start: end(1), end: end(2), keys: alone, files: withIDs(alone, nil, exportlog.KeySet)})
	for _, scheme := range diagnosis.Schemes {
		s.window(window{scheme: scheme, start: end(2), end: end(3)})
	}
	s.publish(end(3))
	return s, end(3)
}

func both(now int64) PrebuildOptions {
	return PrebuildOptions{Kinds: []exportlog.FileKind{exportlog.IDSet, exportlog.KeySet}, Now: func() time.Time { return time.Unix(now, 0) }}
}

// lies gives the files of a place, by path below it, without what is only staged.
func lies(t testing.TB, disk tree.FS, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		names, err := disk.List(filepath.Join(root, dir))
		if err != nil && (dir != "" || !errors.Is(err, fs.ErrNotExist)) {
			t.Fatal(err)
		}
		for _, n := range names {
			path := strings.TrimPrefix(dir+"/"+n, "/")
			if path == ".staging" {
				continue
			}
			if _, err := disk.List(filepath.Join(root, path)); err == nil {
				walk(path)
				continue
			}
			blob, err := disk.Open(filepath.Join(root, path))
			if err != nil {
				t.Fatal(err)
			}
			data, err := tree.ReadBlob(blob, 1<<30)
			if err = errors.Join(err, blob.Close()); err != nil {
				t.Fatal(err)
			}
			all[path] = string(data)
		}
	}
	walk("")
	return all
}

func names(files map[string]string, suffix string) (list []string) {
	for path := range files {
		if strings.HasSuffix(path, suffix) {
			list = append(list, path)
		}
	}
	slices.Sort(list)
	return list
}

// TestPrebuild: every window gets what it lacks, made from what its log vouches for.
func TestPrebuild(t *testing.T) {
	s, now := province(t, "log.example/one", 20)
	disk := memDisk{vfs.NewMem()}
	place := Place{Disk: disk, Root: "/cdn"}
	o := both(now)
	o.Policy = s.pinned()
	run := func() *Prebuilt {
		t.Helper()
		all, err := Prebuild(context.Background(), []tree.Source{s.copy()}, place, o)
		if err != nil {
			t.Fatal(err)
		}
		return all[0]
	}
	r := run()
	if r.Made != 4 || r.Kept != 0 || r.Windows != 3 || len(r.Problems) > 0 || r.Folder != "log.example_one" {
		t.Fatalf("%+v", r)
	}
	files := lies(t, disk, "/cdn")
	if len(names(files, ".ids")) != 3 || len(names(files, ".keys")) != 1 || len(names(files, exportlog.ProofSuffix)) != 4 || len(files) != 9 {
		t.Fatalf("made: %v", slices.Sorted(maps.Keys(files)))
	}
	list, err := exportlog.ParsePrebuilt([]byte(files["log.example_one/prebuilt.txt"]))
	if err != nil || len(list) != 4 {
		t.Fatalf("the list: %q, %v", list, err)
	}
	// Each ID set finds the contacts of its window's cases, under the window of its proof.
	var heard []match.Sighting
	sightings := func(k diagnosis.Key) {
		ids, n := k.Expand(nil), k.Scheme.IDLen()
		for i := range 2 {
			h := match.Sighting{Scheme: k.Scheme, Seen: k.Scheme.Time(k.Start + diagnosis.Interval(i)).Unix()}
			copy(h.ID[:], ids[i*n:][:n])
			heard = append(heard, h)
		}
	}
	var set []byte
	for path, data := range s.files {
		if strings.HasSuffix(path, ".keys") && strings.HasPrefix(path, fmt.Sprintf("exports/%d-", start0)) {
			f, err := export.OpenFile(tree.NewBlob(data), int64(len(data)))
			if err != nil {
				t.Fatal(err)
			}
			for k := range f.Keys() {
				sightings(k)
				break
			}
			set = data
		}
	}
	hits := 0
	for _, path := range list {
		if !strings.HasSuffix(path, ".ids") {
			continue
		}
		proved, err := exportlog.VerifyProof([]byte(files["log.example_one/"+path+exportlog.ProofSuffix]), s.pinned())
		if err != nil {
			t.Fatal(path, err)
		}
		m, data := proved.Entry.(exportlog.Manifest), files["log.example_one/"+path]
		opened, err := idset.Open(strings.NewReader(data), int64(len(data)), m.Origin, m.Region)
		if err != nil || opened.Start != m.Start || opened.Scheme != m.Scheme {
			t.Fatal(path, err)
		}
		if _, err := opened.Check(); err != nil {
			t.Fatal(path, err)
		}
		found, err := opened.Match(context.Background(), heard, 0)
		if err != nil {
			t.Fatal(err)
		}
		hits += len(found)
	}
	if hits != 4 || set == nil {
		t.Errorf("%d hits, want the 4 of two cases", hits)
	}
	// A set from archives is the one that their publisher did not make.
	for path, data := range s.files {
		if strings.HasSuffix(path, ".keys") && strings.HasPrefix(path, fmt.Sprintf("exports/%d-", start0+period)) && files["log.example_one/"+path] != string(data) {
			t.Errorf("%s was made otherwise", path)
		}
	}
	// Again: nothing to do. Damaged: made again. Expired: gone, even if the tree is away.
	if r := run(); r.Made != 0 || r.Kept != 4 || !maps.Equal(lies(t, disk, "/cdn"), files) {
		t.Errorf("again: %+v", r)
	}
	folder, err := tree.NewFolder(disk, "/cdn/log.example_one")
	if err != nil {
		t.Fatal(err)
	}
	if err := folder.Put(list[0], []byte("damaged")); err != nil {
		t.Fatal(err)
	}
	if r := run(); r.Made != 1 || r.Kept != 3 || !maps.Equal(lies(t, disk, "/cdn"), files) {
		t.Errorf("damaged: %+v", r)
	}
	o.Kinds = o.Kinds[:1]
	if r := run(); r.Removed != 1 || len(names(lies(t, disk, "/cdn"), ".keys")) > 0 {
		t.Errorf("without keys: %+v", r)
	}
	late := start0 + period + retain + period + 1
	o.Now = func() time.Time { return time.Unix(late, 0) }
	if _, err := Prebuild(context.Background(), []tree.Source{memory{}}, place, o); err == nil {
		t.Error("a tree without anything: no error")
	}
	if left := names(lies(t, disk, "/cdn"), ".ids"); len(left) != 1 {
		t.Errorf("a period after the retention of the first windows there are %v", left)
	}
	if r := run(); r.Windows != 0 || r.Removed != 1 {
		t.Errorf("expired: %+v", r)
	}
	if left := lies(t, disk, "/cdn"); len(left) != 1 {
		t.Errorf("left: %v", slices.Sorted(maps.Keys(left)))
	}
}

// TestPrebuildTrustsNobody: what does not hang on the log gets no file, and says why.
func TestPrebuildTrustsNobody(t *testing.T) {
	s, now := province(t, "log.example/one", 10)
	key := s.path(".keys")
	other, _ := province(t, "log.example/two", 10)
	for name, row := range map[string]struct {
		change func(m memory)
		policy *exportlog.Policy
		made   int
		says   string
	}{
		"a flipped bit":      {func(m memory) { m.flip(key) }, nil, 3, "the log says"},
		"no export":          {func(m memory) { delete(m.files, key) }, nil, 3, "missing"},
		"no proof":           {func(m memory) { delete(m.files, key+exportlog.ProofSuffix) }, nil, 3, "missing"},
		"proof of another":   {func(m memory) { m.files[key+exportlog.ProofSuffix] = m.files[s.path(".zip")+exportlog.ProofSuffix] }, nil, 3, "another text"},
		"no policy":          {func(m memory) { delete(m.files, exportlog.PolicyPath) }, nil, 0, "no policy"},
		"a stranger's log":   {func(m memory) {}, other.pinned(), 0, "names no log"},
		"another checkpoint": {func(m memory) { m.files[exportlog.CheckpointPath] = other.files[exportlog.CheckpointPath] }, nil, 0, ""},
	} {
		m := s.copy()
		row.change(m)
		disk := memDisk{vfs.NewMem()}
		o := both(now)
		o.Policy = row.policy
		all, err := Prebuild(context.Background(), []tree.Source{m}, Place{Disk: disk, Root: "/cdn"}, o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r := all[0]; r.Made > row.made || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], row.says) {
			t.Errorf("%s: %+v; want %d made and %q", name, r, row.made, row.says)
		}
	}
	// Nobody's tree is built into, and no two logs into one folder.
	disk := memDisk{vfs.NewMem()}
	folder, err := tree.NewFolder(disk, "/cdn/log.example_one")
	if err == nil {
		err = folder.Put(exportlog.CheckpointPath, []byte("x"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Prebuild(context.Background(), []tree.Source{s.copy()}, Place{Disk: disk, Root: "/cdn"}, both(now)); err == nil || !strings.Contains(err.Error(), "is a tree") {
		t.Errorf("into a tree: %v", err)
	}
	if _, err := Prebuild(context.Background(), []tree.Source{s.copy(), s.copy()}, Place{Disk: disk, Root: "/cdn2"}, both(now)); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("twice: %v", err)
	}
	for _, kinds := range [][]exportlog.FileKind{nil, {exportlog.Archive}} {
		if _, err := Prebuild(context.Background(), nil, Place{Disk: disk, Root: "/cdn3"}, PrebuildOptions{Kinds: kinds}); err == nil {
			t.Errorf("%v: no error", kinds)
		}
	}
}

// provinces are 34 small logs.
func provinces(t testing.TB) (sources []tree.Source, now int64) {
	for i := range 34 {
		var s *site
		s, now = province(t, fmt.Sprintf("keys.example/province-%02d", i), 4)
		sources = append(sources, s.copy())
	}
	return sources, now
}

// TestPrebuildResumes kills the work of 34 provinces: a cancelled context, a disk that fails
// from some write on, a power cut. Taken up again, it comes to the same bytes as in one go.
func TestPrebuildResumes(t *testing.T) {
	sources, now := provinces(t)
	ctx := context.Background()
	prebuild := func(ctx context.Context, disk tree.FS, workers int, o PrebuildOptions) ([]*Prebuilt, error) {
		o.Workers = workers
		return Prebuild(ctx, sources, Place{Disk: disk, Root: "/cdn"}, o)
	}
	whole := memDisk{vfs.NewMem()}
	all, err := prebuild(ctx, whole, 2, both(now))
	if err != nil {
		t.Fatal(err)
	}
	want := lies(t, whole, "/cdn")
	if len(want) != 34*9 || all[33].Made != 4 {
		t.Fatalf("%d files, %+v", len(want), all[33])
	}
	same := func(name string, disk tree.FS) {
		t.Helper()
		before := len(names(lies(t, disk, "/cdn"), exportlog.ProofSuffix))
		all, err := prebuild(ctx, disk, 3, both(now))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		made, kept := 0, 0
		for _, r := range all {
			made, kept = made+r.Made, kept+r.Kept
		}
		if made+kept != 4*34 || kept > before || kept < before-1 {
			t.Errorf("%s: %d made, %d kept of %d that were there", name, made, kept, before)
		}
		if got := lies(t, disk, "/cdn"); !maps.Equal(got, want) {
			for path := range want {
				if got[path] != want[path] {
					t.Errorf("%s: %s differs: %d bytes, want %d", name, path, len(got[path]), len(want[path]))
				}
			}
		}
	}
	for _, after := range []int{1, 20, 60, 90} {
		disk := memDisk{vfs.NewMem()}
		stop, cancel := context.WithCancel(ctx)
		o := both(now)
		o.Progress = func(done, _ int) {
			if done == after {
				cancel()
			}
		}
		if _, err := prebuild(stop, disk, 2, o); !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled after %d: %v", after, err)
		}
		same(fmt.Sprintf("cancelled after %d windows", after), disk)
		cancel()
	}
	for _, at := range []int{3, 200, 700, 1500} {
		disk, left := memDisk{vfs.NewMem()}, at
		if _, err := prebuild(ctx, fullDisk{disk, &left}, 1, both(now)); !errors.Is(err, errFull) {
			t.Fatalf("full from write %d: %v", at, err)
		}
		if err := disk.MkdirAll("/cdn"); err != nil {
			t.Fatal(err)
		}
		same(fmt.Sprintf("full from write %d", at), disk)
	}
	mem := vfs.NewCrashableMem()
	n := 0
	var clones []memDisk
	disk := hooked{memDisk{mem}, func() {
		if n++; n%23 == 0 {
			clones = append(clones, memDisk{mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(n), 1))})})
		}
	}}
	if _, err := prebuild(ctx, disk, 1, both(now)); err != nil {
		t.Fatal(err)
	}
	if len(clones) < 30 {
		t.Fatalf("only %d power cuts in %d writes", len(clones), n)
	}
	for i, clone := range clones {
		// A proof that is there speaks for a file that is there, whole.
		there := lies(t, clone, "/cdn")
		for _, path := range names(there, exportlog.ProofSuffix) {
			if file := strings.TrimSuffix(path, exportlog.ProofSuffix); there[file] != want[file] {
				t.Errorf("power cut %d: %s is torn", i, file)
			}
		}
		if i%12 == 0 {
			same(fmt.Sprintf("power cut %d", i), clone)
		}
	}
}

// hooked calls a function before what changes a disk.
type hooked struct {
	tree.FS
	hook func()
}

func (d hooked) Create(name string) (tree.File, error) { d.hook(); return d.FS.Create(name) }
func (d hooked) Rename(from, to string) error          { d.hook(); return d.FS.Rename(from, to) }
func (d hooked) SyncDir(dir string) error              { d.hook(); return d.FS.SyncDir(dir) }

// BenchmarkPrebuild makes ID sets for logs of a few large windows.
func BenchmarkPrebuild(b *testing.B) {
	s := newSite(b)
	s.signer("v1", start0)
	const windows, keys = 4, 20_000
	for n := range int64(windows) {
		s.window(window{scheme: diagnosis.GAEN, start: start0 + n*period, end: start0 + (n+1)*period, keys: s.draw(diagnosis.GAEN, keys, start0+(n+1)*period)})
	}
	now := start0 + windows*period
	s.publish(now)
	o := both(now)
	o.Kinds = o.Kinds[:1]
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			for b.Loop() {
				o.Workers = workers
				all, err := Prebuild(context.Background(), []tree.Source{s.copy()}, Place{Disk: tree.Disk{}, Root: b.TempDir()}, o)
				if err != nil || all[0].Made != windows {
					b.Fatal(err, all[0])
				}
				b.SetBytes(all[0].Bytes)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(windows*keys*144), "ns/ID")
		})
	}
}
