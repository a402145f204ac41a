package mirror

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

func sha(data []byte) [32]byte { return sha256.Sum256(data) }

const gaenVectors = "../../testdata/vectors/gaen/"

func referenceKey(t *testing.T) *ecdsa.PublicKey {
	t.Helper()
	text, err := os.ReadFile(gaenVectors + "signer.pub.pem")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := signing.ParsePublicPEM(text)
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

// verify gives the lines of a run as text.
func verify(t *testing.T, o VerifyOptions, targets ...string) (ok bool, lines string) {
	t.Helper()
	var b strings.Builder
	ok, err := Verify(context.Background(), targets, o, func(l Line) { b.WriteString(l.String() + "\n") })
	if err != nil {
		t.Fatal(err)
	}
	return ok, b.String()
}

// want demands a verdict and words that the lines must hold.
func want(t *testing.T, ok, wantOK bool, lines string, words ...string) {
	t.Helper()
	if ok != wantOK {
		t.Errorf("ok is %v:\n%s", ok, lines)
	}
	for _, w := range words {
		if !strings.Contains(lines, w) {
			t.Errorf("nothing says %q:\n%s", w, lines)
		}
	}
}

func TestVerifyReferenceArchives(t *testing.T) {
	names, err := filepath.Glob(gaenVectors + "testExport-*.zip")
	if err != nil || len(names) != 3 {
		t.Fatal(names, err)
	}
	pub := referenceKey(t)
	ok, lines := verify(t, VerifyOptions{PublicKey: pub}, names...)
	want(t, ok, true, lines, "200 gaen keys, export.sig by the key given", "50 gaen keys, export.sig by the key given", "no proof beside it: not checked against a log")
	if n := strings.Count(lines, "\n"); n != 3 {
		t.Errorf("%d lines for three files:\n%s", n, lines)
	}

	other := newSite(t).signer("v1", 0)
	ok, lines = verify(t, VerifyOptions{PublicKey: other.Public()}, names...)
	want(t, ok, false, lines, "no signature of the archive is by this key")

	ok, lines = verify(t, VerifyOptions{}, names...)
	want(t, ok, false, lines, "no key was given (--key)")

	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "flipped.zip")
	for at := 0; at < len(data); at += 97 {
		flipped := bytes.Clone(data)
		flipped[at] ^= 4
		if err := os.WriteFile(name, flipped, 0o644); err != nil {
			t.Fatal(err)
		}
		if ok, lines := verify(t, VerifyOptions{PublicKey: pub}, name); ok {
			t.Errorf("byte %d flipped: %s", at, lines)
		}
	}
}

func TestVerifyTree(t *testing.T) {
	s, _ := history(t, 8)
	dir := s.copy().folder(t)

	ok, lines := verify(t, VerifyOptions{}, dir)
	want(t, ok, true, lines, "key taken from the tree itself: proves nothing about who runs it",
		"both signatures of the log", "quorum", "digest, 20 keys, export.sig by 452-v1 (key taken from the tree)")
	if n := strings.Count(lines, "\n"); n != 1+4*3 { // the tree, and four windows of archive and two key sets
		t.Errorf("%d lines:\n%s", n, lines)
	}

	ok, lines = verify(t, VerifyOptions{Policy: s.pinned(), PublicKey: s.signers[0].Public()}, dir)
	want(t, ok, true, lines, "export.sig by the key given")
	if strings.Contains(lines, "taken from the tree") {
		t.Errorf("everything was pinned, yet:\n%s", lines)
	}

	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	ok, lines = verify(t, VerifyOptions{Policy: s.pinned()}, server.URL, server.URL+"/"+s.path(".zip"))
	want(t, ok, true, lines, server.URL+"/exports/")

	ok, lines = verify(t, VerifyOptions{Policy: strangersPolicy(t)}, dir)
	want(t, ok, false, lines, "not signed as the policy demands")

	ok, lines = verify(t, VerifyOptions{PublicKey: newSite(t).signer("v9", 0).Public()}, dir)
	want(t, ok, false, lines, "export.sig is not by 452-v1")
}

// What the publisher itself got wrong, in files that are exactly those it logged.
func TestVerifyFindsAPublishersLie(t *testing.T) {
	gaen := diagnosis.GAEN
	for name, row := range map[string]struct {
		w     func(s *site) window
		words string
	}{
		"other keys in the key set": {func(s *site) window {
			return window{scheme: gaen, start: start0, end: start0 + period, keys: s.draw(gaen, 5, start0), other: s.draw(gaen, 5, start0)}
		}, ".keys: archive and key set hold different keys"},
		"fewer keys than announced": {func(s *site) window {
			return window{scheme: diagnosis.Bluezone, start: start0, end: start0 + period, keys: s.draw(diagnosis.Bluezone, 5, start0), change: func(m *exportlog.Manifest) { m.Keys, m.Files[0].Keys = 7, 7 }}
		}, "5 keys, the manifest says 7"},
		"an archive by another signer than named": {func(s *site) window {
			return window{scheme: gaen, start: start0, end: start0 + period, keys: s.draw(gaen, 5, start0), change: func(m *exportlog.Manifest) { m.Signers[0] = "452-v2" }}
		}, "signature 1 is announced as by 452-v1, the manifest says 452-v2"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.signer("v1", start0)
			s.window(row.w(s))
			s.publish(start0 + period)
			ok, lines := verify(t, VerifyOptions{Policy: s.pinned()}, s.copy().folder(t))
			want(t, ok, false, lines, row.words)
		})
	}
}

