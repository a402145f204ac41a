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
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/export/tree"
	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

// memDisk is Pebble's in-memory disk, on which the store lies too, as a tree.FS: one crash
// hits both at the same instant.
type memDisk struct{ vfs.FS }

func (d memDisk) MkdirAll(dir string) error { return d.FS.MkdirAll(dir, 0o755) }
func (d memDisk) Create(name string) (tree.File, error) {
	f, err := d.FS.Create(name, "test")
	return memFile{f}, err
}
func (d memDisk) SyncDir(dir string) error {
	f, err := d.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
func (d memDisk) Open(name string) (tree.Blob, error) {
	f, err := d.FS.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return memBlob{f, info.Size()}, nil
}

// memFile keeps to what an io.Writer must do: in a build with the race detector Pebble's disk
// overwrites what it was given.
type memFile struct{ vfs.File }

func (f memFile) Write(p []byte) (int, error) { return f.File.Write(bytes.Clone(p)) }

type memBlob struct {
	vfs.File
	size int64
}

func (b memBlob) Size() int64 { return b.size }

// noon is a Monday on which nothing particular happened.
var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// fixture is an appliance without its network: a store and a publisher on one disk, with
// a clock that the test turns.
type fixture struct {
	t     testing.TB
	disk  vfs.FS
	now   time.Time
	conf  Config
	exact bool
	store *keystore.Store
	pub   *Publisher
}

const dataDir = "/data"

func newFixture(t testing.TB, change ...func(*fixture)) *fixture {
	f := &fixture{t: t, disk: vfs.NewMem(), now: noon}
	f.conf = newConfig(t, f)
	for _, c := range change {
		c(f)
	}
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	return f
}

// newConfig is the configuration of every fixture: the same keys, f's clock.
func newConfig(t testing.TB, f *fixture) Config {
	seed := signing.SeedOf([32]byte{7})
	signer, err := signing.NewExportSigner(seed, "452", "v1", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := signing.NewLogKeys("bluekey.example/test", seed.Derive32("ed"), seed.Derive32("mldsa"))
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Origin: "bluekey.example/test", Region: "VN-HP",
		Period: 4 * time.Hour, Hold: 4 * time.Hour, Retention: 14 * 24 * time.Hour, MinKeys: 1,
		Seed: seed, Signers: []*signing.ExportSigner{signer}, LogKeys: keys,
		Random: rand.NewChaCha8([32]byte{8}),
		Now:    func() time.Time { return f.now },
		Log:    slog.New(slog.DiscardHandler),
	}
}

func (f *fixture) open() (err error) {
	if f.store, err = keystore.Open(keystore.Options{
		Dir: dataDir, FS: f.disk, CodeKey: [32]byte{1}, DedupeKey: [32]byte{2}, Period: f.conf.Period, Hold: f.conf.Hold, Exact: f.exact, CacheSize: 8 << 20, CodeCap: 1 << 20,
		Now: f.conf.Now, Logger: f.conf.Log,
	}); err != nil {
		return err
	}
	folder, err := tree.NewFolder(memDisk{f.disk}, dataDir+"/public")
	if err != nil {
		return err
	}
	staging, err := tree.NewStaging(memDisk{f.disk}, dataDir+"/staging")
	if err != nil {
		return err
	}
	f.conf.Exact = f.exact
	if f.pub, err = New(f.conf, f.store, folder, staging); err != nil {
		return err
	}
	return f.pub.Recover(context.Background())
}

// close ends the process in order; it may be repeated.
func (f *fixture) close() {
	f.t.Helper()
	if f.store != nil {
		if err := f.store.Close(); err != nil {
			f.t.Fatal(err)
		}
		f.store = nil
	}
}

// reopen ends the process in order and starts it again.
func (f *fixture) reopen() {
	f.t.Helper()
	f.close()
	if err := f.open(); err != nil {
		f.t.Fatal(err)
	}
}

// upload hands in the keys of one case.
func (f *fixture) upload(keys []diagnosis.Key) keystore.Receipt {
	f.t.Helper()
	r, err := f.tryUpload(keys)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// tryUpload hands in keys by a permit of their own; the same keys come by the same permit.
func (f *fixture) tryUpload(keys []diagnosis.Key) (keystore.Receipt, error) {
	today := uint32(f.now.Unix() / 86400)
	spent := sha256.New()
	keys = slices.Clone(keys)
	for i := range keys {
		k := &keys[i]
		fmt.Fprintf(spent, "%x %d ", k.Bytes(), k.Start)
		k.Report, k.Onset = diagnosis.ConfirmedTest, k.OnsetOn(today-3)
	}
	permit := keystore.Permit{Spent: [32]byte(spent.Sum(nil)), Epoch: today, First: true}
	permit.E = sha256.Sum256(permit.Spent[:])
	return f.store.Upload(context.Background(), keystore.Upload{Permit: permit, Keys: keys})
}

// after turns the clock and publishes.
func (f *fixture) after(d time.Duration) {
	f.t.Helper()
	f.now = f.now.Add(d)
	if err := f.pub.Round(context.Background()); err != nil {
		f.t.Fatal(err)
	}
}

// phone gives the keys of the last days of a phone, all due at f.now.
func (f *fixture) phone(random *rand.Rand, scheme diagnosis.Scheme, days int) []diagnosis.Key {
	today := diagnosis.Interval(f.now.Add(-2*time.Hour).Unix()/86400) * scheme.PerDay()
	keys := make([]diagnosis.Key, days)
	for d := range keys {
		secret := make([]byte, scheme.SecretLen())
		for i := range secret {
			secret[i] = byte(random.Uint32())
		}
		k, err := diagnosis.New(scheme, secret, today-diagnosis.Interval(d+1)*scheme.PerDay(), int(scheme.PerDay()))
		if err != nil {
			f.t.Fatal(err)
		}
		keys[d] = k
	}
	return keys
}

// files reads a folder of the disk, by path below it. While a publisher works, what it moves
// or removes meanwhile is left out.
func (f *fixture) files(dir string) map[string]string {
	f.t.Helper()
	all := map[string]string{}
	disk := memDisk{f.disk}
	var walk func(string)
	walk = func(dir string) {
		names, err := disk.List(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return
		} else if err != nil {
			f.t.Fatal(err)
		}
		for _, n := range names {
			path := dir + "/" + n
			info, err := f.disk.Stat(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				f.t.Fatal(err)
			}
			if info.IsDir() {
				walk(path)
				continue
			}
			blob, err := disk.Open(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				f.t.Fatal(err)
			}
			data, err := tree.ReadBlob(blob, 1<<30)
			if err = errors.Join(err, blob.Close()); err != nil {
				f.t.Fatal(err)
			}
			all[path] = string(data)
		}
	}
	walk(dir)
	trimmed := map[string]string{}
	for path, data := range all {
		trimmed[strings.TrimPrefix(path, dir+"/")] = data
	}
	return trimmed
}

func (f *fixture) public() map[string]string { return f.files(dataDir + "/public") }

func paths(files map[string]string, with string) []string {
	var found []string
	for p := range files {
		if strings.Contains(p, with) {
			found = append(found, p)
		}
	}
	sort.Strings(found)
	return found
}
