package publish

import (
	"bytes"
	"context"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/match"
	"bluekey/export/match/idset"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
)

func profiles(t testing.TB, text string) func(*fixture) {
	t.Helper()
	p, err := ParseProfiles(text)
	if err != nil {
		t.Fatal(err)
	}
	return func(f *fixture) { f.conf.Profiles = p }
}

// idSets opens the ID sets of the tree, by the scheme of their windows.
func (f *fixture) idSets() map[diagnosis.Scheme]*idset.Set {
	f.t.Helper()
	files, sets := f.public(), map[diagnosis.Scheme]*idset.Set{}
	for _, e := range f.entries() {
		m, ok := e.(exportlog.Manifest)
		if !ok {
			continue
		}
		for _, line := range m.Files {
			data, there := files[line.Path]
			if !there || !strings.HasSuffix(line.Path, ".ids") {
				continue
			}
			if !line.Matches([]byte(data)) || files[line.Path+exportlog.ProofSuffix] == "" {
				f.t.Fatalf("%s is torn or has no proof", line.Path)
			}
			s, err := idset.Open(strings.NewReader(data), int64(len(data)), m.Origin, m.Region)
			if err != nil {
				f.t.Fatal(line.Path, err)
			}
			if s.Scheme != m.Scheme || s.Start != m.Start || s.End != m.End {
				f.t.Fatalf("%s is of another window than its manifest", line.Path)
			}
			sets[m.Scheme] = s
		}
	}
	return sets
}

// again gives the keys of a file as often as they are wanted.
func again(file *export.File) iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) { file.Keys()(yield) }
}

// TestIDSetHoldsTheWindow: beside keys, an ID set is byte for byte that of its key set,
// whether or not the key set is published.
func TestIDSetHoldsTheWindow(t *testing.T) {
	var digests [2][32]byte
	for i, text := range []string{"gaen=archive+keys+ids,bluezone=keys+ids", "gaen=archive+ids,bluezone=ids-only"} {
		f := newFixture(t, profiles(t, text))
		random := rand.New(rand.NewPCG(1, 1))
		for range 3 {
			for _, scheme := range diagnosis.Schemes {
				f.upload(f.phone(random, scheme, 14))
			}
		}
		f.after(4 * time.Hour)
		files, sets := f.public(), f.idSets()
		if len(sets) != 2 {
			t.Fatalf("%d ID sets, want one of each scheme", len(sets))
		}
		digests[i] = sets[diagnosis.Bluezone].KeySet
		for path, data := range files {
			if !strings.HasSuffix(path, ".keys") {
				continue
			}
			file, err := export.OpenFile(tree.NewBlob([]byte(data)), int64(len(data)))
			if err != nil {
				t.Fatal(err)
			}
			set := sets[file.Scheme]
			if line := (exportlog.ExportPath{Start: set.Start, End: set.End, SHA256: set.KeySet, Kind: exportlog.KeySet}); line.String() != path {
				t.Errorf("the %s ID set is bound to %s, the key set is %s", file.Scheme, line, path)
			}
			ids := files[paths(files, ".ids")[slices.IndexFunc(paths(files, ".ids"), func(p string) bool {
				return strings.HasPrefix(files[p], "bluekey-id-set1\n"+string(rune(file.Scheme)))
			})]]
			if err := idset.Verify(strings.NewReader(ids), set.Params, again(file), idset.Options{}); err != nil {
				t.Errorf("%s: %v", file.Scheme, err)
			}
		}
	}
	if digests[0] != digests[1] {
		t.Error("an ID set is bound to another digest where the key set is not published")
	}
}

