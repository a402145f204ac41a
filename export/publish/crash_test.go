package publish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
)

// TestCrashAtEveryWrite cuts the power before the writes of a whole life of the appliance:
// uploads, staging, commit, apply, expiry. What is left must recover by itself, with every
// acknowledged key published once, nothing torn, and one log. By default every 37th write
// is tried; with BLUEKEY_EXHAUSTIVE=1 each one.
func TestCrashAtEveryWrite(t *testing.T) {
	step := int64(37)
	if os.Getenv("BLUEKEY_EXHAUSTIVE") != "" {
		step = 1
	}
	mem := vfs.NewCrashableMem()
	var (
		writes atomic.Int64
		mu     sync.Mutex // the state that goes with a crash
		acked  []diagnosis.Key
		f      *fixture
		tried  int
		ready  bool
	)
	crash := func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		if !ready {
			return
		}
		// What was acknowledged is read before the power goes.
		promised, now := append([]diagnosis.Key(nil), acked...), f.now
		clone := mem.CrashClone(vfs.CrashCloneCfg{
			UnsyncedDataPercent: int(n % 3 * 50),
			RNG:                 rand.New(rand.NewPCG(uint64(n), 1)),
		})
		tried++
		afterCrash(t, fmt.Sprintf("write %d", n), clone, now, promised)
	}
	f = newFixture(t, func(f *fixture) {
		f.conf.Retention = 8 * time.Hour
		f.disk = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				if n := writes.Add(1); n%step == 0 && !t.Failed() {
					crash(n)
				}
			}
			return nil
		}))
	})
	mu.Lock()
	ready = true
	mu.Unlock()
	random := rand.New(rand.NewPCG(6, 6))
	for round := range 4 {
		for n := range 3 {
			keys := f.phone(random, diagnosis.Schemes[(round+n)%2], 5)
			f.upload(keys)
			mu.Lock()
			acked = append(acked, keys...)
			mu.Unlock()
		}
		mu.Lock()
		f.now = f.now.Add(4 * time.Hour)
		mu.Unlock()
		if err := f.pub.Round(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d writes, %d crashes tried", writes.Load(), tried)
	if tried < 10 {
		t.Fatalf("only %d crashes of %d writes tried", tried, writes.Load())
	}
}

// afterCrash starts the appliance on what a crash left and lets it live on.
func afterCrash(t *testing.T, name string, disk vfs.FS, now time.Time, promised []diagnosis.Key) {
	f := &fixture{t: t, disk: disk, now: now}
	base := newConfig(t, f)
	base.Retention = 8 * time.Hour
	f.conf = base
	if err := f.open(); err != nil {
		t.Errorf("%s: the appliance does not start: %v", name, err)
		return
	}
	defer f.close()
	// Where each key is published, over everything that is ever in the tree.
	where := map[diagnosis.Secret]map[string]bool{}
	for range 4 {
		if err := f.checkTree(where); err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		f.now = f.now.Add(4 * time.Hour)
		if err := f.pub.Round(context.Background()); err != nil {
			t.Errorf("%s: the next round: %v", name, err)
			return
		}
	}
	for secret, files := range where {
		if len(files) > 1 {
			t.Errorf("%s: a key was published in %d files", name, len(files))
		}
		_ = secret
	}
	windowsKept := now.Add(-8 * time.Hour)
	for _, k := range promised {
		// Keys whose window had expired before the crash are rightly gone.
		if len(where[k.Secret]) == 0 && f.publishedBefore(k, windowsKept) {
			continue
		}
		if len(where[k.Secret]) != 1 {
			t.Errorf("%s: an acknowledged %s key was published %d times", name, k.Scheme, len(where[k.Secret]))
			return
		}
	}
}

// publishedBefore reports whether the log holds a published window of the key's scheme that
// ended by limit: then a key that is nowhere has been published and erased.
func (f *fixture) publishedBefore(k diagnosis.Key, limit time.Time) bool {
	for _, m := range f.windows(k.Scheme) {
		if m.Keys > 0 && m.End <= limit.Unix() {
			return true
		}
	}
	return false
}

// checkTree demands that everything the index names is there and hangs on the log, and
// notes in which key set each key stands.
func (f *fixture) checkTree(where map[diagnosis.Secret]map[string]bool) error {
	files := f.public()
	policy, err := exportlog.ParsePolicy([]byte(files[exportlog.PolicyPath]))
	if err != nil {
		return err
	}
	opened, err := policy.Verify([]byte(files[exportlog.CheckpointPath]))
	if err != nil {
		return err
	}
	root, err := exportlog.Root(opened.Size, f.store)
	if err != nil || root != opened.Root {
		return fmt.Errorf("the checkpoint of %d entries has another root than the store: %v", opened.Size, err)
	}
	text, listed := files[exportlog.IndexPath]
	if !listed {
		return nil // before the first window
	}
	index, err := exportlog.ParseIndex([]byte(text))
	if err != nil {
		return err
	}
	if index.Size > opened.Size {
		return fmt.Errorf("the index tells of %d entries, the checkpoint of %d", index.Size, opened.Size)
	}
	for _, e := range index.Exports {
		entry, err := exportlog.ParseEntry([]byte(e.Manifest))
		if err != nil {
			return err
		}
		for _, line := range exportlog.Files(entry) {
			data, there := files[line.Path]
			if !there {
				return fmt.Errorf("%s is listed and missing", line.Path)
			}
			if !line.Matches([]byte(data)) {
				return fmt.Errorf("%s is torn", line.Path)
			}
			if _, err := exportlog.VerifyProof([]byte(files[line.Path+exportlog.ProofSuffix]), policy); err != nil {
				return fmt.Errorf("%s: %w", line.Path, err)
			}
			if !strings.HasSuffix(line.Path, ".keys") {
				continue
			}
			file, err := export.OpenFile(tree.NewBlob([]byte(data)), int64(len(data)))
			if err != nil {
				return err
			}
			for k, err := range file.Keys() {
				if err != nil {
					return err
				}
				if where[k.Secret] == nil {
					where[k.Secret] = map[string]bool{}
				}
				where[k.Secret][line.Path] = true
			}
		}
	}
	return nil
}

// TestFullDisk lets the disk of the tree fill up at any write of a round. The round fails,
// the store goes on, and once there is room again the same files come out.
func TestFullDisk(t *testing.T) {
	publish := func(fullFrom int64) (files map[string]string, writes int64) {
		mem := vfs.NewMem()
		var n atomic.Int64
		var full atomic.Bool
		f := newFixture(t, func(f *fixture) {
			f.disk = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && (strings.HasPrefix(op.Path, dataDir+"/staging") || strings.HasPrefix(op.Path, dataDir+"/public")) {
					if i := n.Add(1); full.Load() && i >= fullFrom && op.Kind != errorfs.OpFileClose && op.Kind != errorfs.OpRemove {
						return syscall.ENOSPC
					}
				}
				return nil
			}))
		})
		random := rand.New(rand.NewPCG(7, 7))
		for _, scheme := range diagnosis.Schemes {
			f.upload(f.phone(random, scheme, 10))
		}
		n.Store(0)
		full.Store(true)
		f.now = f.now.Add(4 * time.Hour)
		err := f.pub.Round(context.Background())
		if writes = n.Load(); fullFrom < writes && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("full from write %d: %v", fullFrom, err)
		}
		if err := f.checkTree(map[diagnosis.Secret]map[string]bool{}); err != nil {
			t.Fatalf("full from write %d: the tree: %v", fullFrom, err)
		}
		full.Store(false)
		if err := f.pub.Round(context.Background()); err != nil {
			t.Fatalf("full from write %d, then room again: %v", fullFrom, err)
		}
		files = f.public()
		f.close()
		return files, writes
	}
	want, writes := publish(1 << 40)
	for at := int64(0); at < writes; at += 5 {
		got, _ := publish(at)
		for path, data := range want {
			if got[path] != data {
				t.Fatalf("full from write %d: %s differs afterwards", at, path)
			}
		}
	}
}
