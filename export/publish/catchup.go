package publish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
)

// catchUp brings a store that was put back from a backup to where its tree already is: the
// entries that it lost, and the windows that they close. Keys in those windows count as
// published, because they were, also those that only the tree knows: a late upload of one
// must not publish it a second time. Codes of the backup are void: nobody knows which of them
// were used since. Nothing is signed: the checkpoint is the tree's.
func (p *Publisher) catchUp(ctx context.Context, theirs exportlog.Opened) error {
	c := theirs.Checkpoint
	if _, outstanding, err := p.store.Outstanding(); err != nil {
		return err
	} else if outstanding {
		// The backup was taken between a commit and its end. The tree is past that.
		if err := p.store.Applied(); err != nil {
			return err
		}
	}
	old := p.store.LogSize()
	entries, err := p.treeEntries(old, c)
	if err != nil {
		return fmt.Errorf("reading the entries that the store lacks: %w", err)
	}
	added, root, err := exportlog.Append(old, p.store, entries)
	if err != nil {
		return err
	}
	if root != c.Root {
		return fmt.Errorf("%w: the store's %d entries do not lead to the tree's checkpoint of %d", ErrFork, old, c.Size)
	}
	// Signing the same at the same time gives the same bytes: nothing new is said.
	signed, err := exportlog.SignCheckpoint(c, theirs.Time, p.LogKeys)
	if err != nil {
		return err
	}
	publication := keystore.Publication{Entries: entries, First: old, Hashes: added, Checkpoint: signed, VoidCodes: true}
	var manifests []exportlog.Manifest
	for i, text := range entries {
		e, err := exportlog.ParseEntry(text)
		if err != nil {
			return fmt.Errorf("log entry %d: %w", old+uint64(i), err)
		}
		switch e := e.(type) {
		case exportlog.Manifest:
			w := keystore.Window{Scheme: e.Scheme, Start: time.Unix(e.Start, 0).UTC(), End: time.Unix(e.End, 0).UTC(), Entry: old + uint64(i), Published: e.Keys > 0}
			if w.Published {
				w.Through = w.End
				manifests = append(manifests, e)
			}
			publication.Windows = append(publication.Windows, w)
		case exportlog.Erasure:
			if publication.EraseThrough == nil {
				publication.EraseThrough = map[diagnosis.Scheme]time.Time{}
			}
			publication.EraseThrough[e.Scheme] = time.Unix(e.Through, 0).UTC()
		}
	}
	for _, w := range publication.Windows {
		if _, err := p.store.CloseWindow(ctx, w.Scheme, w.End); err != nil {
			return err
		}
	}
	for _, m := range manifests {
		if !time.Unix(m.End, 0).After(publication.EraseThrough[m.Scheme]) {
			continue // its files are gone
		}
		if err := p.markKnown(m); err != nil {
			return err
		}
	}
	if err := p.store.Commit(publication); err != nil {
		return fmt.Errorf("committing what the tree knew: %w", err)
	}
	p.Log.Warn("the store was behind its tree and has caught up; all codes that were not used are void: issue new ones", "from", old, "to", c.Size)
	return nil
}

// markKnown has the store remember the keys of a window that only the tree knows.
func (p *Publisher) markKnown(m exportlog.Manifest) error {
	kind := exportlog.Archive
	if slices.Contains(kinds(m.Files), exportlog.KeySet) {
		kind = exportlog.KeySet
	}
	known := 0
	for _, f := range m.Files {
		if kinds([]exportlog.File{f})[0] != kind {
			continue
		}
		data, err := p.folder.Get(f.Path, f.Size)
		if err == nil && !f.Matches(data) {
			err = errors.New("it is not what the log says")
		}
		if err != nil {
			p.Log.Warn("an export of the tree cannot be read", "path", f.Path, "error", err)
			continue
		}
		file, err := export.OpenFile(tree.NewBlob(data), int64(len(data)))
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		if err := p.store.MarkKnown(file.Keys()); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		known += f.Keys
	}
	if known < m.Keys {
		p.Log.Warn("the store cannot learn all keys of a window from the tree: one that is uploaded again would be published again",
			"scheme", m.Scheme, "end", time.Unix(m.End, 0).UTC(), "unknown", m.Keys-known)
	}
	return nil
}

// treeEntries reads the entries from index first on out of the tree's bundles.
func (p *Publisher) treeEntries(first uint64, c exportlog.Checkpoint) ([][]byte, error) {
	var entries [][]byte
	for at := first; at < c.Size; {
		n := at / exportlog.TileWidth
		width := int(min(exportlog.TileWidth, c.Size-n*exportlog.TileWidth))
		tile := exportlog.Tile{Level: exportlog.EntryLevel, Index: n, Width: width}
		data, err := p.folder.Get(tile.Path(), exportlog.MaxBundle)
		if errors.Is(err, fs.ErrNotExist) && width < exportlog.TileWidth {
			tile = tile.Full()
			data, err = p.folder.Get(tile.Path(), exportlog.MaxBundle)
		}
		if err != nil {
			return nil, err
		}
		bundle, err := exportlog.ParseBundle(data, tile.Width)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tile.Path(), err)
		}
		entries = append(entries, bundle[at%exportlog.TileWidth:width]...)
		at = n*exportlog.TileWidth + uint64(width)
	}
	return entries, nil
}