// TestIDsOnlyPublishesNoKey: of a window published ids-only, no key is ever in the tree or
// in the staging folder, and a phone finds its contact all the same.
func TestIDsOnlyPublishesNoKey(t *testing.T) {
	mem := vfs.NewMem()
	var keys []diagnosis.Key
	var looked atomic.Int64
	plain := &fixture{t: t, disk: mem}
	f := newFixture(t, profiles(t, "bluezone=ids-only"), func(f *fixture) {
		f.disk = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || !strings.HasPrefix(op.Path, dataDir+"/staging") && !strings.HasPrefix(op.Path, dataDir+"/public") {
				return nil
			}
			for _, dir := range []string{"/staging", "/public"} {
				if _, err := mem.Stat(dataDir + dir); err != nil {
					continue
				}
				for path, data := range plain.files(dataDir + dir) {
					for _, k := range keys {
						if looked.Add(1); strings.Contains(data, string(k.Bytes()[4:14])) {
							t.Errorf("%s holds a key", path)
						}
					}
				}
			}
			return nil
		}))
	})
	keys = f.phone(rand.New(rand.NewPCG(2, 2)), diagnosis.Bluezone, 5)
	f.upload(keys)
	f.after(4 * time.Hour)
	if looked.Load() == 0 {
		t.Fatal("nothing was looked at")
	}
	files := f.public()
	if len(paths(files, ".keys")) > 0 || len(paths(files, ".ids")) != 2 {
		t.Fatalf("published: %v", paths(files, "exports/"))
	}
	if m := f.windows(diagnosis.Bluezone)[0]; m.Keys != len(keys) || len(m.Files) != 1 || m.Files[0].Keys != len(keys) {
		t.Errorf("manifest %+v", m)
	}
	// Two intervals of one day, heard near their time.
	var heard []match.Sighting
	ids := keys[1].Expand(nil)
	for _, i := range []int{40, 41} {
		s := match.Sighting{Scheme: diagnosis.Bluezone, Seen: diagnosis.Bluezone.Time(keys[1].Start+diagnosis.Interval(i)).Unix() + 5}
		copy(s.ID[:], ids[i*12:][:12])
		heard = append(heard, s)
	}
	hits, err := f.idSets()[diagnosis.Bluezone].Match(context.Background(), heard, 0)
	if err != nil || len(hits) != 2 {
		t.Errorf("%d hits, %v", len(hits), err)
	}
}

// TestIDSetsAreDeterministic: another order of arrival, a restart in between, another tier:
// the same files.
func TestIDSetsAreDeterministic(t *testing.T) {
	var trees [2]map[string]string
	for i := range trees {
		f := newFixture(t, profiles(t, "gaen=archive+keys+ids,bluezone=ids-only"), func(f *fixture) {
			if i == 1 {
				f.conf.Tier = match.PureGo
			}
		})
		random := rand.New(rand.NewPCG(3, 3))
		var cases [][]diagnosis.Key
		for n := range 12 {
			cases = append(cases, f.phone(random, diagnosis.Schemes[n%2], 1+n))
		}
		if i == 1 {
			slices.Reverse(cases)
		}
		for n, c := range cases {
			f.upload(c)
			if i == 1 && n == 5 {
				f.reopen()
			}
		}
		f.after(4 * time.Hour)
		trees[i] = f.public()
	}
	if !maps.Equal(trees[0], trees[1]) || len(paths(trees[0], ".ids")) != 4 {
		t.Fatalf("the trees differ: %v and %v", paths(trees[0], "exports/"), paths(trees[1], "exports/"))
	}
}

// TestIDSetCrash cuts the power at writes of the round that publishes ID sets. The next
// start comes to the same files.
func TestIDSetCrash(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var clones []*vfs.MemFS
	var writes atomic.Int64
	var armed atomic.Bool
	f := newFixture(t, profiles(t, "gaen=archive+ids,bluezone=ids-only"), func(f *fixture) {
		f.disk = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			own := strings.HasPrefix(op.Path, dataDir+"/staging") || strings.HasPrefix(op.Path, dataDir+"/public")
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && own && armed.Load() && writes.Add(1)%4 == 0 {
				clones = append(clones, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(len(clones)), 1))}))
			}
			return nil
		}))
	})
	random := rand.New(rand.NewPCG(4, 4))
	for _, scheme := range diagnosis.Schemes {
		f.upload(f.phone(random, scheme, 6))
	}
	armed.Store(true)
	f.after(4 * time.Hour)
	armed.Store(false)
	want := f.public()
	if len(clones) < 5 {
		t.Fatalf("only %d crashes", len(clones))
	}
	for i, clone := range clones {
		after := &fixture{t: t, disk: clone, now: f.now, conf: f.conf}
		if err := after.open(); err != nil {
			t.Fatalf("crash %d: %v", i, err)
		}
		after.after(0)
		got := after.public()
		for _, path := range paths(want, ".ids") {
			if !strings.HasSuffix(path, exportlog.ProofSuffix) && got[path] != want[path] {
				t.Errorf("crash %d: %s differs", i, path)
			}
		}
		if !slices.Equal(paths(got, "exports/"), paths(want, "exports/")) {
			t.Errorf("crash %d: %v", i, paths(got, "exports/"))
		}
		if left := paths(after.files(dataDir+"/staging"), ""); len(left) > 0 {
			t.Errorf("crash %d: left in staging: %v", i, left)
		}
		after.close()
	}
}

