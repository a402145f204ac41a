package keystore

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
)

// These tests look at the bytes of the files, as somebody with a copy of the disk would.
// The disk is in memory, and a clone of it at one instant is what is looked at, because
// uploads go on meanwhile.

// rawStore is a store without compression, which would hide bytes from a search.
func rawStore(t *testing.T) (*Store, *vfs.MemFS, *testClock) {
	t.Helper()
	clock, disk := newClock(), vfs.NewCrashableMem()
	o := testOptions(disk, clock)
	o.uncompressed = true
	s := mustOpen(t, o)
	t.Cleanup(func() { mustClose(t, s) })
	return s, disk, clock
}

// copyDisk is the disk as it is now, synced or not.
func copyDisk(disk *vfs.MemFS) *vfs.MemFS {
	return disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: newRand()})
}

// rawFiles reads every file under the data folder.
func rawFiles(t *testing.T, fs vfs.FS) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	var walk func(dir string)
	walk = func(dir string) {
		names, err := fs.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			path := fs.PathJoin(dir, name)
			info, err := fs.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				walk(path)
				continue
			}
			f, err := fs.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(f)
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			files[path] = data
		}
	}
	walk("data")
	return files
}

// found counts the files of a kind, by a part of their name, in which each needle occurs.
func found(files map[string][]byte, part string, needles [][]byte) (hits int) {
	for name, data := range files {
		if !strings.Contains(name, part) {
			continue
		}
		for _, n := range needles {
			if bytes.Contains(data, n) {
				hits++
			}
		}
	}
	return hits
}

// secretTails are the last 10 bytes of each secret: rows in a table share the bytes they
// begin with.
func secretTails(keys []diagnosis.Key) (tails [][]byte) {
	for _, k := range keys {
		k = Coarse(k)
		b := k.Bytes()
		tails = append(tails, bytes.Clone(b[len(b)-10:]))
	}
	return tails
}

// dedupeTails are the last 6 bytes of each row that remembers a key.
func dedupeTails(s *Store, keys []diagnosis.Key) (tails [][]byte) {
	for _, k := range keys {
		k = Coarse(k)
		row := appendDedupeRow(nil, s.dedupeHash(), &k)
		tails = append(tails, row[len(row)-6:])
	}
	return tails
}

