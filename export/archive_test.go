package export

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/encoding/protowire"

	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

const vectors = "../testdata/vectors/gaen/"

func TestArchive(t *testing.T) {
	for name, keys := range map[string][]diagnosis.Key{
		"none": nil, "one": draw(1, exact), "odd": odd(), "many blocks": draw(30_000, exact),
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			signers := []*signing.ExportSigner{signer(t, "v2"), signer(t, "v1")}
			info, err := WriteArchive(&b, someWindow, signers, all(keys))
			if err != nil {
				t.Fatal(err)
			}
			if info != (Info{len(keys), int64(b.Len()), sha256.Sum256(b.Bytes())}) {
				t.Errorf("info %v does not describe the file", info)
			}
			a, err := openArchive(b.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if a.ArchiveHeader != someWindow || a.BatchNum != 1 || a.BatchSize != 1 || len(a.Infos) != 2 ||
				a.Infos[0] != (SignatureInfo{Version: "v2", KeyID: "452", Algorithm: "1.2.840.10045.4.3.2"}) {
				t.Errorf("header reads %+v", a)
			}
			got, err := collect(a.Keys())
			if err != nil || !slices.Equal(got, keys) {
				t.Errorf("keys come back otherwise, error %v", err)
			}
			for _, s := range signers {
				if err := a.Verify(s.Public()); err != nil {
					t.Error(err)
				}
			}
			if err := a.Verify(signer(t, "v3").Public()); err != ErrSignature {
				t.Errorf("with another key: %v", err)
			}
			if again := archive(t, keys, "v2", "v1"); !bytes.Equal(again, b.Bytes()) {
				t.Error("the same keys give other bytes")
			}
		})
	}
}

