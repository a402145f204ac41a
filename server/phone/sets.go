package phone

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"bluekey/export/exportlog"
	"bluekey/export/match"
	"bluekey/export/match/idset"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
)

// setFile is an ID set and the window that it belongs to.
type setFile struct {
	source   tree.Source
	path     string
	named    vouch // nil if nothing speaks for it
	manifest exportlog.Manifest
}

func isSet(path string) bool     { return strings.HasSuffix(path, "."+string(exportlog.IDSet)) }
func isArchive(path string) bool { return strings.HasSuffix(path, "."+string(exportlog.Archive)) }

// looseSet notes an ID set that was named by itself. Its hashes are bound to origin and
// region, which stand in the manifest; the proof beside it carries that.
func (m *matching) looseSet(ctx context.Context, source tree.Source, path string, named vouch) error {
	name := path + exportlog.ProofSuffix
	text, err := tree.ReadAll(ctx, source, name, exportlog.MaxProof)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("whose ID set it is stands in its proof, and %s is missing: put it beside", name)
	}
	if err != nil {
		return err
	}
	proof, err := exportlog.ParseProof(text)
	if err != nil {
		return err
	}
	entry, err := exportlog.ParseEntry(proof.Extra)
	if err != nil {
		return err
	}
	manifest, ok := entry.(exportlog.Manifest)
	if !ok {
		return errNotWindow
	}
	m.sets = append(m.sets, setFile{source, path, named, manifest})
	return nil
}

// set asks one ID set for the sightings that no key explains.
func (m *matching) set(ctx context.Context, s setFile) error {
	blob, _, err := open(ctx, s.source, s.path, s.named)
	if err != nil {
		return err
	}
	defer blob.Close()
	set, err := s.open(blob)
	if err != nil {
		return err
	}
	ask := set.Match
	if m.own {
		ask = set.Ask
	}
	yes, err := ask(ctx, m.heard, m.tolerance)
	if err != nil {
		return err
	}
	var hits []match.Hit
	for _, h := range yes {
		at := instant{h.Sighting, h.Interval}
		if m.explained[at] {
			continue
		}
		if len(m.explained) >= maxFound {
			return fmt.Errorf("more than %d matches: no phone meets so many", maxFound)
		}
		m.explained[at] = true
		key := diagnosis.Key{Scheme: set.Scheme, Onset: diagnosis.OnsetUnknown}
		hits = append(hits, match.Hit{Sighting: h.Sighting, Key: key, Interval: h.Interval})
	}
	return m.report(hits, join(s.source, s.path))
}

// open opens the set. One of another window would find nothing, and say nothing.
func (s *setFile) open(blob tree.Blob) (*idset.Set, error) {
	m := &s.manifest
	set, err := idset.Open(blob, blob.Size(), m.Origin, m.Region)
	if err != nil {
		return nil, err
	}
	if set.Scheme != m.Scheme || set.Start != m.Start || set.End != m.End {
		return nil, errors.New("it is the ID set of another window than its manifest")
	}
	for _, f := range m.Files {
		if strings.HasSuffix(f.Path, "."+string(exportlog.KeySet)) && f.SHA256 != set.KeySet {
			return nil, errors.New("it is the ID set of another key set than the window's")
		}
	}
	return set, nil
}
