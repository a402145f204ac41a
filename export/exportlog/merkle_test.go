package exportlog

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// A log grown by Append, one batch after the other, is the log rebuilt from its entries.
func TestAppendEqualsRebuild(t *testing.T) {
	var stored Tree // filled with what Append gives
	for _, batch := range []int{1, 0, 2, 5, 1, 247, 1, 300, 7} {
		var entries [][]byte
		for i := range batch {
			entries = append(entries, vectorEntry(int(stored.size)+i))
		}
		if StoredHashCount(stored.size) != uint64(len(stored.hashes)) {
			t.Fatalf("%d stored hashes of %d entries", len(stored.hashes), stored.size)
		}
		added, root, err := Append(stored.size, &stored, entries)
		if err != nil {
			t.Fatal(err)
		}
		before := stored.size
		stored.hashes, stored.size = append(stored.hashes, added...), stored.size+uint64(batch)
		rebuilt := vectorLog(int(stored.size))
		if root != rebuilt.Root() || !slices.Equal(stored.hashes, rebuilt.hashes) {
			t.Fatalf("%d entries: root or stored hashes differ", stored.size)
		}
		old, err := Root(before, &stored)
		if err != nil || old != vectorLog(int(before)).Root() {
			t.Fatalf("root of %d in %d: %v", before, stored.size, err)
		}
	}
}

