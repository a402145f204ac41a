package exportlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// TileWidth is the number of hashes in a full tile, and of entries in a full bundle
	// (C2SP tlog-tiles).
	TileWidth = 1 << tileHeight

	tileHeight = 8
	// EntryLevel is the level of entry bundles.
	EntryLevel = -1

	maxLevel = 63
)

// Tile names a tile of the log, or, at EntryLevel, a bundle of entries.
type Tile struct {
	Level int    // 0 for leaf hashes; EntryLevel for entries
	Index uint64 // tiles before it on its level
	Width int    // hashes or entries in it, 1 to TileWidth; less than TileWidth is a partial tile
}

func (t Tile) tlog() tlog.Tile {
	return tlog.Tile{H: tileHeight, L: t.Level, N: int64(t.Index), W: t.Width}
}

// Path is the path of the tile in the public tree: tile/<L>/<N>[.p/<W>], with "entries"
// as the level of a bundle.
func (t Tile) Path() string {
	path := strings.TrimPrefix(t.tlog().Path(), fmt.Sprintf("tile/%d/", tileHeight))
	if t.Level == EntryLevel {
		path = "entries" + strings.TrimPrefix(path, "data")
	}
	return "tile/" + path
}

// Full is the full tile that replaces a partial one once the log has grown.
func (t Tile) Full() Tile { return Tile{t.Level, t.Index, TileWidth} }

// ParseTilePath reads what Path writes.
func ParseTilePath(path string) (Tile, error) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if bundle, is := strings.CutPrefix(rest, "entries/"); is {
		rest = "data/" + bundle
	}
	found, err := tlog.ParseTilePath(fmt.Sprintf("tile/%d/%s", tileHeight, rest))
	t := Tile{found.L, uint64(found.N), found.W}
	if !ok || err != nil || t.Level > maxLevel || found.N < 0 || t.Index > MaxSize/TileWidth || t.Path() != path {
		return Tile{}, fmt.Errorf("%.80q is not the path of a tile", path)
	}
	return t, nil
}

// TileList names the tiles and bundles that a log of newSize entries has and one of
// oldSize had not, every bundle before the tile of its leaf hashes.
func TileList(oldSize, newSize uint64) ([]Tile, error) {
	if err := checkSize(oldSize, newSize); err != nil {
		return nil, err
	}
	var tiles []Tile
	for _, t := range tlog.NewTiles(tileHeight, int64(oldSize), int64(newSize)) {
		if t.L == 0 {
			tiles = append(tiles, Tile{EntryLevel, uint64(t.N), t.W})
		}
		tiles = append(tiles, Tile{t.L, uint64(t.N), t.W})
	}
	return tiles, nil
}

// TileFile is a tile or bundle as a file of the public tree.
type TileFile struct {
	Path string
	Data []byte
}

// Tiles renders the files that a log gains by growing from oldSize to newSize. They are
// the same bytes whenever they are rendered. The sequence ends at its first error.
func Tiles(oldSize, newSize uint64, hashes HashReader, entry func(i uint64) ([]byte, error)) iter.Seq2[TileFile, error] {
	return func(yield func(TileFile, error) bool) {
		tiles, err := TileList(oldSize, newSize)
		if err != nil {
			yield(TileFile{}, fmt.Errorf("tiles: %w", err))
			return
		}
		for _, t := range tiles {
			data, err := renderTile(t, hashes, entry)
			if err != nil {
				yield(TileFile{}, fmt.Errorf("rendering %s: %w", t.Path(), err))
				return
			}
			if !yield(TileFile{t.Path(), data}, nil) {
				return
			}
		}
	}
}

func renderTile(t Tile, hashes HashReader, entry func(i uint64) ([]byte, error)) ([]byte, error) {
	if t.Level != EntryLevel {
		return tlog.ReadTileData(t.tlog(), tlogReader{hashes})
	}
	var data []byte
	for i := range uint64(t.Width) {
		e, err := entry(t.Index*TileWidth + i)
		if err == nil {
			err = limit(e, MaxEntry)
		}
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", t.Index*TileWidth+i, err)
		}
		data = append(binary.BigEndian.AppendUint16(data, uint16(len(e))), e...)
	}
	return data, nil
}

// ParseBundle splits a bundle into its entries, exactly width of them. The entries share
// the memory of data.
func ParseBundle(data []byte, width int) ([][]byte, error) {
	if width < 1 || width > TileWidth {
		return nil, fmt.Errorf("entry bundle: width %d", width)
	}
	entries := make([][]byte, width)
	for i := range entries {
		if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
			return nil, fmt.Errorf("entry bundle: ends in entry %d of %d", i, width)
		}
		n := 2 + int(binary.BigEndian.Uint16(data))
		entries[i], data = data[2:n:n], data[n:]
	}
	if len(data) > 0 {
		return nil, fmt.Errorf("entry bundle: %d bytes after entry %d", len(data), width)
	}
	return entries, nil
}

// TileHashes reads stored hashes out of the tiles of a log and authenticates every one
// against the root hash of a checkpoint. It asks read for a partial tile and, where that
// is fs.ErrNotExist, for the full one.
func TileHashes(c Checkpoint, read func(Tile) ([]byte, error)) HashReader {
	return tileHashes{tlog.TileHashReader(tlog.Tree{N: int64(c.Size), Hash: c.Root}, tileReader(read))}
}

type tileHashes struct{ from tlog.HashReader }

func (t tileHashes) ReadHashes(indexes []int64) ([][32]byte, error) {
	if len(indexes) == 0 {
		return nil, nil // of an empty log, tlog would panic
	}
	hashes, err := t.from.ReadHashes(indexes)
	if err != nil {
		return nil, fmt.Errorf("reading tiles: %w", err)
	}
	return plain(hashes), nil
}

type tileReader func(Tile) ([]byte, error)

func (tileReader) Height() int { return tileHeight }

// SaveTiles has nothing to do: keeping tiles is the caller's business.
func (tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

func (read tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	all := make([][]byte, len(tiles))
	for i, want := range tiles {
		t := Tile{want.L, uint64(want.N), want.W}
		data, err := read(t)
		if errors.Is(err, fs.ErrNotExist) && t.Width < TileWidth {
			if data, err = read(t.Full()); err == nil && len(data) == MaxTile {
				data = data[:32*t.Width]
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Path(), err)
		}
		all[i] = data
	}
	return all, nil
}
