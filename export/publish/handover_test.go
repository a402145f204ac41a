package publish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

// memTree is the public tree of a fixture as others read it.
type memTree struct{ f *fixture }

func (m memTree) String() string { return "old tree" }
func (m memTree) Open(_ context.Context, path string, limit int64) (tree.Blob, error) {
	return memDisk{m.f.disk}.Open(dataDir + "/public/" + path)
}

func policyOf(t testing.TB, f *fixture) (text []byte, p *exportlog.Policy) {
	t.Helper()
	text = []byte(f.public()[exportlog.PolicyPath])
	p, err := exportlog.ParsePolicy(text)
	if err != nil {
		t.Fatal(err)
	}
	return text, p
}

const successorOrigin = "bluekey.example/test-2"

// successorOf makes the appliance that follows old's, before its first start.
func successorOf(t testing.TB, old *fixture) func(*fixture) {
	_, policy := policyOf(t, old)
	return func(f *fixture) {
		f.now = old.now
		f.conf.Origin = successorOrigin
		f.conf.Seed = signing.SeedOf([32]byte{9})
		var err error
		if f.conf.LogKeys, err = signing.NewLogKeys(successorOrigin, f.conf.Seed.Derive32("ed"), f.conf.Seed.Derive32("mldsa")); err != nil {
			t.Fatal(err)
		}
		signer, err := signing.NewExportSigner(f.conf.Seed, "452", "v2", time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		f.conf.Signers = []*signing.ExportSigner{signer}
		f.conf.Predecessor = &Predecessor{Tree: memTree{old}, Policy: policy}
	}
}

// openingProof proves entry 0 of a fixture's log.
func openingProof(t testing.TB, f *fixture) []byte {
	t.Helper()
	signed, err := f.store.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	proof, err := f.pub.proof(0, f.store.LogSize(), signed)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// closeLog calls CloseLog as the unix socket does, and runs what Run would.
func (f *fixture) closeLog(policy, opening []byte) (by time.Time, err error) {
	f.t.Helper()
	ctx := context.Background()
	done := make(chan struct{})
	go func() {
		defer close(done)
		by, err = f.pub.CloseLog(ctx, policy, opening)
	}()
	(<-f.pub.calls)(ctx)
	<-done
	return by, err
}

func (f *fixture) last() exportlog.Entry {
	all := f.entries()
	return all[len(all)-1]
}

func TestHandover(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	old := newFixture(t)
	old.upload(old.phone(random, diagnosis.GAEN, 3))
	old.after(4 * time.Hour)

	// The successor's first entry names the old log as it is.
	next := newFixture(t, successorOf(t, old))
	o, ok := next.entries()[0].(exportlog.Opening)
	root, err := exportlog.Root(old.store.LogSize(), old.store)
	if err != nil || !ok || o.Origin != old.conf.Origin || o.Size != old.store.LogSize() || o.Root != root || o.Time != old.now.Unix() {
		t.Fatalf("the first entry is %+v, %v", next.entries()[0], err)
	}
	next.reopen() // which looks at nothing but its own log
	if n := len(next.entries()); n != 2 {
		t.Fatalf("%d entries after a second start", n)
	}
	next.after(4 * time.Hour)

	// The old one goes on until its keys are public; one of them is in use still.
	today := old.phone(random, diagnosis.GAEN, 2)
	today[0].Start = diagnosis.Interval(old.now.Unix()/86400) * diagnosis.GAEN.PerDay()
	old.upload(today)
	text, _ := policyOf(t, next)
	proof := openingProof(t, next)
	by, err := old.closeLog(text, proof)
	if err != nil || by.Before(noon.Add(14*time.Hour)) || by.After(noon.Add(36*time.Hour)) {
		t.Fatalf("closes by %v, %v", by, err)
	}
	var refused *keystore.Refusal
	if _, err := old.tryUpload(old.phone(random, diagnosis.GAEN, 1)); !errors.As(err, &refused) || refused.Reason != keystore.Closed || refused.Retry {
		t.Fatalf("an upload meets %v", err)
	}
	old.after(4 * time.Hour)
	if _, closed := old.last().(exportlog.Closing); closed {
		t.Fatal("closed with a key that is not public")
	}
	old.reopen() // a restart forgets nothing
	if _, err := old.tryUpload(old.phone(random, diagnosis.GAEN, 1)); !errors.As(err, &refused) || refused.Reason != keystore.Closed {
		t.Fatalf("after a restart an upload meets %v", err)
	}
	for old.now.Before(by) {
		old.after(4 * time.Hour)
	}
	c, ok := old.last().(exportlog.Closing)
	if !ok || c.Origin != successorOrigin || !c.Names(next.conf.LogKeys.VKeys()) || c.Time > by.Unix() {
		t.Fatalf("the last entry is %+v", old.last())
	}
	if got := old.published(".zip"); len(got) != 5 {
		t.Errorf("%d keys are public, want 5", len(got))
	}

	// Asked again it says that it is done, and adds nothing.
	size := old.store.LogSize()
	if by, err := old.closeLog(text, proof); err != nil || !by.IsZero() || old.store.LogSize() != size {
		t.Errorf("the second time: %v, %v, %d entries after %d", by, err, old.store.LogSize(), size)
	}
	// Nothing can be added but erasures, over restarts too.
	for range 2 {
		done := make(chan error)
		go func() {
			done <- old.pub.RotateSigner(context.Background(), "v9", old.now.Add(time.Hour), old.now.Add(2*time.Hour))
		}()
		(<-old.pub.calls)(context.Background())
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Errorf("a new signer meets %v", err)
		}
		old.conf.Signers = append(old.conf.Signers, mustSigner(t, old, "v7"))
		old.reopen()
		old.after(4 * time.Hour)
	}
	if old.store.LogSize() != size || len(paths(old.public(), "452-v7")) != 0 {
		t.Errorf("the closed log grew from %d to %d entries", size, old.store.LogSize())
	}
	before := len(paths(old.public(), "exports/"))
	for end := old.now.Add(old.conf.Retention); old.now.Before(end); {
		old.after(4 * time.Hour)
	}
	for _, e := range old.entries()[size:] {
		if _, ok := e.(exportlog.Erasure); !ok {
			t.Errorf("after the closing entry: %+v", e)
		}
	}
	if after := len(paths(old.public(), "exports/")); before == 0 || after != 0 || old.store.LogSize() == size {
		t.Errorf("%d files of exports, then %d", before, after)
	}
}

func mustSigner(t testing.TB, f *fixture, version string) *signing.ExportSigner {
	t.Helper()
	s, err := signing.NewExportSigner(f.conf.Seed, "452", version, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// With nothing left to publish the log is closed at once. Whenever the power goes meanwhile,
// the log is open or closed afterwards, never closed twice, and closes as it was told to. A
// store put back from a backup learns of it from its tree.
func TestHandoverAtOnce(t *testing.T) {
	mem := vfs.NewCrashableMem()
	type cut struct {
		disk vfs.FS
		what string
	}
	var cuts []cut
	watching := false
	var mu sync.Mutex
	old := newFixture(t, func(f *fixture) {
		f.disk = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if watching && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				cuts = append(cuts, cut{mem.CrashClone(vfs.CrashCloneCfg{}), fmt.Sprint("write ", len(cuts))})
			}
			return nil
		}))
	})
	old.after(4 * time.Hour)
	next := newFixture(t, successorOf(t, old))
	text, _ := policyOf(t, next)
	text = exportlog.AnnotatePolicy(text)
	proof := openingProof(t, next)
	watch := func(on bool) { mu.Lock(); defer mu.Unlock(); watching = on }
	watch(true)
	if by, err := old.closeLog(text, proof); err != nil || !by.IsZero() {
		t.Fatalf("closes by %v, %v", by, err)
	}
	watch(false)
	size, public := old.store.LogSize(), old.public()
	if len(cuts) < 10 {
		t.Fatalf("only %d writes", len(cuts))
	}

	backup := cut{cuts[0].disk, "a backup"}
	for i, c := range append(cuts[1:], backup) {
		f := &fixture{t: t, disk: c.disk, now: old.now}
		f.conf = newConfig(t, f)
		if i == len(cuts)-1 {
			folder, err := tree.NewFolder(memDisk{f.disk}, dataDir+"/public")
			if err != nil {
				t.Fatal(err)
			}
			for path, data := range public {
				if err := folder.Put(path, []byte(data)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := f.open(); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		_, retired := f.store.Retired()
		if c.what == "a backup" && !retired {
			t.Error("the restored store takes uploads")
		}
		if !retired && f.store.LogSize() == size {
			t.Errorf("%s: closed, and it takes uploads", c.what)
		}
		if by, err := f.closeLog(text, proof); err != nil || !by.IsZero() {
			t.Errorf("%s: closes by %v, %v", c.what, by, err)
		}
		if _, closed := f.last().(exportlog.Closing); !closed || f.store.LogSize() != size {
			t.Errorf("%s: %d entries, want %d; the last is %T", c.what, f.store.LogSize(), size, f.last())
		}
		f.close()
	}
}

// What does not fit together is refused before anything happens: the log stays open.
func TestCloseLogRefuses(t *testing.T) {
	old := newFixture(t)
	old.after(4 * time.Hour)
	next := newFixture(t, successorOf(t, old))
	text, _ := policyOf(t, next)
	own, _ := policyOf(t, old)
	proof := openingProof(t, next)

	stranger := newFixture(t, func(f *fixture) { successorOf(t, old)(f); f.conf.Predecessor = nil })
	other := newFixture(t, func(f *fixture) { // of another log of the same name
		f.conf.Seed = signing.SeedOf([32]byte{5})
		f.now = noon.Add(time.Hour)
	})
	other.after(4 * time.Hour)
	astray := newFixture(t, successorOf(t, other))

	for what, row := range map[string]struct {
		policy, opening []byte
		words           string
	}{
		"no policy":                       {nil, proof, "no log line"},
		"no proof":                        {text, nil, "opening entry"},
		"the own policy":                  {own, proof, "no log of this origin"},
		"a log without an opening":        {text, openingProof(t, stranger), "must be started as its successor"},
		"an opening that follows another": {text, openingProof(t, astray), "find out who else"},
	} {
		if _, err := old.closeLog(row.policy, row.opening); err == nil || !strings.Contains(err.Error(), row.words) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, retired := old.store.Retired(); retired {
		t.Fatal("a refused request ended the uploads")
	}
	old.upload(old.phone(rand.New(rand.NewPCG(3, 4)), diagnosis.GAEN, 1))
	if _, err := old.closeLog(text, proof); err != nil {
		t.Fatal(err)
	}
	// In favour of one only.
	third := newFixture(t, func(f *fixture) {
		successorOf(t, old)(f)
		f.conf.Origin = "bluekey.example/test-3"
		var err error
		if f.conf.LogKeys, err = signing.NewLogKeys(f.conf.Origin, [32]byte{1}, [32]byte{2}); err != nil {
			t.Fatal(err)
		}
	})
	text3, _ := policyOf(t, third)
	if _, err := old.closeLog(text3, openingProof(t, third)); err == nil || !strings.Contains(err.Error(), successorOrigin+" already") {
		t.Errorf("a second successor: %v", err)
	}
}

// A new log follows another from its first entry or never, and never itself.
func TestPredecessorIsChecked(t *testing.T) {
	old := newFixture(t)
	old.after(4 * time.Hour)
	start := func(change func(*fixture)) error {
		f := &fixture{t: t, disk: vfs.NewMem(), now: noon}
		f.conf = newConfig(t, f)
		successorOf(t, old)(f)
		change(f)
		defer f.close()
		return f.open()
	}
	for what, row := range map[string]struct {
		change func(*fixture)
		words  string
	}{
		"the same name": {func(f *fixture) { f.conf.Origin, f.conf.LogKeys = old.conf.Origin, old.conf.LogKeys }, "another origin"},
		"the same keys": {func(f *fixture) {
			var err error
			if f.conf.LogKeys, err = signing.NewLogKeys(successorOrigin, old.conf.Seed.Derive32("ed"), old.conf.Seed.Derive32("mldsa")); err != nil {
				t.Fatal(err)
			}
		}, "another seed"},
		"an empty folder": {func(f *fixture) { f.conf.Predecessor.Tree = memTree{f} }, "file does not exist"},
		"another's tree": {func(f *fixture) {
			_, f.conf.Predecessor.Policy = policyOf(t, newFixture(t, func(f *fixture) { successorOf(t, old)(f) }))
			f.conf.Origin = "bluekey.example/test-3"
			var err error
			if f.conf.LogKeys, err = signing.NewLogKeys(f.conf.Origin, [32]byte{1}, [32]byte{2}); err != nil {
				t.Fatal(err)
			}
		}, "no log of this origin"},
	} {
		if err := start(row.change); err == nil || !strings.Contains(err.Error(), row.words) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A log that has begun already.
	late := newFixture(t, func(f *fixture) { successorOf(t, old)(f); f.conf.Predecessor = nil })
	late.close()
	successorOf(t, old)(late)
	if err := late.open(); err == nil || !strings.Contains(err.Error(), "new data folder") {
		t.Errorf("a log that has begun: %v", err)
	}
}

// A window that has ended is sealed before the log closes, or auditors would see silence.
func TestClosingSealsFirst(t *testing.T) {
	old := newFixture(t)
	next := newFixture(t, successorOf(t, old))
	text, _ := policyOf(t, next)
	old.now = old.now.Add(9 * time.Hour)
	if by, err := old.closeLog(text, openingProof(t, next)); err != nil || by.IsZero() || by.After(old.now.Add(12*time.Hour)) {
		t.Fatalf("closes by %v, %v", by, err)
	}
	old.after(0)
	if _, closed := old.last().(exportlog.Closing); !closed || len(old.windows(diagnosis.GAEN)) == 0 {
		t.Errorf("the last entry is %+v", old.last())
	}
}
