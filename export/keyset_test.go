package export

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"bluekey/keystore/diagnosis"
)

// readKeySet gives the keys of a set in ascending order, or the error at its end.
func readKeySet(src io.Reader) (KeySetHeader, []diagnosis.Key, error) {
	r, err := NewKeySetReader(src)
	if err != nil {
		return KeySetHeader{}, nil, err
	}
	keys, err := collect(r.Keys())
	slices.SortFunc(keys, func(a, b diagnosis.Key) int {
		if c := bytes.Compare(a.Secret[:], b.Secret[:]); c != 0 {
			return c
		}
		return int(int64(a.Start) - int64(b.Start))
	})
	return r.Header(), keys, err
}

func TestKeySet(t *testing.T) {
	for name, c := range map[string]struct {
		scheme diagnosis.Scheme
		keys   []diagnosis.Key
	}{
		"none":          {diagnosis.GAEN, nil},
		"one":           {diagnosis.GAEN, draw(1, exact)},
		"odd":           {diagnosis.GAEN, odd()},
		"many":          {diagnosis.GAEN, draw(30_000, exact)},
		"large groups":  {diagnosis.GAEN, draw(30_000, func(*rand.Rand) diagnosis.Key { return gaen(someDay, 1, 0, 0) })},
		"seeds":         {diagnosis.Bluezone, draw(30_000, seeds)},
		"no seed":       {diagnosis.Bluezone, nil},
		"far apart":     {diagnosis.GAEN, ends(diagnosis.GAEN, 2)},
		"close by":      {diagnosis.Bluezone, ends(diagnosis.Bluezone, 200)},
		"just a batch":  {diagnosis.GAEN, ends(diagnosis.GAEN, BatchKeys)},
		"batch and one": {diagnosis.GAEN, ends(diagnosis.GAEN, BatchKeys+1)},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			h := KeySetHeader{c.scheme, someWindow.Start, someWindow.End}
			info, err := WriteKeySet(&b, h, all(c.keys))
			if err != nil {
				t.Fatal(err)
			}
			if info != (Info{len(c.keys), int64(b.Len()), sha256.Sum256(b.Bytes())}) {
				t.Errorf("info %v does not describe the file", info)
			}
			for _, src := range []io.Reader{bytes.NewReader(b.Bytes()), iotest.OneByteReader(bytes.NewReader(b.Bytes())),
				iotest.DataErrReader(bytes.NewReader(b.Bytes()))} {
				got, keys, err := readKeySet(src)
				if err != nil || got != h || !slices.Equal(keys, c.keys) {
					t.Errorf("read back with header %v, %d keys, error %v", got, len(keys), err)
				}
			}
			f, err := OpenFile(bytes.NewReader(b.Bytes()), info.Size)
			if err != nil || f.Archive != nil || f.Scheme != c.scheme || f.Start != h.Start || f.End != h.End {
				t.Fatalf("opened as %+v, error %v", f, err)
			}
			for range 2 { // it starts anew each time
				if keys, err := collect(f.Keys()); err != nil || len(keys) != len(c.keys) {
					t.Errorf("%d keys, error %v", len(keys), err)
				}
			}
		})
	}
}

// ends makes n keys that differ in the last bits of the first number only, and last the
// largest secret there is.
func ends(s diagnosis.Scheme, n int) []diagnosis.Key {
	keys := make([]diagnosis.Key, n)
	for i := range keys {
		keys[i] = diagnosis.Key{Scheme: s, Start: someDay * s.PerDay(), Count: uint8(s.PerDay())}
		binary.BigEndian.PutUint64(keys[i].Secret[:], uint64(i/2))
		keys[i].Secret[s.SecretLen()-1] = byte(i % 2)
	}
	copy(keys[n-1].Bytes(), bytes.Repeat([]byte{0xff}, s.SecretLen()))
	return keys
}

