package idset

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"bluekey/keystore/diagnosis"
)

func small(t testing.TB) []byte {
	file, _ := write(t, params(diagnosis.GAEN, 0), randomKeys(rng(20), diagnosis.GAEN, 3, 2), Options{})
	return file
}

func tryOpen(file []byte) (*Set, error) {
	s, err := Open(bytes.NewReader(file), int64(len(file)), "keys.example.vn", "VN-HP")
	if err != nil {
		return nil, err
	}
	_, err = s.Check()
	return s, err
}

// TestDamage: a named row for each way in which a file can lie about itself.
func TestDamage(t *testing.T) {
	good := small(t)
	if _, err := tryOpen(good); err != nil {
		t.Fatal(err)
	}
	directory := len(good) - countSize - int(binary.LittleEndian.Uint32(good[len(good)-4:]))*entrySize
	for name, damage := range map[string]func(b []byte) []byte{
		"empty":              func(b []byte) []byte { return nil },
		"header only":        func(b []byte) []byte { return b[:headerSize] },
		"one byte less":      func(b []byte) []byte { return b[:len(b)-1] },
		"one byte more":      func(b []byte) []byte { return append(b, 0) },
		"a byte in between":  func(b []byte) []byte { return slices.Insert(b, headerSize, 0) },
		"magic":              func(b []byte) []byte { b[3] ^= 1; return b },
		"scheme":             func(b []byte) []byte { b[len(magic)] = 9; return b },
		"f too small":        func(b []byte) []byte { b[len(magic)+1] = 8; return b },
		"f other":            func(b []byte) []byte { b[len(magic)+1] = 14; return b },
		"window backwards":   func(b []byte) []byte { b[len(magic)+2+7] = 0x7f; return b },
		"no shards":          func(b []byte) []byte { clear(b[len(b)-4:]); return b },
		"too many shards":    func(b []byte) []byte { b[len(b)-1] = 0xff; return b },
		"shard of nothing":   func(b []byte) []byte { clear(b[directory+4 : directory+8]); return b },
		"huge shard":         func(b []byte) []byte { b[directory+7] = 0xff; return b },
		"large shard":        func(b []byte) []byte { b[directory+6] = 0xff; return b },
		"shard order":        func(b []byte) []byte { b[directory+3] = 0xff; return b },
		"shard size":         func(b []byte) []byte { b[directory+8]++; return b },
		"negative size":      func(b []byte) []byte { b[directory+15] = 0x80; return b },
		"fewer IDs than set": func(b []byte) []byte { b[directory+4] = 2; return b },
		"block all ones": func(b []byte) []byte {
			for i := range 40 {
				b[headerSize+i] = 0xff
			}
			return b
		},
	} {
		if s, err := tryOpen(damage(slices.Clone(good))); err == nil {
			t.Errorf("%s: accepted, %d IDs", name, s.IDs())
		}
	}
	for n := range good {
		if _, err := tryOpen(good[:n]); err == nil {
			t.Fatalf("accepted when cut to %d of %d bytes", n, len(good))
		}
	}
}

// FuzzOpen: nothing makes the reader fail other than by an error, and what it accepts has
// one spelling: its values, written again, are the same bytes.
func FuzzOpen(f *testing.F) {
	good := small(f)
	f.Add(good)
	f.Add(good[:headerSize])
	tiny, _ := write(f, params(diagnosis.Bluezone, MinF), randomKeys(rng(21), diagnosis.Bluezone, 1, 1), Options{})
	f.Add(tiny)
	empty, _ := write(f, params(diagnosis.GAEN, MaxF), nil, Options{})
	f.Add(empty)
	f.Fuzz(func(t *testing.T, file []byte) {
		s, err := tryOpen(file)
		if err != nil {
			return
		}
		again := s.header()
		for i := range s.shards {
			h := &s.shards[i]
			r, err := s.open(h)
			if err != nil {
				t.Fatal(err)
			}
			var lengths []byte
			for b := range r.blocks() {
				values, err := r.block(b)
				if err != nil {
					t.Fatal(err)
				}
				before := len(again)
				again = appendBlock(again, values, uint64(b)<<(s.F+blockBits), s.F)
				lengths = binary.LittleEndian.AppendUint16(lengths, uint16(len(again)-before))
			}
			again = append(again, lengths...)
		}
		if !bytes.HasPrefix(file, again) {
			t.Fatal("the same hashes have another spelling")
		}
	})
}

