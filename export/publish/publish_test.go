package publish

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

// published collects the secrets in the files of one kind, and how often each is there.
func (f *fixture) published(suffix string) map[diagnosis.Secret]int {
	f.t.Helper()
	found := map[diagnosis.Secret]int{}
	for path, data := range f.public() {
		if !strings.HasSuffix(path, suffix) {
			continue
		}
		file, err := export.OpenFile(tree.NewBlob([]byte(data)), int64(len(data)))
		if err != nil {
			f.t.Fatal(path, err)
		}
		for k, err := range file.Keys() {
			if err != nil {
				f.t.Fatal(path, err)
			}
			found[k.Secret]++
		}
	}
	return found
}

// entries reads the log.
func (f *fixture) entries() []exportlog.Entry {
	f.t.Helper()
	var all []exportlog.Entry
	for i := range f.store.LogSize() {
		text, err := f.store.Entry(i)
		if err != nil {
			f.t.Fatal(err)
		}
		e, err := exportlog.ParseEntry(text)
		if err != nil {
			f.t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// windows picks the manifests of one scheme.
func (f *fixture) windows(scheme diagnosis.Scheme) []exportlog.Manifest {
	var all []exportlog.Manifest
	for _, e := range f.entries() {
		if m, ok := e.(exportlog.Manifest); ok && m.Scheme == scheme {
			all = append(all, m)
		}
	}
	return all
}

func TestKeysArePublishedOnce(t *testing.T) {
	f := newFixture(t)
	random := rand.New(rand.NewPCG(1, 1))
	var want []diagnosis.Key
	for range 5 {
		for _, scheme := range diagnosis.Schemes {
			keys := f.phone(random, scheme, 14)
			f.upload(keys)
			want = append(want, keys...)
		}
		f.after(4 * time.Hour)
		f.reopen()
	}
	f.after(4 * time.Hour)
	sets, archives := f.published(".keys"), f.published(".zip")
	for _, k := range want {
		if sets[k.Secret] != 1 {
			t.Errorf("a %s key stands in %d key sets", k.Scheme, sets[k.Secret])
		}
		if n := archives[k.Secret]; (n == 1) != (k.Scheme == diagnosis.GAEN) {
			t.Errorf("a %s key stands in %d archives", k.Scheme, n)
		}
	}
	if len(sets) != len(want) {
		t.Errorf("%d keys published, %d uploaded", len(sets), len(want))
	}
}

// TestDeterministic: two stores, one seed and clock, another order of arrival: the same
// tree, byte for byte.
func TestDeterministic(t *testing.T) {
	var trees [2]map[string]string
	for i := range trees {
		f := newFixture(t, func(f *fixture) { f.conf.Split = 100 })
		random := rand.New(rand.NewPCG(2, 2))
		var cases [][]diagnosis.Key
		for n := range 40 {
			cases = append(cases, f.phone(random, diagnosis.Schemes[n%2], 1+n%14))
		}
		if i == 1 {
			slices.Reverse(cases)
		}
		for n, keys := range cases {
			if i == 1 {
				slices.Reverse(keys)
			}
			f.upload(keys)
			if i == 1 && n == 20 {
				f.reopen()
			}
		}
		f.after(4 * time.Hour)
		f.after(4 * time.Hour)
		trees[i] = f.public()
	}
	if !maps.Equal(trees[0], trees[1]) {
		for path := range trees[0] {
			if trees[0][path] != trees[1][path] {
				t.Errorf("%s differs", path)
			}
		}
		t.Fatalf("the trees differ: %v and %v", paths(trees[0], ""), paths(trees[1], ""))
	}
	if n := len(paths(trees[0], ".zip")); n < 4 {
		t.Fatalf("%d archives and proofs: the window was not split", n)
	}
}

func TestEveryPeriodMakesAnEntry(t *testing.T) {
	f := newFixture(t)
	for range 3 {
		f.after(4 * time.Hour)
	}
	f.now = f.now.Add(9 * time.Hour) // asleep
	f.after(0)
	for _, scheme := range diagnosis.Schemes {
		end := noon.Unix()
		list := f.windows(scheme)
		if len(list) != 4 {
			t.Fatalf("%d %s windows, want 4", len(list), scheme)
		}
		for _, m := range list {
			if m.Start != end || m.End%14400 != 0 || len(m.Files) > 0 || m.Keys > 0 {
				t.Errorf("window %+v after %d", m, end)
			}
			end = m.End
		}
	}
	// Nothing more to close: no new entry.
	size := f.store.LogSize()
	f.after(time.Minute)
	if f.store.LogSize() != size {
		t.Error("an open window made an entry")
	}
}

// TestThinWindowIsHeldThenPadded: a case alone waits for others, and is then published in
// a crowd of made-up cases that look the same, in time.
func TestThinWindowIsHeldThenPadded(t *testing.T) {
	for _, scheme := range diagnosis.Schemes {
		f := newFixture(t, func(f *fixture) { f.conf.MinKeys = 150 })
		keys := f.phone(rand.New(rand.NewPCG(3, 3)), scheme, 14)
		receipt := f.upload(keys)
		f.after(4 * time.Hour)
		if n := len(f.published(".keys")); n != 0 {
			t.Fatalf("%s: a thin window published %d keys", scheme, n)
		}
		if held := f.pub.Status().Held; held[scheme] != len(keys) || len(held) != 1 {
			t.Errorf("%s: %v wait, want %d", scheme, held, len(keys))
		}
		f.reopen()
		f.after(4 * time.Hour)
		if f.now.After(receipt.PublishBy) {
			t.Fatalf("%s: promised for %v, published at %v", scheme, receipt.PublishBy, f.now)
		}
		if held := f.pub.Status().Held; len(held) != 0 {
			t.Errorf("%s: %v wait after publication", scheme, held)
		}
		all := f.published(".keys")
		for _, k := range keys {
			if all[k.Secret] != 1 {
				t.Fatalf("%s: a key stands in %d key sets", scheme, all[k.Secret])
			}
		}
		if len(all) < 150 || len(all) >= 164 {
			t.Errorf("%s: %d keys published, want 150 and at most one case more", scheme, len(all))
		}
		f.after(4 * time.Hour)
		if again := f.published(".keys"); len(again) != len(all) {
			t.Errorf("%s: padding was published twice", scheme)
		}
		// Padding must look like real cases: no group of equal metadata holds a real key
		// and nothing else.
		groups, real := map[diagnosis.Key]int{}, map[diagnosis.Key]int{}
		for path, data := range f.public() {
			if !strings.HasSuffix(path, ".keys") {
				continue
			}
			file, err := export.OpenFile(tree.NewBlob([]byte(data)), int64(len(data)))
			if err != nil {
				t.Fatal(err)
			}
			for k := range file.Keys() {
				mine := slices.ContainsFunc(keys, func(r diagnosis.Key) bool { return r.Secret == k.Secret })
				k.Secret = diagnosis.Secret{}
				if groups[k]++; mine {
					real[k]++
				}
			}
		}
		for g, n := range real {
			if groups[g] == n {
				t.Errorf("%s: real keys stand alone with start %d, onset %d, risk %d, %v", scheme, g.Start, g.Onset, g.Risk, g.Report)
			}
		}
	}
}

func TestCrowdIsPublishedAtOnce(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.conf.MinKeys = 28 })
	random := rand.New(rand.NewPCG(4, 4))
	for range 2 {
		f.upload(f.phone(random, diagnosis.GAEN, 14))
	}
	f.after(4 * time.Hour)
	if n := len(f.published(".zip")); n != 28 {
		t.Fatalf("%d keys published, want all 28 and no padding", n)
	}
}

// TestKeyInUseWaits: a key of today is not published before its day is over, by 2 hours.
func TestKeyInUseWaits(t *testing.T) {
	f := newFixture(t)
	today := diagnosis.GAEN.IntervalAt(noon.Truncate(24 * time.Hour))
	k, err := diagnosis.New(diagnosis.GAEN, bytes.Repeat([]byte{5}, 16), today, 60)
	if err != nil {
		t.Fatal(err)
	}
	receipt := f.upload([]diagnosis.Key{k})
	for f.after(4 * time.Hour); len(f.published(".zip")) == 0; f.after(4 * time.Hour) {
		if f.now.After(receipt.PublishBy) {
			t.Fatalf("promised for %v, it is %v", receipt.PublishBy, f.now)
		}
	}
	due := noon.Truncate(24*time.Hour).AddDate(0, 0, 1).Add(2 * time.Hour)
	if f.now.Before(due) {
		t.Fatalf("published at %v, though due at %v", f.now, due)
	}
}

func TestClockGoesBack(t *testing.T) {
	f := newFixture(t)
	f.after(4 * time.Hour)
	size := f.store.LogSize()
	f.now = f.now.Add(-5 * time.Hour)
	if err := f.pub.Round(context.Background()); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Fatalf("a clock that went back: %v", err)
	}
	if f.store.LogSize() != size {
		t.Fatal("it published all the same")
	}
}

