package export

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"bluekey/keystore/diagnosis"
)

const golden = "../testdata/golden/"

// The bytes of this Encoder. A change of the compressor's version or of the formats shows
// here, and must change Encoder too: then BLUEKEY_UPDATE_GOLDEN=1 writes the files anew.
func TestGolden(t *testing.T) {
	files := map[string][]byte{
		"archive.zip":   archive(t, draw(60, exact), "v2", "v1"),
		"gaen.keys":     keySet(t, diagnosis.GAEN, draw(60, exact)),
		"bluezone.keys": keySet(t, diagnosis.Bluezone, draw(30, seeds)),
	}
	var digests strings.Builder
	fmt.Fprintf(&digests, "%s\n", Encoder)
	for _, kind := range kinds { // too large to keep: many blocks of the compressor, many batches
		keys := draw(60_000, kind.like)
		fmt.Fprintf(&digests, "%x %s.keys\n", sha256.Sum256(keySet(t, keys[0].Scheme, keys)), kind.name)
		if keys[0].Scheme == diagnosis.GAEN {
			fmt.Fprintf(&digests, "%x %s.zip\n", sha256.Sum256(archive(t, keys)), kind.name)
		}
	}
	files["digests.txt"] = []byte(digests.String())
	for name, b := range files {
		if os.Getenv("BLUEKEY_UPDATE_GOLDEN") == "1" {
			if err := os.WriteFile(golden+name, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(read(t, golden+name), b) {
			t.Errorf("%s has changed: keys exported before and after would differ under one encoder name", name)
		}
	}
}

func TestEncoderNamesTheCompressor(t *testing.T) {
	m := regexp.MustCompile(`github.com/klauspost/compress v(\S+)`).FindSubmatch(read(t, "../go.mod"))
	if m == nil || !strings.HasSuffix(Encoder, "_klauspost-compress-"+string(m[1])) {
		t.Errorf("go.mod has klauspost/compress %s, Encoder is %q", m, Encoder)
	}
}

// example is what FORMAT.md shows: three keys of one day, the last of another report type.
func example() []diagnosis.Key {
	keys := make([]diagnosis.Key, 3)
	for i := range keys {
		keys[i] = gaen(someDay, diagnosis.ConfirmedTest, 0, 6)
		copy(keys[i].Secret[:], bytes.Repeat([]byte{byte(0x11 + 0x44*i)}, 16))
	}
	keys[2].Report, keys[2].Onset, keys[2].Count = diagnosis.SelfReport, 6, 72
	return keys
}

// The dumps in FORMAT.md are what the encoder writes, byte for byte.
func TestFormatPage(t *testing.T) {
	dumps := make(map[string]string)
	for _, m := range regexp.MustCompile("(?s)```hex (\\S+)\n(.*?)```").FindAllStringSubmatch(string(read(t, "FORMAT.md")), -1) {
		for line := range strings.Lines(m[2]) {
			code, _, _ := strings.Cut(line, "#")
			dumps[m[1]] += strings.Join(strings.Fields(code), "")
		}
	}
	zipped := archive(t, example())
	bin, sig := contents(t, zipped)
	for name, b := range map[string]string{
		"archive": string(zipped), "export.bin": bin, "export.sig": sig,
		"keyset": string(keySet(t, diagnosis.GAEN, example())),
	} {
		if want := hex.EncodeToString([]byte(b)); dumps[name] != want {
			t.Errorf("the page's dump of %s is\n%s\nthe encoder writes\n%s", name, dumps[name], want)
		}
	}
}

// plainKeySet reads a key set as FORMAT.md describes it, bit by bit and trusting it: a
// second reader, written from the page.
func plainKeySet(b []byte) (keys []diagnosis.Key) {
	scheme := diagnosis.Scheme(b[8])
	at := 9
	varint := func() (v uint64) {
		for shift := 0; ; shift += 7 {
			v |= uint64(b[at]&0x7f) << shift
			at++
			if b[at-1] < 0x80 {
				return v
			}
		}
	}
	varint()
	varint()
	groups := varint()
	varint()
	start := uint64(0)
	for range groups {
		start += varint()
		k := diagnosis.Key{Scheme: scheme, Start: diagnosis.Interval(start), Count: b[at], Onset: diagnosis.OnsetUnknown,
			Report: diagnosis.ReportType(b[at+2] >> 4), Risk: b[at+2] & 15}
		if b[at+1] > 0 {
			k.Onset = diagnosis.DaysSinceOnset(int(b[at+1]) - 15)
		}
		at += 3
		n := varint()
		bit := 8 * at
		bits := func(n int) (v uint64) {
			for range n {
				v = v<<1 | uint64(b[bit/8]>>(7-bit%8)&1)
				bit++
			}
			return v
		}
		rice := 64
		for m := n; m > 0; m /= 2 {
			rice--
		}
		first := uint64(0)
		for range n {
			quotient := uint64(0)
			for bits(1) == 1 {
				quotient++
			}
			first += quotient<<rice + bits(rice)
			for i := range 8 {
				k.Secret[i] = byte(first >> (56 - 8*i))
			}
			for i := 8; i < scheme.SecretLen(); i++ {
				k.Secret[i] = byte(bits(8))
			}
			keys = append(keys, k)
		}
		at = (bit + 7) / 8
	}
	return keys
}

func TestPlainReaderReadsTheSame(t *testing.T) {
	for _, keys := range [][]diagnosis.Key{odd(), example(), draw(9_000, coarse), draw(500, seeds), ends(diagnosis.GAEN, 9_000), ends(diagnosis.Bluezone, 3)} {
		b := keySet(t, keys[0].Scheme, keys)
		r, err := NewKeySetReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		got, err := collect(r.Keys())
		plain := plainKeySet(b)
		if err != nil || len(got) != len(plain) || len(got) != len(keys) {
			t.Fatalf("%d keys, %d by the plain reader, error %v", len(got), len(plain), err)
		}
		for i := range got {
			if got[i] != plain[i] {
				t.Fatalf("key %d of %d reads otherwise", i, len(got))
			}
		}
	}
}
