package phone

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"testing"
	"time"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

// said is a window of GAEN keys whose manifest may say other than its files.
func said(keys []diagnosis.Key) (exportlog.Manifest, export.KeySetHeader) {
	m := exportlog.Manifest{
		Origin: origin, Region: region, Scheme: keys[0].Scheme, Start: day * 86400, End: day*86400 + 14400,
		Period: 14400, Hold: 14400, Retain: 86400, Keys: len(keys), Metadata: exportlog.Coarse, Encoder: export.Encoder,
	}
	return m, export.KeySetHeader{Scheme: m.Scheme, Start: m.Start, End: m.End}
}

// TestFilesSayWhatTheirManifestsSay: a file that was logged and says that it is something
// else than its manifest is not used, in a tree or with its proof beside it.
func TestFilesSayWhatTheirManifestsSay(t *testing.T) {
	for _, row := range []struct {
		name string
		lie  func(m *exportlog.Manifest, h *export.KeySetHeader)
		says string
	}{
		{"the truth", func(*exportlog.Manifest, *export.KeySetHeader) {}, ""},
		{"another scheme", func(m *exportlog.Manifest, _ *export.KeySetHeader) { m.Scheme = diagnosis.Bluezone }, "gaen from"},
		{"another start", func(_ *exportlog.Manifest, h *export.KeySetHeader) { h.Start-- }, "its manifest gaen from"},
		{"another end", func(_ *exportlog.Manifest, h *export.KeySetHeader) { h.End++ }, "its manifest gaen from"},
		{"a key more than there is", func(m *exportlog.Manifest, _ *export.KeySetHeader) { m.Keys++ }, "it holds 20 keys, its manifest says 21"},
		{"a key fewer", func(m *exportlog.Manifest, _ *export.KeySetHeader) { m.Keys-- }, "it holds 20 keys, its manifest says 19"},
	} {
		p := newPlace(t)
		keys := p.draw(diagnosis.GAEN, 20)
		m, h := said(keys)
		row.lie(&m, &h)
		var b bytes.Buffer
		if _, err := export.WriteKeySet(&b, h, all(keys)); err != nil {
			t.Fatal(err)
		}
		f := exportlog.NewFile(m.Start, m.End, exportlog.KeySet, int64(b.Len()), sha256.Sum256(b.Bytes()), m.Keys)
		m.Files = []exportlog.File{f}
		p.write(f.Path, b.Bytes())
		p.publish(m)
		for _, target := range []string{p.dir, p.dir + "/" + f.Path} {
			lines, err := reportBy(t, MatchOptions{Policy: p.policy}, heard(keys[3], 50), target)
			switch {
			case row.says == "" && (err != nil || len(lines) != 1):
				t.Errorf("%s: %d matches, %v", row.name, len(lines), err)
			case row.says != "" && (err == nil || !strings.Contains(err.Error(), row.says) || len(lines) > 0):
				t.Errorf("%s: %d matches, %v; want %q", row.name, len(lines), err, row.says)
			}
		}
	}
}

// TestArchivesInParts: each part says its own end, and one is not taken for another.
func TestArchivesInParts(t *testing.T) {
	signer, err := signing.NewExportSigner(signing.SeedOf([32]byte{3}), "452", "v1", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	for name, ends := range map[string][2]int64{"as it should be": {1, 2}, "both the first": {1, 1}, "no parts": {0, 0}} {
		p := newPlace(t)
		keys := p.draw(diagnosis.GAEN, 20)
		m, _ := said(keys)
		m.Signers = []string{signer.Name()}
		for i, part := range [][]diagnosis.Key{keys[:10], keys[10:]} {
			var b bytes.Buffer
			h := export.ArchiveHeader{Start: m.Start, End: m.End + ends[i], Region: region}
			if _, err := export.WriteArchive(&b, h, []*signing.ExportSigner{signer}, all(part)); err != nil {
				t.Fatal(err)
			}
			f := exportlog.NewFile(m.Start, m.End, exportlog.Archive, int64(b.Len()), sha256.Sum256(b.Bytes()), len(part))
			m.Files = append(m.Files, f)
			p.write(f.Path, b.Bytes())
		}
		p.publish(m)
		found := 0
		err := Match(context.Background(), slices.Concat(heard(keys[3], 50), heard(keys[17], 50)), []string{p.dir}, MatchOptions{Policy: p.policy}, func(Found) error {
			found++
			return nil
		})
		if good := ends == [2]int64{1, 2}; good && (err != nil || found != 2) || !good && (err == nil || !strings.Contains(err.Error(), "its manifest gaen from")) {
			t.Errorf("%s: %d matches, %v", name, found, err)
		}
	}
}

// TestProofOfNoWindow: an export beside which lies the proof of a small file is nobody's,
// even if the log has these bytes under another path.
func TestProofOfNoWindow(t *testing.T) {
	p := newPlace(t)
	keys := p.draw(diagnosis.GAEN, 20)
	path := p.window(keys, exportlog.KeySet)[0]
	data := p.read(path)
	p.proveFile(exportlog.SmallFile{Path: exportlog.FeedsPath, Size: int64(len(data)), SHA256: sha256.Sum256(data)}, path)
	lines, err := reportBy(t, MatchOptions{Policy: p.policy}, heard(keys[3], 50), p.dir+"/"+path)
	if err == nil || !strings.Contains(err.Error(), "not that of a window") || len(lines) > 0 {
		t.Errorf("%d matches, %v", len(lines), err)
	}
}