// TestExpiry: after the retention files and index lines are gone, the log says so, and a
// scan of every byte on the disk finds no key any more.
func TestExpiry(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.conf.Retention = 8 * time.Hour })
	random := rand.New(rand.NewPCG(5, 5))
	var keys []diagnosis.Key
	for _, scheme := range diagnosis.Schemes {
		keys = append(keys, f.phone(random, scheme, 14)...)
	}
	f.upload(keys[:14])
	f.upload(keys[14:])
	f.after(4 * time.Hour)
	old := paths(f.public(), "exports/")
	if len(old) != 6 {
		t.Fatalf("exports and proofs: %v", old)
	}
	f.after(4 * time.Hour)
	if got := paths(f.public(), "exports/"); !slices.Equal(got, old) {
		t.Fatalf("files went before their time: %v", got)
	}
	f.after(4 * time.Hour)
	if got := paths(f.public(), "exports/"); len(got) > 0 {
		t.Fatalf("expired files are still there: %v", got)
	}
	if strings.Contains(f.public()["index.json"], "file exports") || f.public()["gaen/index.txt"] != "" {
		t.Error("an index still lists expired files")
	}
	erased := map[diagnosis.Scheme]int{}
	for _, e := range f.entries() {
		if s, ok := e.(exportlog.Erasure); ok {
			erased[s.Scheme]++
			if s.Through != noon.Add(4*time.Hour).Unix() {
				t.Errorf("erasure through %d", s.Through)
			}
		}
	}
	if erased[diagnosis.GAEN] != 1 || erased[diagnosis.Bluezone] != 1 {
		t.Errorf("erasure statements: %v", erased)
	}
	for path, data := range f.files(dataDir) {
		for _, k := range keys {
			if strings.Contains(data, string(k.Bytes()[4:14])) {
				t.Fatalf("%s still holds an expired key", path)
			}
		}
	}
}