// traffic runs uploads from a few phones until stop is called, each of other keys.
func traffic(t *testing.T, s *Store, c *testClock) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	var n atomic.Uint64
	n.Store(1 << 20)
	for range 4 {
		group.Go(func() {
			for ctx.Err() == nil {
				codes, err := issueCodes(s, 20)
				if err != nil {
					t.Error(err)
					return
				}
				for _, code := range codes {
					keys := caseKeys(t, diagnosis.GAEN, n.Add(1), c.Now(), 8)
					if _, err := handIn(context.Background(), s, code, keys); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	stop = func() { cancel(); group.Wait() }
	t.Cleanup(stop)
	return stop
}

func TestErasedBytesAreGone(t *testing.T) {
	for _, scheme := range diagnosis.Schemes {
		t.Run(scheme.String(), func(t *testing.T) {
			s, disk, c := rawStore(t)
			var old []diagnosis.Key
			for i, code := range mustIssue(t, s, 60) {
				keys := caseKeys(t, scheme, uint64(i), c.Now(), 10)
				mustUpload(t, s, code, keys)
				old = append(old, keys...)
			}
			secrets, remembered := secretTails(old), dedupeTails(s, old)
			if hits := found(rawFiles(t, copyDisk(disk)), ".log", secrets); hits < len(secrets) {
				t.Fatalf("the search finds %d of %d fresh secrets in the log: it is blind", hits, len(secrets))
			}
			c.advance(testPeriod)
			publish(t, s, scheme, time.Time{})
			end := s.WindowStart(scheme)
			// A table of one key, so that the bounds of tables hold one.
			k := Coarse(old[0])
			if err := s.db.Flush(); err != nil {
				t.Fatal(err)
			}
			if _, err := s.touch([][]byte{appendKeyRow(nil, &k, s.bucket(&k, seconds(end.Add(-testPeriod))))}); err != nil {
				t.Fatal(err)
			}
			if err := s.db.Flush(); err != nil {
				t.Fatal(err)
			}
			files := rawFiles(t, copyDisk(disk))
			if hits := found(files, ".sst", secrets); hits < len(secrets) {
				t.Fatalf("the search finds %d of %d secrets in tables: it is blind", hits, len(secrets))
			}
			if hits := found(files, ".sst", remembered); hits < len(remembered) {
				t.Fatalf("the search finds %d of %d remembered keys in tables: it is blind", hits, len(remembered))
			}
			if found(files, "MANIFEST", secrets) == 0 {
				t.Fatal("the search finds no secret in a MANIFEST, where the bounds of tables are: it is blind")
			}

			// A fortnight later, with other keys around them, and more coming in.
			c.advance(14 * 24 * time.Hour)
			var fresh []diagnosis.Key
			for i, code := range mustIssue(t, s, 20) {
				keys := caseKeys(t, scheme, uint64(1000+i), c.Now(), 10)
				mustUpload(t, s, code, keys)
				fresh = append(fresh, keys...)
			}
			traffic(t, s, c)
			publish(t, s, scheme, end)
			if err := s.Scrub(context.Background()); err != nil {
				t.Fatal(err)
			}
			files = rawFiles(t, copyDisk(disk))
			if hits := found(files, "", secrets); hits != 0 {
				t.Errorf("%d erased secrets lie in files: %d in tables, %d in logs, %d in MANIFESTs", hits,
					found(files, ".sst", secrets), found(files, ".log", secrets), found(files, "MANIFEST", secrets))
			}
			// All but the keys of the last days are too old to be accepted again.
			var gone []diagnosis.Key
			for _, k := range old {
				if k.Scheme.Day(k.Start) < s.firstDay.Load() {
					gone = append(gone, k)
				}
			}
			if len(gone) < len(old)/2 {
				t.Fatalf("only %d of %d keys are forgotten", len(gone), len(old))
			}
			if hits := found(files, "", dedupeTails(s, gone)); hits != 0 {
				t.Errorf("%d forgotten keys are still remembered in files", hits)
			}
			if hits := found(files, "", secretTails(fresh)); hits < len(fresh) {
				t.Errorf("only %d of %d keys that were not erased are left", hits, len(fresh))
			}
			if pending, err := s.has(eraseState); pending || err != nil {
				t.Error("still marked as to be scrubbed", err)
			}
		})
	}
}

// Where nothing lay in an erased range, only the marks of the erasure do. They go too.
func TestScrubOfNothing(t *testing.T) {
	for range 200 { // the database's own work in the background comes in between, or not
		c := newClock()
		s := mustOpen(t, testOptions(vfs.NewMem(), c))
		for range 2 {
			if err := s.Commit(Publication{}); err != nil {
				t.Fatal(err)
			}
			if err := s.Scrub(context.Background()); err != nil {
				t.Fatal(err)
			}
			c.advance(24 * time.Hour)
		}
		mustClose(t, s)
	}
}

// Erasure interrupted by a crash is taken up again by the next Scrub.
func TestScrubAfterCrash(t *testing.T) {
	s, disk, c := rawStore(t)
	keys := caseKeys(t, diagnosis.GAEN, 1, c.Now(), 5)
	mustUpload(t, s, mustIssue(t, s, 1)[0], keys)
	c.advance(testPeriod)
	publish(t, s, diagnosis.GAEN, time.Time{})
	end := s.WindowStart(diagnosis.GAEN)
	c.advance(testPeriod)
	publish(t, s, diagnosis.GAEN, end)
	crashed := disk.CrashClone(vfs.CrashCloneCfg{})
	if found(rawFiles(t, copyDisk(crashed)), "", secretTails(keys)) == 0 {
		t.Fatal("nothing to scrub")
	}
	o := testOptions(crashed, c)
	o.uncompressed = true
	again := mustOpen(t, o)
	defer mustClose(t, again)
	if err := again.Scrub(context.Background()); err != nil {
		t.Fatal(err)
	}
	if hits := found(rawFiles(t, copyDisk(crashed)), "", secretTails(keys)); hits != 0 {
		t.Errorf("%d erased secrets lie in files", hits)
	}
}

// sequences reads every table of a disk and returns the sequence number of each row.
func sequences(t *testing.T, fs vfs.FS) map[string]uint64 {
	t.Helper()
	rows := map[string]uint64{}
	names, err := fs.List("data/store")
	if err != nil {
		t.Fatal(err)
	}
	var o pebble.Options
	o.EnsureDefaults()
	for _, name := range names {
		if !isTable(name) {
			continue
		}
		f, err := fs.Open("data/store/" + name)
		if err != nil {
			t.Fatal(err)
		}
		readable, err := sstable.NewSimpleReadable(f)
		if err != nil {
			t.Fatal(err)
		}
		r, err := sstable.NewReader(context.Background(), readable, o.MakeReaderOptions())
		if err != nil {
			readable.Close()
			continue // a table that is just being written
		}
		it, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
		if err != nil {
			t.Fatal(err)
		}
		for kv := it.First(); kv != nil; kv = it.Next() {
			row := string(kv.K.UserKey)
			rows[row] = max(rows[row], uint64(kv.K.SeqNum()))
		}
		if err := it.Close(); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	return rows
}

// rowsOf are the names of all rows an upload writes, as strings.
func rowsOf(t *testing.T, s *Store, code string, keys []diagnosis.Key) (rows []string) {
	t.Helper()
	canonical, _, err := desk.Parse(code)
	if err != nil {
		t.Fatal(err)
	}
	id := s.Desk().ID(canonical)
	rows = append(rows, "c"+string(id[:]))
	for _, k := range keys {
		k = Coarse(k)
		rows = append(rows, string(appendDedupeRow(nil, s.dedupeHash(), &k)))
		rows = append(rows, string(appendKeyRow(nil, &k, s.bucket(&k, s.closed[k.Scheme]))))
	}
	return rows
}

func TestNothingGroupsAnUpload(t *testing.T) {
	s, disk, c := rawStore(t)
	ctx := context.Background()
	for window := range 4 {
		scheme := diagnosis.Schemes[window%2]
		var rows []string
		var keys []diagnosis.Key
		for i, code := range mustIssue(t, s, 25) {
			some := caseKeys(t, scheme, uint64(window*100+i), c.Now(), 9)
			// Today's key falls due later; its row must be ungrouped now all the same.
			some = append(some, dayKey(t, scheme, uint64(9000+window*100+i), c.Now(), 0))
			mustUpload(t, s, code, some)
			rows = append(rows, rowsOf(t, s, code, some)...)
			keys = append(keys, some...)
		}
		if err := s.db.Flush(); err != nil {
			t.Fatal(err)
		}
		if n := numbered(sequences(t, copyDisk(disk)), rows); n < len(rows) {
			t.Fatalf("%d of %d fresh rows have a sequence number: the search is blind", n, len(rows))
		}
		stop := traffic(t, s, c)
		time.Sleep(20 * time.Millisecond)
		c.advance(testPeriod)
		closeWindow(t, s, scheme)
		padding := caseKeys(t, scheme, uint64(5000+window), c.Now().Add(-24*time.Hour), 9)
		if err := s.AddPadding(ctx, padding); err != nil {
			t.Fatal(err)
		}
		for _, k := range padding {
			k = Coarse(k)
			rows = append(rows, string(appendDedupeRow(nil, s.dedupeHash(), &k)),
				string(appendKeyRow(nil, &k, s.bucket(&k, seconds(s.WindowStart(scheme))))))
		}
		before, err := s.files(isManifest)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Ungroup(ctx); err != nil {
			t.Fatal(err)
		}
		sealed := copyDisk(disk)
		stop()

		seen := sequences(t, sealed)
		for _, row := range rows {
			if _, ok := seen[row]; !ok {
				t.Fatalf("window %d: a %c row is in no table", window, row[0])
			}
		}
		if n := numbered(seen, rows); n != 0 {
			t.Errorf("window %d: %d of %d rows have a sequence number", window, n, len(rows))
		}
		files := rawFiles(t, sealed)
		if hits := found(files, ".log", secretTails(keys)); hits != 0 {
			t.Errorf("window %d: %d secrets are still in a log", window, hits)
		}
		for _, name := range before {
			if _, ok := files["data/store/"+name]; ok {
				t.Errorf("window %d: %s was not replaced", window, name)
			}
		}
		if n := numberedBounds(files, rows); n != 0 {
			t.Errorf("window %d: %d bounds in a MANIFEST have a sequence number", window, n)
		}
		if err := s.Commit(publicationOf(s, scheme, s.opt.Now().Truncate(testPeriod), true)); err != nil {
			t.Fatal(err)
		}
	}
}

// The table of a lone upload has nothing below it to be merged with: it would be moved to
// the bottom as it is.
func TestNothingGroupsALoneUpload(t *testing.T) {
	for n := range 6 {
		s, disk, c := rawStore(t)
		code := mustIssue(t, s, 1)[0]
		keys := caseKeys(t, diagnosis.Schemes[n%2], uint64(n), c.Now(), 14)
		mustUpload(t, s, code, keys)
		if err := s.Ungroup(context.Background()); err != nil {
			t.Fatal(err)
		}
		rows := rowsOf(t, s, code, keys)
		if n := numbered(sequences(t, copyDisk(disk)), rows); n != 0 {
			t.Errorf("%d of %d rows have a sequence number", n, len(rows))
		}
	}
}

// numbered counts the rows that have a sequence number.
func numbered(seen map[string]uint64, rows []string) (n int) {
	for _, row := range rows {
		if seen[row] != 0 {
			n++
		}
	}
	return n
}

// numberedBounds counts the rows that a MANIFEST names with a sequence number: there, the
// number and the kind of the row follow its name in 8 bytes.
func numberedBounds(files map[string][]byte, rows []string) (n int) {
	for name, data := range files {
		if !strings.Contains(name, "MANIFEST") {
			continue
		}
		for _, row := range rows {
			for rest := data; ; {
				i := bytes.Index(rest, []byte(row))
				if i < 0 || len(rest) < i+len(row)+8 {
					break
				}
				rest = rest[i+len(row):]
				if binary.LittleEndian.Uint64(rest)>>8 != 0 {
					n++
				}
			}
		}
	}
	return n
}

// Touching a code's row must not bring back what it was before it was spent.
func TestUngroupingKeepsSpentCodesSpent(t *testing.T) {
	s, c := newStore(t)
	codes := mustIssue(t, s, 200)
	var group sync.WaitGroup
	for i, code := range codes {
		keys := caseKeys(t, diagnosis.GAEN, uint64(i), c.Now(), 2)
		group.Go(func() {
			if _, err := handIn(context.Background(), s, code, keys); err != nil {
				t.Error(err)
			}
		})
		if i%20 == 0 {
			if err := s.Ungroup(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	group.Wait()
	if err := s.Ungroup(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i, code := range codes {
		_, err := handIn(context.Background(), s, code, caseKeys(t, diagnosis.GAEN, uint64(5000+i), c.Now(), 2))
		wantRefusal(t, err, SpentCode)
	}
}
