// Package export holds the files in which diagnosis keys are published, as pure formats:
// bytes in, values out. It reads no clock, disk or network.
//
//	archive   .zip: export.bin and export.sig of the Exposure Notification key export
//	          format, as GAEN phones download it; GAEN keys only
//	key set   .keys: bluekey's own compact file, for both schemes; a set, not a list
//
// Both are written from keys in ascending order of (secret, start), so their order tells
// nothing about who uploaded what, and both are deterministic: the same keys give the same
// bytes on every machine, for one Encoder. Both are read as streams in bounded memory, by
// parsers that refuse what a writer may not write. FORMAT.md specifies them byte by byte.
//
// Nothing here says whether a file is authentic. An archive carries a signature that
// Verify checks; a key set and the file as a whole are bound by the SHA-256 in a manifest
// of the log (package exportlog).
package export

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"

	"bluekey/keystore/diagnosis"
)

// Encoder names what determines the bytes of the files written here: this package's
// version and that of the compressor. Manifests carry it. Whoever changes either changes
// the golden files in testdata/golden with it.
const Encoder = "bluekey-export-1_klauspost-compress-1.20.3"

// MaxKeys is the largest number of keys of one archive. A window that has more is split
// into parts of this size in key order; PartEnd gives each its end. A key set is never
// split.
const MaxKeys = 500_000

// PartEnd is the end timestamp (Unix seconds) that part (1, 2, …) of a window split into
// several archives writes into its header: end + part, as the reference key server does,
// because Android takes two archives of equal start, end and batch number for one. A
// window that fits one archive keeps its end. Batch number and size are 1 in every part.
func PartEnd(end int64, part, parts int) int64 {
	if parts == 1 {
		return end
	}
	return end + int64(part)
}

// maxTime bounds the timestamps of a file: the last second of the year 9999.
const maxTime = 253402300799

// maxRegion bounds the length of a region's name.
const maxRegion = 64

// Info describes a file that was written.
type Info struct {
	Keys   int
	Size   int64 // bytes
	SHA256 [sha256.Size]byte
}

func checkWindow(start, end int64) error {
	if start < 0 || start >= end || end > maxTime {
		return fmt.Errorf("window from %d to %d: want 0 <= start < end <= %d", start, end, int64(maxTime))
	}
	return nil
}

// order checks a stream of keys: one scheme, right shapes, strictly ascending.
type order struct {
	scheme diagnosis.Scheme
	last   diagnosis.Key
	n      int
}

func (o *order) check(k *diagnosis.Key) error {
	if k.Scheme != o.scheme {
		return fmt.Errorf("key %d belongs to scheme %s, want %s", o.n, k.Scheme, o.scheme)
	}
	if err := k.Check(); err != nil {
		return fmt.Errorf("key %d: %w", o.n, err)
	}
	if o.n > 0 {
		c := bytes.Compare(o.last.Secret[:], k.Secret[:])
		if c == 0 {
			c = cmp.Compare(o.last.Start, k.Start)
		}
		if c >= 0 {
			return fmt.Errorf("key %d is not above the one before in (secret, start)", o.n)
		}
	}
	o.last = *k
	o.n++
	return nil
}

// output counts and hashes what goes to a writer.
type output struct {
	w    io.Writer
	size int64
	hash hash.Hash
}

func newOutput(w io.Writer) *output { return &output{w: w, hash: sha256.New()} }

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	o.hash.Write(p[:n])
	o.size += int64(n)
	return n, err
}

func (o *output) sum() [sha256.Size]byte { return [sha256.Size]byte(o.hash.Sum(nil)) }

// File is an opened file of any kind.
type File struct {
	Scheme     diagnosis.Scheme
	Start, End int64    // window, Unix seconds
	Region     string   // "" where the file does not say: a key set never does
	Archive    *Archive // nil for a key set

	keys func() iter.Seq2[diagnosis.Key, error]
}

// Keys walks the keys of the file from its first, in the file's order. After an error
// there is nothing more. What it yielded is only known to be whole once it has ended
// without one.
func (f *File) Keys() iter.Seq2[diagnosis.Key, error] { return f.keys() }

// OpenFile opens an archive, a bare export.bin or a key set, whichever the first bytes
// announce. The file stays the caller's, and must stay readable while Keys is used.
func OpenFile(r io.ReaderAt, size int64) (*File, error) {
	head := make([]byte, 8)
	if n, err := r.ReadAt(head, 0); n < len(head) {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("neither an archive nor a key set: shorter than either")
		}
		return nil, fmt.Errorf("reading the first bytes: %w", err)
	}
	var a *Archive
	var err error
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		a, err = OpenArchive(r, size)
	case bytes.Equal(head, []byte(binMagic[:len(head)])):
		a, err = OpenExportBin(r, size)
	case bytes.HasPrefix(head, []byte(keySetMagic)):
		return openKeySet(r, size)
	default:
		return nil, errors.New("neither an archive nor a key set")
	}
	if err != nil {
		return nil, err
	}
	return &File{Scheme: diagnosis.GAEN, Start: a.Start, End: a.End, Region: a.Region, Archive: a, keys: a.Keys}, nil
}

func openKeySet(r io.ReaderAt, size int64) (*File, error) {
	open := func() (*KeySetReader, error) { return NewKeySetReader(io.NewSectionReader(r, 0, size)) }
	s, err := open()
	if err != nil {
		return nil, err
	}
	h := s.Header()
	return &File{Scheme: h.Scheme, Start: h.Start, End: h.End, keys: func() iter.Seq2[diagnosis.Key, error] {
		s, err := open()
		if err != nil {
			return func(yield func(diagnosis.Key, error) bool) { yield(diagnosis.Key{}, err) }
		}
		return s.Keys()
	}}, nil
}
