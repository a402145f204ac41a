package publish

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/keystore/diagnosis"
)

// TestSealedWindowGroupsNothing looks at the store's files as somebody with a copy of the
// disk would: once a window is published, no row of its uploads has a sequence number, and
// none is left in a log, so that nothing tells which keys came together.
func TestSealedWindowGroupsNothing(t *testing.T) {
	mem := vfs.NewCrashableMem()
	f := newFixture(t, func(f *fixture) { f.disk = mem })
	random := rand.New(rand.NewPCG(21, 21))
	var keys []diagnosis.Key
	for _, scheme := range diagnosis.Schemes {
		for range 2 {
			one := f.phone(random, scheme, 9)
			f.upload(one)
			keys = append(keys, one...)
		}
	}
	look := func() (logged, rows, numbered int) {
		now := &fixture{t: t, disk: mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: random})}
		for path, data := range now.files(dataDir + "/store") {
			switch {
			case strings.HasSuffix(path, ".log"):
				for _, k := range keys {
					if strings.Contains(data, string(k.Bytes()[4:14])) {
						logged++
					}
				}
			case strings.HasSuffix(path, ".sst"):
				all, withNumber := uploadRows(t, now.disk, dataDir+"/store/"+path)
				rows, numbered = rows+all, numbered+withNumber
			}
		}
		return logged, rows, numbered
	}
	if logged, _, _ := look(); logged < len(keys) {
		t.Fatalf("the search finds %d of %d fresh keys in the log: it is blind", logged, len(keys))
	}
	f.after(4 * time.Hour)
	logged, rows, numbered := look()
	if logged > 0 {
		t.Errorf("%d keys of a sealed window are still in a log", logged)
	}
	// Of each key the row of its own and the one that remembers it.
	if rows < 2*len(keys) {
		t.Fatalf("the search finds %d rows of %d keys in tables: it is blind", rows, len(keys))
	}
	if numbered > 0 {
		t.Errorf("%d of %d rows of sealed uploads have a sequence number", numbered, rows)
	}
}

// uploadRows counts the rows of a table that uploads write: of keys, known keys and codes.
func uploadRows(t *testing.T, disk vfs.FS, name string) (rows, numbered int) {
	t.Helper()
	file, err := disk.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	readable, err := sstable.NewSimpleReadable(file)
	if err != nil {
		t.Fatal(err)
	}
	var o pebble.Options
	o.EnsureDefaults()
	r, err := sstable.NewReader(context.Background(), readable, o.MakeReaderOptions())
	if err != nil {
		readable.Close()
		return 0, 0 // a table that is just being written
	}
	defer r.Close()
	it, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	for kv := it.First(); kv != nil; kv = it.Next() {
		if strings.IndexByte("kdc", kv.K.UserKey[0]) < 0 {
			continue
		}
		rows++
		if kv.K.SeqNum() != 0 {
			numbered++
		}
	}
	if err := it.Error(); err != nil {
		t.Fatal(err)
	}
	return rows, numbered
}