func TestIDSetsExpire(t *testing.T) {
	f := newFixture(t, profiles(t, "gaen=keys+ids,bluezone=ids-only"), func(f *fixture) { f.conf.Retention = 4 * time.Hour })
	random := rand.New(rand.NewPCG(5, 5))
	var keys []diagnosis.Key
	for _, scheme := range diagnosis.Schemes {
		c := f.phone(random, scheme, 8)
		f.upload(c)
		keys = append(keys, c...)
	}
	f.after(4 * time.Hour)
	if got := paths(f.public(), ".ids"); len(got) != 4 {
		t.Fatalf("ID sets and proofs: %v", got)
	}
	f.after(4 * time.Hour)
	if got := paths(f.public(), "exports/"); len(got) > 0 {
		t.Fatalf("still there: %v", got)
	}
	for path, data := range f.files(dataDir) {
		for _, k := range keys {
			if strings.Contains(data, string(k.Bytes()[4:14])) {
				t.Fatalf("%s still holds an expired key", path)
			}
		}
	}
}

func TestProfilesAreChecked(t *testing.T) {
	zip, keys, ids := exportlog.Archive, exportlog.KeySet, exportlog.IDSet
	for text, want := range map[string]map[diagnosis.Scheme][]exportlog.FileKind{
		"":                                    {},
		"gaen=archive+keys,bluezone=ids-only": {diagnosis.GAEN: {zip, keys}, diagnosis.Bluezone: {ids}},
		"bluezone=ids+keys, gaen=keys":        {diagnosis.GAEN: {keys}, diagnosis.Bluezone: {keys, ids}},
		"gaen=archive+keys+ids":               {diagnosis.GAEN: {zip, keys, ids}},
	} {
		got, err := ParseProfiles(text)
		if err != nil || !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for text, says := range map[string]string{
		"gaen=ids-only":          "cannot be ids-only",
		"bluezone=archive":       "GAEN keys only",
		"bluezone=ids":           "write keys+ids, or ids-only",
		"bluezone=keys+keys":     "want archive, keys and ids",
		"bluezone=keys+all":      "want archive, keys and ids",
		"bluezone=":              "want archive, keys and ids",
		"bluezone":               "want archive, keys and ids",
		"bluezone=ids-only+keys": "want archive, keys and ids",
		"wifi=keys":              "want SCHEME=FILES",
		"gaen=keys,":             "want SCHEME=FILES",
		"gaen=keys,gaen=archive": "twice",
	} {
		if got, err := ParseProfiles(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, %v; want %q", text, got, err, says)
		}
	}
	f := newFixture(t)
	for name, p := range map[string]map[diagnosis.Scheme][]exportlog.FileKind{
		"ids-only for GAEN":    {diagnosis.GAEN: {ids}},
		"archive for Bluezone": {diagnosis.Bluezone: {zip, keys}},
		"nothing":              {diagnosis.Bluezone: {}},
		"twice":                {diagnosis.Bluezone: {keys, keys}},
		"unknown":              {diagnosis.Bluezone: {keys, "csv"}},
	} {
		c := f.conf
		c.Profiles = p
		if _, err := New(c, f.store, nil, nil); err == nil || !strings.Contains(err.Error(), "profile of") {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := f.conf
	c.Tier = "abacus"
	if _, err := New(c, f.store, nil, nil); err == nil || !strings.Contains(err.Error(), "abacus") {
		t.Errorf("kernels that nobody has: %v", err)
	}
}

// TestBill compares what serve says about ID sets with real files of that size.
func TestBill(t *testing.T) {
	f := newFixture(t)
	if lines := f.conf.Bill(); len(lines) > 0 {
		t.Errorf("a bill for nothing: %q", lines)
	}
	profiles(t, "gaen=archive+keys+ids,bluezone=ids-only")(f)
	want := []string{
		"gaen ID sets: 533 bytes a key, beside 15 in a key set: 36 times as much for every phone to fetch",
		"bluezone ID sets: 355 bytes a key, instead of 31 in a key set: 11 times as much for every phone to fetch",
	}
	if lines := f.conf.Bill(); !slices.Equal(lines, want) {
		t.Errorf("the bill is %q", lines)
	}
	random := rand.New(rand.NewPCG(9, 9))
	for _, s := range diagnosis.Schemes {
		var keys []diagnosis.Key
		for len(keys) < billKeys {
			keys = append(keys, f.phone(random, s, 14)...)
		}
		keys = keys[:billKeys]
		slices.SortFunc(keys, func(a, b diagnosis.Key) int { return bytes.Compare(a.Secret[:], b.Secret[:]) })
		seq := func(yield func(diagnosis.Key, error) bool) {
			for _, k := range keys {
				if !yield(k, nil) {
					return
				}
			}
		}
		var set, ids bytes.Buffer
		if _, err := export.WriteKeySet(&set, export.KeySetHeader{Scheme: s, Start: 1, End: 2}, seq); err != nil {
			t.Fatal(err)
		}
		if _, err := idset.Write(&ids, idset.Params{Origin: "o", Region: "r", Scheme: s, Start: 1, End: 2}, seq, idset.Options{}); err != nil {
			t.Fatal(err)
		}
		wantIDs, wantKeys := bytesPerKey(s, idset.DefaultF, billKeys/billDays)
		for name, row := range map[string][2]float64{"ids": {float64(ids.Len()) / billKeys, wantIDs}, "keys": {float64(set.Len()) / billKeys, wantKeys}} {
			t.Logf("%s .%s: %.1f bytes a key, the bill says %.1f", s, name, row[0], row[1])
			if row[0] > row[1]*1.01 || row[0] < row[1]*0.99 {
				t.Errorf("%s .%s: %.1f bytes a key, the bill says %.1f", s, name, row[0], row[1])
			}
		}
	}
}

// TestIDSetBits: a set is made with the f that is set, says so itself, and is checked and
// made again with it when another is set.
func TestIDSetBits(t *testing.T) {
	f := newFixture(t, profiles(t, "gaen=archive+ids,bluezone=ids-only"), func(f *fixture) { f.conf.IDSetBits = 20 })
	random := rand.New(rand.NewPCG(4, 4))
	for _, scheme := range diagnosis.Schemes {
		f.upload(f.phone(random, scheme, 14))
	}
	f.after(4 * time.Hour)
	sets := f.idSets()
	for _, scheme := range diagnosis.Schemes {
		if sets[scheme] == nil || sets[scheme].F != 20 {
			t.Fatalf("%s: %+v, want f = 20", scheme, sets[scheme])
		}
	}
	want := f.public()
	bills := f.conf.Bill()
	f.conf.IDSetBits = 0
	if slices.Equal(bills, f.conf.Bill()) {
		t.Error("28 bits cost as much as 20")
	}
	f.close()
	for _, path := range paths(want, ".ids") {
		f.remove(path)
	}
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	if err := f.pub.Status().Err; err != nil {
		t.Error(err)
	}
	for _, path := range paths(want, ".ids") {
		if !strings.HasSuffix(path, exportlog.ProofSuffix) && f.public()[path] != want[path] {
			t.Errorf("%s was not made again", path)
		}
	}
	if ok, err := f.pub.Check(context.Background(), func(line string) { t.Log(line) }); err != nil || !ok {
		t.Errorf("republish --check with other bits: %v, %v", ok, err)
	}
	for _, scheme := range diagnosis.Schemes {
		f.upload(f.phone(random, scheme, 14))
	}
	f.after(4 * time.Hour)
	if f.idSets()[diagnosis.GAEN].F != idset.DefaultF {
		t.Error("the next window does not have the f that is set now")
	}
	for _, bits := range []int{-1, 8, 33} {
		c := f.conf
		c.IDSetBits = bits
		if err := c.Check(); err == nil {
			t.Errorf("f = %d: accepted", bits)
		}
	}
}
