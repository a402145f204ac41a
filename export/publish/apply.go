package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"bluekey/export/exportlog"
	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
)

// plan is what apply has to do besides what follows from the store. It is committed with
// the publication, so that apply can be repeated after any crash.
type plan struct {
	OldSize uint64     // entries in the log before
	Adopt   []adoption `json:",omitempty"`
	Remove  []string   `json:",omitempty"` // paths of the tree
	Erase   bool       `json:",omitempty"` // keys were deleted: their bytes must go too
}

// adoption is one staged file, its place in the tree, and the entry that names it.
type adoption struct {
	Staged, Path string
	Entry        uint64
	Small        bool `json:",omitempty"` // a small file, which may replace another
}

// commit fixes a round in one synced batch and applies it.
func (p *Publisher) commit(ctx context.Context, r *round) error {
	if err := p.allowed(r); err != nil {
		return err
	}
	size := p.store.LogSize()
	r.plan.OldSize = size
	r.plan.Erase = len(r.erase) > 0
	added, root, err := exportlog.Append(size, p.store, r.entries)
	if err != nil {
		return err
	}
	c := exportlog.Checkpoint{Origin: p.Origin, Size: size + uint64(len(r.entries)), Root: root}
	signed, err := exportlog.SignCheckpoint(c, p.Now(), p.LogKeys)
	if err != nil {
		return fmt.Errorf("signing the checkpoint: %w", err)
	}
	planned, err := json.Marshal(r.plan)
	if err != nil {
		return err
	}
	publication := keystore.Publication{
		Entries:      r.entries,
		First:        size,
		Hashes:       added,
		Checkpoint:   signed,
		Plan:         planned,
		EraseThrough: r.erase,
	}
	for _, w := range r.windows {
		publication.Windows = append(publication.Windows, w.Window)
	}
	// The commit point. Until it is on disk the signature above must not be seen by
	// anybody: a retry signs another tree of the same size.
	if err := p.store.Commit(publication); err != nil {
		return fmt.Errorf("committing the publication: %w", err)
	}
	if err := p.apply(ctx, planned); err != nil {
		return fmt.Errorf("applying the publication: %w", err)
	}
	return nil
}

// apply makes the tree say what the store has committed. It may be stopped and repeated
// at any point. Files come before the checkpoint that covers them and the checkpoint
// before the index, so that nobody who follows one finds a hole.
func (p *Publisher) apply(ctx context.Context, planned []byte) error {
	todo, err := parsePlan(planned)
	if err != nil {
		return err
	}
	checkpoint, err := p.store.Checkpoint()
	if err != nil {
		return err
	}
	size := p.store.LogSize()
	for _, a := range todo.Adopt {
		if err := p.adopt(a); err != nil {
			if errors.Is(err, fs.ErrNotExist) && p.isLost(a.Path) {
				continue
			}
			return err
		}
		p.unlose(a.Path)
		proof, err := p.proof(a.Entry, size, checkpoint)
		if err != nil {
			return err
		}
		if err := p.folder.Put(a.Path+exportlog.ProofSuffix, proof); err != nil {
			return err
		}
	}
	if err := p.putFixed(); err != nil {
		return err
	}
	if err := p.putTiles(todo.OldSize, size); err != nil {
		return err
	}
	if err := p.folder.Put(exportlog.CheckpointPath, checkpoint); err != nil {
		return err
	}
	if err := p.putIndexes(size); err != nil {
		return err
	}
	if err := p.folder.Remove(todo.Remove...); err != nil {
		return err
	}
	p.unlose(todo.Remove...)
	if todo.Erase {
		if err := p.store.Scrub(ctx); err != nil {
			return fmt.Errorf("erasing expired keys: %w", err)
		}
	}
	return p.store.Applied()
}

func parsePlan(planned []byte) (todo plan, err error) {
	if err := json.Unmarshal(planned, &todo); err != nil {
		return todo, fmt.Errorf("reading the plan: %w", err)
	}
	return todo, nil
}

// putTiles writes what the log gained by growing.
func (p *Publisher) putTiles(oldSize, size uint64) error {
	for t, err := range exportlog.Tiles(oldSize, size, p.store, p.store.Entry) {
		if err != nil {
			return err
		}
		if err := p.folder.Put(t.Path, t.Data); err != nil {
			return err
		}
	}
	return nil
}

// proof ties an entry, and by its digests the files it names, to a checkpoint.
func (p *Publisher) proof(entry, size uint64, checkpoint []byte) ([]byte, error) {
	text, err := p.store.Entry(entry)
	if err != nil {
		return nil, err
	}
	hashes, err := exportlog.ProveEntry(size, entry, p.store)
	if err != nil {
		return nil, err
	}
	return exportlog.FormatProof(exportlog.Proof{Index: entry, Hashes: hashes, Extra: text, Checkpoint: checkpoint}), nil
}

// putIndexes writes the lists of what is within retention: index.json, and the list of
// archives that GAEN apps poll.
func (p *Publisher) putIndexes(size uint64) error {
	x := exportlog.Index{Origin: p.Origin, Region: p.Region, Size: size}
	var archives []string
	newest := p.store.WindowStart(diagnosis.Schemes[0])
	for _, scheme := range diagnosis.Schemes {
		windows, err := p.store.Windows(scheme)
		if err != nil {
			return err
		}
		for _, w := range windows {
			if !w.Published && w.End.Add(p.Retention).Before(newest) {
				continue // the store keeps it until a later window expires
			}
			text, err := p.store.Entry(w.Entry)
			if err != nil {
				return err
			}
			x.Exports = append(x.Exports, exportlog.IndexEntry{Entry: w.Entry, Manifest: string(text)})
			if !w.Published {
				continue
			}
			m, err := p.manifest(w.Entry)
			if err != nil {
				return err
			}
			for _, f := range m.Files {
				if strings.HasSuffix(f.Path, "."+string(exportlog.Archive)) {
					archives = append(archives, f.Path)
				}
			}
		}
	}
	slices.SortFunc(x.Exports, func(a, b exportlog.IndexEntry) int {
		return int(int64(a.Entry) - int64(b.Entry))
	})
	text, err := x.Format()
	if err != nil {
		return err
	}
	if err := p.folder.Put(exportlog.IndexPath, text); err != nil {
		return err
	}
	// As the reference key server writes it: sorted, no newline at the end.
	slices.Sort(archives)
	return p.folder.Put(exportlog.GAENIndexPath, []byte(strings.Join(archives, "\n")))
}

// putFixed writes what to pin, and the keys that verify export.sig, retired ones too: their
// archives are still there.
func (p *Publisher) putFixed() error {
	full, ed25519, err := exportlog.FormatPolicies(p.policyTerms())
	if err != nil {
		return err
	}
	if err := p.folder.Put(exportlog.PolicyPath, full); err != nil {
		return err
	}
	if err := p.folder.Put(exportlog.PolicyEd25519Path, ed25519); err != nil {
		return err
	}
	for _, s := range slices.Concat(p.terms, p.pending) {
		change := exportlog.SignerChange{KeyID: s.KeyID, Version: s.Version}
		if err := p.folder.Put(change.Path(), s.PublicPEM()); err != nil {
			return err
		}
	}
	return nil
}
