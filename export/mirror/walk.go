package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"sync"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

// ahead is how many bundles are fetched before they are needed.
const ahead = 8

// walker rebuilds the tree of a log from its entries and compares every tile with what
// they give.
type walker struct {
	*Report
	source     tree.Source
	checkpoint exportlog.Checkpoint
	ledger     *ledger
	log        exportlog.Tree
	required   map[string]exportlog.Tile // that the checkpoint implies, by path
	broken     bool                      // a bundle is not the log's: what follows from its entries is not either
	seenSize   uint64                    // of a checkpoint seen before
	seenRoot   [32]byte                  // that the entries give for it
	progress   func(done uint64)
}

// chunk is one entry bundle and the tile of its leaf hashes.
type chunk struct {
	entries [][]byte
	parsed  []exportlog.Entry
	errs    []error // of parsing, by entry
	tile    []byte
	err     error
}

// errStop ends a walk that cannot go on; the reason is a finding already.
var errStop = errors.New("the walk cannot go on")

// walk reads all entries.
func (w *walker) walk(ctx context.Context) error {
	size := w.checkpoint.Size
	tiles, err := exportlog.TileList(0, size)
	if err != nil {
		return err
	}
	w.required = make(map[string]exportlog.Tile, len(tiles))
	for _, t := range tiles {
		w.required[t.Path()] = t
	}
	n := (size + exportlog.TileWidth - 1) / exportlog.TileWidth
	for i, c := range fetchAhead(ctx, n, w.fetch) {
		if err := w.take(ctx, i, c); err != nil {
			return err
		}
		w.progress(w.log.Size())
	}
	return ctx.Err()
}

// fetch reads the i-th bundle and its tile of leaf hashes. It runs beside others.
func (w *walker) fetch(ctx context.Context, i uint64) (c chunk) {
	t := exportlog.Tile{Level: exportlog.EntryLevel, Index: i, Width: int(min(exportlog.TileWidth, w.checkpoint.Size-i*exportlog.TileWidth))}
	data, width, err := w.read(ctx, t, exportlog.MaxBundle)
	if err != nil {
		return chunk{err: err}
	}
	if c.entries, err = exportlog.ParseBundle(data, width); err != nil {
		return chunk{err: w.flaw(t, "%w", err)}
	}
	c.entries = c.entries[:t.Width]
	for _, text := range c.entries {
		e, err := exportlog.ParseEntry(text)
		c.parsed, c.errs = append(c.parsed, e), append(c.errs, err)
	}
	t.Level = 0
	c.tile, _, c.err = w.read(ctx, t, exportlog.MaxTile)
	return c
}

