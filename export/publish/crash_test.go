package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
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

// A life of the appliance: uploads, and rounds that publish them and let them expire.
const (
	lifeRounds    = 4
	lifeUploads   = 3 // before each round
	lifePeriod    = 4 * time.Hour
	lifeRetention = 2 * lifePeriod
)

type life struct {
	uploads [][]diagnosis.Key
	tree    map[string]string // the public tree at its end
}

func newLife(t *testing.T) *life {
	l := &life{}
	random := rand.New(rand.NewPCG(6, 6))
	f := &fixture{t: t, now: noon}
	for i := range lifeRounds * lifeUploads {
		f.now = l.window(i).Add(-lifePeriod)
		l.uploads = append(l.uploads, f.phone(random, diagnosis.Schemes[i%2], 5))
	}
	f = newFixture(t, func(f *fixture) { f.conf.Retention = lifeRetention })
	if err := l.live(f, 0, func(int, time.Time) {}); err != nil {
		t.Fatal(err)
	}
	l.tree = f.public()
	return l
}

// window is the end of the window that publishes an upload: whatever happens, no other does.
func (l *life) window(i int) time.Time {
	return noon.Add(time.Duration(i/lifeUploads+1) * lifePeriod)
}

// live goes through the life from f.now on, in which the first uploads were acknowledged
// already, to its end. done hears how many are, and of each new time. After every round the
// tree holds the keys it must, and no other.
func (l *life) live(f *fixture, uploaded int, done func(uploaded int, now time.Time)) error {
	for now := f.now; ; now = now.Add(lifePeriod) {
		f.now = now
		done(uploaded, now)
		if err := f.pub.putSmallFile(context.Background(), exportlog.KeyringPath, keyringAt(now)); err != nil {
			return fmt.Errorf("the keyring at %v: %w", now, err)
		}
		if err := f.pub.Round(context.Background()); err != nil {
			return fmt.Errorf("the round at %v: %w", now, err)
		}
		if err := l.check(f); err != nil {
			return fmt.Errorf("after the round at %v: %w", now, err)
		}
		if now.Equal(noon.Add(lifeRounds * lifePeriod)) {
			return nil
		}
		for ; uploaded < len(l.uploads) && l.window(uploaded).Equal(now.Add(lifePeriod)); uploaded++ {
			if _, err := f.tryUpload(l.uploads[uploaded]); err != nil {
				return fmt.Errorf("upload %d: %w", uploaded, err)
			}
			done(uploaded+1, now)
		}
	}
}

// keyringAt stands for the keyring of a time: each replaces one of the same size.
func keyringAt(now time.Time) []byte { return fmt.Appendf(nil, "keyring of %d\n", now.Unix()) }

// check demands that the tree is sound and that each key stands where and when it must.
func (l *life) check(f *fixture) error {
	where := map[diagnosis.Secret]map[string]bool{}
	if err := f.checkTree(where); err != nil {
		return err
	}
	if got := f.public()[exportlog.KeyringPath]; got != string(keyringAt(f.now)) {
		return fmt.Errorf("the keyring is %q", got)
	}
	for i, keys := range l.uploads {
		end := l.window(i)
		public := !end.After(f.now) && end.After(f.now.Add(-lifeRetention))
		for _, k := range keys {
			found := where[k.Secret]
			delete(where, k.Secret)
			if !public && len(found) > 0 {
				return fmt.Errorf("a key of upload %d is public, though its window ends at %v", i, end)
			}
			if !public {
				continue
			}
			if len(found) != 1 {
				return fmt.Errorf("a key of upload %d is public in %d files", i, len(found))
			}
			for path := range found {
				if !strings.HasPrefix(path, fmt.Sprintf("exports/%d-%d-", end.Add(-lifePeriod).Unix(), end.Unix())) {
					return fmt.Errorf("a key of upload %d, of the window to %v, is in %s", i, end, path)
				}
			}
		}
	}
	if len(where) > 0 {
		return fmt.Errorf("%d keys are public that nobody uploaded", len(where))
	}
	return nil
}

