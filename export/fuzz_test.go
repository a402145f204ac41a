package export

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

// What opens as an archive is read to a verdict, and what it holds can be written again
// and read back as the same keys.
func FuzzArchive(f *testing.F) {
	f.Add(archive(f, draw(2, exact)))
	f.Add(archive(f, odd(), "v2", "v1"))
	f.Add(read(f, vectors+"testExport-450-records-3-of-3.zip"))
	s := signer(f, "v1")
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := openArchive(b)
		if err != nil {
			return
		}
		if err := a.Verify(s.Public()); err != nil {
			return
		}
		checkAgain(t, a)
	})
}

// The same for export.bin, which a fuzzer can change without meeting a checksum.
func FuzzExportBin(f *testing.F) {
	for _, keys := range [][]diagnosis.Key{draw(2, exact), odd()} {
		bin, _ := contents(f, archive(f, keys))
		f.Add([]byte(bin))
	}
	f.Add(read(f, vectors+"platform-export.bin")[:300])
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := OpenExportBin(bytes.NewReader(b), int64(len(b)))
		if err == nil {
			checkAgain(t, a)
		}
	})
}

func checkAgain(t *testing.T, a *Archive) {
	keys, err := collect(a.Keys())
	if err != nil || a.Region == "" {
		return
	}
	if n, err := a.Count(); n != len(keys) || err != nil {
		t.Fatalf("%d keys counted, %d read", n, len(keys))
	}
	var out bytes.Buffer
	if _, err := WriteArchive(&out, a.ArchiveHeader, []*signing.ExportSigner{signer(t, "v1")}, all(keys)); err != nil {
		return // revised keys make a second run
	}
	again, err := openArchive(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := collect(again.Keys()); err != nil || !slices.Equal(got, keys) || again.ArchiveHeader != a.ArchiveHeader {
		t.Fatalf("written again it reads otherwise, error %v", err)
	}
}

// One set, one encoding: whatever is read without an error is, written again, the same
// bytes. To get past the digest the fuzzer's input is sealed first.
func FuzzKeySet(f *testing.F) {
	f.Add([]byte("BKEYSET\x01\x01\x01\x01\x00\x00"), true)
	for _, b := range [][]byte{keySet(f, diagnosis.GAEN, odd()), keySet(f, diagnosis.GAEN, ends(diagnosis.GAEN, 5)), keySet(f, diagnosis.Bluezone, draw(3, seeds))} {
		f.Add(b[:len(b)-32], true)
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal {
			o := newOutput(io.Discard)
			o.Write(b)
			digest := o.sum()
			b = append(bytes.Clone(b), digest[:]...)
		}
		h, keys, err := readKeySet(bytes.NewReader(b))
		if err != nil {
			return
		}
		for i := 1; i < len(keys); i++ {
			if keys[i].Secret == keys[i-1].Secret && keys[i].Start == keys[i-1].Start {
				return // one key with two metadata: a set of records, but none that a writer takes
			}
		}
		var out bytes.Buffer
		if _, err := WriteKeySet(&out, h, all(keys)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), b) {
			t.Fatal("two encodings of one set")
		}
	})
}