// TestForkIsRefused: a tree that says other than the store stops everything.
func TestForkIsRefused(t *testing.T) {
	f := newFixture(t)
	f.after(4 * time.Hour)
	f.close()
	ahead := newFixture(t)
	ahead.after(4 * time.Hour)
	ahead.after(4 * time.Hour)
	other := newFixture(t, func(f *fixture) { f.conf.Region = "VN-SG" })
	other.after(4 * time.Hour)
	for name, checkpoint := range map[string]string{
		"ahead":      ahead.public()["checkpoint"],
		"other root": other.public()["checkpoint"],
		"unsigned":   strings.Replace(ahead.public()["checkpoint"], "\n\n— ", "\n\n— x", 1),
	} {
		folder, err := tree.NewFolder(memDisk{f.disk}, dataDir+"/public")
		if err != nil {
			t.Fatal(err)
		}
		if err := folder.Put("checkpoint", []byte(checkpoint)); err != nil {
			t.Fatal(err)
		}
		// "ahead" lacks the entries to catch up with.
		if err := f.open(); !errors.Is(err, ErrFork) && (name != "ahead" || err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		f.close()
	}
}

// TestRestoredBackupCatchesUp puts an old store beside the tree that went on without it:
// the log goes on where the tree is, and no key is published a second time.
func TestRestoredBackupCatchesUp(t *testing.T) {
	mem := vfs.NewCrashableMem()
	f := newFixture(t, func(f *fixture) { f.disk, f.conf.Retention = mem, 24*time.Hour })
	random := rand.New(rand.NewPCG(9, 9))
	early := f.phone(random, diagnosis.GAEN, 14)
	f.upload(early)
	backup := mem.CrashClone(vfs.CrashCloneCfg{}) // the keys are in it, not yet published
	for range 8 {
		f.after(4 * time.Hour) // they are published, and expire
		f.upload(f.phone(random, diagnosis.Bluezone, 3))
	}
	newest := f.public()
	f.close()

	r := &fixture{t: t, disk: backup, now: f.now}
	r.conf = newConfig(t, r)
	r.conf.Retention = f.conf.Retention
	folder, err := tree.NewFolder(memDisk{backup}, dataDir+"/public")
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range newest {
		if err := folder.Put(path, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	defer r.close()
	late := r.phone(random, diagnosis.GAEN, 14)
	r.upload(late)
	r.after(4 * time.Hour)
	r.after(4 * time.Hour)
	if err := r.checkTree(map[diagnosis.Secret]map[string]bool{}); err != nil {
		t.Fatal(err)
	}
	all := r.published(".zip")
	for _, k := range early {
		if all[k.Secret] != 0 {
			t.Fatal("a key that was published and had expired is public again")
		}
	}
	for _, k := range late {
		if all[k.Secret] != 1 {
			t.Fatalf("a key uploaded after the restore is in %d archives", all[k.Secret])
		}
	}
	for path, data := range newest {
		if strings.HasPrefix(path, "tile/") && r.public()[path] != data {
			t.Fatalf("%s was written again with other bytes", path)
		}
	}
}

// askedWitness is a witness that can be away, and remembers what it was asked.
type askedWitness struct {
	keys signing.WitnessKeys
	away bool
	held []byte
}

func (w *askedWitness) Name() string { return "w1" }
func (w *askedWitness) Cosign(_ context.Context, checkpoint []byte, _ func(uint64) ([][32]byte, error)) ([]byte, error) {
	if w.away {
		return nil, errors.New("away")
	}
	body, _, _ := bytes.Cut(checkpoint, []byte("\n\n"))
	c, err := exportlog.ParseCheckpoint(append(body, '\n'))
	if err != nil {
		return nil, err
	}
	w.held = checkpoint
	return exportlog.Cosign(c, noon, w.keys)
}
func (w *askedWitness) Held(context.Context, string) ([]byte, error) {
	if w.held == nil {
		return nil, fs.ErrNotExist
	}
	return w.held, nil
}

// TestWitnesses: an export never waits for a witness; its proof is remade once the quorum
// is met and then frozen; and a witness that has seen more stops a restored folder.
func TestWitnesses(t *testing.T) {
	keys, err := signing.NewWitnessKeys("witness.example/w1", [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	w := &askedWitness{keys: keys, away: true}
	witnessed := func(f *fixture) {
		f.conf.Witnesses = []Witness{w}
		f.conf.PolicyWitnesses = []exportlog.PolicyWitness{{Name: "w1", Ed25519: keys.VKeys()[0], MLDSA44: keys.VKeys()[1], URL: "http://127.0.0.1/"}}
		f.conf.Quorum = 1
	}
	mem := vfs.NewCrashableMem()
	f := newFixture(t, witnessed, func(f *fixture) { f.disk = mem })
	backup := mem.CrashClone(vfs.CrashCloneCfg{})
	f.upload(f.phone(rand.New(rand.NewPCG(1, 9)), diagnosis.GAEN, 14))
	round := func() {
		t.Helper()
		f.after(4 * time.Hour)
		if _, err := f.pub.cosign(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	proofs := func() (met, missed int, texts string) {
		policy, err := exportlog.ParsePolicy([]byte(f.public()[exportlog.PolicyPath]))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths(f.public(), exportlog.ProofSuffix) {
			_, err := exportlog.VerifyProof([]byte(f.public()[path]), policy)
			switch {
			case err == nil:
				met++
			case errors.Is(err, exportlog.ErrQuorum):
				missed++
			default:
				t.Fatal(err)
			}
			texts += f.public()[path]
		}
		return met, missed, texts
	}
	round()
	if met, missed, _ := proofs(); met != 0 || missed != 2 {
		t.Fatalf("with the witness away %d proofs meet the quorum, %d do not", met, missed)
	}
	w.away = false
	round()
	met, missed, frozen := proofs()
	if met != 2 || missed != 0 {
		t.Fatalf("with the witness back %d proofs meet the quorum, %d do not", met, missed)
	}
	round()
	if _, _, again := proofs(); again != frozen {
		t.Fatal("a proof that met the quorum was written again")
	}
	if f.pub.Status().Witnessed["w1"].IsZero() {
		t.Error("the status does not know of the witness")
	}
	f.close()

	r := &fixture{t: t, disk: backup, now: f.now}
	r.conf = newConfig(t, r)
	witnessed(r)
	if err := r.open(); !errors.Is(err, ErrFork) || !errors.Is(err, errAhead) {
		t.Fatalf("a restored folder, and a witness that has seen more: %v", err)
	}
	r.close()
}

// TestSignerRotation: both keys sign during the overlap, then only the new one, also after
// a restart that knows of it from the log alone; and its PEM is there before it signs.
func TestSignerRotation(t *testing.T) {
	f := newFixture(t)
	random := rand.New(rand.NewPCG(11, 11))
	signedBy := func() string {
		t.Helper()
		f.upload(f.phone(random, diagnosis.GAEN, 2))
		f.after(4 * time.Hour)
		all := f.windows(diagnosis.GAEN)
		return strings.Join(all[len(all)-1].Signers, " ")
	}
	rotate := func(version string, from, retire time.Duration) error {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- f.pub.Run(ctx) }()
		err := f.pub.RotateSigner(ctx, version, f.now.Add(from), f.now.Add(retire))
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		return err
	}
	if got := signedBy(); got != "452-v1" {
		t.Fatalf("signed by %s", got)
	}
	for name, bad := range map[string]error{
		"known version":     rotate("v1", time.Hour, 2*time.Hour),
		"bad version":       rotate("v-2", time.Hour, 2*time.Hour),
		"retires too early": rotate("v2", time.Hour, time.Hour),
		"in the past":       rotate("v2", -5*time.Hour, 20*time.Hour),
	} {
		if bad == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := rotate("v2", 4*time.Hour, 8*time.Hour); err != nil {
		t.Fatal(err)
	}
	if f.public()["gaen/keys/452-v2.pem"] == "" {
		t.Fatal("the new key is not public before it signs")
	}
	for i, want := range []string{"452-v1", "452-v2 452-v1", "452-v2"} {
		f.reopen()
		if got := signedBy(); got != want {
			t.Fatalf("window %d is signed by %s, want %s", i, got, want)
		}
	}
	if err := f.checkTree(map[diagnosis.Secret]map[string]bool{}); err != nil {
		t.Fatal(err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	f := newFixture(t)
	for name, change := range map[string]func(*Config){
		"no period":       func(c *Config) { c.Period = 0 },
		"half seconds":    func(c *Config) { c.Period = 1500 * time.Millisecond },
		"short retention": func(c *Config) { c.Retention = time.Hour },
		"no crowd":        func(c *Config) { c.MinKeys = 0 },
		"negative hold":   func(c *Config) { c.Hold = -1 },
	} {
		c := f.conf
		change(&c)
		if _, err := New(c, f.store, nil, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
