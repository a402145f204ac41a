package idset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"bluekey/keystore/diagnosis"
)

// Set is an ID set opened for reading. It may be used by several goroutines at once.
type Set struct {
	Params
	r      io.ReaderAt
	key    hashKey
	shards []shard // ascending
}

type shard struct {
	number uint32
	n      uint32 // hashes, equal ones counted
	at     int64  // of its blocks in the file
	size   int64  // of its blocks
}

// Open reads the header and the directory of a set of size bytes. Origin and region are
// those of the manifest that names the file: with others, nothing will be found in it.
// Open checks the frame of the file; Check also checks what the shards hold.
func Open(r io.ReaderAt, size int64, origin, region string) (*Set, error) {
	s, err := open(r, size, origin, region)
	if err != nil {
		return nil, fmt.Errorf("ID set: %w", err)
	}
	return s, nil
}

var errShape = errors.New("lengths do not add up")

func open(r io.ReaderAt, size int64, origin, region string) (*Set, error) {
	if size < int64(headerSize+countSize) {
		return nil, fmt.Errorf("%d bytes are too few", size)
	}
	head, err := readAt(r, 0, headerSize)
	if err != nil {
		return nil, err
	}
	if string(head[:len(magic)]) != magic {
		return nil, errors.New("not an ID set, or of a version unknown here")
	}
	head = head[len(magic):]
	s := &Set{r: r, Params: Params{
		Origin: origin,
		Region: region,
		Scheme: diagnosis.Scheme(head[0]),
		F:      int(head[1]),
		Start:  int64(binary.LittleEndian.Uint64(head[2:])),
		End:    int64(binary.LittleEndian.Uint64(head[10:])),
		KeySet: [32]byte(head[18:]),
	}}
	if err := s.check(); err != nil {
		return nil, err
	}
	s.key = s.hashKey()

	tail, err := readAt(r, size-countSize, countSize)
	if err != nil {
		return nil, err
	}
	count := int64(binary.LittleEndian.Uint32(tail))
	if count > (size-int64(headerSize+countSize))/entrySize {
		return nil, errShape
	}
	end := size - countSize - count*entrySize // of the last shard
	directory, err := readAt(r, end, int(count)*entrySize)
	if err != nil {
		return nil, err
	}
	at := int64(headerSize)
	for ; len(directory) > 0; directory = directory[entrySize:] {
		h := shard{
			number: binary.LittleEndian.Uint32(directory),
			n:      binary.LittleEndian.Uint32(directory[4:]),
			at:     at,
			size:   int64(binary.LittleEndian.Uint64(directory[8:])),
		}
		if h.n == 0 || h.n > maxShardHashes {
			return nil, fmt.Errorf("shard %d with %d hashes", h.number, h.n)
		}
		if len(s.shards) > 0 && h.number <= s.shards[len(s.shards)-1].number {
			return nil, fmt.Errorf("shard %d is out of order", h.number)
		}
		lengths := 2 * int64(blocks(h.n))
		if h.size < 0 || h.size > end-at || lengths > end-at-h.size {
			return nil, errShape
		}
		at += h.size + lengths
		s.shards = append(s.shards, h)
	}
	if at != end {
		return nil, errShape
	}
	return s, nil
}

func readAt(r io.ReaderAt, at int64, n int) ([]byte, error) {
	b := make([]byte, n)
	if got, err := r.ReadAt(b, at); got < n {
		return nil, fmt.Errorf("reading %d bytes at %d: %w", n, at, err)
	}
	return b, nil
}

// IDs is the number of IDs that the set was made of.
func (s *Set) IDs() (n int64) {
	for _, h := range s.shards {
		n += int64(h.n)
	}
	return n
}

// Check reads the whole set, refuses what is not in its one right form, and returns the
// number of different hashes. A question about an ID that the set was not made of is
// answered "yes" once in IDs * 2^f / hashes.
func (s *Set) Check() (hashes int64, err error) {
	for i := range s.shards {
		h := &s.shards[i]
		r, err := s.open(h)
		if err != nil {
			return 0, err
		}
		var sum int64
		for b := range r.blocks() {
			values, err := r.block(b)
			if err != nil {
				return 0, err
			}
			sum += int64(len(values))
		}
		if sum == 0 || sum > int64(h.n) {
			return 0, fmt.Errorf("ID set: shard %d holds %d hashes of %d IDs", h.number, sum, h.n)
		}
		hashes += sum
	}
	return hashes, nil
}

// shardReader reads blocks of one shard in ascending order, several at a time.
type shardReader struct {
	set     *Set
	shard   *shard
	lengths []byte
	passed  int   // blocks before the span
	at      int64 // of the block after those

	span    []byte // blocks passed to passed+spanned, and readAhead
	spanned int
	values  []uint64
}

// spanBlocks is how many blocks are read at once: about 60 kB.
const spanBlocks = 64

// open reads the lengths of a shard's blocks.
func (s *Set) open(h *shard) (*shardReader, error) {
	lengths, err := readAt(s.r, h.at+h.size, 2*blocks(h.n))
	if err != nil {
		return nil, fmt.Errorf("ID set: %w", err)
	}
	sum := int64(0)
	for i := 0; i < len(lengths); i += 2 {
		sum += int64(binary.LittleEndian.Uint16(lengths[i:]))
	}
	if sum != h.size {
		return nil, fmt.Errorf("ID set: shard %d: %w", h.number, errShape)
	}
	return &shardReader{set: s, shard: h, lengths: lengths, at: h.at}, nil
}

func (r *shardReader) blocks() int { return len(r.lengths) / 2 }

func (r *shardReader) length(b int) int64 {
	return int64(binary.LittleEndian.Uint16(r.lengths[2*b:]))
}

// block gives the values of block b, which is not before the last one asked for. They are
// valid until the next call.
func (r *shardReader) block(b int) ([]uint64, error) {
	if b >= r.passed+r.spanned {
		for ; r.passed < b; r.passed++ {
			r.at += r.length(r.passed)
		}
		r.spanned = min(spanBlocks, r.blocks()-b)
		var n int64
		for i := range r.spanned {
			n += r.length(b + i)
		}
		if int64(cap(r.span)) < n+readAhead {
			r.span = make([]byte, n+readAhead)
		}
		r.span = r.span[:n+readAhead]
		if got, err := r.set.r.ReadAt(r.span[:n], r.at); int64(got) < n {
			return nil, fmt.Errorf("ID set: reading shard %d: %w", r.shard.number, err)
		}
	}
	from := int64(0)
	for i := r.passed; i < b; i++ {
		from += r.length(i)
	}
	f := r.set.F
	base := uint64(b) << (f + blockBits)
	end := min(base+1<<(f+blockBits), uint64(r.shard.n)<<f)
	var err error
	r.values, err = readBlock(r.values[:0], r.span[from:from+r.length(b)+readAhead], base, end, f)
	if err != nil {
		return nil, fmt.Errorf("ID set: shard %d, block %d: %w", r.shard.number, b, err)
	}
	return r.values, nil
}