func TestMerkleRefuses(t *testing.T) {
	tree, r := vectorLog(5), vectorLog(5).Root()
	short := hashReaderFunc(func(x []int64) ([][32]byte, error) { return nil, nil })
	for what, err := range map[string]error{
		"entry too long":         third(Append(5, tree, [][]byte{make([]byte, MaxEntry+1)})),
		"size beyond the log":    third(Append(9, tree, [][]byte{{}})),
		"size beyond any":        third(Append(MaxSize, tree, [][]byte{{}})),
		"size that overflows":    third(Append(1<<64-1, tree, [][]byte{{}})),
		"reader without hashes":  third(Append(5, short, [][]byte{{}})),
		"root of more":           second(Root(9, tree)),
		"root of 2^63":           second(Root(1<<63, tree)),
		"entry not there":        second(ProveEntry(5, 5, tree)),
		"entry of none":          second(ProveEntry(0, 0, tree)),
		"log of 2^63":            CheckEntry(nil, 1<<63-1, r, 0, nil),
		"entry beyond the log":   CheckEntry(nil, 5, r, 5, nil),
		"shrinking log":          second(ProveConsistency(5, 4, tree)),
		"shrunk log":             CheckConsistency(nil, 5, r, 4, r),
		"empty log with proof":   CheckConsistency([][32]byte{r}, 0, EmptyRoot(), 5, r),
		"empty log, other root":  CheckConsistency(nil, 0, r, 5, r),
		"still empty, new root":  CheckConsistency(nil, 0, EmptyRoot(), 0, r),
		"same size, other root":  CheckConsistency(nil, 5, r, 5, EmptyRoot()),
		"consistency of 2^63":    CheckConsistency(nil, 1, r, 1<<63-1, r),
		"tiles of 2^63":          second(TileList(0, 1<<63)),
		"bundle too short":       second(ParseBundle([]byte{0, 2, 1}, 1)),
		"bundle ends in length":  second(ParseBundle([]byte{0, 0, 0}, 2)),
		"bundle with more":       second(ParseBundle([]byte{0, 0, 0}, 1)),
		"bundle of width 0":      second(ParseBundle(nil, 0)),
		"bundle of width 257":    second(ParseBundle(make([]byte, 2*257), 257)),
		"bundle of other widths": second(ParseBundle(make([]byte, 2*5), 4)),
	} {
		if err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	for what, err := range map[string]error{
		"empty to five":  CheckConsistency(nil, 0, EmptyRoot(), 5, r),
		"empty to empty": CheckConsistency(nil, 0, EmptyRoot(), 0, EmptyRoot()),
		"five to five":   CheckConsistency(nil, 5, r, 5, r),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

type hashReaderFunc func([]int64) ([][32]byte, error)

func (f hashReaderFunc) ReadHashes(x []int64) ([][32]byte, error) { return f(x) }

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

// render writes the tiles of a log that grew through the given sizes.
func render(t testing.TB, sizes ...uint64) map[string][]byte {
	t.Helper()
	tree, files := vectorLog(int(sizes[len(sizes)-1])), map[string][]byte{}
	for i, size := range sizes[1:] {
		for f, err := range Tiles(sizes[i], size, tree, func(i uint64) ([]byte, error) { return vectorEntry(int(i)), nil }) {
			if err != nil {
				t.Fatal(err)
			}
			if old, ok := files[f.Path]; ok && string(old) != string(f.Data) {
				t.Errorf("%s changed", f.Path)
			}
			files[f.Path] = f.Data
		}
	}
	return files
}

// A log read back from its tiles is the log, whatever the steps it grew in, also after
// partial tiles were removed.
func TestTilesReadBack(t *testing.T) {
	const size = 256*257 + 5
	files := render(t, 0, 1, 1, 3, 255, 256, 257, 511, 5000, size)
	if want := render(t, 0, size); len(files) <= len(want) {
		t.Errorf("%d files, no more than the %d of one step", len(files), len(want))
	} else {
		for path, data := range want {
			if string(files[path]) != string(data) {
				t.Errorf("%s depends on the steps", path)
			}
		}
	}
	for path := range files {
		tile, err := ParseTilePath(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, full := files[tile.Full().Path()]; full && tile.Width < TileWidth {
			delete(files, path)
		}
	}
	tree := vectorLog(size)
	read := func(tile Tile) ([]byte, error) {
		if data, ok := files[tile.Path()]; ok {
			return data, nil
		}
		return nil, fs.ErrNotExist
	}
	for _, n := range []uint64{1, 255, 300, 5000, size} {
		r, err := Root(n, tree)
		if err != nil {
			t.Fatal(err)
		}
		hashes := TileHashes(Checkpoint{Size: n, Root: r}, read)
		if again, err := Root(n, hashes); err != nil || again != r {
			t.Errorf("root of %d from tiles: %v", n, err)
		}
		got, err := ProveConsistency(1+n/2, n, hashes)
		want, _ := ProveConsistency(1+n/2, n, tree)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("consistency of %d from tiles: %v", n, err)
		}
	}
	var rebuilt Tree
	tiles, err := TileList(0, size)
	if err != nil {
		t.Fatal(err)
	}
	for _, tile := range tiles {
		if tile.Level == EntryLevel {
			entries, err := ParseBundle(files[tile.Path()], tile.Width)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				rebuilt.Append(e)
			}
		}
	}
	if !reflect.DeepEqual(&rebuilt, tree) {
		t.Error("the bundles hold another log")
	}
}

func TestTileHashesRefuses(t *testing.T) {
	files := render(t, 0, 300)
	c := Checkpoint{Size: 300, Root: vectorLog(300).Root()}
	for what, change := range map[string]func(tile Tile, data []byte) ([]byte, error){
		"one bit of a full tile": func(tile Tile, data []byte) ([]byte, error) {
			if tile.Width == TileWidth {
				data[77] ^= 1
			}
			return data, nil
		},
		"one bit of a partial tile": func(tile Tile, data []byte) ([]byte, error) {
			if tile.Width < TileWidth {
				data[0] ^= 1
			}
			return data, nil
		},
		"short tile":   func(_ Tile, data []byte) ([]byte, error) { return data[1:], nil },
		"long tile":    func(_ Tile, data []byte) ([]byte, error) { return append(data, 0), nil },
		"no tile":      func(Tile, []byte) ([]byte, error) { return nil, fs.ErrNotExist },
		"short full":   func(tile Tile, _ []byte) ([]byte, error) { return make([]byte, 32), missing(tile) },
		"broken place": func(Tile, []byte) ([]byte, error) { return nil, errors.New("unplugged") },
	} {
		hashes := TileHashes(c, func(tile Tile) ([]byte, error) {
			return change(tile, slices.Clone(files[tile.Path()]))
		})
		if _, err := ProveEntry(300, 7, hashes); err == nil {
			t.Errorf("%s: proved", what)
		}
	}
	empty := TileHashes(Checkpoint{Root: EmptyRoot()}, nil)
	if _, err := empty.ReadHashes(nil); err != nil {
		t.Errorf("nothing of an empty log: %v", err)
	}
	if _, err := empty.ReadHashes([]int64{0}); err == nil {
		t.Error("a hash of an empty log")
	}
}

func missing(t Tile) error {
	if t.Width < TileWidth {
		return fs.ErrNotExist
	}
	return nil
}

func TestParseTilePathRefuses(t *testing.T) {
	for _, path := range []string{
		"", "tile", "tile/", "tile/0", "tile/0/", "tile/0/0", "tile/0/1000", "tile/0/x000/000", "tile/00/000", "tile/+0/000",
		"tile/-1/000", "tile/64/000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p", "tile/0/000/",
		"tile/0/x001/x000", "tile/0/x001", "tile/0/001/000", "tile/0/-01", "/tile/0/000", "tile/8/0/000", "tile/data/000",
		"tile/entries", "tile/entries/", "tile/entries/entries/000", "tile/8/data/000", "tile/0/000.p/1.p/1", "tile/0/../000",
		"tile/0/" + strings.Repeat("x999/", 6) + "999", "tile/0/" + strings.Repeat("x999/", 500) + "999",
	} {
		if tile, err := ParseTilePath(path); err == nil {
			t.Errorf("%q parsed as %+v", path, tile)
		}
	}
}

func FuzzParseTilePath(f *testing.F) {
	f.Add("tile/entries/x001/x234/067.p/8")
	f.Add("tile/2/005.p/1")
	f.Fuzz(func(t *testing.T, path string) {
		if tile, err := ParseTilePath(path); err == nil && tile.Path() != path {
			t.Errorf("%q is a second spelling of %q", path, tile.Path())
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	f.Add([]byte("\x00\x02ab\x00\x00"), 2)
	f.Fuzz(func(t *testing.T, data []byte, width int) {
		entries, err := ParseBundle(data, width)
		if err != nil {
			return
		}
		again, err := renderTile(Tile{EntryLevel, 0, width}, nil, func(i uint64) ([]byte, error) { return entries[i], nil })
		if err != nil || string(again) != string(data) {
			t.Errorf("%q is a second spelling of %q, %v", data, again, err)
		}
	})
}

// BenchmarkAppend is the work of one publication on the log: one entry's hashes, and its
// tiles and bundle, in a log of 280,000 entries.
func BenchmarkAppend(b *testing.B) {
	const size = 280_000
	tree, entry := manifestLog(b, size), benchEntry(b, size)
	b.ReportAllocs()
	for b.Loop() {
		added, _, err := Append(size, tree, [][]byte{entry})
		if err != nil {
			b.Fatal(err)
		}
		grown := &overlay{base: tree, first: int64(StoredHashCount(size)), added: added}
		for _, err := range Tiles(size, size+1, grown, func(uint64) ([]byte, error) { return entry, nil }) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkRebuild is an auditor's work on 280,000 entries without files: split bundles,
// parse every manifest, rebuild the tree, compare its root.
func BenchmarkRebuild(b *testing.B) {
	const size = 280_000
	var bundles [][]byte
	tree := manifestLog(b, size)
	for i := range uint64((size + TileWidth - 1) / TileWidth) {
		width := min(TileWidth, size-int(i)*TileWidth)
		data, err := renderTile(Tile{EntryLevel, i, width}, nil, func(i uint64) ([]byte, error) { return benchEntry(b, i), nil })
		if err != nil {
			b.Fatal(err)
		}
		bundles = append(bundles, data)
	}
	want := tree.Root()
	b.ReportAllocs()
	for b.Loop() {
		var rebuilt Tree
		for i, data := range bundles {
			entries, err := ParseBundle(data, min(TileWidth, size-i*TileWidth))
			if err != nil {
				b.Fatal(err)
			}
			for _, e := range entries {
				if _, err := ParseEntry(e); err != nil {
					b.Fatal(err)
				}
				rebuilt.Append(e)
			}
		}
		if rebuilt.Root() != want {
			b.Fatal("another root")
		}
	}
	b.ReportMetric(float64(size*b.N)/b.Elapsed().Seconds(), "entries/s")
}

func benchEntry(b testing.TB, i uint64) []byte {
	m := window()
	m.Region, m.Start, m.End = fmt.Sprintf("VN-%02d", i%64), int64(i)*14400, int64(i+1)*14400
	for j, f := range m.Files {
		m.Files[j] = NewFile(m.Start, m.End, FileKind(f.Path[strings.LastIndexByte(f.Path, '.')+1:]), f.Size, f.SHA256, f.Keys)
	}
	text, err := m.Format()
	if err != nil {
		b.Fatal(err)
	}
	return text
}

func manifestLog(b testing.TB, size uint64) *Tree {
	var tree Tree
	for i := range size {
		tree.Append(benchEntry(b, i))
	}
	return &tree
}