// TestCrashAtEveryWrite cuts the power before the writes of a whole life of the appliance:
// first start, uploads, staging, commit, apply, expiry. What the power cut leaves of the tree
// must have no hole already, as it is. Then the appliance starts on it and lives on to the
// end of the same life: every acknowledged key is published once, in its window, and the tree
// is at last, byte for byte, that of a life without a crash.
//
// The tree is looked at before each write in it. The appliance is started by default for
// every 37th write, each one at the commit, and those of a checkpoint; with
// BLUEKEY_EXHAUSTIVE=1 for each one.
func TestCrashAtEveryWrite(t *testing.T) {
	step := int64(37)
	if os.Getenv("BLUEKEY_EXHAUSTIVE") != "" {
		step = 1
	}
	l := newLife(t)
	mem := vfs.NewCrashableMem()
	var (
		mu       sync.Mutex // the state that goes with a crash
		uploaded int
		now      = noon

		writes, looked, tried atomic.Int64
		staged                atomic.Bool // files of a round are, and nothing of it is public
	)
	crash := func(n int64, start bool) {
		mu.Lock()
		defer mu.Unlock()
		// What was acknowledged is read before the power goes.
		promised, at := uploaded, now
		clone := mem.CrashClone(vfs.CrashCloneCfg{
			UnsyncedDataPercent: int(n % 3 * 50),
			RNG:                 rand.New(rand.NewPCG(uint64(n), 1)),
		})
		f := &fixture{t: t, disk: clone, now: at}
		f.conf = newConfig(t, f)
		f.conf.Retention = lifeRetention
		looked.Add(1)
		if err := f.checkCrashed(); err != nil {
			t.Errorf("write %d: what a power cut leaves: %v", n, err)
			return
		}
		if !start {
			return
		}
		tried.Add(1)
		if err := l.goOn(f, promised); err != nil {
			t.Errorf("write %d: %v", n, err)
		}
	}
	f := newFixture(t, func(f *fixture) {
		f.conf.Retention = lifeRetention
		f.disk = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || t.Failed() {
				return nil
			}
			n := writes.Add(1)
			place, _, _ := strings.Cut(strings.TrimPrefix(op.Path, dataDir+"/"), "/")
			start := n%step == 0
			switch place {
			case "staging":
				if op.Kind == errorfs.OpRename {
					staged.Store(true)
				}
			case "store":
				start = start || staged.Load() // the commit, and what the store does beside it
			case "public":
				staged.Store(false)
				start = start || strings.HasPrefix(op.Path, dataDir+"/public/"+exportlog.CheckpointPath)
			}
			if start || place == "public" {
				crash(n, start)
			}
			return nil
		}))
	})
	if err := l.live(f, 0, func(n int, at time.Time) {
		mu.Lock()
		defer mu.Unlock()
		uploaded, now = n, at
	}); err != nil && !t.Failed() {
		t.Fatal(err)
	}
	t.Logf("%d writes, %d crashes looked at, %d lived on from", writes.Load(), looked.Load(), tried.Load())
	if tried.Load() < 50 || looked.Load() < 200 {
		t.Error("too few crashes")
	}
}

