package mirror

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

// The terms of the sites in these tests.
const (
	period = int64(4 * 3600)
	hold   = period
	retain = 6 * period
	day0   = 20697 // 2026-09-01 in UTC days since the epoch
	start0 = int64(day0 * 86400)
	origin = "log.example/hai-phong"
)

// site is a public tree in memory, made with the formats alone: no store, no publisher. It
// can be made to lie wherever a publisher could, and served wrong wherever a mirror could.
type site struct {
	t       testing.TB
	origin  string
	keys    signing.LogKeys
	witness *signing.WitnessKeys // cosigns if there is one
	signers []*signing.ExportSigner
	policy  []byte

	files     map[string][]byte // the tree
	log       exportlog.Tree
	entries   [][]byte
	exports   []exportlog.IndexEntry // not erased
	small     map[string]uint64      // newest entries of small files
	published uint64                 // size of the last checkpoint
	random    *rand.Rand
	secrets   *rand.ChaCha8
}

func newSite(t testing.TB) *site { return newSiteOf(t, origin) }

func newSiteOf(t testing.TB, origin string) *site {
	t.Helper()
	keys, err := signing.NewLogKeys(origin, sha([]byte("ed"+origin)), sha([]byte("mldsa"+origin)))
	if err != nil {
		t.Fatal(err)
	}
	source := rand.NewChaCha8([32]byte{7})
	s := &site{t: t, origin: origin, keys: keys, files: map[string][]byte{}, small: map[string]uint64{}, random: rand.New(source), secrets: source}
	s.setPolicy(exportlog.PolicyTerms{Log: keys.VKeys()})
	return s
}

func (s *site) setPolicy(terms exportlog.PolicyTerms) {
	s.t.Helper()
	full, plain, err := exportlog.FormatPolicies(terms)
	if err != nil {
		s.t.Fatal(err)
	}
	s.policy = full
	s.files[exportlog.PolicyPath], s.files[exportlog.PolicyEd25519Path] = full, plain
}

func (s *site) pinned() *exportlog.Policy {
	s.t.Helper()
	p, err := exportlog.ParsePolicy(s.policy)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// add appends an entry to the log.
func (s *site) add(e exportlog.Entry) uint64 {
	s.t.Helper()
	text, err := e.Format()
	if err != nil {
		s.t.Fatal(err)
	}
	return s.addText(text)
}

func (s *site) addText(text []byte) uint64 {
	s.log.Append(text)
	s.entries = append(s.entries, text)
	return uint64(len(s.entries) - 1)
}

// signer makes a signer and introduces it.
func (s *site) signer(version string, at int64) *signing.ExportSigner {
	s.t.Helper()
	signer, err := signing.NewExportSigner(signing.SeedOf([32]byte{3}), "452", version, time.Unix(at, 0))
	if err != nil {
		s.t.Fatal(err)
	}
	s.add(exportlog.SignerChange{Time: at, KeyID: "452", Version: version, From: at, SPKI: signer.SPKI()})
	s.files["gaen/keys/452-"+version+".pem"] = signer.PublicPEM()
	s.signers = append(s.signers, signer)
	return signer
}

// put publishes a small file; its proof comes with the next checkpoint.
func (s *site) put(path string, data []byte, at int64) uint64 {
	s.t.Helper()
	s.files[path] = data
	s.small[path] = s.add(exportlog.SmallFile{Time: at, Path: path, Size: int64(len(data)), SHA256: sha(data)})
	return s.small[path]
}

// window says what one window publishes.
type window struct {
	scheme     diagnosis.Scheme
	start, end int64
	keys       []diagnosis.Key
	other      []diagnosis.Key                      // what the key set holds, if not the same
	split      int                                  // keys in an archive, if not all
	change     func(m *exportlog.Manifest)          // before the manifest is logged
	files      func(m *exportlog.Manifest, s *site) // after the files are there
}

func (s *site) window(w window) uint64 {
	s.t.Helper()
	m := exportlog.Manifest{
		Origin: s.origin, Region: "VN-HP", Scheme: w.scheme, Start: w.start, End: w.end,
		Period: period, Hold: hold, Retain: retain, Keys: len(w.keys), Metadata: exportlog.Coarse, Encoder: export.Encoder,
	}
	put := func(kind exportlog.FileKind, n int, write func(*bytes.Buffer) error) {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			s.t.Fatal(err)
		}
		f := exportlog.NewFile(w.start, w.end, kind, int64(b.Len()), sha(b.Bytes()), n)
		m.Files = append(m.Files, f)
		s.files[f.Path] = b.Bytes()
	}
	if len(w.keys) > 0 && w.scheme == diagnosis.GAEN {
		sorted := sortKeys(w.keys)
		parts := slices.Collect(slices.Chunk(sorted, cmp.Or(w.split, len(sorted))))
		for _, signer := range s.signers {
			m.Signers = append(m.Signers, signer.Name())
		}
		for i, part := range parts {
			h := export.ArchiveHeader{Start: w.start, End: export.PartEnd(w.end, i+1, len(parts)), Region: m.Region}
			put(exportlog.Archive, len(part), func(b *bytes.Buffer) error {
				_, err := export.WriteArchive(b, h, s.signers, all(part))
				return err
			})
		}
	}
	if len(w.keys) > 0 {
		if w.other == nil {
			w.other = w.keys
		}
		put(exportlog.KeySet, len(w.other), func(b *bytes.Buffer) error {
			_, err := export.WriteKeySet(b, export.KeySetHeader{Scheme: w.scheme, Start: w.start, End: w.end}, all(sortKeys(w.other)))
			return err
		})
	}
	if w.files != nil {
		w.files(&m, s)
	}
	if w.change != nil {
		w.change(&m)
	}
	i := s.add(m)
	s.exports = append(s.exports, exportlog.IndexEntry{Entry: i, Manifest: string(s.entries[i])})
	return i
}

