package publish

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore"
	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
)

// restored is an appliance, not started yet, whose store was put back from a backup beside
// the tree that f has by now.
func restored(f *fixture, backup vfs.FS) *fixture {
	f.t.Helper()
	r := &fixture{t: f.t, disk: backup, now: f.now}
	r.conf = newConfig(f.t, r)
	r.conf.Retention, r.conf.Profiles = f.conf.Retention, f.conf.Profiles
	folder, err := tree.NewFolder(memDisk{backup}, dataDir+"/public")
	if err != nil {
		f.t.Fatal(err)
	}
	for path, data := range f.public() {
		if err := folder.Put(path, []byte(data)); err != nil {
			f.t.Fatal(err)
		}
	}
	return r
}

// TestKeysOfTheTreeAreKnown: keys that were taken and published after the backup was made are
// not published again when they are uploaded again, whichever files hold them; and codes of
// the time of the backup, of which some may have been used since, buy nothing any more.
func TestKeysOfTheTreeAreKnown(t *testing.T) {
	mem := vfs.NewCrashableMem()
	f := newFixture(t, func(f *fixture) {
		f.disk = mem
		f.conf.Split = 10
	})
	random := rand.New(rand.NewPCG(31, 31))
	codes, err := f.store.Desk().Issue(context.Background(), desk.Request{Officer: "o", Report: diagnosis.ConfirmedTest, Count: 2, Long: true})
	if err != nil {
		t.Fatal(err)
	}
	backup := mem.CrashClone(vfs.CrashCloneCfg{})
	var cases [][]diagnosis.Key
	for window := range 3 {
		for _, scheme := range diagnosis.Schemes {
			keys := f.phone(random, scheme, 12)
			f.upload(keys)
			cases = append(cases, keys)
		}
		if window == 1 { // an archive alone, in parts
			f.close()
			f.conf.Profiles = onlyArchives
			if err := f.open(); err != nil {
				t.Fatal(err)
			}
		}
		f.after(4 * time.Hour)
	}
	r := restored(f, backup)
	r.conf.Split = f.conf.Split
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if s := r.store.Desk().Status(); s.LongAlive != 0 {
		t.Errorf("%d codes of the backup are alive", s.LongAlive)
	}
	var refused *keystore.Refusal
	if _, err := r.store.Redeem(context.Background(), keystore.Redemption{Code: codes[0], Epoch: uint32(r.now.Unix() / 86400)}); !errors.As(err, &refused) || refused.Reason != keystore.BadCode {
		t.Errorf("a code of the backup meets %v", err)
	}
	for _, keys := range cases {
		r.upload(keys)
	}
	size := len(paths(r.public(), "exports/"))
	r.after(4 * time.Hour)
	r.after(4 * time.Hour)
	if n := len(paths(r.public(), "exports/")); n != size {
		t.Errorf("%d exports and proofs, %d before: keys were published again", n, size)
	}
	where := map[diagnosis.Secret]map[string]bool{}
	if err := r.checkTree(where); err != nil {
		t.Fatal(err)
	}
	for _, files := range where {
		if len(files) != 1 {
			t.Fatalf("a key stands in %d key sets", len(files))
		}
	}
}

// TestCatchUpErasesAfterACrash: the power goes when the store has caught up with the erasure
// of keys that the backup still held, and has not scrubbed its files yet. The next start does.
func TestCatchUpErasesAfterACrash(t *testing.T) {
	mem := vfs.NewCrashableMem()
	f := newFixture(t, func(f *fixture) { f.disk, f.conf.Retention = mem, 24*time.Hour })
	early := f.phone(rand.New(rand.NewPCG(32, 32)), diagnosis.GAEN, 14)
	f.upload(early)
	f.reopen() // the keys are in tables, not in a log alone that the next start rewrites
	backup := mem.CrashClone(vfs.CrashCloneCfg{})
	for range 8 {
		f.after(4 * time.Hour)
	}
	held := func(disk vfs.FS) (n int) {
		for _, data := range (&fixture{t: t, disk: disk}).files(dataDir + "/store") {
			for _, k := range early {
				if strings.Contains(data, string(k.Bytes()[4:14])) {
					n++
				}
			}
		}
		return n
	}
	r := restored(f, backup)
	var mu sync.Mutex
	var crashed *vfs.MemFS // at the last write in the tree
	r.disk = errorfs.Wrap(backup, errorfs.InjectorFunc(func(op errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.HasPrefix(op.Path, dataDir+"/public") {
			crashed = backup.CrashClone(vfs.CrashCloneCfg{})
		}
		return nil
	}))
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	r.close()
	if held(crashed) < len(early) || !toScrub(t, crashed) {
		t.Fatal("nothing to erase is left by the crash: the search is blind")
	}
	r.disk = crashed
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	if got, want := r.store.LogSize(), f.store.LogSize(); got != want {
		t.Fatalf("%d entries, want %d", got, want)
	}
	r.close()
	if n := held(crashed); n > 0 || toScrub(t, crashed) {
		t.Errorf("%d erased keys lie in files, and nobody has looked for them", n)
	}
}

// toScrub reads from the files of a store whether it is marked as one to scrub: by luck the
// database's own work may leave nothing to find.
func toScrub(t *testing.T, disk vfs.FS) bool {
	t.Helper()
	db, err := pebble.Open(dataDir+"/store", &pebble.Options{FS: disk, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, closer, err := db.Get([]byte("serase"))
	if errors.Is(err, pebble.ErrNotFound) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	return closer.Close() == nil
}

// onlyArchives is a profile under which keys are in archives alone.
var onlyArchives = map[diagnosis.Scheme][]exportlog.FileKind{diagnosis.GAEN: {exportlog.Archive}}
