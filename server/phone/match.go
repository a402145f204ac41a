package phone

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/match"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
)

const (
	// maxFile is the largest export that a phone takes, in bytes.
	maxFile = 1 << 30
	// maxFound bounds what hostile exports can make a phone remember: one that publishes
	// any number of Bluezone seeds whose first ID it has heard on the air.
	maxFound = 1 << 20
)

// Found is one sighting explained by one published key, or by an ID set, which does not
// tell the key: then Key has its scheme, and everything else of it is unknown.
type Found struct {
	match.Hit
	File string // path or URL in which the key was published
}

// Sighting is an ID that a phone heard, and when.
type Sighting = match.Sighting

// MatchOptions say how to match. The zero value is right for a phone.
type MatchOptions struct {
	Tier string // kernels to use, see match.Tiers; empty means the fastest
}

// Match looks for sightings in the exports of targets: files, their URLs, trees, or folders
// of files. Of a tree it reads one kind of file for each window, the key set if there is
// one, and an ID set only where no keys were published, and checks it against its manifest;
// a missing file that the index still lists is an error.
//
// Each pair of sighting and key is reported once, whichever files the key stands in, and
// what an ID set says only where no key explains it. What a file holds is reported when the
// file was read to its end and found whole.
func Match(ctx context.Context, heard []Sighting, targets []string, o MatchOptions, found func(Found) error) error {
	m, err := newMatching(heard, o, found)
	if err != nil {
		return err
	}
	return m.run(ctx, targets)
}

// matching is one run of Match.
type matching struct {
	heard     []Sighting
	keys      *match.Matcher
	found     func(Found) error
	own       bool // the sightings are IDs of our own: one answer of an ID set is enough
	seen      map[pair]bool
	explained map[instant]bool
	sets      []setFile // to be asked after all keys
}

// pair is what makes two hits the same.
type pair struct {
	instant
	secret diagnosis.Secret
}

type instant struct {
	sighting int
	interval diagnosis.Interval
}

func newMatching(heard []Sighting, o MatchOptions, found func(Found) error) (*matching, error) {
	keys, err := match.New(heard, match.Options{Tier: o.Tier})
	if err != nil {
		return nil, err
	}
	return &matching{heard: heard, keys: keys, found: found, seen: map[pair]bool{}, explained: map[instant]bool{}}, nil
}

func (m *matching) run(ctx context.Context, targets []string) error {
	for _, target := range targets {
		if err := m.target(ctx, target); err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
	}
	for _, s := range m.sets {
		if err := m.set(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", join(s.source, s.path), err)
		}
	}
	return nil
}

func (m *matching) target(ctx context.Context, target string) error {
	place, err := tree.Locate(target, ".zip", ".keys", ".ids")
	if err != nil {
		if source, files, err2 := prebuilt(ctx, target); err2 == nil {
			return m.files(ctx, source, files)
		}
		return err
	}
	if place.Files != nil {
		return m.files(ctx, place.Source, place.Files)
	}
	err = m.tree(ctx, place.Source)
	if errors.Is(err, fs.ErrNotExist) {
		if source, files, err2 := prebuilt(ctx, target); err2 == nil {
			return m.files(ctx, source, files)
		}
	}
	return err
}

// prebuilt reads the list of a place that has files made from a log's exports, and no log.
func prebuilt(ctx context.Context, target string) (tree.Source, []string, error) {
	source, err := tree.NewSource(target)
	if err != nil {
		return nil, nil, err
	}
	text, err := tree.ReadAll(ctx, source, exportlog.PrebuiltPath, exportlog.MaxIndex)
	if err != nil {
		return nil, nil, err
	}
	files, err := exportlog.ParsePrebuilt(text)
	return source, files, err
}