func TestKeySetFlippedBits(t *testing.T) {
	for _, b := range [][]byte{keySet(t, diagnosis.GAEN, odd()), keySet(t, diagnosis.Bluezone, draw(4, seeds))} {
		for bit := range 8 * len(b) {
			b[bit/8] ^= 1 << (bit % 8)
			if _, _, err := readKeySet(bytes.NewReader(b)); err == nil {
				t.Fatalf("bit %d of byte %d is flipped and not found", bit%8, bit/8)
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
		for n := range b {
			_, _, err := readKeySet(bytes.NewReader(b[:n]))
			if err == nil || n > 9 && !errors.Is(err, io.ErrUnexpectedEOF) && !strings.Contains(err.Error(), "digest") {
				t.Fatalf("cut to %d bytes of %d: error %v", n, len(b), err)
			}
		}
	}
}

// Second spellings and impossible values, each with a right digest: what refuses them is
// the parser.
func TestKeySetRefusals(t *testing.T) {
	sealed := func(parts ...string) []byte {
		b := []byte(strings.Join(parts, ""))
		sum := sha256.Sum256(b)
		return append(b, sum[:]...)
	}
	start := string(binary.AppendUvarint(nil, someDay*144))
	const head = "BKEYSET\x01\x01\x01\x01" // GAEN, from second 1 to second 2
	group := start + "\x90\x0f\x10"        // onset 0, confirmed test, risk 0
	// One key: k = 63, so a zero ending the quotient, 63 bits, 64 bits: 16 bytes.
	one := strings.Repeat("\x11", 16)
	if _, keys, err := readKeySet(bytes.NewReader(sealed(head, "\x01\x01", group, "\x01", one))); err != nil || len(keys) != 1 ||
		string(keys[0].Bytes()) != one || keys[0].Onset != 0 || keys[0].Report != 1 || keys[0].Count != 144 {
		t.Fatalf("the example itself: error %v", err)
	}
	// Two keys: k = 62; each takes 1 bit and more of quotient, 62 bits, 64 bits: 127 bits.
	two := func(diff1, tail1, diff2, tail2, unused uint64) string {
		b := &bitWriter{out: io.Discard}
		for _, v := range [][2]uint64{{diff1, tail1}, {diff2, tail2}} {
			b.put(0, 1)
			b.put(v[0], 62)
			b.put(v[1], 64)
		}
		b.put(unused, 2)
		return string(b.buf)
	}
	if _, keys, err := readKeySet(bytes.NewReader(sealed(head, "\x01\x02", group, "\x02", two(5, 1, 0, 2, 0)))); err != nil || len(keys) != 2 {
		t.Fatalf("the example of two: error %v", err)
	}
	// Two differences of 2^63: 110, 62 bits, 64 bits, twice, and six unused bits.
	sum := &bitWriter{out: io.Discard}
	for range 2 {
		sum.put(6, 3)
		sum.put(0, 62)
		sum.put(0, 64)
	}
	halves := string(sum.buf) + string([]byte{byte(sum.acc << 6)})
	for name, b := range map[string][]byte{
		"other magic":              sealed("BKEYSEt\x01\x01\x01\x01\x00\x00"),
		"version 2":                sealed("BKEYSET\x02\x01\x01\x01\x00\x00"),
		"no scheme":                sealed("BKEYSET\x01\x00\x01\x01\x00\x00"),
		"unknown scheme":           sealed("BKEYSET\x01\x03\x01\x01\x00\x00"),
		"empty window":             sealed("BKEYSET\x01\x01\x01\x00\x00\x00"),
		"endless window":           sealed("BKEYSET\x01\x01\x01", string(binary.AppendUvarint(nil, 1<<63)), "\x00\x00"),
		"window in a long varint":  sealed("BKEYSET\x01\x01\x81\x00\x01\x00\x00"),
		"varint of 70 bits":        sealed("BKEYSET\x01\x01", strings.Repeat("\xff", 10), "\x01\x01\x00\x00"),
		"more groups than keys":    sealed(head, "\x02\x01", group, "\x01", one, "\x01\x90\x0f\x10\x01", one),
		"keys without groups":      sealed(head, "\x00\x01"),
		"groups without keys":      sealed(head, "\x01\x00", group, "\x00"),
		"too many keys":            sealed(head, "\x01", string(binary.AppendUvarint(nil, 1<<32)), group),
		"empty group":              sealed(head, "\x02\x02", group, "\x00", "\x01\x90\x0f\x10\x02", two(5, 1, 0, 2, 0)),
		"fewer keys than said":     sealed(head, "\x01\x02", group, "\x01", one),
		"more keys than said":      sealed(head, "\x01\x01", group, "\x02", two(5, 1, 0, 2, 0)),
		"size in a long varint":    sealed(head, "\x01\x01", group, "\x81\x00", one),
		"group twice":              sealed(head, "\x02\x02", group, "\x01", one, "\x00\x90\x0f\x10\x01", one),
		"groups descend":           sealed(head, "\x02\x02", group, "\x01", one, "\x00\x90\x0e\x10\x01", one),
		"start beyond 32 bits":     sealed(head, "\x01\x01", string(binary.AppendUvarint(nil, 1<<32)), "\x90\x0f\x10\x01", one),
		"steps beyond 32 bits":     sealed(head, "\x02\x02", group, "\x01", one, string(binary.AppendUvarint(nil, 1<<32-1)), "\x90\x0f\x10\x01", one),
		"step that overflows":      sealed(head, "\x02\x02", group, "\x01", one, string(binary.AppendUvarint(nil, 1<<64-1)), "\x90\x0f\x10\x01", one),
		"count 0":                  sealed(head, "\x01\x01", start, "\x00\x0f\x10\x01", one),
		"count 145":                sealed(head, "\x01\x01", start, "\x91\x0f\x10\x01", one),
		"onset code 30":            sealed(head, "\x01\x01", start, "\x90\x1e\x10\x01", one),
		"report type 6":            sealed(head, "\x01\x01", start, "\x90\x0f\x60\x01", one),
		"risk 9":                   sealed(head, "\x01\x01", start, "\x90\x0f\x19\x01", one),
		"seed that ends in a day":  sealed("BKEYSET\x01\x02\x01\x01\x01\x01", start, "\x10\x0f\x10\x01", strings.Repeat("\x11", 32)),
		"unused bit":               sealed(head, "\x01\x02", group, "\x02", two(5, 1, 0, 2, 1)),
		"secrets equal":            sealed(head, "\x01\x02", group, "\x02", two(5, 1, 0, 1, 0)),
		"secrets descend":          sealed(head, "\x01\x02", group, "\x02", two(5, 2, 0, 1, 0)),
		"past the last secret":     sealed(head, "\x01\x01", group, "\x01", "\xff"+strings.Repeat("\x11", 15), "\x00\x00"),
		"sum past the last":        sealed(head, "\x01\x02", group, "\x02", halves),
		"endless quotient":         sealed(head, "\x01\x01", group, "\x01", strings.Repeat("\xff", 3*readAhead)),
		"a byte before the digest": sealed(head, "\x01\x01", group, "\x01", one, "\x00"),
		"a byte behind the digest": append(sealed(head, "\x01\x01", group, "\x01", one), 0),
		"other digest":             append(sealed(head, "\x01\x01", group, "\x01", one)[:len(head)+2+len(group)+17], make([]byte, 32)...),
	} {
		_, _, err := readKeySet(bytes.NewReader(b))
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if digest := strings.Contains(err.Error(), "digest"); digest != strings.Contains(name, "digest") && !strings.Contains(name, "behind") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWriteKeySetRefusals(t *testing.T) {
	keys := draw(3, exact)
	reversed := slices.Clone(keys)
	slices.Reverse(reversed)
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		h    KeySetHeader
		keys iter.Seq2[diagnosis.Key, error]
	}{
		"no scheme":      {KeySetHeader{0, 1, 2}, all(nil)},
		"empty window":   {KeySetHeader{diagnosis.GAEN, 2, 2}, all(keys)},
		"other scheme":   {KeySetHeader{diagnosis.Bluezone, 1, 2}, all(keys)},
		"descending":     {KeySetHeader{diagnosis.GAEN, 1, 2}, all(reversed)},
		"twice":          {KeySetHeader{diagnosis.GAEN, 1, 2}, all([]diagnosis.Key{keys[0], keys[0]})},
		"failing source": {KeySetHeader{diagnosis.GAEN, 1, 2}, func(yield func(diagnosis.Key, error) bool) { yield(diagnosis.Key{}, broken) }},
	} {
		_, err := WriteKeySet(io.Discard, c.h, c.keys)
		if err == nil || name == "failing source" && !errors.Is(err, broken) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// A reader stops at a source's own error, and stays stopped.
func TestKeySetSourceFails(t *testing.T) {
	b := keySet(t, diagnosis.GAEN, draw(20_000, coarse))
	broken := errors.New("broken")
	r, err := NewKeySetReader(io.MultiReader(bytes.NewReader(b[:200_000]), iotest.ErrReader(broken)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := collect(r.Keys()); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if _, err := r.Next(); !errors.Is(err, broken) {
		t.Errorf("then: error %v", err)
	}
}

// 2 % of the entropy from 10,000 keys on, whatever the metadata.
func TestKeySetNearEntropy(t *testing.T) {
	for _, kind := range kinds {
		keys := draw(10_000, kind.like)
		b := keySet(t, keys[0].Scheme, keys)
		if x := 8 * float64(len(b)) / entropy(keys); x > 1.02 {
			t.Errorf("%s: %.4f times the entropy", kind.name, x)
		}
	}
}

func TestBatchPrintsRedacted(t *testing.T) {
	r, err := NewKeySetReader(bytes.NewReader(keySet(t, diagnosis.GAEN, ends(diagnosis.GAEN, 2))))
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("batch", "b", *b)
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %x %s", *b, *b, *b, *b, b), log.String()} {
		if !strings.Contains(s, "2 × gaen key [secret]") || strings.Contains(s, "ff") || strings.Contains(s, "255") {
			t.Errorf("printed as %s", s)
		}
	}
}

func TestOpenFileRefusals(t *testing.T) {
	for _, b := range []string{"", "PK", "BKEYSET", "EK Expor and no more", "PK\x03\x04 and no more", "BKEYSET\x01\x01\x01", "something else altogether"} {
		if _, err := OpenFile(strings.NewReader(b), int64(len(b))); err == nil {
			t.Errorf("%q is opened", b)
		}
	}
}
