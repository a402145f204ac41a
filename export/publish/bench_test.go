package publish

import (
	"context"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
)

// BenchmarkPublishArchive publishes 500,000 TEKs from a store on a real disk: staged,
// committed with their log entry, synced and renamed into the tree. The window is closed
// and ungrouped before the clock starts. Peak memory is that of the whole process while it
// publishes.
//
//	go test -run '^$' -bench PublishArchive -benchtime 1x -count 5 ./export/publish
//
// In "archive" and "independent" only the archive is made. Starts lie over 14 days with one
// report type; onset follows from the day, or in "independent" it is drawn for each key, as
// are type and risk. "both" makes the key set too, as the default profile does.
func BenchmarkPublishArchive(b *testing.B) {
	archive := map[diagnosis.Scheme][]exportlog.FileKind{diagnosis.GAEN: {exportlog.Archive}}
	b.Run("archive", func(b *testing.B) { benchmarkPublish(b, archive, false) })
	b.Run("independent", func(b *testing.B) { benchmarkPublish(b, archive, true) })
	b.Run("both", func(b *testing.B) { benchmarkPublish(b, nil, false) })
}

func benchmarkPublish(b *testing.B, profiles map[diagnosis.Scheme][]exportlog.FileKind, independent bool) {
	const n = 500_000
	var took time.Duration
	var peak, size int64
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		f := &fixture{t: b, now: noon}
		f.conf = newConfig(b, f)
		f.conf.Exact, f.conf.Profiles = true, profiles
		var err error
		f.store, err = keystore.Open(keystore.Options{Dir: dir, CodeKey: [32]byte{1}, DedupeKey: [32]byte{2},
			Period: f.conf.Period, Hold: f.conf.Hold, Exact: true, Now: f.conf.Now, Logger: f.conf.Log})
		if err != nil {
			b.Fatal(err)
		}
		folder, err := tree.NewFolder(tree.Disk{}, filepath.Join(dir, "public"))
		if err != nil {
			b.Fatal(err)
		}
		staging, err := tree.NewStaging(tree.Disk{}, filepath.Join(dir, "staging"))
		if err != nil {
			b.Fatal(err)
		}
		if f.pub, err = New(f.conf, f.store, folder, staging); err != nil {
			b.Fatal(err)
		}
		ctx := context.Background()
		if err := f.pub.Recover(ctx); err != nil {
			b.Fatal(err)
		}
		f.now = f.now.Add(f.conf.Period)
		end := floor(f.now, f.conf.Period)
		w := window{Window: keystore.Window{Scheme: diagnosis.GAEN, Start: f.store.WindowStart(diagnosis.GAEN), End: end, Published: true, Through: end}, keys: n}
		if _, err := f.store.CloseWindow(ctx, diagnosis.GAEN, end); err != nil {
			b.Fatal(err)
		}
		random := rand.New(rand.NewChaCha8([32]byte{1}))
		for range 50 {
			if err := f.store.AddPadding(ctx, f.manyKeys(random, n/50, independent)); err != nil {
				b.Fatal(err)
			}
		}
		if err := f.store.Ungroup(ctx); err != nil {
			b.Fatal(err)
		}
		debug.FreeOSMemory()
		resetPeak()

		b.StartTimer()
		start := time.Now()
		r := f.pub.newRound()
		if err := f.pub.render(ctx, &r, &w); err != nil {
			b.Fatal(err)
		}
		r.windows = append(r.windows, w)
		if err := f.pub.commit(ctx, &r); err != nil {
			b.Fatal(err)
		}
		took += time.Since(start)
		b.StopTimer()
		peak = max(peak, peakMB())
		size = 0
		filepath.WalkDir(filepath.Join(dir, "public", "exports"), func(path string, d fs.DirEntry, _ error) error {
			if info, err := d.Info(); err == nil && (profiles == nil || strings.HasSuffix(path, ".zip")) && !strings.HasSuffix(path, exportlog.ProofSuffix) && !d.IsDir() {
				size += info.Size()
			}
			return nil
		})
		f.close()
		os.RemoveAll(dir)
		b.StartTimer()
	}
	b.ReportMetric(float64(n)*float64(b.N)/took.Seconds(), "keys/s")
	b.ReportMetric(float64(size)/n, "B/key")
	b.ReportMetric(float64(peak), "peak-MB")
	b.ReportMetric(0, "ns/op")
}

// manyKeys draws keys of the 14 days before f.now.
func (f *fixture) manyKeys(random *rand.Rand, n int, independent bool) []diagnosis.Key {
	keys := make([]diagnosis.Key, n)
	for i := range keys {
		k := f.phone(random, diagnosis.GAEN, 1+random.IntN(14))
		keys[i] = k[len(k)-1]
		keys[i].Report = diagnosis.ConfirmedTest
		keys[i].Onset = keys[i].OnsetOn(uint32(f.now.Unix()/86400) - 7)
		if independent {
			keys[i].Onset = diagnosis.DaysSinceOnset(random.IntN(15) - 5)
			keys[i].Report = diagnosis.ReportType(1 + random.IntN(2))
			keys[i].Risk = uint8((int(keys[i].Onset) + 5) / 2)
		}
	}
	return keys
}

// resetPeak and peakMB use what Linux keeps of a process's largest resident size.
func resetPeak() { os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

func peakMB() int64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kb, _ := strconv.ParseInt(fields[0], 10, 64)
	return kb >> 10
}