// TestBlocks: codes of every length, gaps that fill words included.
func TestBlocks(t *testing.T) {
	r := rng(22)
	for f := MinF; f <= MaxF; f++ {
		width := uint64(1) << (f + blockBits)
		base := 7 * width
		for _, values := range [][]uint64{
			nil, {base}, {base + width - 1}, {base, base + 1, base + 2}, {base, base + width - 1},
			{base + 31<<(f-1), base + 64<<(f-1), base + 300<<(f-1)},
		} {
			checkBlock(t, values, base, f)
		}
		for range 50 {
			var values []uint64
			for range r.IntN(600) {
				values = append(values, base+r.Uint64N(width))
			}
			slices.Sort(values)
			checkBlock(t, slices.Compact(values), base, f)
		}
	}
}

func checkBlock(t *testing.T, values []uint64, base uint64, f int) {
	t.Helper()
	end := base + 1<<(f+blockBits)
	b := appendBlock(nil, values, base, f)
	got, err := readBlock(nil, append(b, bytes.Repeat([]byte{0xff}, readAhead)...), base, end, f)
	if err != nil || !slices.Equal(got, values) {
		t.Fatalf("f %d: %d values become %d: %v", f, len(values), len(got), err)
	}
}

// TestVerify finds one flipped bit anywhere, and bytes that are missing or too many.
func TestVerify(t *testing.T) {
	keys := randomKeys(rng(23), diagnosis.GAEN, 3, 1)
	p := params(diagnosis.GAEN, 0)
	good, _ := write(t, p, keys, Options{})
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if Verify(bytes.NewReader(bad), p, each(keys), Options{}) == nil {
			t.Fatalf("a flipped bit in byte %d is not found", i)
		}
	}
	for name, bad := range map[string][]byte{"short": good[:len(good)-1], "long": append(slices.Clone(good), 0)} {
		if Verify(bytes.NewReader(bad), p, each(keys), Options{}) == nil {
			t.Errorf("%s file accepted", name)
		}
	}
	if Verify(bytes.NewReader(good), p, each(keys[1:]), Options{}) == nil {
		t.Error("accepted with a key too many")
	}
}

// TestBlockForms: the bytes of a block that say the same as others, or too much.
func TestBlockForms(t *testing.T) {
	const f = MinF
	base, end := uint64(1)<<(f+blockBits), uint64(2)<<(f+blockBits)
	good := appendBlock(nil, []uint64{base, base + 700, end - 1}, base, f)
	last := slices.Clone(good)
	last[len(last)-1] |= 0x80
	for name, row := range map[string]struct {
		block []byte
		end   uint64
	}{
		"a zero byte more":        {append(slices.Clone(good), 0), end},
		"a bit in the rest":       {last, end},
		"a byte of nothing":       {[]byte{0}, end},
		"a value past the end":    {good, end - 1},
		"a quotient without end":  {[]byte{0xff, 0xff, 0xff}, end},
		"a remainder without end": {good[:len(good)-1], end},
	} {
		src := append(slices.Clone(row.block), bytes.Repeat([]byte{0xff}, readAhead)...)
		if got, err := readBlock(nil, src, base, row.end, f); err == nil {
			t.Errorf("%s: accepted as %d values", name, len(got))
		}
	}
}

// TestSortCrowded: values that are not random are sorted all the same.
func TestSortCrowded(t *testing.T) {
	r := rng(24)
	const f = MinF
	var values []uint64
	for range 50_000 {
		values = append(values, 5_000_000+r.Uint64N(300), r.Uint64N(40_000_000))
	}
	want := slices.Sorted(slices.Values(values))
	var got []uint64
	err := new(sorter).sort(values, 0, 40_000_000, f, func(_ uint64, part []uint64) error {
		got = append(got, part...)
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%d values, not in order: %v", len(got), err)
	}
}
