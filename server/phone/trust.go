package phone

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
)

// feed is a tree that a phone follows, and the policy by which it judges what lies there.
// The index says where to look and is believed in nothing: each file has its proof.
type feed struct {
	source tree.Source
	policy *exportlog.Policy
	pinned bool // else the policy is the tree's own
	index  exportlog.Index
}

// openFeed reads the index of a tree, and demands that the log it speaks of is one that the
// policy names and that has signed the tree's checkpoint. The quorum is demanded of proofs,
// not here: while witnesses are still asked about the newest checkpoint, older ones that
// they cosigned go on to vouch for older files.
func (m *matching) openFeed(ctx context.Context, source tree.Source) (*feed, error) {
	data, err := tree.ReadAll(ctx, source, exportlog.IndexPath, exportlog.MaxIndex)
	if err != nil {
		return nil, err
	}
	f := &feed{source: source, policy: m.policy, pinned: m.policy != nil}
	if f.index, err = exportlog.ParseIndex(data); err != nil {
		return nil, err
	}
	if !f.pinned {
		if f.policy, err = ownPolicy(ctx, source); err != nil {
			return nil, err
		}
		m.note(source.String() + ": judged by the policy that lies there itself, which proves nothing about who runs it")
	}
	signed, err := tree.ReadAll(ctx, source, exportlog.CheckpointPath, exportlog.MaxCheckpoint)
	if err != nil {
		return nil, err
	}
	opened, err := f.policy.Open(signed)
	if err != nil {
		return nil, err
	}
	if f.index.Origin != opened.Origin {
		return nil, fmt.Errorf("%s is of %s, the checkpoint of %s", exportlog.IndexPath, f.index.Origin, opened.Origin)
	}
	if n := len(f.index.Exports); n > 0 && f.index.Exports[n-1].Entry >= opened.Size {
		return nil, fmt.Errorf("%s names entry %d, the checkpoint has %d: a cache holds an older one; try again in five minutes", exportlog.IndexPath, f.index.Exports[n-1].Entry, opened.Size)
	}
	return f, nil
}

// ownPolicy reads the policy that a tree gives of itself.
func ownPolicy(ctx context.Context, source tree.Source) (*exportlog.Policy, error) {
	text, err := tree.ReadAll(ctx, source, exportlog.PolicyPath, exportlog.MaxPolicy)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the tree has no policy and none was given: nothing in it can be checked")
	}
	if err != nil {
		return nil, err
	}
	return exportlog.ParsePolicy(text)
}

// prove demands of the proof beside a file that the log holds the manifest under which the
// index lists the file, word for word. The error is exportlog.ErrQuorum if nothing is
// missing but witnesses. Of the tree's own policy that is overlooked: whoever could forge
// the tree wrote the policy too.
func (f *feed) prove(ctx context.Context, e exportlog.IndexEntry, path string) error {
	proved, err := readProof(ctx, f.source, path, f.policy)
	if err != nil && (f.pinned || !errors.Is(err, exportlog.ErrQuorum)) {
		return err
	}
	text, err := proved.Entry.Format()
	if err != nil {
		return err
	}
	if proved.Index != e.Entry || string(text) != e.Manifest {
		return fmt.Errorf("%s lists it under another entry than the log", exportlog.IndexPath)
	}
	return nil
}

// readProof checks the proof beside a file. A missing one is errNoProof.
func readProof(ctx context.Context, source tree.Source, path string, policy *exportlog.Policy) (exportlog.Proved, error) {
	text, err := tree.ReadAll(ctx, source, path+exportlog.ProofSuffix, exportlog.MaxProof)
	if errors.Is(err, fs.ErrNotExist) {
		return exportlog.Proved{}, errNoProof
	}
	if err != nil {
		return exportlog.Proved{}, err
	}
	return exportlog.VerifyProof(text, policy)
}

var (
	errNoProof   = errors.New("its " + exportlog.ProofSuffix + " is missing")
	errNotWindow = errors.New("its proof is not that of a window")
)

// vouch says what a file of this size and SHA-256 holds, if something speaks for it.
type vouch func(size int64, digest [32]byte) (claim, error)

// claim is what a manifest says of one file.
type claim struct {
	scheme     diagnosis.Scheme
	start, end int64 // Unix seconds, as the file has them
	keys       int
}

// claimOf is what a manifest says of one of its files.
func claimOf(m exportlog.Manifest, file exportlog.File) claim {
	c := claim{m.Scheme, m.Start, m.End, file.Keys}
	part, parts := 0, 0
	for _, f := range m.Files {
		if isArchive(f.Path) {
			if parts++; f == file {
				part = parts
			}
		}
	}
	if part > 0 {
		c.end = export.PartEnd(m.End, part, parts)
	}
	return c
}

// check holds what a file says of itself against the claim.
func (c claim) check(f *export.File) error {
	if f.Scheme != c.scheme || f.Start != c.start || f.End != c.end {
		return fmt.Errorf("it says that it is %v from %d to %d, its manifest %v from %d to %d", f.Scheme, f.Start, f.End, c.scheme, c.start, c.end)
	}
	return nil
}

// byLine is the word of a manifest's line.
func byLine(m exportlog.Manifest, line exportlog.File) vouch {
	return func(size int64, digest [32]byte) (claim, error) {
		if size != line.Size || digest != line.SHA256 {
			return claim{}, errors.New("it is not the file of its manifest: size or digest differ")
		}
		return claimOf(m, line), nil
	}
}

// loose finds out what speaks for a file that was named by itself: with a pinned policy the
// proof beside it, if there is one; else nothing. A prebuilt file is named by no log: its
// proof, of the window that it was made from, must hold all the same.
func (m *matching) loose(ctx context.Context, source tree.Source, path string, prebuilt bool) (vouch, error) {
	if m.policy == nil {
		return nil, nil
	}
	proved, err := readProof(ctx, source, path, m.policy)
	switch {
	case errors.Is(err, errNoProof):
		m.note(join(source, path) + ": there is no proof beside it: not checked against the policy")
		return nil, nil
	case err != nil:
		return nil, err
	case prebuilt:
		m.note(join(source, path) + ": made by whoever runs the place, and named by no log: only its window is checked against the policy")
		return nil, nil
	}
	manifest, ok := proved.Entry.(exportlog.Manifest)
	if !ok {
		return nil, errNotWindow
	}
	return func(size int64, digest [32]byte) (claim, error) {
		file, err := proved.File(size, digest)
		return claimOf(manifest, file), err
	}, nil
}