// erase states an erasure and removes the files.
func (s *site) erase(at int64, scheme diagnosis.Scheme, through int64) {
	s.t.Helper()
	s.add(exportlog.Erasure{Time: at, Scheme: scheme, Through: through})
	s.exports = slices.DeleteFunc(s.exports, func(x exportlog.IndexEntry) bool {
		m := parseManifest(s.t, x.Manifest)
		gone := m.Scheme == scheme && m.End <= through
		for _, f := range m.Files {
			if gone {
				delete(s.files, f.Path)
				delete(s.files, f.Path+exportlog.ProofSuffix)
			}
		}
		return gone
	})
}

// publish renders what follows from the entries: tiles, checkpoint, proofs, indexes.
func (s *site) publish(at int64) {
	s.t.Helper()
	size := s.log.Size()
	for f, err := range exportlog.Tiles(s.published, size, &s.log, func(i uint64) ([]byte, error) { return s.entries[i], nil }) {
		if err != nil {
			s.t.Fatal(err)
		}
		s.files[f.Path] = f.Data
	}
	s.published = size
	signed := s.checkpoint(at)
	s.files[exportlog.CheckpointPath] = signed
	x := exportlog.Index{Origin: s.origin, Region: "VN-HP", Size: size, Exports: s.exports}
	text, err := x.Format()
	if err != nil {
		s.t.Fatal(err)
	}
	s.files[exportlog.IndexPath] = text
	var archives []string
	for _, e := range s.exports {
		hashes, err := exportlog.ProveEntry(size, e.Entry, &s.log)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, f := range parseManifest(s.t, e.Manifest).Files {
			s.files[f.Path+exportlog.ProofSuffix] = exportlog.FormatProof(exportlog.Proof{Index: e.Entry, Hashes: hashes, Extra: []byte(e.Manifest), Checkpoint: signed})
			if strings.HasSuffix(f.Path, ".zip") {
				archives = append(archives, f.Path)
			}
		}
	}
	for path, entry := range s.small {
		if p, err := exportlog.ParseProof(s.files[path+exportlog.ProofSuffix]); err == nil && p.Index == entry {
			continue
		}
		s.files[path+exportlog.ProofSuffix] = s.prove(entry, signed)
	}
	slices.Sort(archives)
	s.files[exportlog.GAENIndexPath] = []byte(strings.Join(archives, "\n"))
}

