package idset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"slices"

	"bluekey/export/match"
	"bluekey/keystore/diagnosis"
)

// Options of Write. They change its cost, never its bytes.
type Options struct {
	// MaxHashes bounds the hashes held at once, at 16 bytes each; 0 means 8 million,
	// 128 MB. The keys are read once to be counted, and then once for every so many
	// hashes.
	MaxHashes int
	// Tier names the kernels of package match; empty means the fastest.
	Tier string
}

const (
	defaultMaxHashes = 8 << 20
	// Values of a shard must fit 63 bits at the largest f.
	maxShardHashes = math.MaxInt32
	chunkKeys      = 512
)

// Stats say what Write wrote.
type Stats struct {
	Keys   int   // keys read
	IDs    int64 // IDs they stand for
	Shards int
	Bytes  int64
	Passes int // how often the keys were read, the counting not included
}

// Write writes the ID set of keys, all of p.Scheme, in any order. It ranges over keys
// more than once, and they must be the same each time.
func Write(w io.Writer, p Params, keys iter.Seq2[diagnosis.Key, error], o Options) (Stats, error) {
	if p.F == 0 {
		p.F = DefaultF
	}
	if err := p.check(); err != nil {
		return Stats{}, err
	}
	e, err := match.NewExpander(o.Tier)
	if err != nil {
		return Stats{}, fmt.Errorf("ID set: %w", err)
	}
	b := &builder{Params: p, w: w, keys: keys, expander: e, key: p.hashKey(), max: o.MaxHashes}
	if b.max <= 0 {
		b.max = defaultMaxHashes
	}
	b.max = min(b.max, maxShardHashes)
	if err := b.run(); err != nil {
		return Stats{}, fmt.Errorf("ID set: %w", err)
	}
	return b.stats, nil
}

type builder struct {
	Params
	w        io.Writer
	keys     iter.Seq2[diagnosis.Key, error]
	expander *match.Expander
	key      hashKey
	max      int
	stats    Stats

	counts    map[uint64]uint32 // hashes of each shard, by its number
	directory []byte
	sorter    sorter
	values    []uint64
	data      []byte // encoded and not yet written
}

func (b *builder) run() error {
	if err := b.count(); err != nil {
		return err
	}
	if err := b.write(b.header()); err != nil {
		return err
	}
	shards := slices.Sorted(maps.Keys(b.counts))
	b.stats.Shards = len(shards)
	for len(shards) > 0 {
		n, sum := 0, 0
		for n < len(shards) && (n == 0 || sum+int(b.counts[shards[n]]) <= b.max) {
			sum += int(b.counts[shards[n]])
			n++
		}
		var err error
		if sum <= b.max {
			err = b.several(shards[:n], sum)
		} else {
			err = b.parts(shards[0])
		}
		if err != nil {
			return err
		}
		shards = shards[n:]
	}
	n := uint32(len(b.directory) / entrySize)
	return b.write(binary.LittleEndian.AppendUint32(b.directory, n))
}

// count finds the size of every shard, which needs no expansion.
func (b *builder) count() error {
	b.counts = make(map[uint64]uint32)
	per := perShard(b.Scheme)
	for k, err := range b.keys {
		if err != nil {
			return fmt.Errorf("reading keys: %w", err)
		}
		if k.Scheme != b.Scheme {
			return fmt.Errorf("a %v key in a set of %v", k.Scheme, b.Scheme)
		}
		if err := k.Check(); err != nil {
			return err
		}
		b.stats.Keys++
		b.stats.IDs += int64(k.Count)
		for i, end := uint64(k.Start), uint64(k.End()); i < end; {
			shard := i / per
			to := min(end, (shard+1)*per)
			if b.counts[shard] += uint32(to - i); b.counts[shard] > maxShardHashes {
				return errors.New("too many IDs within four hours")
			}
			i = to
		}
	}
	return nil
}

