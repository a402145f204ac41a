package mirror

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

// verifyLog gives what Verify says of a tree as a whole, and not of its files.
func verifyLog(t *testing.T, s tree.Source, o VerifyOptions) Line {
	t.Helper()
	v := &verifier{VerifyOptions: o, sum: newSummer()}
	line := Line{Name: "tree"}
	ctx := context.Background()
	index, err := tree.ReadAll(ctx, s, exportlog.IndexPath, exportlog.MaxIndex)
	if err != nil {
		t.Fatal(err)
	}
	h, x, err := v.treeLine(ctx, s, index, &line)
	if err == nil {
		_, err = v.wholeLog(ctx, h, x, &line)
	}
	if err := line.fail(err); err != nil {
		t.Fatal(err)
	}
	return line
}

// smallSite is a site of few windows, with an erasure, a witness of two keys, a signer that has
// retired and one that signs, and a small file.
func smallSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	witness, err := signing.NewWitnessKeys("witness.example", [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	keys := witness.VKeys()
	s.witness = &witness
	s.setPolicy(exportlog.PolicyTerms{Log: s.keys.VKeys(), URL: "https://log.example", Quorum: 1, Witnesses: []exportlog.PolicyWitness{
		{Name: "w", Ed25519: keys[0], MLDSA44: keys[1], URL: "https://witness.example"},
	}})
	s.signer("v1", start0)
	s.put("notice/vi.html", []byte("<p>xin chào\n"), start0)
	s.put(exportlog.KeyringPath, s.keyring(0, day0), start0)
	now := start0
	for i := range 3 {
		now += period
		for _, scheme := range diagnosis.Schemes {
			s.window(window{scheme: scheme, start: now - period, end: now, keys: s.draw(scheme, 5*(i%2+1), now)})
		}
	}
	old := s.signers[0]
	s.signer("v2", now)
	s.add(exportlog.SignerChange{Time: now, KeyID: "452", Version: "v1", From: now, Retires: true, SPKI: old.SPKI()})
	s.signers = s.signers[1:]
	s.window(window{scheme: diagnosis.GAEN, start: now, end: now + period, keys: s.draw(diagnosis.GAEN, 5, now+period)})
	s.window(window{scheme: diagnosis.Bluezone, start: now, end: now + period})
	s.erase(start0+retain+period, diagnosis.GAEN, start0+period)
	s.publish(start0 + retain + period)
	return s
}

// Whichever byte of the files that speak for a log is another, Verify notices.
func TestVerifyNoticesEveryByte(t *testing.T) {
	hasty(t)
	s := smallSite(t)
	if line := verifyLog(t, s.copy(), VerifyOptions{Policy: s.pinned()}); !line.OK() {
		t.Fatal(line)
	}
	paths := []string{
		exportlog.IndexPath, exportlog.GAENIndexPath, exportlog.PolicyPath, exportlog.PolicyEd25519Path,
		"gaen/keys/452-v1.pem", "gaen/keys/452-v2.pem", "notice/vi.html", exportlog.KeyringPath,
	}
	tiles, err := exportlog.TileList(0, s.log.Size())
	if err != nil {
		t.Fatal(err)
	}
	for _, tile := range tiles {
		paths = append(paths, tile.Path())
	}
	step := 23
	if os.Getenv("BLUEKEY_EXHAUSTIVE") != "" {
		step = 1
	}
	for _, path := range paths {
		t.Run(path, func(t *testing.T) {
			for at := 0; at < len(s.files[path]); at += step {
				for _, bit := range []byte{1, 0x20} { // 0x20 changes the case of a letter
					m := s.copy()
					m.files[path] = bytes.Clone(s.files[path])
					m.files[path][at] ^= bit
					if line := verifyLog(t, m, VerifyOptions{Policy: s.pinned()}); line.OK() {
						t.Fatalf("byte %d (%q) flipped by %#x: %s", at, s.files[path][at], bit, line)
					}
				}
			}
			for name, data := range map[string][]byte{"longer": append(bytes.Clone(s.files[path]), '\n'), "shorter": s.files[path][:len(s.files[path])-1]} {
				m := s.copy()
				m.files[path] = data
				if line := verifyLog(t, m, VerifyOptions{Policy: s.pinned()}); line.OK() {
					t.Errorf("%s by a byte: %s", name, line)
				}
			}
		})
	}
}

// An index that is well-formed and wrong.
func TestVerifyFindsWhatAnIndexHides(t *testing.T) {
	hasty(t)
	s := smallSite(t)
	index := func(change func(x *exportlog.Index)) func(m memory) {
		return func(m memory) {
			x := exportlog.Index{Origin: s.origin, Region: "VN-HP", Size: s.log.Size(), Exports: slices.Clone(s.exports)}
			change(&x)
			text, err := x.Format()
			if err != nil {
				t.Fatal(err)
			}
			m.files[exportlog.IndexPath] = text
		}
	}
	archives := strings.Split(string(s.files[exportlog.GAENIndexPath]), "\n")
	lines := func(list ...string) func(m memory) {
		return func(m memory) { m.files[exportlog.GAENIndexPath] = []byte(strings.Join(list, "\n")) }
	}
	erased := exportlog.IndexEntry{Entry: 3, Manifest: string(s.entries[3])}
	last := len(s.exports) - 1
	for _, row := range []struct {
		name   string
		tamper func(m memory)
		words  string
	}{
		{"the newest window with keys is hidden", index(func(x *exportlog.Index) { x.Exports = slices.Delete(x.Exports, last-1, last) }), "the window is left out"},
		{"an old one is hidden", index(func(x *exportlog.Index) { x.Exports = x.Exports[1:] }), "the window is left out"},
		{"every one is hidden", index(func(x *exportlog.Index) { x.Exports = nil }), "the window is left out"},
		{"an empty window is hidden", index(func(x *exportlog.Index) { x.Exports = x.Exports[:last] }), "the empty window is left out"},
		{"an erased window is listed", index(func(x *exportlog.Index) { x.Exports = slices.Insert(x.Exports, 0, erased) }), "it lists a window that was erased"},
		{"it is of an older log", index(func(x *exportlog.Index) { x.Size-- }), "windows may be hidden"},
		{"it is of no log yet", index(func(x *exportlog.Index) { x.Size++ }), "the checkpoint of"},
		{"it is missing for GAEN", func(m memory) { delete(m.files, exportlog.GAENIndexPath) }, "gaen/index.txt: the file is missing"},
		{"an archive is hidden", lines(archives[1:]...), "is left out"},
		{"an archive is listed twice", lines(append([]string{archives[0]}, archives...)...), "do not ascend"},
		{"archives out of order", lines(archives[1], archives[0]), "do not ascend"},
		{"an archive of nobody", lines(append(archives, "exports/z.zip")...), "is not an archive that the log has"},
		{"an erased archive", lines(append([]string{parseManifest(t, erased.Manifest).Files[0].Path}, archives...)...), "is not an archive that the log has"},
		{"policy-ed25519 without its witness", func(m memory) {
			var kept []string
			for l := range strings.Lines(string(m.files[exportlog.PolicyEd25519Path])) {
				if strings.HasPrefix(l, "log ") {
					kept = append(kept, l)
				}
			}
			m.files[exportlog.PolicyEd25519Path] = []byte(strings.Join(kept, "") + "quorum none\n")
		}, "policy-ed25519"},
		{"the signer's key in another form", func(m memory) {
			m.files["gaen/keys/452-v2.pem"] = bytes.ReplaceAll(m.files["gaen/keys/452-v2.pem"], []byte("\n"), []byte("\r\n"))
		}, "gaen/keys/452-v2.pem"},
		{"a retired signer's key is another's", func(m memory) { m.files["gaen/keys/452-v1.pem"] = m.files["gaen/keys/452-v2.pem"] }, "gaen/keys/452-v1.pem"},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := s.copy()
			row.tamper(m)
			line := verifyLog(t, m, VerifyOptions{Policy: s.pinned()})
			if line.OK() || !strings.Contains(line.Problem, row.words) {
				t.Errorf("%s; want %q", line, row.words)
			}
		})
	}
	// The key of one that has retired may go.
	m := s.copy()
	delete(m.files, "gaen/keys/452-v1.pem")
	if line := verifyLog(t, m, VerifyOptions{Policy: s.pinned()}); !line.OK() {
		t.Error(line)
	}
}

