package phone

import (
	"bytes"
	"context"
	"crypto/sha256"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/match/idset"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

const (
	day    = 20697 // 2026-09-01 in UTC days since the epoch
	origin = "log.example/hai-phong"
	region = "VN-HP"
)

// place is the public tree of a log, in a folder, made with the formats alone.
type place struct {
	t      *testing.T
	dir    string
	random *rand.ChaCha8
	keys   signing.LogKeys
	log    exportlog.Tree
	index  exportlog.Index
	policy *exportlog.Policy
}

func newPlace(t *testing.T) *place { return newPlaceOf(t, origin, 1, exportlog.PolicyTerms{}) }

func newPlaceOf(t *testing.T, origin string, seed byte, terms exportlog.PolicyTerms) *place {
	t.Helper()
	keys, err := signing.NewLogKeys(origin, [32]byte{seed}, [32]byte{seed, 1})
	if err != nil {
		t.Fatal(err)
	}
	p := &place{t: t, dir: t.TempDir(), random: rand.NewChaCha8([32]byte{5, seed}), keys: keys, index: exportlog.Index{Origin: origin, Region: region}}
	terms.Log = keys.VKeys()
	text, _, err := exportlog.FormatPolicies(terms)
	if err != nil {
		t.Fatal(err)
	}
	p.write(exportlog.PolicyPath, text)
	if p.policy, err = exportlog.ParsePolicy(text); err != nil {
		t.Fatal(err)
	}
	return p
}

// draw gives keys of the day before the first window.
func (p *place) draw(s diagnosis.Scheme, n int) []diagnosis.Key {
	keys := make([]diagnosis.Key, n)
	for i := range keys {
		keys[i] = diagnosis.Key{Scheme: s, Start: diagnosis.Interval(day-1) * s.PerDay(), Count: uint8(s.PerDay()), Report: diagnosis.ConfirmedTest}
		p.random.Read(keys[i].Secret[:s.SecretLen()])
	}
	slices.SortFunc(keys, func(a, b diagnosis.Key) int { return bytes.Compare(a.Secret[:], b.Secret[:]) })
	return keys
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

func (p *place) write(path string, data []byte) {
	p.t.Helper()
	name := filepath.Join(p.dir, path)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// window publishes keys as files of these kinds and gives their paths.
func (p *place) window(keys []diagnosis.Key, kinds ...exportlog.FileKind) (paths []string) {
	p.t.Helper()
	n := int64(len(p.index.Exports))
	m := exportlog.Manifest{
		Origin: p.index.Origin, Region: region, Scheme: keys[0].Scheme, Start: day*86400 + n*14400, End: day*86400 + (n+1)*14400,
		Period: 14400, Hold: 14400, Retain: 86400, Keys: len(keys), Metadata: exportlog.Coarse, Encoder: export.Encoder,
	}
	var set bytes.Buffer
	info, err := export.WriteKeySet(&set, export.KeySetHeader{Scheme: m.Scheme, Start: m.Start, End: m.End}, all(keys))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, kind := range kinds {
		data := set.Bytes()
		if kind == exportlog.IDSet {
			var b bytes.Buffer
			if _, err := idset.Write(&b, idset.Params{Origin: p.index.Origin, Region: region, Scheme: m.Scheme, Start: m.Start, End: m.End, KeySet: info.SHA256}, all(keys), idset.Options{}); err != nil {
				p.t.Fatal(err)
			}
			data = b.Bytes()
		}
		f := exportlog.NewFile(m.Start, m.End, kind, int64(len(data)), sha256.Sum256(data), len(keys))
		m.Files = append(m.Files, f)
		p.write(f.Path, data)
		paths = append(paths, f.Path)
	}
	p.publish(m)
	return paths
}

// publish logs a window whose files are there, and lists it.
func (p *place) publish(m exportlog.Manifest) {
	p.t.Helper()
	n := len(p.index.Exports)
	entry, err := m.Format()
	if err != nil {
		p.t.Fatal(err)
	}
	p.log.Append(entry)
	p.index.Size++
	p.index.Exports = append(p.index.Exports, exportlog.IndexEntry{Entry: uint64(n), Manifest: string(entry)})
	checkpoint := p.checkpoint()
	p.write(exportlog.CheckpointPath, checkpoint)
	p.prove(uint64(n), checkpoint)
	p.writeIndex()
}

// checkpoint signs the log as it is, with cosignatures of witnesses if there are any.
func (p *place) checkpoint(witnesses ...signing.WitnessKeys) []byte {
	p.t.Helper()
	c := exportlog.Checkpoint{Origin: p.index.Origin, Size: p.log.Size(), Root: p.log.Root()}
	signed, err := exportlog.SignCheckpoint(c, time.Unix(day*86400, 0), p.keys)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, w := range witnesses {
		lines, err := exportlog.Cosign(c, time.Unix(day*86400, 0), w)
		if err != nil {
			p.t.Fatal(err)
		}
		signed = append(signed, lines...)
	}
	return signed
}

// prove writes the proofs of one window, on a checkpoint of the log as it is.
func (p *place) prove(entry uint64, checkpoint []byte) {
	p.t.Helper()
	hashes, err := exportlog.ProveEntry(p.log.Size(), entry, &p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	text := p.index.Exports[entry].Manifest
	for _, f := range p.manifest(entry).Files {
		p.write(f.Path+exportlog.ProofSuffix, exportlog.FormatProof(exportlog.Proof{Index: entry, Hashes: hashes, Extra: []byte(text), Checkpoint: checkpoint}))
	}
}

func (p *place) manifest(entry uint64) exportlog.Manifest {
	p.t.Helper()
	e, err := exportlog.ParseEntry([]byte(p.index.Exports[entry].Manifest))
	if err != nil {
		p.t.Fatal(err)
	}
	return e.(exportlog.Manifest)
}

func (p *place) writeIndex() {
	p.t.Helper()
	text, err := p.index.Format()
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(exportlog.IndexPath, text)
}

func (p *place) read(path string) []byte {
	p.t.Helper()
	data, err := os.ReadFile(filepath.Join(p.dir, path))
	if err != nil {
		p.t.Fatal(err)
	}
	return data
}

func (p *place) remove(path string) {
	p.t.Helper()
	if err := os.Remove(filepath.Join(p.dir, path)); err != nil {
		p.t.Fatal(err)
	}
}

// heard gives sightings of a key in these of its intervals.
func heard(k diagnosis.Key, intervals ...int) (list []Sighting) {
	ids, n := k.Expand(nil), k.Scheme.IDLen()
	for _, i := range intervals {
		s := Sighting{Scheme: k.Scheme, Seen: k.Scheme.Time(k.Start+diagnosis.Interval(i)).Unix() + 7}
		copy(s.ID[:], ids[i*n:][:n])
		list = append(list, s)
	}
	return list
}

func observed(list []Sighting) string {
	var b strings.Builder
	for _, s := range list {
		b.WriteString(FormatSighting(s) + "\n")
	}
	return b.String()
}

func report(t *testing.T, list []Sighting, targets ...string) (lines []string, err error) {
	t.Helper()
	return reportBy(t, MatchOptions{}, list, targets...)
}

func reportBy(t *testing.T, o MatchOptions, list []Sighting, targets ...string) (lines []string, err error) {
	t.Helper()
	var out strings.Builder
	err = MatchReport(context.Background(), strings.NewReader(observed(list)), targets, o, &out)
	return slices.Collect(strings.Lines(out.String())), err
}

// TestMatchTree: keys where they are published, ID sets where they are not, and a contact of
// an ids-only case only with two neighbouring intervals.
func TestMatchTree(t *testing.T) {
	p := newPlace(t)
	gaen, seeds := p.draw(diagnosis.GAEN, 30), p.draw(diagnosis.Bluezone, 30)
	p.window(gaen, exportlog.KeySet)
	p.window(seeds, exportlog.IDSet)
	list := slices.Concat(heard(gaen[3], 70), heard(seeds[4], 20, 21), heard(seeds[5], 50))
	lines, err := report(t, list, p.dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) != 3 || !strings.Contains(lines[0], `"scheme":"gaen"`) || !strings.Contains(lines[0], ".keys") {
		t.Fatalf("report:\n%s", strings.Join(lines, ""))
	}
	for _, l := range lines[1:] {
		for _, part := range []string{`"scheme":"bluezone"`, `"report":"unknown"`, `"days_since_onset":null`, `"risk":0`, `.ids"`, `"interval":19868`} {
			if !strings.Contains(l, part) {
				t.Errorf("%s lacks %s", l, part)
			}
		}
	}
}

// TestKeysArePreferred: of a window with both, the ID set is not even opened.
func TestKeysArePreferred(t *testing.T) {
	p := newPlace(t)
	keys := p.draw(diagnosis.Bluezone, 20)
	paths := p.window(keys, exportlog.KeySet, exportlog.IDSet)
	if err := os.Remove(filepath.Join(p.dir, paths[1])); err != nil {
		t.Fatal(err)
	}
	lines, err := report(t, heard(keys[2], 10), p.dir)
	if err != nil || len(lines) != 1 || !strings.Contains(lines[0], "confirmed-test") {
		t.Errorf("%q, %v", lines, err)
	}
}

// TestLooseFiles: both kinds of a window in one folder report a sighting once, by its key,
// whichever comes first.
func TestLooseFiles(t *testing.T) {
	p := newPlace(t)
	keys := p.draw(diagnosis.Bluezone, 20)
	paths := p.window(keys, exportlog.KeySet, exportlog.IDSet)
	list := heard(keys[2], 10, 11, 12)
	set, ids := filepath.Join(p.dir, paths[0]), filepath.Join(p.dir, paths[1])
	for name, targets := range map[string][]string{"folder": {filepath.Join(p.dir, "exports")}, "ids first": {ids, set}, "twice": {set, ids, set, ids}} {
		lines, err := report(t, list, targets...)
		if err != nil || len(lines) != 3 || strings.Contains(strings.Join(lines, ""), "unknown") {
			t.Errorf("%s: %q, %v", name, lines, err)
		}
	}
	if lines, err := report(t, list, ids); err != nil || len(lines) != 3 {
		t.Errorf("the ID set alone: %q, %v", lines, err)
	}
	// A place of prebuilt files has a list instead of an index.
	if err := os.Remove(filepath.Join(p.dir, exportlog.IndexPath)); err != nil {
		t.Fatal(err)
	}
	text, err := exportlog.FormatPrebuilt(paths[1:])
	if err != nil {
		t.Fatal(err)
	}
	p.write(exportlog.PrebuiltPath, text)
	if lines, err := report(t, list, p.dir); err != nil || len(lines) != 3 || !strings.Contains(lines[0], ".ids") {
		t.Errorf("prebuilt: %q, %v", lines, err)
	}
}

// TestBadFiles: whatever is wrong with a file is an error, and none of its matches counts.
func TestBadFiles(t *testing.T) {
	p := newPlace(t)
	keys := p.draw(diagnosis.Bluezone, 5000)
	a := p.window(keys, exportlog.KeySet, exportlog.IDSet)
	b := p.window(p.draw(diagnosis.Bluezone, 10), exportlog.KeySet, exportlog.IDSet)
	list := slices.Concat(heard(keys[0], 10, 11), heard(keys[2500], 10, 11))
	read := func(path string) []byte {
		data, err := os.ReadFile(filepath.Join(p.dir, path))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	flipped := func(path string, at int) []byte {
		data := bytes.Clone(read(path))
		data[(len(data)+at)%len(data)] ^= 1
		return data
	}
	for name, row := range map[string]struct {
		files  map[string][]byte
		target string
		says   string
	}{
		"digest of a key set":     {map[string][]byte{"a.keys": flipped(a[0], -1)}, "a.keys", "digest"},
		"half a key set":          {map[string][]byte{"a.keys": read(a[0])[:100_000]}, "a.keys", "unexpected EOF"},
		"no proof":                {map[string][]byte{"a.ids": read(a[1])}, "a.ids", "a.ids.tlog-proof is missing"},
		"proof of another window": {map[string][]byte{"a.ids": read(a[1]), "a.ids.tlog-proof": read(b[1] + exportlog.ProofSuffix)}, "a.ids", "another window"},
		"frame of an ID set":      {map[string][]byte{"a.ids": read(a[1])[:1000], "a.ids.tlog-proof": read(a[1] + exportlog.ProofSuffix)}, "a.ids", "ID set"},
		"key set of an ID set":    {map[string][]byte{"a.ids": flipped(a[1], 40), "a.ids.tlog-proof": read(a[1] + exportlog.ProofSuffix)}, "a.ids", "another key set"},
	} {
		dir := t.TempDir()
		for path, data := range row.files {
			if err := os.WriteFile(filepath.Join(dir, path), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		lines, err := report(t, list, filepath.Join(dir, row.target))
		if err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v; want %q", name, err, row.says)
		}
		if len(lines) > 0 {
			t.Errorf("%s: %d matches of a file that is not whole were reported", name, len(lines))
		}
	}
	// In a tree the digest of the manifest decides.
	p.write(b[0], flipped(b[0], 0))
	if _, err := report(t, list, p.dir); err == nil || !strings.Contains(err.Error(), "not the file of its manifest") {
		t.Errorf("another file than the manifest's: %v", err)
	}
}

// TestFloodOfMatches: an export full of seeds whose first ID a phone has heard ends with an
// error, not with the phone's memory.
func TestFloodOfMatches(t *testing.T) {
	k := diagnosis.Key{Scheme: diagnosis.Bluezone, Start: diagnosis.Interval(day)*96 - 1, Count: 1}
	var set bytes.Buffer
	_, err := export.WriteKeySet(&set, export.KeySetHeader{Scheme: k.Scheme, Start: day * 86400, End: day*86400 + 14400}, func(yield func(diagnosis.Key, error) bool) {
		for i := range maxFound + 1 {
			k.Secret[1], k.Secret[2], k.Secret[3] = byte(i>>16), byte(i>>8), byte(i) // not part of the ID
			if !yield(k, nil) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "a.keys")
	if err := os.WriteFile(name, set.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	lines, err := report(t, heard(k, 0), name)
	if err == nil || !strings.Contains(err.Error(), "no phone meets so many") || len(lines) > 0 {
		t.Errorf("%d lines, %v", len(lines), err)
	}
}

// TestPublished: a phone finds each of its own keys, whatever its window was published as,
// even a seed of one interval, and no other.
func TestPublished(t *testing.T) {
	p := newPlace(t)
	gaen, seeds := p.draw(diagnosis.GAEN, 5), p.draw(diagnosis.Bluezone, 5)
	seeds[4].Start, seeds[4].Count = seeds[4].Start+95, 1
	p.window(gaen[:4], exportlog.KeySet)
	p.window(seeds[1:], exportlog.IDSet)
	n, err := Published(context.Background(), []string{p.dir}, slices.Concat(gaen, seeds))
	if err != nil || n != 8 {
		t.Errorf("%d of 10 are published, %v; want 8", n, err)
	}
}
