package export

import (
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"

	"bluekey/keystore/diagnosis"
)

// maxChunk bounds the pieces in which a group's secrets are collected: they grow to it by
// doubling and are never copied.
const maxChunk = 64 << 10

// group collects the secrets of one metadata, in chunks of whole secrets.
type group struct {
	n      uint64
	chunks [][]byte
}

func (g *group) add(secret []byte) {
	last := len(g.chunks) - 1
	if last < 0 || len(g.chunks[last]) == cap(g.chunks[last]) {
		size := 8 * len(secret)
		if last >= 0 {
			size = min(2*cap(g.chunks[last]), maxChunk)
		}
		g.chunks = append(g.chunks, make([]byte, 0, size))
		last++
	}
	g.chunks[last] = append(g.chunks[last], secret...)
	g.n++
}

// WriteKeySet writes a key set to w: keys of h.Scheme, strictly ascending by (secret,
// start). It holds their secrets until keys ends, because the size of a group comes before
// it: 16 or 32 bytes a key. On an error what w holds is worthless.
func WriteKeySet(w io.Writer, h KeySetHeader, keys iter.Seq2[diagnosis.Key, error]) (Info, error) {
	if err := h.check(); err != nil {
		return Info{}, fmt.Errorf("writing a key set: %w", err)
	}
	groups := make(map[meta]*group)
	sorted := order{scheme: h.Scheme}
	for k, err := range keys {
		if err == nil {
			err = sorted.check(&k)
		}
		if err != nil {
			return Info{}, fmt.Errorf("writing a key set: %w", err)
		}
		m := metaOf(&k)
		g := groups[m]
		if g == nil {
			g = new(group)
			groups[m] = g
		}
		g.add(k.Bytes())
	}

	out := newOutput(w)
	b := &bitWriter{out: out, buf: make([]byte, 0, 64<<10)}
	b.buf = append(b.buf, keySetMagic...)
	b.buf = append(b.buf, keySetVersion, byte(h.Scheme))
	b.buf = binary.AppendUvarint(b.buf, uint64(h.Start))
	b.buf = binary.AppendUvarint(b.buf, uint64(h.End-h.Start))
	b.buf = binary.AppendUvarint(b.buf, uint64(len(groups)))
	b.buf = binary.AppendUvarint(b.buf, uint64(sorted.n))
	var before meta
	for _, m := range slices.Sorted(maps.Keys(groups)) {
		b.buf = binary.AppendUvarint(b.buf, uint64(m>>24-before>>24))
		b.buf = append(b.buf, byte(m>>16), byte(m>>8), byte(m))
		b.buf = binary.AppendUvarint(b.buf, groups[m].n)
		b.secrets(groups[m], h.Scheme.SecretLen())
		before = m
	}
	b.flush()
	digest := out.sum()
	b.buf = append(b.buf, digest[:]...)
	b.flush()
	if b.err != nil {
		return Info{}, fmt.Errorf("writing a key set: %w", b.err)
	}
	return Info{Keys: sorted.n, Size: out.size, SHA256: out.sum()}, nil
}

// bitWriter collects bits from the high end of each byte. Between groups it holds whole
// bytes only, and buf may be appended to.
type bitWriter struct {
	out io.Writer
	buf []byte
	acc uint64 // the low used bits wait for a full word; the rest is stale
	use uint   // below 64
	err error
}

// put writes the low n bits of v, whose other bits are zero; n is 1 to 64.
func (b *bitWriter) put(v uint64, n uint) {
	if free := 64 - b.use; n < free {
		b.acc, b.use = b.acc<<n|v, b.use+n
	} else {
		over := n - free
		b.buf = binary.BigEndian.AppendUint64(b.buf, b.acc<<free|v>>over)
		b.acc, b.use = v, over
	}
}

// secrets writes the secrets of a group and fills its last byte with zero bits.
func (b *bitWriter) secrets(g *group, size int) {
	k := riceBits(g.n)
	var last uint64
	for _, chunk := range g.chunks {
		for ; len(chunk) > 0; chunk = chunk[size:] {
			head := binary.BigEndian.Uint64(chunk)
			diff := head - last
			last = head
			ones := uint(diff >> k) // of all keys together at most 2n
			for ; ones >= 63; ones -= 63 {
				b.put(1<<63-1, 63)
			}
			b.put((1<<ones-1)<<1, ones+1)
			b.put(diff&(1<<k-1), k)
			for at := 8; at < size; at += 8 {
				b.put(binary.BigEndian.Uint64(chunk[at:]), 64)
			}
		}
		b.flush()
	}
	if fill := -b.use & 7; fill > 0 {
		b.put(0, fill)
	}
	for ; b.use > 0; b.use -= 8 {
		b.buf = append(b.buf, byte(b.acc>>(b.use-8)))
	}
}

// flush hands the whole bytes on.
func (b *bitWriter) flush() {
	if b.err == nil {
		_, b.err = b.out.Write(b.buf)
	}
	b.buf = b.buf[:0]
}
