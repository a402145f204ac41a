package publish

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
)

func (f *fixture) remove(path string) {
	f.t.Helper()
	if err := f.disk.RemoveAll(strings.TrimSuffix(dataDir+"/public/"+path, "/")); err != nil {
		f.t.Fatal(err)
	}
}

// fullTree has the disk of the public tree full while full is true.
func fullTree(full *atomic.Bool) func(*fixture) {
	return func(f *fixture) {
		f.disk = errorfs.Wrap(f.disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if full.Load() && strings.HasPrefix(op.Path, dataDir+"/public") && (op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpRename) {
				return syscall.ENOSPC
			}
			return nil
		}))
	}
}

// lived is a fixture with windows of both schemes, some of them expired, and every kind of file.
func lived(t *testing.T, change ...func(*fixture)) *fixture {
	f := newFixture(t, append(change, func(f *fixture) {
		f.conf.Retention, f.conf.Split, f.conf.MinKeys = 12*time.Hour, 10, 40
		f.conf.Profiles = map[diagnosis.Scheme][]exportlog.FileKind{
			diagnosis.GAEN:     {exportlog.Archive, exportlog.KeySet, exportlog.IDSet},
			diagnosis.Bluezone: {exportlog.IDSet},
		}
	})...)
	random := rand.New(rand.NewPCG(12, 12))
	for range 5 {
		f.upload(f.phone(random, diagnosis.GAEN, 14))
		f.upload(f.phone(random, diagnosis.Bluezone, 5))
		f.after(4 * time.Hour)
	}
	return f
}

