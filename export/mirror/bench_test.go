package mirror

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
)

// peak samples the memory in use while f runs, in MB.
func peak(f func()) float64 {
	debug.FreeOSMemory()
	done, result := make(chan struct{}), make(chan uint64)
	go func() {
		var most uint64
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse+m.StackInuse)
			select {
			case <-done:
				result <- most
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	f()
	close(done)
	return float64(<-result) / (1 << 20)
}

// BenchmarkAuditLog audits, from a folder, a log of 280,320 entries: as many windows without
// files as 64 provinces close in a year, 12 a day each, here in one log, whose index lists
// those of two weeks.
func BenchmarkAuditLog(b *testing.B) {
	const entries, often, kept = 64 * 12 * 365, int64(225), int64(14 * 86400)
	s := newSite(b)
	now, end := start0, start0+entries/2*often
	for now < end {
		now += often
		for _, scheme := range diagnosis.Schemes {
			i := s.add(exportlog.Manifest{
				Origin: origin, Region: "VN-HP", Scheme: scheme, Start: now - often, End: now,
				Period: often, Hold: often, Retain: kept, Metadata: exportlog.Coarse, Encoder: export.Encoder,
			})
			if now >= end-kept {
				s.exports = append(s.exports, exportlog.IndexEntry{Entry: i, Manifest: string(s.entries[i])})
			}
		}
	}
	s.publish(now)
	dir, policy := s.copy().folder(b), s.pinned()
	*s = site{}
	runtime.GC()
	var most float64
	for b.Loop() {
		most = max(most, peak(func() {
			r := auditAt(b, tree.FolderSource(dir), policy, nil, now)
			if !r.Clean || r.Size != entries {
				b.Fatal(findings(r))
			}
		}))
	}
	b.ReportMetric(float64(entries)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(most, "peak-MB")
}

// BenchmarkAuditFiles audits 100 exports of 50,000 GAEN keys: archive and key set of each
// are opened and compared.
func BenchmarkAuditFiles(b *testing.B) {
	const windows, keys = 100, 50_000
	s := newSite(b)
	s.signer("v1", start0)
	now := start0
	for range windows {
		now += period
		s.window(window{scheme: diagnosis.GAEN, start: now - period, end: now, keys: s.draw(diagnosis.GAEN, keys, now), change: func(m *exportlog.Manifest) {
			m.Retain = 30 * 86400
		}})
	}
	s.publish(now)
	dir, policy := s.copy().folder(b), s.pinned()
	*s = site{}
	runtime.GC()
	var most float64
	for b.Loop() {
		most = max(most, peak(func() {
			r := auditAt(b, tree.FolderSource(dir), policy, nil, now)
			if !r.Clean || r.Keys != windows*keys {
				b.Fatal(r.Keys, findings(r))
			}
		}))
	}
	b.ReportMetric(float64(windows*keys)*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
	b.ReportMetric(most, "peak-MB")
}

// BenchmarkVerifyFile verifies one small key set with its proof under a policy.
func BenchmarkVerifyFile(b *testing.B) {
	s, _ := history(b, 4)
	dir := s.copy().folder(b)
	name, policy := filepath.Join(dir, filepath.FromSlash(s.path(".keys"))), s.pinned()
	if _, err := os.Stat(name); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		ok, err := Verify(context.Background(), []string{name}, VerifyOptions{Policy: policy}, func(Line) {})
		if !ok || err != nil {
			b.Fatal(err)
		}
	}
}