// The reference key server's own archives and its key, and a platform's test file.
func TestReferenceArchives(t *testing.T) {
	pub, err := signing.ParsePublicPEM(read(t, vectors+"signer.pub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(vectors + "*.zip")
	if len(names) != 3 {
		t.Fatalf("found %d archives", len(names))
	}
	total := 0
	for _, name := range names {
		b := read(t, name)
		f, err := OpenFile(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Archive.Verify(pub); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := f.Archive.Verify(signer(t, "v1").Public()); err != ErrSignature {
			t.Errorf("%s with another key: %v", name, err)
		}
		n, err := f.Archive.Count()
		if err != nil || f.Region != "VN-HP" || f.Archive.Infos[0].KeyID != "452" {
			t.Errorf("%s: %+v, error %v", name, f, err)
		}
		total += n
	}
	if total != 450 {
		t.Errorf("%d keys, want 450", total)
	}

	b := read(t, vectors+"platform-export.bin")
	f, err := OpenFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := collect(f.Keys())
	if err != nil || len(keys) < 100 || f.Region != "US" || keys[0].Onset != diagnosis.OnsetUnknown || keys[0].Count != 141 {
		t.Errorf("platform's file: %d keys, %+v, error %v", len(keys), f, err)
	}
	if err := f.Archive.Verify(pub); err != ErrSignature {
		t.Errorf("a bare export.bin has no signature, yet: %v", err)
	}
}

// readAll is what a user relies on: opening, every key, the signature.
func readAll(b []byte, pub *signing.ExportSigner) ([]diagnosis.Key, error) {
	a, err := openArchive(b)
	if err != nil {
		return nil, err
	}
	keys, err := collect(a.Keys())
	if err != nil {
		return nil, err
	}
	return keys, a.Verify(pub.Public())
}

// Every bit of an archive is flipped. All that carries content, the zip structure and
// both digests included, must be found out. What may pass are unused bits of deflate: the
// bits after a final block, and before the length of its empty stored block. They change
// nothing that any reader sees, and only the SHA-256 in the manifest covers them.
func TestEveryFlippedBit(t *testing.T) {
	for name, keys := range map[string][]diagnosis.Key{"compressed": draw(20, followsDay), "one key": draw(1, exact)} {
		b := archive(t, keys)
		passed := 0
		for bit := range 8 * len(b) {
			b[bit/8] ^= 1 << (bit % 8)
			if got, err := readAll(b, signer(t, "v1")); err == nil {
				passed++
				if !slices.Equal(got, keys) {
					t.Fatalf("%s: bit %d of byte %d changes the keys and is not found", name, bit%8, bit/8)
				}
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
		if passed > 2*2*7 { // two entries, at most two places each, at most 7 bits
			t.Errorf("%s: %d flipped bits of %d pass", name, passed, 8*len(b))
		}
		t.Logf("%s: %d bits of %d are unused bits of deflate", name, passed, 8*len(b))
	}
}

func TestArchiveCutShort(t *testing.T) {
	b := archive(t, draw(5, exact))
	for n := range b {
		if _, err := readAll(b[:n], signer(t, "v1")); err == nil {
			t.Fatalf("the first %d bytes of %d pass", n, len(b))
		}
	}
}

// build makes an archive as somebody else's program might.
func build(t *testing.T, change func(*zip.Writer), entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		w, err := z.Create(entries[i])
		if err == nil {
			_, err = io.WriteString(w, entries[i+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		change(z)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// contents unpacks an archive without this package.
func contents(t testing.TB, b []byte) (bin, sig string) {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(data))
	}
	return out[0], out[1]
}

func TestArchiveRefusals(t *testing.T) {
	good := archive(t, draw(3, exact))
	bin, sig := contents(t, good)
	if _, err := readAll(build(t, nil, binName, bin, sigName, sig), signer(t, "v1")); err != nil {
		t.Fatalf("other compressor, same contents: %v", err)
	}
	field := func(num protowire.Number, typ protowire.Type, value ...byte) string {
		return string(append(protowire.AppendTag(nil, num, typ), value...))
	}
	message := func(num protowire.Number, inside ...string) string {
		all := strings.Join(inside, "")
		return field(num, protowire.BytesType, protowire.AppendVarint(nil, uint64(len(all)))...) + all
	}
	secret := message(1, strings.Repeat("k", 16))
	withKeys := func(keys ...string) string {
		head := string(appendHeader(nil, someWindow, []SignatureInfo{infoOf(signer(t, "v1"))}))
		return head + strings.Join(keys, "")
	}
	key := func(fields ...string) string { return withKeys(message(7, secret+strings.Join(fields, ""))) }

	// The reader's own signatures do not matter here: all these are signed right.
	signed := func(bin string) []byte {
		list, err := signatureList([]*signing.ExportSigner{signer(t, "v1")}, sha256.Sum256([]byte(bin)))
		if err != nil {
			t.Fatal(err)
		}
		return build(t, nil, binName, bin, sigName, string(list))
	}
	if _, err := readAll(signed(key()), signer(t, "v1")); err != nil {
		t.Fatalf("a key of nothing but its secret: %v", err)
	}
	revised := withKeys(message(7, secret), message(8, secret))
	if keys, err := readAll(signed(revised), signer(t, "v1")); err != nil || len(keys) != 2 {
		t.Fatalf("revised keys: %d, %v", len(keys), err)
	}

	zeros := strings.Repeat("\x00", 1<<20)
	for name, b := range map[string][]byte{
		"empty":                     {},
		"not a zip":                 []byte(strings.Repeat("x", 100)),
		"something in front":        append([]byte("x"), good...),
		"something behind":          append(slices.Clone(good), 'x'),
		"twice":                     append(slices.Clone(good), good...),
		"comment":                   build(t, func(z *zip.Writer) { z.SetComment("x") }, binName, bin, sigName, sig),
		"third entry":               build(t, nil, binName, bin, sigName, sig, "extra", ""),
		"one entry":                 build(t, nil, binName, bin),
		"other order":               build(t, nil, sigName, sig, binName, bin),
		"one entry twice":           build(t, nil, binName, bin, binName, bin),
		"other name":                build(t, nil, "export.BIN", bin, sigName, sig),
		"stored, not deflated":      storedArchive(t, bin, sig),
		"packed data go on":         longArchive(t, bin, sig),
		"bomb":                      build(t, nil, binName, bin+zeros, sigName, sig),
		"bomb of a signature":       build(t, nil, binName, bin, sigName, sig+zeros[:maxSigFile]),
		"wrong magic":               signed("EK Export v2    " + bin[16:]),
		"no magic":                  signed("EK"),
		"no header":                 signed(bin[:16]),
		"cut in a key":              signed(bin[:len(bin)-1]),
		"unknown field":             signed(key() + field(9, protowire.VarintType, 1)),
		"group":                     signed(key() + field(9, protowire.StartGroupType)),
		"32-bit field":              signed(key() + field(9, protowire.Fixed32Type, 1, 2, 3, 4)),
		"field number 0":            signed(key() + "\x00\x01"),
		"start twice":               signed(bin[:25] + bin[16:]),
		"region after the keys":     signed(key() + message(3, "VN-HP")),
		"region as a number":        signed(bin[:16] + field(3, protowire.VarintType, 1) + bin[34:]),
		"no secret":                 signed(withKeys(message(7))),
		"secret not first":          signed(withKeys(message(7, field(2, protowire.VarintType, 1), secret))),
		"15-byte secret":            signed(withKeys(message(7, message(1, strings.Repeat("k", 15))))),
		"keys not ascending":        signed(withKeys(message(7, secret), message(7, secret))),
		"key after revised":         signed(revised + message(7, message(1, strings.Repeat("z", 16)))),
		"risk 9":                    signed(key(field(2, protowire.VarintType, 9))),
		"risk twice":                signed(key(field(2, protowire.VarintType, 1), field(2, protowire.VarintType, 1))),
		"risk in two bytes":         signed(key(field(2, protowire.VarintType, 0x81, 0))),
		"negative start":            signed(key(string(protowire.AppendVarint([]byte{3 << 3}, 1<<64-1)))),
		"period 0":                  signed(key(field(4, protowire.VarintType, 0))),
		"period 145":                signed(key(field(4, protowire.VarintType, 145, 1))),
		"report type 6":             signed(key(field(5, protowire.VarintType, 6))),
		"onset 15":                  signed(key(field(6, protowire.VarintType, 30))),
		"onset as bytes":            signed(key(message(6, "x"))),
		"variant of concern":        signed(key(field(8, protowire.VarintType, 1))),
		"huge field":                signed(key() + message(7, strings.Repeat("k", maxField))),
		"window backwards":          signed(bin[:16] + field(1, protowire.Fixed64Type, 2, 0, 0, 0, 0, 0, 0, 0) + field(2, protowire.Fixed64Type, 1, 0, 0, 0, 0, 0, 0, 0) + bin[34:]),
		"signature of another info": build(t, nil, binName, bin, sigName, strings.Replace(sig, "v1", "v2", 1)),
		"signature of other batch":  build(t, nil, binName, bin, sigName, strings.Replace(sig, "\x10\x01\x18\x01", "\x10\x02\x18\x01", 1)),
		"no signature":              build(t, nil, binName, bin, sigName, ""),
		"two signatures, one info":  build(t, nil, binName, bin, sigName, sig+sig),
		"export.sig cut":            build(t, nil, binName, bin, sigName, sig[:len(sig)-1]),
		"export.sig goes on":        build(t, nil, binName, bin, sigName, sig+"\x10\x01"),
	} {
		if _, err := readAll(b, signer(t, "v1")); err == nil {
			t.Errorf("%s: accepted", name)
		} else if errors.Is(err, ErrSignature) {
			t.Errorf("%s: found by the signature only", name)
		}
	}
}

func TestBatchNumbers(t *testing.T) {
	bin, _ := contents(t, archive(t, draw(1, exact)))
	for batch, good := range map[string]bool{"\x20\x01\x28\x01": true, "\x20\x02\x28\x03": true, "\x20\x02\x28\x01": false, "\x20\x00\x28\x01": false, "": false} {
		b := strings.Replace(bin, "\x20\x01\x28\x01", batch, 1)
		if _, err := OpenExportBin(strings.NewReader(b), int64(len(b))); (err == nil) != good {
			t.Errorf("batch %q: error %v", batch, err)
		}
	}
}

func storedArchive(t *testing.T, bin, sig string) []byte {
	return build(t, func(z *zip.Writer) {
		for i, data := range []string{bin, sig} {
			w, err := z.CreateHeader(&zip.FileHeader{Name: []string{binName, sigName}[i], Method: zip.Store})
			if err == nil {
				_, err = io.WriteString(w, data)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

// longArchive has packed data that inflate to export.bin before they end.
func longArchive(t *testing.T, bin, sig string) []byte {
	return build(t, func(z *zip.Writer) {
		z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) {
			f, err := flate.NewWriter(w, 6)
			return tailWriter{f, w}, err
		})
		for i, data := range []string{bin, sig} {
			w, err := z.Create([]string{binName, sigName}[i])
			if err == nil {
				_, err = io.WriteString(w, data)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

type tailWriter struct {
	*flate.Writer
	w io.Writer
}

func (t tailWriter) Close() error {
	err := t.Writer.Close()
	if err == nil {
		_, err = t.w.Write([]byte("hidden"))
	}
	return err
}

func TestWriteArchiveRefusals(t *testing.T) {
	keys := draw(3, exact)
	broken := errors.New("broken")
	long := make([]*signing.ExportSigner, signing.MaxSigners+1)
	for i := range long {
		long[i] = signer(t, "v1")
	}
	reversed := slices.Clone(keys)
	slices.Reverse(reversed)
	shape := slices.Clone(keys)
	shape[1].Count = 145
	many := func(yield func(diagnosis.Key, error) bool) {
		k := keys[0]
		for i := range MaxKeys + 1 {
			k.Secret = diagnosis.Secret{byte(i >> 16), byte(i >> 8), byte(i)}
			if !yield(k, nil) {
				return
			}
		}
	}
	failing := func(yield func(diagnosis.Key, error) bool) {
		_ = yield(keys[0], nil) && yield(diagnosis.Key{}, broken)
	}
	ok := []*signing.ExportSigner{signer(t, "v1")}
	for name, c := range map[string]struct {
		h       ArchiveHeader
		signers []*signing.ExportSigner
		keys    iter.Seq2[diagnosis.Key, error]
	}{
		"no signer":         {someWindow, nil, all(keys)},
		"too many signers":  {someWindow, long, all(keys)},
		"no region":         {ArchiveHeader{1, 2, ""}, ok, all(keys)},
		"region of a page":  {ArchiveHeader{1, 2, strings.Repeat("x", 65)}, ok, all(keys)},
		"region with space": {ArchiveHeader{1, 2, "Hai Phong"}, ok, all(keys)},
		"empty window":      {ArchiveHeader{2, 2, "VN-HP"}, ok, all(keys)},
		"descending":        {someWindow, ok, all(reversed)},
		"twice":             {someWindow, ok, all([]diagnosis.Key{keys[0], keys[0]})},
		"bad shape":         {someWindow, ok, all(shape)},
		"other scheme":      {someWindow, ok, all(draw(1, seeds))},
		"too many":          {someWindow, ok, many},
		"failing source":    {someWindow, ok, failing},
	} {
		synctest.Test(t, func(t *testing.T) { // fails if a goroutine is left
			_, err := WriteArchive(io.Discard, c.h, c.signers, c.keys)
			if err == nil || name == "failing source" && !errors.Is(err, broken) {
				t.Errorf("%s: error %v", name, err)
			}
		})
	}
}

// A disk that fills up ends the writing, wherever it happens, and leaves no goroutine.
func TestArchiveWriteFails(t *testing.T) {
	keys := draw(40_000, exact)
	whole := len(archive(t, keys))
	ok := []*signing.ExportSigner{signer(t, "v1")}
	for _, room := range []int{0, 1, 5_000, 300_000, whole - 200, whole - 30, whole - 1} {
		synctest.Test(t, func(t *testing.T) { // fails if a goroutine is left
			if _, err := WriteArchive(&smallDisk{room}, someWindow, ok, all(keys)); !errors.Is(err, errFull) {
				t.Errorf("with room for %d bytes: error %v", room, err)
			}
			if _, err := WriteKeySet(&smallDisk{min(room, 300_000)}, KeySetHeader{diagnosis.GAEN, 1, 2}, all(keys)); !errors.Is(err, errFull) {
				t.Errorf("key set with room for %d bytes: error %v", room, err)
			}
		})
	}
}

var errFull = errors.New("disk full")

type smallDisk struct{ room int }

func (d *smallDisk) Write(p []byte) (int, error) {
	if len(p) > d.room {
		return 0, errFull
	}
	d.room -= len(p)
	return len(p), nil
}

func TestPartEnd(t *testing.T) {
	if got := []int64{PartEnd(100, 1, 1), PartEnd(100, 1, 2), PartEnd(100, 2, 2)}; !slices.Equal(got, []int64{100, 101, 102}) {
		t.Errorf("ends %v", got)
	}
}

// The limits name what they refuse without unpacking it first.
func TestBombIsRefusedAtOnce(t *testing.T) {
	bomb := build(t, nil, binName, strings.Repeat("\x00", 8<<20), sigName, "x")
	if _, err := openArchive(bomb); err == nil || !strings.Contains(err.Error(), "unpacks from") {
		t.Errorf("error %v", err)
	}
	// One that lies about its size is stopped at the size it declares.
	z, err := zip.NewReader(bytes.NewReader(bomb), int64(len(bomb)))
	if err != nil {
		t.Fatal(err)
	}
	size := z.File[0].UncompressedSize64
	lie := bytes.ReplaceAll(bomb, protowire.AppendFixed32(nil, uint32(size)), protowire.AppendFixed32(nil, 1000))
	if _, err := readAll(lie, signer(t, "v1")); err == nil {
		t.Error("a lie about the size is accepted")
	}
	if bytes.Equal(lie, bomb) {
		t.Fatal("no size found in " + hex.EncodeToString(bomb[:40]))
	}
}
