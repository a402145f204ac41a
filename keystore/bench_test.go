package keystore

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

// benchKeys is how many keys the store holds before a benchmark: BLUEKEY_KEYS, or 1 M.
func benchKeys(b *testing.B) int {
	n := 1_000_000
	if s := os.Getenv("BLUEKEY_KEYS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			b.Fatalf("BLUEKEY_KEYS: %v", err)
		}
	}
	return n
}

func benchOptions(dir string) Options {
	return Options{
		Dir: dir, CodeKey: [32]byte{1}, DedupeKey: [32]byte{2},
		Period: testPeriod, Hold: testPeriod, CodeCap: 1 << 30,
	}
}

// randomKey is a key of a whole day, daysAgo before now.
func randomKey(r *rand.Rand, now time.Time, daysAgo int) diagnosis.Key {
	k := diagnosis.Key{Scheme: diagnosis.GAEN, Count: 144, Report: diagnosis.ConfirmedTest, Risk: 5}
	binary.LittleEndian.PutUint64(k.Secret[0:], r.Uint64())
	binary.LittleEndian.PutUint64(k.Secret[8:], r.Uint64())
	k.Start = diagnosis.Interval(now.Unix()/86400-int64(daysAgo)) * 144
	return k
}

// preload stores n keys as if they had been uploaded over the last 14 days, or all into one
// bucket if bucket is not 0.
func preload(b *testing.B, s *Store, n int, bucket uint32) {
	b.Helper()
	r := rand.New(rand.NewPCG(7, uint64(n)))
	h := s.dedupeHash()
	now := time.Now()
	for done := 0; done < n; {
		batch := s.db.NewBatch()
		for range min(1000, n-done) {
			k := randomKey(r, now, 1+r.IntN(14))
			at := bucket
			if at == 0 {
				at = s.bucket(&k, 0)
			}
			if err := setKey(batch, nil, appendDedupeRow(nil, h, &k), &k, at); err != nil {
				b.Fatal(err)
			}
			done++
		}
		if err := batch.Commit(pebble.NoSync); err != nil {
			b.Fatal(err)
		}
		batch.Close()
	}
	if err := s.Ungroup(context.Background()); err != nil { // as after every window
		b.Fatal(err)
	}
}

// BenchmarkUpload is the accept path as a function call: 64 goroutines, 14 keys each,
// every upload synced. Give it enough to do: -benchtime 30000x.
func BenchmarkUpload(b *testing.B) {
	s := mustOpen(b, benchOptions(b.TempDir()))
	defer mustClose(b, s)
	preload(b, s, benchKeys(b), 0)
	codes, err := issueCodes(s, b.N)
	if err != nil {
		b.Fatal(err)
	}
	took := make([]time.Duration, b.N)
	var next atomic.Int64
	var group sync.WaitGroup
	cpu := cpuTime(b)
	b.ResetTimer()
	for g := range 64 {
		group.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 11))
			keys := make([]diagnosis.Key, 14)
			for {
				i := next.Add(1) - 1
				if i >= int64(b.N) {
					return
				}
				begin := time.Now()
				for d := range keys {
					keys[d] = randomKey(r, begin, d+1)
				}
				if _, err := handIn(context.Background(), s, codes[i], keys); err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(begin)
			}
		})
	}
	group.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "uploads/s")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(residentMB(b), "RSS-MB")
}

// BenchmarkUngroup seals a window of 500 uploads.
func BenchmarkUngroup(b *testing.B) {
	s := mustOpen(b, benchOptions(b.TempDir()))
	defer mustClose(b, s)
	preload(b, s, benchKeys(b), 0)
	r := rand.New(rand.NewPCG(1, 13))
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		codes, err := issueCodes(s, 500)
		if err != nil {
			b.Fatal(err)
		}
		keys := make([]diagnosis.Key, 14)
		for _, code := range codes {
			for d := range keys {
				keys[d] = randomKey(r, time.Now(), d+1)
			}
			mustUpload(b, s, code, keys)
		}
		b.StartTimer()
		if err := s.Ungroup(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(residentMB(b), "RSS-MB")
}

// BenchmarkDueKeys scans the keys of one bucket.
func BenchmarkDueKeys(b *testing.B) {
	s := mustOpen(b, benchOptions(b.TempDir()))
	defer mustClose(b, s)
	n := benchKeys(b)
	start := s.WindowStart(diagnosis.GAEN)
	preload(b, s, n, seconds(start))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		count := 0
		for _, err := range s.DueKeys(diagnosis.GAEN, start.Add(time.Hour)) {
			if err != nil {
				b.Fatal(err)
			}
			count++
		}
		if count != n {
			b.Fatalf("%d keys, want %d", count, n)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
}

// BenchmarkOpen opens a store that ended cleanly.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	s := mustOpen(b, benchOptions(dir))
	preload(b, s, benchKeys(b), 0)
	mustClose(b, s)
	b.ResetTimer()
	for range b.N {
		s := mustOpen(b, benchOptions(dir))
		b.StopTimer()
		mustClose(b, s)
		b.StartTimer()
	}
	b.ReportMetric(residentMB(b), "RSS-MB")
}

// BenchmarkOpenKilled opens a store whose process was killed while it stored uploads as
// fast as it could.
func BenchmarkOpenKilled(b *testing.B) {
	if dir := os.Getenv("BLUEKEY_KILL_ME"); dir != "" {
		s := mustOpen(b, benchOptions(dir))
		os.Stdout.WriteString("ready\n")
		for {
			preloadSynced(b, s)
		}
	}
	dir := b.TempDir()
	s := mustOpen(b, benchOptions(dir))
	preload(b, s, benchKeys(b), 0)
	mustClose(b, s)
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		killWhileStoring(b, dir)
		b.StartTimer()
		s := mustOpen(b, benchOptions(dir))
		b.StopTimer()
		mustClose(b, s)
		b.StartTimer()
	}
}

func preloadSynced(b *testing.B, s *Store) {
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 3))
	h := s.dedupeHash()
	now := time.Now()
	for {
		batch := s.db.NewBatch()
		for range 100 {
			k := randomKey(r, now, 1+r.IntN(14))
			if err := setKey(batch, nil, appendDedupeRow(nil, h, &k), &k, s.bucket(&k, 0)); err != nil {
				b.Fatal(err)
			}
		}
		if err := batch.Commit(pebble.Sync); err != nil {
			b.Fatal(err)
		}
	}
}

func killWhileStoring(b *testing.B, dir string) {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkOpenKilled$", "-test.benchtime=1x")
	cmd.Env = append(os.Environ(), "BLUEKEY_KILL_ME="+dir)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	if err := cmd.Process.Kill(); err != nil {
		b.Fatal(err)
	}
	cmd.Wait() // says that it was killed
}

// cpuTime is what the process has used of its cores: on a busy machine a steadier figure
// than a rate.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// residentMB is the memory of the process as the kernel sees it.
func residentMB(b *testing.B) float64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.Atoi(strings.Fields(kb)[0])
			return float64(n) / 1024
		}
	}
	return 0
}