// files matches files for which no manifest is at hand.
func (m *matching) files(ctx context.Context, source tree.Source, paths []string) error {
	for _, path := range paths {
		var err error
		if isSet(path) {
			err = m.looseSet(ctx, source, path)
		} else {
			err = m.file(ctx, source, path, nil)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func (m *matching) tree(ctx context.Context, source tree.Source) error {
	windows, err := Windows(ctx, source)
	if err != nil {
		return err
	}
	for _, w := range windows {
		for _, f := range preferred(w.Files) {
			if isSet(f.Path) {
				m.sets = append(m.sets, setFile{source, f.Path, &f, w})
			} else if err := m.file(ctx, source, f.Path, &f); err != nil {
				return fmt.Errorf("%s: %w", f.Path, err)
			}
		}
	}
	return nil
}

// Windows reads the index of a tree: the manifests within retention, oldest first.
func Windows(ctx context.Context, source tree.Source) ([]exportlog.Manifest, error) {
	data, err := tree.ReadAll(ctx, source, exportlog.IndexPath, exportlog.MaxIndex)
	if err != nil {
		return nil, err
	}
	index, err := exportlog.ParseIndex(data)
	if err != nil {
		return nil, err
	}
	var windows []exportlog.Manifest
	for _, e := range index.Exports {
		entry, err := exportlog.ParseEntry([]byte(e.Manifest))
		if err != nil {
			return nil, err
		}
		if manifest, ok := entry.(exportlog.Manifest); ok {
			windows = append(windows, manifest)
		}
	}
	return windows, nil
}

// preferred picks the files of one kind, each of which kinds holds the whole window: the key
// set, which is the smallest; else archives; else ID sets, which tell least.
func preferred(files []exportlog.File) []exportlog.File {
	for _, kind := range []exportlog.FileKind{exportlog.KeySet, exportlog.Archive, exportlog.IDSet} {
		var these []exportlog.File
		for _, f := range files {
			if strings.HasSuffix(f.Path, "."+string(kind)) {
				these = append(these, f)
			}
		}
		if these != nil {
			return these
		}
	}
	return nil
}

// open opens a file, after checking it against its line of a manifest if there is one.
func open(ctx context.Context, source tree.Source, path string, line *exportlog.File) (tree.Blob, error) {
	blob, err := source.Open(ctx, path, maxFile)
	if errors.Is(err, fs.ErrNotExist) && line != nil {
		return nil, errors.New("it is listed but missing: read the index again")
	}
	if err != nil || line == nil {
		return blob, err
	}
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(blob, 0, blob.Size()))
	if err == nil && (n != line.Size || [32]byte(h.Sum(nil)) != line.SHA256) {
		err = errors.New("it is not the file of its manifest: size or digest differ")
	}
	if err != nil {
		return nil, errors.Join(err, blob.Close())
	}
	return blob, nil
}

// file matches one archive or key set.
func (m *matching) file(ctx context.Context, source tree.Source, path string, line *exportlog.File) error {
	blob, err := open(ctx, source, path, line)
	if err != nil {
		return err
	}
	defer blob.Close()
	f, err := export.OpenFile(blob, blob.Size())
	if err != nil {
		return err
	}
	var hits []match.Hit
	err = m.keys.Run(ctx, f.Keys(), func(h match.Hit) error {
		at := instant{h.Sighting, h.Interval}
		p := pair{at, h.Key.Secret}
		if m.seen[p] {
			return nil
		}
		if len(m.seen) >= maxFound {
			return fmt.Errorf("more than %d matches: no phone meets so many", maxFound)
		}
		m.seen[p], m.explained[at] = true, true
		hits = append(hits, h)
		return nil
	})
	if err != nil {
		return err
	}
	return m.report(hits, join(source, path))
}

// report hands on the hits of a file that was whole, in an order that does not depend on
// who was faster.
func (m *matching) report(hits []match.Hit, file string) error {
	slices.SortFunc(hits, func(a, b match.Hit) int {
		return cmp.Or(cmp.Compare(a.Sighting, b.Sighting), cmp.Compare(a.Interval, b.Interval), slices.Compare(a.Key.Secret[:], b.Key.Secret[:]))
	})
	for _, h := range hits {
		if err := m.found(Found{h, file}); err != nil {
			return err
		}
	}
	return nil
}

func join(source tree.Source, path string) string {
	return strings.TrimSuffix(source.String(), "/") + "/" + path
}