// several writes shards that together stay within the bound, in one pass.
func (b *builder) several(shards []uint64, sum int) error {
	b.values = slices.Grow(b.values[:0], sum)[:sum]
	type room struct{ at, end uint32 }
	rooms := make(map[uint64]*room, len(shards))
	at := uint32(0)
	for _, shard := range shards {
		n := b.counts[shard]
		rooms[shard] = &room{at, at + n}
		at += n
	}
	err := b.expand(shards[0], shards[len(shards)-1], func(shard uint64, first uint32, ids [][16]byte) error {
		r, n := rooms[shard], b.counts[shard]
		if r == nil || int(r.end-r.at) < len(ids) {
			return errChanged
		}
		into := b.values[r.at:][:len(ids)]
		for j := range ids {
			into[j] = place(b.key.sum(b.Scheme, &ids[j], first+uint32(j)), n, b.F)
		}
		r.at += uint32(len(ids))
		return nil
	})
	if err != nil {
		return err
	}
	from := uint32(0)
	for _, shard := range shards {
		n := b.counts[shard]
		if rooms[shard].at != rooms[shard].end {
			return errChanged
		}
		e := b.begin(shard)
		if err := e.add(b.values[from:from+n], 0, uint64(n)<<b.F); err != nil {
			return err
		}
		if err := e.finish(); err != nil {
			return err
		}
		from += n
	}
	return nil
}

var errChanged = errors.New("the keys changed between two passes")

// parts writes one shard that is too large, in passes of one range of values each. The
// ranges end where partitions do.
func (b *builder) parts(shard uint64) error {
	n := b.counts[shard]
	end := uint64(n) << b.F
	unit := uint64(1) << (b.F + blockBits + partitionBits)
	// Aim a little below the bound: a range holds a random number of values.
	step := max(uint64(b.max)*7/8<<b.F/unit, 1) * unit
	e := b.begin(shard)
	seen := uint32(0)
	b.values = slices.Grow(b.values[:0], b.max)
	for low := uint64(0); low < end; low += step {
		high := min(low+step, end)
		b.values = b.values[:0]
		err := b.expand(shard, shard, func(_ uint64, first uint32, ids [][16]byte) error {
			for j := range ids {
				v := place(b.key.sum(b.Scheme, &ids[j], first+uint32(j)), n, b.F)
				if v >= low && v < high {
					b.values = append(b.values, v)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		seen += uint32(len(b.values))
		if err := e.add(b.values, low, high); err != nil {
			return err
		}
	}
	if seen != n {
		return errChanged
	}
	return e.finish()
}

// expand makes the IDs that fall into shards first to last, in runs of one shard each.
func (b *builder) expand(first, last uint64, f func(shard uint64, from uint32, ids [][16]byte) error) error {
	b.stats.Passes++
	per := perShard(b.Scheme)
	low, high := first*per, (last+1)*per
	var failed error
	each := func(k *diagnosis.Key, ids [][16]byte) {
		i := uint64(k.Start)
		if i < low { // a Bluezone chain, which begins where it begins
			ids = ids[low-i:]
			i = low
		}
		for len(ids) > 0 && failed == nil {
			shard := i / per
			n := min(uint64(len(ids)), (shard+1)*per-i)
			failed = f(shard, uint32(i), ids[:n])
			ids = ids[n:]
			i += n
		}
	}
	chunk := make([]diagnosis.Key, 0, chunkKeys)
	flush := func() error {
		err := b.expander.Each(chunk, each)
		chunk = chunk[:0]
		if err != nil {
			return err
		}
		return failed
	}
	for k, err := range b.keys {
		if err != nil {
			return fmt.Errorf("reading keys: %w", err)
		}
		start, end := max(uint64(k.Start), low), min(uint64(k.End()), high)
		if start >= end {
			continue
		}
		// Only what is asked for; a chain must be run from its beginning.
		if k.Scheme == diagnosis.GAEN {
			k.Start = diagnosis.Interval(start)
		}
		k.Count = uint8(end - uint64(k.Start))
		if chunk = append(chunk, k); len(chunk) == chunkKeys {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

func (b *builder) write(p []byte) error {
	n, err := b.w.Write(p)
	b.stats.Bytes += int64(n)
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}