// A tree that moves on while it is read is read again; one that does not is not waited for.
func TestVerifyMovingTree(t *testing.T) {
	now := time.Now().Unix() / period * period
	s := newSite(t)
	s.signer("v1", now-2*period)
	s.window(window{scheme: diagnosis.GAEN, start: now - 2*period, end: now - period, keys: s.draw(diagnosis.GAEN, 5, now-period)})
	s.publish(time.Now().Unix())
	old := s.files[exportlog.IndexPath]
	s.window(window{scheme: diagnosis.GAEN, start: now - period, end: now, keys: s.draw(diagnosis.GAEN, 5, now)})
	s.publish(time.Now().Unix())
	m := s.copy()
	m.files[exportlog.IndexPath] = old
	dir := m.folder(t)
	done := make(chan error, 1)
	go func() {
		time.Sleep(rereadAfter / 2)
		done <- os.WriteFile(dir+"/"+exportlog.IndexPath, s.files[exportlog.IndexPath], 0o644)
	}()
	ok, lines := verify(t, VerifyOptions{Policy: s.pinned()}, dir)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	want(t, ok, true, lines, fmt.Sprintf("checkpoint of %d entries", s.log.Size()))
	if n := strings.Count(lines, ".keys:"); n != 2 {
		t.Errorf("%d key sets of the index that came:\n%s", n, lines)
	}
	if err := os.WriteFile(dir+"/"+exportlog.IndexPath, old, 0o644); err != nil {
		t.Fatal(err)
	}
	ok, lines = verify(t, VerifyOptions{Policy: s.pinned()}, dir)
	want(t, ok, false, lines, "windows may be hidden")
}

// An archive that was erased a moment ago is no longer listed, even if audits know it still.
func TestVerifyErasedArchiveListed(t *testing.T) {
	now := time.Now().Unix() / period * period
	s := newSite(t)
	s.signer("v1", now-9*period)
	for _, end := range []int64{now - 8*period, now - 7*period} {
		s.window(window{scheme: diagnosis.GAEN, start: end - period, end: end, keys: s.draw(diagnosis.GAEN, 5, end)})
	}
	s.publish(now - 7*period)
	old := s.files[exportlog.GAENIndexPath]
	s.erase(now, diagnosis.GAEN, now-8*period)
	s.publish(now - period)
	m := s.copy()
	if line := verifyLog(t, m, VerifyOptions{Policy: s.pinned()}); !line.OK() {
		t.Fatal(line)
	}
	m.files[exportlog.GAENIndexPath] = old
	if line := verifyLog(t, m, VerifyOptions{Policy: s.pinned()}); line.OK() || !strings.Contains(line.Problem, "is not an archive that the log has") {
		t.Error(line)
	}
}