func TestVerifyCannotFinish(t *testing.T) {
	for _, target := range []string{t.TempDir(), "/no/such/file.zip", "http://127.0.0.1:1/x.zip", "http://127.0.0.1:1/"} {
		if _, err := Verify(context.Background(), []string{target}, VerifyOptions{}, func(Line) {}); err == nil {
			t.Errorf("%s: a verdict", target)
		}
	}
}

// A file that left its tree, with and without what it needs.
func TestVerifyLooseFile(t *testing.T) {
	s, _ := history(t, 2)
	zip := s.path(".zip")
	for _, row := range []struct {
		name  string
		files []string // of the tree, put into one folder
		o     VerifyOptions
		ok    bool
		words string
	}{
		{"archive and key", []string{zip}, VerifyOptions{PublicKey: s.signers[0].Public()}, true, "there is no proof beside it: not checked against a log"},
		{"archive alone", []string{zip}, VerifyOptions{}, false, "there is no proof beside it and no key was given"},
		{"archive, proof, policy", []string{zip, zip + ".tlog-proof"}, VerifyOptions{Policy: s.pinned()}, true, "export.sig was not checked: no key was given"},
		{"archive, proof, no policy", []string{zip, zip + ".tlog-proof"}, VerifyOptions{}, false, "no policy was given to read its proof by"},
		{"archive, proof, key, no policy", []string{zip, zip + ".tlog-proof"}, VerifyOptions{PublicKey: s.signers[0].Public()}, true, "no policy was given"},
		{"archive, policy, no proof", []string{zip}, VerifyOptions{Policy: s.pinned()}, false, "nothing ties the file to the policy"},
		{"archive, proof, other policy", []string{zip, zip + ".tlog-proof"}, VerifyOptions{Policy: strangersPolicy(t)}, false, "not signed as the policy demands"},
		{"key set, proof, policy", []string{s.path(".keys"), s.path(".keys") + ".tlog-proof"}, VerifyOptions{Policy: s.pinned()}, true, "digest, 20 keys"},
		{"key set alone", []string{s.path(".keys")}, VerifyOptions{PublicKey: s.signers[0].Public()}, false, "nothing in a key set says where it is from"},
	} {
		t.Run(row.name, func(t *testing.T) {
			loose := memory{map[string][]byte{}}
			for _, f := range row.files {
				loose.files[filepath.Base(f)] = s.files[f]
			}
			dir := loose.folder(t)
			ok, lines := verify(t, row.o, dir)
			want(t, ok, row.ok, lines, row.words)
			ok, lines = verify(t, row.o, filepath.Join(dir, filepath.Base(row.files[0])))
			want(t, ok, row.ok, lines, row.words)
		})
	}

	// Inside its tree a file needs nothing else, and the line says what that is worth.
	ok, lines := verify(t, VerifyOptions{}, filepath.Join(s.copy().folder(t), zip))
	want(t, ok, true, lines, "key taken from the tree itself", "export.sig by 452-v1")
}

func TestVerifyFindsTampering(t *testing.T) {
	s, _ := history(t, 4)
	zip, keys := s.path(".zip"), s.path(".keys")
	last := parseManifest(t, s.exports[len(s.exports)-1].Manifest).Files[0].Path
	for _, row := range []struct {
		name   string
		tamper func(m memory)
		words  string
	}{
		{"archive, one bit", func(m memory) { m.flip(zip) }, zip + ": SHA-256 is"},
		{"key set, one bit", func(m memory) { m.flip(keys) }, keys + ": SHA-256 is"},
		{"key set cut short", func(m memory) { m.files[keys] = m.files[keys][:10] }, keys + ": 10 bytes, the log says"},
		{"archive goes on", func(m memory) { m.files[zip] = append(bytes.Clone(m.files[zip]), 0) }, "bytes, the log says"},
		{"archive missing", func(m memory) { delete(m.files, zip) }, zip + ": the file is missing"},
		{"proof missing", func(m memory) { delete(m.files, zip+".tlog-proof") }, "tlog-proof is missing"},
		{"proof, one bit", func(m memory) { m.flip(zip + ".tlog-proof") }, zip + ": proof:"},
		{"proof of another entry", func(m memory) {
			m.files[zip+".tlog-proof"] = m.files[last+".tlog-proof"]
		}, "the index gives entry"},
		{"checkpoint, one bit", func(m memory) { m.flip("checkpoint") }, "checkpoint"},
		{"checkpoint missing", func(m memory) { delete(m.files, "checkpoint") }, "checkpoint is missing"},
		{"index, one bit", func(m memory) { m.flip("index.json") }, "index"},
		{"signer's key missing", func(m memory) { delete(m.files, "gaen/keys/452-v1.pem") }, "gaen/keys/452-v1.pem is missing"},
		{"policy missing", func(m memory) { delete(m.files, "policy") }, "the tree has no policy and none was given"},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := s.copy()
			row.tamper(m)
			ok, lines := verify(t, VerifyOptions{}, m.folder(t))
			want(t, ok, false, lines, row.words)
		})
	}
}
