package phone

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"time"

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

// MatchOptions say whom to trust, and how to match.
type MatchOptions struct {
	// Policy names the keys of the logs to be trusted and of their witnesses; an app has it
	// built in. nil means that each tree is judged by the policy that lies in it, which
	// proves only that it agrees with itself.
	Policy *exportlog.Policy
	// Note, if not nil, hears of each tree and file of which it was not proved whose it is.
	Note func(string)
	Tier string // kernels to use, see match.Tiers; empty means the fastest
	// Tolerance, if not 0, is how long before its interval an ID may have been heard, or
	// after it, in whole seconds; else each scheme has its own.
	Tolerance time.Duration
}

// Match looks for sightings in the exports of targets: files, their URLs, trees, or folders
// of files.
//
// Of a tree it reads one kind of file for each window: the key set if there is one, and an
// ID set only where no keys were published. Each must be named by an entry of the log that
// its proof leads to, the same that the index shows; and the log must have signed as the
// policy demands. A missing file that the index still lists is an error. A file that only
// lacks the cosignatures of the policy's quorum is left out, and an error (ErrQuorum) at
// the end, when all others were matched: they may come. What an index leaves out, Match
// cannot see; an audit does.
//
// A file named by itself is held against the proof beside it, if there are a proof and
// Policy. Otherwise nothing says whose it is, and it is matched all the same.
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
	tolerance time.Duration     // 0: each scheme's own
	policy    *exportlog.Policy // nil if none is pinned
	note      func(string)
	found     func(Found) error
	own       bool // the sightings are IDs of our own: one answer of an ID set is enough
	seen      map[pair]bool
	explained map[instant]bool
	sets      []setFile // to be asked after all keys
	waiting   []error   // of files that lack cosignatures
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
	keys, err := match.New(heard, match.Options{Tier: o.Tier, GAENTolerance: o.Tolerance, BluezoneTolerance: o.Tolerance})
	if err != nil {
		return nil, err
	}
	if o.Note == nil {
		o.Note = func(string) {}
	}
	return &matching{heard: heard, keys: keys, tolerance: o.Tolerance, policy: o.Policy, note: o.Note, found: found, seen: map[pair]bool{}, explained: map[instant]bool{}}, nil
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
	return errors.Join(m.waiting...)
}

func (m *matching) target(ctx context.Context, target string) error {
	place, err := tree.Locate(target, ".zip", ".keys", ".ids")
	if err != nil {
		if source, files, err2 := prebuilt(ctx, target); err2 == nil {
			return m.files(ctx, source, files, true)
		}
		return err
	}
	if place.Files != nil {
		return m.files(ctx, place.Source, place.Files, false)
	}
	err = m.tree(ctx, place.Source)
	if errors.Is(err, fs.ErrNotExist) {
		if source, files, err2 := prebuilt(ctx, target); err2 == nil {
			return m.files(ctx, source, files, true)
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

// files matches files that no index lists.
func (m *matching) files(ctx context.Context, source tree.Source, paths []string, prebuilt bool) error {
	for _, path := range paths {
		named, err := m.loose(ctx, source, path, prebuilt)
		switch {
		case err != nil:
		case isSet(path):
			err = m.looseSet(ctx, source, path, named)
		default:
			err = m.file(ctx, source, path, named)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func (m *matching) tree(ctx context.Context, source tree.Source) error {
	f, err := m.openFeed(ctx, source)
	if err != nil {
		return err
	}
	for _, e := range f.index.Exports {
		entry, err := exportlog.ParseEntry([]byte(e.Manifest))
		if err != nil {
			return err // ParseIndex has parsed it
		}
		w := entry.(exportlog.Manifest)
		for _, line := range preferred(w.Files) {
			err := f.prove(ctx, e, line.Path)
			switch {
			case errors.Is(err, exportlog.ErrQuorum):
				m.waiting = append(m.waiting, fmt.Errorf("%s: %w", join(source, line.Path), err))
			case err != nil:
			case isSet(line.Path):
				m.sets = append(m.sets, setFile{source, line.Path, byLine(w, line), w})
			default:
				err = m.file(ctx, source, line.Path, byLine(w, line))
			}
			if err != nil && !errors.Is(err, exportlog.ErrQuorum) {
				return fmt.Errorf("%s: %w", line.Path, err)
			}
		}
	}
	return nil
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

// open opens a file, after asking what speaks for it, if anything does. Then said is what
// that says of it, else nil.
func open(ctx context.Context, source tree.Source, path string, named vouch) (blob tree.Blob, said *claim, err error) {
	blob, err = source.Open(ctx, path, maxFile)
	if errors.Is(err, fs.ErrNotExist) && named != nil {
		return nil, nil, errors.New("it is listed but missing: read the index again")
	}
	if err != nil || named == nil {
		return blob, nil, err
	}
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(blob, 0, blob.Size()))
	if err == nil {
		var c claim
		c, err = named(n, [32]byte(h.Sum(nil)))
		said = &c
	}
	if err != nil {
		return nil, nil, errors.Join(err, blob.Close())
	}
	return blob, said, nil
}

// file matches one archive or key set.
func (m *matching) file(ctx context.Context, source tree.Source, path string, named vouch) error {
	blob, said, err := open(ctx, source, path, named)
	if err != nil {
		return err
	}
	defer blob.Close()
	f, err := export.OpenFile(blob, blob.Size())
	if err == nil && said != nil {
		err = said.check(f)
	}
	if err != nil {
		return err
	}
	keys := 0
	var hits []match.Hit
	err = m.keys.Run(ctx, counted(f.Keys(), &keys), func(h match.Hit) error {
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
	if err == nil && said != nil && keys != said.keys {
		err = fmt.Errorf("it holds %d keys, its manifest says %d", keys, said.keys)
	}
	if err != nil {
		return err
	}
	return m.report(hits, join(source, path))
}

// counted counts the keys that go by.
func counted(keys iter.Seq2[diagnosis.Key, error], n *int) iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		for k, err := range keys {
			if err == nil {
				*n++
			}
			if !yield(k, err) {
				return
			}
		}
	}
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