// read reads a tile, or the full one that has replaced it.
func (w *walker) read(ctx context.Context, t exportlog.Tile, limit int64) (data []byte, width int, err error) {
	data, err = tree.ReadAll(ctx, w.source, t.Path(), limit)
	if errors.Is(err, fs.ErrNotExist) && t.Width < exportlog.TileWidth {
		full, err2 := tree.ReadAll(ctx, w.source, t.Full().Path(), limit)
		if !errors.Is(err2, fs.ErrNotExist) {
			if t.Level != exportlog.EntryLevel && len(full) == exportlog.MaxTile {
				full = full[:32*t.Width]
			}
			return full, exportlog.TileWidth, w.tooLarge(t.Full(), err2)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, w.flaw(t, "the tile is missing")
	}
	return data, t.Width, w.tooLarge(t, err)
}

func (w *walker) tooLarge(t exportlog.Tile, err error) error {
	if errors.Is(err, tree.ErrTooLarge) {
		return w.flaw(t, "%w", err)
	}
	return err
}

// tileFlaw is a flaw of one tile.
type tileFlaw struct {
	flaw
	path string
}

func (w *walker) flaw(t exportlog.Tile, format string, args ...any) error {
	return &tileFlaw{flaw{CodeTile, fmt.Errorf(format, args...)}, t.Path()}
}

// report turns a flaw of a tile into a finding and gives back any other error.
func (w *walker) report(err error) error {
	var f *tileFlaw
	if errors.As(err, &f) {
		w.find(CodeTile, f.path, "%v", f)
		return nil
	}
	return err
}

// take appends the entries of a chunk. Those that are not the log's are not judged, nor is
// what comes after them: the ledger would see gaps that are not there.
func (w *walker) take(ctx context.Context, i uint64, c chunk) error {
	if c.entries == nil {
		if err := w.report(c.err); err != nil {
			return err
		}
		return errStop
	}
	if err := w.report(c.err); err != nil {
		return err
	}
	old := w.log.Size()
	for _, text := range c.entries {
		w.log.Append(text)
		if w.log.Size() == w.seenSize {
			w.seenRoot = w.log.Root()
		}
	}
	if err := w.compareTiles(ctx, i, old, c); err != nil || w.broken {
		return err
	}
	for j, e := range c.parsed {
		if n := old + uint64(j); c.errs[j] != nil {
			w.findEntry(CodeEntry, n, "", "%v", c.errs[j])
		} else {
			w.ledger.add(n, e)
		}
	}
	return nil
}

// compareTiles compares the tiles that the entries of a chunk complete with those served.
func (w *walker) compareTiles(ctx context.Context, i, old uint64, c chunk) error {
	entry := func(n uint64) ([]byte, error) { return c.entries[n-old], nil }
	for f, err := range exportlog.Tiles(old, w.log.Size(), &w.log, entry) {
		if err != nil {
			return err
		}
		t, ok := w.required[f.Path]
		if !ok || t.Level == exportlog.EntryLevel || t.Level > 0 && w.broken {
			continue
		}
		served := c.tile
		if t.Level > 0 {
			var err error
			if served, _, err = w.read(ctx, t, exportlog.MaxTile); err != nil {
				if err = w.report(err); err != nil {
					return err
				}
				continue
			}
		}
		if served == nil || bytes.Equal(served, f.Data) {
			continue
		}
		if err := w.blame(ctx, t, i); err != nil {
			return err
		}
	}
	return nil
}

// blame finds out whether a tile or the bundle below it is wrong: of the two, the one that
// the checkpoint's root does not vouch for.
func (w *walker) blame(ctx context.Context, t exportlog.Tile, i uint64) error {
	if t.Level > 0 {
		w.find(CodeTile, t.Path(), "its hashes are not those of the log's entries")
		return nil
	}
	hashes := exportlog.TileHashes(w.checkpoint, func(t exportlog.Tile) ([]byte, error) {
		data, _, err := w.read(ctx, t, exportlog.MaxTile)
		return data, err
	})
	leaf := int64(exportlog.StoredHashCount(i * exportlog.TileWidth))
	if _, err := hashes.ReadHashes([]int64{leaf}); err == nil {
		w.broken = true
		t.Level = exportlog.EntryLevel
		w.find(CodeTile, t.Path(), "its entries are not those of the tile of their hashes, which the checkpoint vouches for")
		return nil
	}
	w.find(CodeTile, t.Path(), "its hashes are not those of the log's entries")
	return ctx.Err()
}

// fetchAhead calls fetch for 0 to n-1, a few at a time, and gives the results in order.
// All calls have ended when the sequence has.
func fetchAhead[T any](ctx context.Context, n uint64, fetch func(context.Context, uint64) T) iter.Seq2[uint64, T] {
	return func(yield func(uint64, T) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		results := make(chan chan T, ahead)
		next := uint64(0)
		start := func() {
			if next < n && ctx.Err() == nil {
				result, i := make(chan T, 1), next
				running.Go(func() { result <- fetch(ctx, i) })
				results <- result
				next++
			}
		}
		for range ahead {
			start()
		}
		for i := range n {
			if len(results) == 0 {
				return // ctx was done
			}
			result := <-<-results
			start()
			if !yield(i, result) {
				return
			}
		}
	}
}