// TestRemovedFilesAreRestored: whatever somebody removes from the tree is there again after
// the next start: exports and tiles byte for byte, proofs that prove.
func TestRemovedFilesAreRestored(t *testing.T) {
	f := lived(t)
	want := f.public()
	one := func(part string) string {
		found := slices.DeleteFunc(paths(want, part), func(p string) bool { return strings.HasSuffix(p, exportlog.ProofSuffix) })
		return found[len(found)-1]
	}
	for name, gone := range map[string][]string{
		"everything":          {""},
		"the checkpoint":      {exportlog.CheckpointPath},
		"tiles":               {"tile"},
		"one tile":            {one("tile/0/")},
		"one bundle":          {one("tile/entries/")},
		"all exports":         {"exports"},
		"an archive":          {one(".zip")},
		"a key set":           {one(".keys")},
		"an ID set":           {one(".ids")},
		"a proof":             {one(".keys") + exportlog.ProofSuffix},
		"the indexes":         {exportlog.IndexPath, exportlog.GAENIndexPath},
		"policies and a PEM":  {exportlog.PolicyPath, exportlog.PolicyEd25519Path, "gaen/keys"},
		"index and some file": {exportlog.IndexPath, one(".keys"), one("tile/0/")},
	} {
		f.close()
		for _, path := range gone {
			f.remove(path)
		}
		if err := f.open(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := f.pub.Status().Err; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := f.public()
		for path, data := range want {
			_, needed := got[path]
			if tile, err := exportlog.ParseTilePath(path); err == nil && tile.Width < exportlog.TileWidth && !needed {
				continue // of a smaller log: readers ask for those of the newest
			}
			if strings.HasSuffix(path, exportlog.ProofSuffix) {
				continue // may hang on a later checkpoint: checkTree
			}
			if got[path] != data {
				t.Errorf("%s: %s is missing or differs", name, path)
			}
		}
		for path := range got {
			if _, ok := want[path]; !ok {
				t.Errorf("%s: %s was not there before", name, path)
			}
		}
		if err := f.checkTree(map[diagnosis.Secret]map[string]bool{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := f.checkTiles(got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if left := f.files(dataDir + "/staging"); len(left) > 0 {
			t.Errorf("%s: %d files left in the staging folder", name, len(left))
		}
		want = got
	}
	// The log goes on, and what expires meanwhile goes.
	f.remove("exports")
	f.reopen()
	f.after(12 * time.Hour)
	if err := f.checkTree(map[diagnosis.Secret]map[string]bool{}); err != nil {
		t.Error(err)
	}
}

// checkTiles rebuilds the log of a tree from its bundles and tiles alone.
func (f *fixture) checkTiles(files map[string]string) error {
	policy, err := exportlog.ParsePolicy([]byte(files[exportlog.PolicyPath]))
	if err != nil {
		return err
	}
	_, err = logOf(policy, files)
	return err
}

// TestWholeTreeIsLeftAlone: a start writes nothing into a tree from which nothing is missing.
func TestWholeTreeIsLeftAlone(t *testing.T) {
	var full atomic.Bool
	f := lived(t, fullTree(&full))
	before := f.public()
	full.Store(true)
	f.reopen()
	if !maps.Equal(f.public(), before) {
		t.Error("a restart changed the tree")
	}
}

// TestTreeOfAnOldDay: somebody has put an old copy of the tree beside the store.
func TestTreeOfAnOldDay(t *testing.T) {
	mem := vfs.NewCrashableMem()
	f := newFixture(t, func(f *fixture) { f.disk = mem })
	random := rand.New(rand.NewPCG(12, 13))
	f.upload(f.phone(random, diagnosis.GAEN, 14))
	f.after(4 * time.Hour)
	old := f.public()
	f.upload(f.phone(random, diagnosis.GAEN, 14))
	f.after(4 * time.Hour)
	want := f.public()
	f.close()
	f.remove("")
	folder, err := tree.NewFolder(memDisk{f.disk}, dataDir+"/public")
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range old {
		if err := folder.Put(path, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	if got := f.public(); !maps.Equal(got, want) {
		t.Errorf("%d files, want the %d of before", len(got), len(want))
	}
}

// TestLostFilesAreTold: what the store no longer makes is missing still, and the status says
// so until the file would have expired. The rest is restored, and the log goes on.
func TestLostFilesAreTold(t *testing.T) {
	f := lived(t)
	before := f.public()
	f.close()
	f.conf.Split = 9 // as if another version had made the archives
	f.remove("exports")
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	if err := f.pub.Status().Err; err == nil || !strings.Contains(err.Error(), ".zip") || !strings.Contains(err.Error(), "mirror") {
		t.Errorf("the status says %v", err)
	}
	for _, m := range f.windows(diagnosis.GAEN) {
		for _, file := range m.Files {
			if m.End <= f.now.Add(-f.conf.Retention).Unix() {
				continue
			}
			data, there := f.public()[file.Path]
			switch {
			case strings.HasSuffix(file.Path, ".zip") && there:
				t.Errorf("%s is there, made by other rules", file.Path)
			case strings.HasSuffix(file.Path, ".zip"):
			case !file.Matches([]byte(data)):
				t.Errorf("%s is not restored", file.Path)
			}
		}
	}
	for path := range f.public() {
		if _, ok := before[path]; !ok {
			t.Errorf("%s was never published", path)
		}
	}
	f.after(4 * time.Hour)
	if f.pub.Status().Err == nil {
		t.Error("forgotten after a window")
	}
	f.after(12 * time.Hour)
	if err := f.pub.Status().Err; err != nil {
		t.Errorf("after the lost files would have expired: %v", err)
	}
}

// TestTreeRemovedBeforeApply: the power goes after the commit, and somebody removes tree and
// staged files before the next start. What was committed is public all the same; and the
// start does not fail where some of it can no longer be made.
func TestTreeRemovedBeforeApply(t *testing.T) {
	begin := func(full *atomic.Bool) *fixture {
		f := newFixture(t, fullTree(full))
		f.upload(f.phone(rand.New(rand.NewPCG(12, 14)), diagnosis.GAEN, 14))
		return f
	}
	whole := begin(new(atomic.Bool))
	whole.after(4 * time.Hour)
	want := whole.public()
	for _, split := range []int{0, 9} {
		var full atomic.Bool
		f := begin(&full)
		f.now = f.now.Add(4 * time.Hour)
		full.Store(true)
		if err := f.pub.Round(context.Background()); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		full.Store(false)
		if _, outstanding, err := f.store.Outstanding(); err != nil || !outstanding {
			t.Fatal("nothing is outstanding", err)
		}
		f.close()
		f.remove("")
		if err := f.disk.RemoveAll(dataDir + "/staging"); err != nil {
			t.Fatal(err)
		}
		f.conf.Split = split
		if err := f.open(); err != nil {
			t.Fatal(err)
		}
		if err := f.pub.Status().Err; (err != nil) != (split != 0) {
			t.Errorf("split %d: the status says %v", split, err)
		}
		got := f.public()
		for path, data := range want {
			lost := split != 0 && strings.Contains(path, ".zip")
			if got[path] != data && !lost && !(strings.Contains(path, ".p/") && got[path] == "") {
				t.Errorf("split %d: %s is missing or differs", split, path)
			}
		}
		f.after(4 * time.Hour)
	}
}