// prove gives the proof of an entry on the log as it is.
func (s *site) prove(entry uint64, signed []byte) []byte {
	s.t.Helper()
	hashes, err := exportlog.ProveEntry(s.log.Size(), entry, &s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	return exportlog.FormatProof(exportlog.Proof{Index: entry, Hashes: hashes, Extra: s.entries[entry], Checkpoint: signed})
}

func (s *site) checkpoint(at int64) []byte {
	s.t.Helper()
	c := exportlog.Checkpoint{Origin: s.origin, Size: s.log.Size(), Root: s.log.Root()}
	signed, err := exportlog.SignCheckpoint(c, time.Unix(at, 0), s.keys)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.witness != nil {
		lines, err := exportlog.Cosign(c, time.Unix(at, 0), *s.witness)
		if err != nil {
			s.t.Fatal(err)
		}
		signed = append(signed, lines...)
	}
	return signed
}

// history is a site with n windows of both schemes, the last ending at now. It erases by
// rule, and publishes at every window's end as a server does.
func history(t testing.TB, n int) (s *site, now int64) {
	t.Helper()
	s = newSite(t)
	s.signer("v1", start0)
	s.publish(start0)
	now = start0
	for range n {
		now += period
		for _, scheme := range diagnosis.Schemes {
			var keys []diagnosis.Key
			if now/period%3 > 0 { // every third is empty
				keys = s.draw(scheme, 20, now)
			}
			s.window(window{scheme: scheme, start: now - period, end: now, keys: keys})
		}
		for _, scheme := range diagnosis.Schemes {
			if now-retain > start0 {
				s.erase(now, scheme, now-retain)
			}
		}
		s.publish(now)
	}
	return s, now
}

// draw makes keys of whole days that are due at end.
func (s *site) draw(scheme diagnosis.Scheme, n int, end int64) []diagnosis.Key {
	keys := make([]diagnosis.Key, n)
	last := uint32((end-7200)/86400) - 1
	for i := range keys {
		k := &keys[i]
		day := last - uint32(s.random.IntN(14))
		*k = diagnosis.Key{Scheme: scheme, Start: diagnosis.Interval(day) * scheme.PerDay(), Count: uint8(scheme.PerDay()), Report: diagnosis.ConfirmedTest}
		s.secrets.Read(k.Secret[:scheme.SecretLen()])
	}
	return keys
}

func sortKeys(keys []diagnosis.Key) []diagnosis.Key {
	return slices.SortedFunc(slices.Values(keys), func(a, b diagnosis.Key) int { return bytes.Compare(a.Secret[:], b.Secret[:]) })
}

func all(keys []diagnosis.Key) iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		for _, k := range keys {
			if !yield(k, nil) {
				return
			}
		}
	}
}

func parseManifest(t testing.TB, text string) exportlog.Manifest {
	t.Helper()
	e, err := exportlog.ParseEntry([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return e.(exportlog.Manifest)
}

// copy is the tree as somebody else serves it, with the same log behind it.
func (s *site) copy() memory { return memory{files: maps.Clone(s.files)} }

// path is the first path of the tree with this suffix.
func (s *site) path(suffix string) string {
	s.t.Helper()
	for _, p := range slices.Sorted(maps.Keys(s.files)) {
		if strings.HasSuffix(p, suffix) {
			return p
		}
	}
	s.t.Fatalf("no file *%s", suffix)
	return ""
}

// memory is a tree.Source in memory.
type memory struct {
	files map[string][]byte
}

func (m memory) String() string { return "memory" }

func (m memory) Open(ctx context.Context, path string, limit int64) (tree.Blob, error) {
	data, ok := m.files[path]
	if !ok {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w", path, tree.ErrTooLarge)
	}
	return tree.NewBlob(data), ctx.Err()
}

// folder writes the tree to a folder.
func (m memory) folder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for path, data := range m.files {
		name := filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// flip flips one bit in the middle of a file.
func (m memory) flip(path string) {
	data := bytes.Clone(m.files[path])
	data[len(data)/2] ^= 1
	m.files[path] = data
}

// strangersPolicy names the same origin with keys that are not the log's.
func strangersPolicy(t testing.TB) *exportlog.Policy {
	t.Helper()
	keys, err := signing.NewLogKeys(origin, [32]byte{8}, [32]byte{9})
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	s.setPolicy(exportlog.PolicyTerms{Log: keys.VKeys()})
	return s.pinned()
}

// forked is a history that tells another story from window at on, signed by the same keys.
func forked(t testing.TB, n, at int) *site {
	t.Helper()
	s := newSite(t)
	s.signer("v1", start0)
	s.publish(start0)
	now := start0
	for i := range n {
		now += period
		for _, scheme := range diagnosis.Schemes {
			var keys []diagnosis.Key
			if now/period%3 > 0 {
				keys = s.draw(scheme, 20, now)
			}
			if i == at {
				keys = nil
			}
			s.window(window{scheme: scheme, start: now - period, end: now, keys: keys})
		}
		for _, scheme := range diagnosis.Schemes {
			if now-retain > start0 {
				s.erase(now, scheme, now-retain)
			}
		}
		s.publish(now)
	}
	return s
}

// partial is the newest tile of this level.
func (s *site) partial(prefix string) (found string) {
	s.t.Helper()
	tiles, err := exportlog.TileList(0, s.log.Size())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, t := range tiles {
		if strings.HasPrefix(t.Path(), prefix) {
			found = t.Path()
		}
	}
	return found
}

// indexWithout is the index without one of its windows.
func (s *site) indexWithout(t testing.TB, i int) []byte {
	t.Helper()
	x := exportlog.Index{Origin: s.origin, Region: "VN-HP", Size: s.log.Size(), Exports: slices.Delete(slices.Clone(s.exports), i, i+1)}
	text, err := x.Format()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// failing cannot read one path.
type failing struct {
	memory
	path string
}

func (f failing) Open(ctx context.Context, path string, limit int64) (tree.Blob, error) {
	if path == f.path {
		return nil, fmt.Errorf("reading %s: the server answered 500", path)
	}
	return f.memory.Open(ctx, path, limit)
}