// goOn starts the appliance on what a crash left and lets it live on.
func (l *life) goOn(f *fixture, uploaded int) error {
	// A power cut alone never leaves the store behind its tree, or the tree with a hole.
	var warnings bytes.Buffer
	f.conf.Log = slog.New(slog.NewTextHandler(&warnings, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := f.open(); err != nil {
		return fmt.Errorf("the appliance does not start: %w", err)
	}
	defer f.close()
	if err := l.live(f, uploaded, func(int, time.Time) {}); err != nil {
		return err
	}
	if warnings.Len() > 0 {
		return fmt.Errorf("it had to warn: %s", &warnings)
	}
	tree := f.public()
	for path, data := range l.tree {
		if tree[path] != data {
			return fmt.Errorf("%s is missing at the end, or differs from that of a life without a crash", path)
		}
	}
	if len(tree) != len(l.tree) {
		return fmt.Errorf("%d files at the end, %d in a life without a crash", len(tree), len(l.tree))
	}
	if left := f.files(dataDir + "/staging"); len(left) > 0 {
		return fmt.Errorf("%d files are left in the staging folder", len(left))
	}
	return nil
}

// checkCrashed looks at the tree on a disk on which nothing runs. All that its checkpoint
// covers must be there, and all that its index names.
func (f *fixture) checkCrashed() error {
	if _, err := f.disk.Stat(dataDir + "/public"); errors.Is(err, fs.ErrNotExist) {
		return nil // before the first start was over
	}
	files := f.public()
	if _, begun := files[exportlog.CheckpointPath]; !begun {
		return nil
	}
	text, _, err := exportlog.FormatPolicies(f.conf.policyTerms())
	if err != nil {
		return err
	}
	policy, err := exportlog.ParsePolicy(text)
	if err != nil {
		return err
	}
	entries, err := logOf(policy, files)
	if err != nil {
		return err
	}
	if err := checkSmallFiles(policy, files, entries, true); err != nil {
		return err
	}
	erased := map[diagnosis.Scheme]int64{}
	for _, e := range entries {
		if e, ok := e.(exportlog.Erasure); ok {
			erased[e.Scheme] = e.Through
		}
	}
	for i, e := range entries {
		m, ok := e.(exportlog.Manifest)
		if !ok || m.End <= erased[m.Scheme] {
			continue
		}
		if err := checkFiles(policy, files, m); err != nil {
			return fmt.Errorf("the checkpoint covers entry %d: %w", i, err)
		}
	}
	listed, ok := files[exportlog.IndexPath]
	if !ok {
		return nil
	}
	index, err := exportlog.ParseIndex([]byte(listed))
	if err != nil {
		return err
	}
	if index.Size > uint64(len(entries)) {
		return fmt.Errorf("the index tells of %d entries, the checkpoint of %d", index.Size, len(entries))
	}
	for _, x := range index.Exports {
		e, err := exportlog.ParseEntry([]byte(x.Manifest))
		if err != nil {
			return err
		}
		if err := checkFiles(policy, files, e); err != nil {
			return fmt.Errorf("the index names entry %d: %w", x.Entry, err)
		}
	}
	return nil
}

// checkFiles demands the files of an entry, whole and with proofs.
func checkFiles(policy *exportlog.Policy, files map[string]string, e exportlog.Entry) error {
	for _, line := range exportlog.Files(e) {
		data, there := files[line.Path]
		if !there {
			return fmt.Errorf("%s is missing", line.Path)
		}
		if !line.Matches([]byte(data)) {
			return fmt.Errorf("%s is torn", line.Path)
		}
		if _, err := exportlog.VerifyProof([]byte(files[line.Path+exportlog.ProofSuffix]), policy); err != nil {
			return fmt.Errorf("%s: %w", line.Path, err)
		}
	}
	return nil
}

// checkSmallFiles demands of each small file that the newest entry that names it, or one
// that no checkpoint covers yet, has its bytes, and that its proof is of that entry. While
// one is being replaced the proof may still be that of the file before.
func checkSmallFiles(policy *exportlog.Policy, files map[string]string, entries []exportlog.Entry, replacing bool) error {
	newest := map[string]int{}
	for i, e := range entries {
		if f, ok := e.(exportlog.SmallFile); ok {
			newest[f.Path] = i
		}
	}
	for path, i := range newest {
		data := []byte(files[path])
		covered := exportlog.Files(entries[i])[0].Matches(data)
		proved, err := exportlog.VerifyProof([]byte(files[path+exportlog.ProofSuffix]), policy)
		if err != nil {
			return fmt.Errorf("the proof of %s: %w", path, err)
		}
		_, err = proved.File(int64(len(data)), sha256.Sum256(data))
		coming := proved.Index >= uint64(len(entries)) && err == nil
		switch {
		case covered && proved.Index == uint64(i) && err == nil:
		case replacing && coming:
		case replacing && proved.Index == uint64(i) && len(data) == len(keyringAt(noon)):
		default:
			return fmt.Errorf("%s is %q, with a proof of entry %d; the log names it in entry %d", path, data, proved.Index, i)
		}
	}
	return nil
}

// logOf reads the log out of a tree's tiles and bundles, all of which must be there and lead
// to the root of the tree's checkpoint.
func logOf(policy *exportlog.Policy, files map[string]string) (entries []exportlog.Entry, err error) {
	opened, err := policy.Verify([]byte(files[exportlog.CheckpointPath]))
	if err != nil {
		return nil, err
	}
	tiles, err := exportlog.TileList(0, opened.Size)
	if err != nil {
		return nil, err
	}
	var texts [][]byte
	for _, tile := range tiles {
		if tile.Level != exportlog.EntryLevel {
			continue
		}
		bundle, err := exportlog.ParseBundle([]byte(files[tile.Path()]), tile.Width)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tile.Path(), err)
		}
		texts = append(texts, bundle...)
	}
	hashes, root, err := exportlog.Append(0, nil, texts)
	if err != nil {
		return nil, err
	}
	if root != opened.Root {
		return nil, fmt.Errorf("the bundles do not lead to the root of the checkpoint of %d entries", opened.Size)
	}
	for t, err := range exportlog.Tiles(0, opened.Size, hashList(hashes), func(i uint64) ([]byte, error) { return texts[i], nil }) {
		if err != nil {
			return nil, err
		}
		if files[t.Path] != string(t.Data) {
			return nil, fmt.Errorf("%s is missing or wrong", t.Path)
		}
	}
	for _, text := range texts {
		e, err := exportlog.ParseEntry(text)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

type hashList [][32]byte

func (l hashList) ReadHashes(indexes []int64) (list [][32]byte, err error) {
	for _, i := range indexes {
		list = append(list, l[i])
	}
	return list, nil
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
	entries, err := logOf(policy, files)
	if err != nil {
		return err
	}
	if err := checkSmallFiles(policy, files, entries, false); err != nil {
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
		if err := checkFiles(policy, files, entry); err != nil {
			return err
		}
		for _, line := range exportlog.Files(entry) {
			data := files[line.Path]
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
