package phone

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/match"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
)

// maxFile is the largest export that a phone takes, in bytes.
const maxFile = 1 << 30

// Found is one sighting explained by one published key.
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
// of files. Of a tree it reads one file for each window, the key set if there is one, and
// checks it against its manifest; a missing file that the index still lists is an error.
// Each pair of sighting and key is reported once, whichever files the key stands in.
func Match(ctx context.Context, heard []Sighting, targets []string, o MatchOptions, found func(Found) error) error {
	m, err := match.New(heard, match.Options{Tier: o.Tier})
	if err != nil {
		return err
	}
	seen := map[pair]bool{}
	once := func(file string) func(match.Hit) error {
		return func(h match.Hit) error {
			p := pair{h.Sighting, h.Interval, h.Key.Secret}
			if seen[p] {
				return nil
			}
			seen[p] = true
			return found(Found{h, file})
		}
	}
	for _, target := range targets {
		place, err := tree.Locate(target, ".zip", ".keys")
		if err != nil {
			return err
		}
		if place.Files == nil {
			err = matchTree(ctx, m, place.Source, once)
		} else {
			for _, path := range place.Files {
				if err = matchFile(ctx, m, place.Source, path, nil, once); err != nil {
					break
				}
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
	}
	return nil
}

// pair is what makes two hits the same.
type pair struct {
	sighting int
	interval diagnosis.Interval
	secret   diagnosis.Secret
}

func matchTree(ctx context.Context, m *match.Matcher, source tree.Source, once func(string) func(match.Hit) error) error {
	windows, err := Windows(ctx, source)
	if err != nil {
		return err
	}
	for _, w := range windows {
		for _, f := range preferred(w.Files) {
			if err := matchFile(ctx, m, source, f.Path, &f, once); err != nil {
				return err
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

// preferred picks the key sets of a window, or all its archives where there is none: they
// hold the same keys, and the key set is smaller.
func preferred(files []exportlog.File) []exportlog.File {
	var sets, archives []exportlog.File
	for _, f := range files {
		switch {
		case strings.HasSuffix(f.Path, "."+string(exportlog.KeySet)):
			sets = append(sets, f)
		case strings.HasSuffix(f.Path, "."+string(exportlog.Archive)):
			archives = append(archives, f)
		}
	}
	if sets != nil {
		return sets
	}
	return archives
}

// matchFile matches one file, after checking it against its line of a manifest if there
// is one.
func matchFile(ctx context.Context, m *match.Matcher, source tree.Source, path string, line *exportlog.File, once func(string) func(match.Hit) error) error {
	blob, err := source.Open(ctx, path, maxFile)
	if errors.Is(err, fs.ErrNotExist) && line != nil {
		return fmt.Errorf("%s is listed but missing: read the index again", path)
	} else if err != nil {
		return err
	}
	defer blob.Close()
	if line != nil {
		h := sha256.New()
		n, err := io.Copy(h, io.NewSectionReader(blob, 0, blob.Size()))
		if err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		if n != line.Size || [32]byte(h.Sum(nil)) != line.SHA256 {
			return fmt.Errorf("%s is not the file of its manifest: size or digest differ", path)
		}
	}
	f, err := export.OpenFile(blob, blob.Size())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := m.Run(ctx, f.Keys(), once(join(source, path))); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func join(source tree.Source, path string) string {
	return strings.TrimSuffix(source.String(), "/") + "/" + path
}
