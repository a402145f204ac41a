package export

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"testing"

	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

var kinds = []struct {
	name string
	like like
}{{"follows-day", followsDay}, {"coarse", coarse}, {"exact", exact}, {"seeds", seeds}}

// entropy is the information of a set of n random secrets of b bits with its metadata, in
// bits: log2 C(2^b, n) + log2 n!/(n1! n2! …) = n·b − Σ log2 ni!, where ni keys share a
// metadata. (2^b is so far above n that 2^b·(2^b−1)·… is 2^nb.)
func entropy(keys []diagnosis.Key) float64 {
	groups := make(map[meta]int)
	for i := range keys {
		groups[metaOf(&keys[i])]++
	}
	total := float64(len(keys) * 8 * keys[0].Scheme.SecretLen())
	for _, n := range groups {
		ln, _ := math.Lgamma(float64(n + 1))
		total -= ln / math.Ln2
	}
	return total
}

// BenchmarkKeySet: size against the entropy, and speed, of sets of 500,000 keys and fewer.
// "encode" sorts into groups and writes; "decode" reads batches, all checks included.
func BenchmarkKeySet(b *testing.B) {
	for _, kind := range kinds {
		for _, n := range []int{10_000, 500_000} {
			keys := draw(n, kind.like)
			file := keySet(b, keys[0].Scheme, keys)
			report := func(b *testing.B) {
				b.ReportMetric(float64(len(file))/float64(n), "B/key")
				b.ReportMetric(8*float64(len(file))/entropy(keys), "x-entropy")
				b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
			}
			b.Run(fmt.Sprintf("%s/%d/encode", kind.name, n), func(b *testing.B) {
				for b.Loop() {
					if _, err := WriteKeySet(io.Discard, KeySetHeader{keys[0].Scheme, 1, 2}, all(keys)); err != nil {
						b.Fatal(err)
					}
				}
				report(b)
			})
			b.Run(fmt.Sprintf("%s/%d/decode", kind.name, n), func(b *testing.B) {
				for b.Loop() {
					r, err := NewKeySetReader(bytes.NewReader(file))
					if err != nil {
						b.Fatal(err)
					}
					for err == nil {
						_, err = r.Next()
					}
					if err != io.EOF {
						b.Fatal(err)
					}
				}
				report(b)
			})
		}
	}
}

// BenchmarkArchive: size and speed of signed archives of 500,000 keys at the levels of the
// compressor, and of reading one.
func BenchmarkArchive(b *testing.B) {
	const n = 500_000
	signers := []*signing.ExportSigner{signer(b, "v1")}
	for _, kind := range kinds[:3] {
		keys := draw(n, kind.like)
		for _, l := range []int{1, 5, 6, level, 8} {
			b.Run(fmt.Sprintf("%s/level-%d", kind.name, l), func(b *testing.B) {
				var info Info
				for b.Loop() {
					var err error
					if info, err = writeArchive(io.Discard, l, someWindow, signers, all(keys)); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(info.Size)/n, "B/key")
				b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
			})
		}
		file := archive(b, keys)
		b.Run(kind.name+"/decode", func(b *testing.B) {
			for b.Loop() {
				a, err := openArchive(file)
				if err != nil {
					b.Fatal(err)
				}
				if err := a.Verify(signers[0].Public()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(file))/n, "B/key")
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
		})
	}
}
