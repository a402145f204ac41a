package publish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
)

// restore puts back what is missing in the tree, in the order of apply: somebody has removed
// files, or a folder was put back without them. All of it follows from the store. What no
// longer does is noted as lost, and the rest goes on: phones are better off without one file
// than without a server. The check is that each file is there and of its size; whether its
// bytes are right is for an audit.
//
// Of a commit that was not applied only the exports must be there, in the staging folder or
// already in place: all else is still to be written, by finish.
func (p *Publisher) restore(ctx context.Context) error {
	size, outstanding, err := p.adoptStaged()
	if err != nil {
		return err
	}
	if err := p.restoreTiles(size); err != nil {
		return err
	}
	for _, scheme := range diagnosis.Schemes {
		held, err := p.held(scheme)
		if err != nil {
			return err
		}
		for i := range held {
			if err := p.restoreWindow(ctx, &held[i], size); err != nil {
				return fmt.Errorf("the %s window to %s: %w", scheme, held[i].End.Format(time.RFC3339), err)
			}
		}
	}
	if err := p.restoreSmallFiles(size); err != nil || size == 0 || outstanding {
		return err
	}
	if err := p.restoreCheckpoint(size); err != nil {
		return err
	}
	return p.putIndexes(size)
}

// adoptStaged moves the files of a commit that was not applied to their places, where they
// are not missing then. size is that of the log as the tree must have it: without that commit.
func (p *Publisher) adoptStaged() (size uint64, outstanding bool, err error) {
	planned, outstanding, err := p.store.Outstanding()
	if err != nil || !outstanding {
		return p.store.LogSize(), false, err
	}
	todo, err := parsePlan(planned)
	if err != nil {
		return 0, true, err
	}
	for _, a := range todo.Adopt {
		if err := p.adopt(a); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, true, err
		}
	}
	return todo.OldSize, true, nil
}

func (p *Publisher) restoreTiles(size uint64) error {
	tiles, err := exportlog.TileList(0, size)
	if err != nil {
		return err
	}
	for _, t := range tiles {
		there, err := p.folder.Size(t.Path())
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && there == 0:
			p.Log.Warn("tiles of the public tree are missing and are written again", "first", t.Path())
			return p.putTiles(0, size)
		case err != nil:
			return err
		}
	}
	return nil
}

// heldWindow is a published window that the store still holds, with its keys.
type heldWindow struct {
	window
	manifest exportlog.Manifest
}

// held are the published windows of a scheme, oldest first.
func (p *Publisher) held(scheme diagnosis.Scheme) ([]heldWindow, error) {
	windows, err := p.store.Windows(scheme)
	if err != nil {
		return nil, err
	}
	var list []heldWindow
	from := time.Unix(0, 0) // keys of windows before the first one held are gone
	for _, w := range windows {
		if !w.Published {
			continue
		}
		m, err := p.manifest(w.Entry)
		if err != nil {
			return nil, err
		}
		list = append(list, heldWindow{window{Window: w, walk: p.store.PublishedKeys(scheme, from, w.Through)}, m})
		from = w.Through
	}
	return list, nil
}

// restoreWindow renders the files of a window that are missing, and proves those that have
// no proof, if the window is among the first size entries.
func (p *Publisher) restoreWindow(ctx context.Context, w *heldWindow, size uint64) error {
	missing, err := p.missing(w.manifest.Files)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		p.Log.Warn("exports are missing in the public tree and are rendered again", "entry", w.Entry, "files", len(missing))
		why := p.renderAgain(ctx, w, slices.Clone(missing))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if missing, err = p.missing(missing); err != nil {
			return err
		}
		for _, f := range missing {
			p.lose(f.Path, why)
		}
	}
	if w.Entry >= size {
		return nil
	}
	for _, f := range w.manifest.Files {
		name := f.Path + exportlog.ProofSuffix
		_, err := p.folder.Size(name)
		if err == nil || slices.Contains(missing, f) {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := p.prove(w.Entry, name); err != nil {
			return err
		}
	}
	return nil
}

// prove writes the proof of a file that an entry names.
func (p *Publisher) prove(entry uint64, name string) error {
	checkpoint, err := p.store.Checkpoint()
	if err != nil {
		return err
	}
	proof, err := p.proof(entry, p.store.LogSize(), checkpoint)
	if err != nil {
		return err
	}
	return p.folder.Put(name, proof)
}

// missing are those of files that are not in the tree or have another size.
func (p *Publisher) missing(files []exportlog.File) (list []exportlog.File, err error) {
	for _, f := range files {
		there, err := p.folder.Size(f.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err != nil || there != f.Size {
			list = append(list, f)
		}
	}
	return list, nil
}

// renderAgain makes missing files of a window from the store and puts those in place that
// have the digest the log names. The error says why others came out differently.
func (p *Publisher) renderAgain(ctx context.Context, w *heldWindow, missing []exportlog.File) error {
	w.keys = w.manifest.Keys
	for _, w.idBits = range append([]int{p.IDSetBits}, p.earlierBits()...) {
		again := w.manifest
		again.Signers, again.Files = nil, nil
		r := p.newRound()
		if err := p.renderFiles(ctx, &r, &w.window, &again, kinds(missing)); err != nil {
			return err
		}
		for i, f := range again.Files {
			at := slices.Index(missing, f)
			if at < 0 {
				continue
			}
			if err := p.folder.Adopt(p.staging, r.plan.Adopt[i].Staged, f.Path); err != nil {
				return err
			}
			missing = slices.Delete(missing, at, at+1)
		}
		if missing = slices.DeleteFunc(missing, isNotIDSet); len(missing) == 0 {
			break // nothing is left that depends on these bits
		}
	}
	return fmt.Errorf("the store makes other bytes of it now; encoder %s made it", w.manifest.Encoder)
}

// restoreCheckpoint writes the checkpoint where there is none, or that of a smaller log.
func (p *Publisher) restoreCheckpoint(size uint64) error {
	published, err := p.folder.Get(exportlog.CheckpointPath, exportlog.MaxCheckpoint)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Log.Warn("the public tree has no checkpoint; it is written again", "entries", size)
	case err != nil:
		return err
	default:
		theirs, err := p.policy.Open(published)
		if err != nil || theirs.Size == size {
			return err
		}
	}
	checkpoint, err := p.store.Checkpoint()
	if err != nil {
		return err
	}
	return p.folder.Put(exportlog.CheckpointPath, checkpoint)
}

// lose notes a file of the tree that is missing and cannot be made again, for Status.
func (p *Publisher) lose(name string, why error) {
	p.Log.Error("a file of the public tree is missing and cannot be made again: put it back from a mirror", "path", name, "error", why)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost[name] = why
}

func (p *Publisher) isLost(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost[name] != nil
}

// unlose forgets files that were lost: they are there again, or nobody expects them now.
func (p *Publisher) unlose(names ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		delete(p.lost, name)
	}
}

// lostError tells of the files that are lost, nil if none is. p.mu is held.
func (p *Publisher) lostError() error {
	if len(p.lost) == 0 {
		return nil
	}
	first := slices.Min(slices.Collect(maps.Keys(p.lost)))
	return fmt.Errorf("%d files of the public tree are missing and cannot be made again, %s among them: put them back from a mirror, and restart: %w", len(p.lost), first, p.lost[first])
}
