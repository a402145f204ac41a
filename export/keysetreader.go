package export

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"math/bits"

	"bluekey/keystore/diagnosis"
)

const (
	readAhead = 64 << 10
	slack     = 64 // bytes behind the buffered ones that decoding may look at
)

// KeySetReader reads a key set as a stream, in about 64 KB and a batch of secrets. It
// refuses every encoding but the one that WriteKeySet gives the same set.
type KeySetReader struct {
	src    io.Reader
	header KeySetHeader
	hash   hash.Hash

	buf    []byte // buf[pos:end] is read and not yet used
	bit    uint64 // position in bits from the start of buf
	end    int
	srcErr error // io.EOF once src has ended

	groups, keys uint64 // still to come
	before       meta   // of the group
	left         uint64 // of its keys
	rice         uint
	last         [diagnosis.MaxSecretLen]byte // the secret before, in the group
	started      bool                         // the group has one
	batch        Batch
	err          error // sticky
}

// NewKeySetReader reads the header.
func NewKeySetReader(src io.Reader) (*KeySetReader, error) {
	r := &KeySetReader{src: src, hash: sha256.New(), buf: make([]byte, readAhead+slack)}
	if err := r.readHeader(); err != nil {
		return nil, fmt.Errorf("reading a key set: %w", err)
	}
	r.batch.Secrets = make([]byte, 0, int(min(r.keys, BatchKeys))*r.header.Scheme.SecretLen())
	return r, nil
}

// Header is the window and scheme.
func (r *KeySetReader) Header() KeySetHeader { return r.header }

// Next gives the next batch, valid until the following call. At the end of a set that is
// whole it gives io.EOF: only then do the batches before it count, for the digest comes
// last.
func (r *KeySetReader) Next() (*Batch, error) {
	if r.err != nil {
		return nil, r.err
	}
	err := r.next()
	if err != nil && err != io.EOF {
		err = fmt.Errorf("reading a key set: %w", err)
	}
	if err != nil {
		r.err = err
		return nil, err
	}
	return &r.batch, nil
}

// Keys walks the remaining keys, group by group. After an error there is nothing more;
// the keys count only if there was none.
func (r *KeySetReader) Keys() iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		for {
			b, err := r.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(diagnosis.Key{}, err)
				return
			}
			for i := range b.Len() {
				if !yield(b.At(i), nil) {
					return
				}
			}
		}
	}
}

func (r *KeySetReader) next() error {
	if r.left == 0 {
		if r.groups == 0 {
			return r.finish()
		}
		if err := r.readGroup(); err != nil {
			return err
		}
	}
	if err := r.readSecrets(); err != nil {
		return err
	}
	if r.left == 0 {
		return r.align()
	}
	return nil
}

// fill moves what is unused to the front, hashing what goes, and reads on. Bytes behind
// the end are zero, so that decoding may look at them.
func (r *KeySetReader) fill() error {
	pos := int(r.bit >> 3)
	r.hash.Write(r.buf[:pos])
	r.end = copy(r.buf, r.buf[pos:r.end])
	r.bit &= 7
	for r.srcErr == nil && r.end < readAhead {
		var n int
		n, r.srcErr = r.src.Read(r.buf[r.end:readAhead])
		r.end += n
	}
	clear(r.buf[r.end : r.end+slack])
	if r.srcErr != io.EOF {
		return r.srcErr
	}
	return nil
}

// bytes makes at least the next n bytes readable, fewer where the file ends.
func (r *KeySetReader) bytes(n int) ([]byte, error) {
	if r.end-int(r.bit>>3) < n && r.srcErr == nil {
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
	return r.buf[r.bit>>3 : r.end], nil
}

func (r *KeySetReader) uvarint() (uint64, error) {
	p, err := r.bytes(binary.MaxVarintLen64)
	if err != nil {
		return 0, err
	}
	v, n, err := uvarint(p)
	r.bit += 8 * uint64(n)
	return v, err
}

func (r *KeySetReader) readHeader() error {
	const fixed = len(keySetMagic) + 2
	p, err := r.bytes(fixed)
	if err != nil {
		return err
	}
	if len(p) < fixed || string(p[:len(keySetMagic)]) != keySetMagic {
		return errors.New("it does not begin as one")
	}
	if v := p[fixed-2]; v != keySetVersion {
		return fmt.Errorf("version %d: this program knows version %d", v, keySetVersion)
	}
	r.header.Scheme = diagnosis.Scheme(p[fixed-1])
	r.bit += 8 * uint64(fixed)
	var v [4]uint64
	for i := range v {
		if v[i], err = r.uvarint(); err != nil {
			return fmt.Errorf("header: %w", err)
		}
	}
	if v[0] > maxTime || v[1] > maxTime {
		return errors.New("header: window out of range")
	}
	r.header.Start, r.header.End = int64(v[0]), int64(v[0]+v[1])
	if err := r.header.check(); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	r.groups, r.keys = v[2], v[3]
	if r.keys > maxKeySet || r.groups > r.keys || r.keys > 0 && r.groups == 0 {
		return fmt.Errorf("header: %d keys in %d groups", r.keys, r.groups)
	}
	return nil
}

// readGroup reads what precedes the secrets of a group.
func (r *KeySetReader) readGroup() error {
	step, err := r.uvarint()
	if err != nil {
		return err
	}
	p, err := r.bytes(3)
	if err != nil {
		return err
	}
	if len(p) < 3 {
		return io.ErrUnexpectedEOF
	}
	start := uint64(r.before>>24) + step // one that overflows lies below the group before
	if start > 1<<32-1 {
		return errors.New("group: start out of range")
	}
	m := meta(start<<24 | uint64(p[0])<<16 | uint64(p[1])<<8 | uint64(p[2]))
	r.bit += 3 * 8
	if m <= r.before {
		return errors.New("group: not above the one before")
	}
	if r.batch.Key, err = m.key(r.header.Scheme); err != nil {
		return fmt.Errorf("group: %w", err)
	}
	if r.left, err = r.uvarint(); err != nil {
		return err
	}
	r.groups--
	if r.left == 0 || r.left > r.keys-r.groups || r.groups == 0 && r.left != r.keys {
		return fmt.Errorf("group: %d keys where %d and %d groups are left", r.left, r.keys, r.groups)
	}
	r.keys -= r.left
	r.before, r.started = m, false
	r.rice = riceBits(r.left)
	clear(r.last[:])
	return nil
}

// at64 gives 64 bits from position bit of p.
func at64(p []byte, bit uint64) uint64 {
	p = p[bit>>3:][:9]
	return binary.BigEndian.Uint64(p)<<(bit&7) | uint64(p[8])>>(8-bit&7)
}

// readSecrets decodes the next batch of a group.
func (r *KeySetReader) readSecrets() error {
	size := r.header.Scheme.SecretLen()
	n := min(r.left, BatchKeys)
	out := r.batch.Secrets[:int(n)*size]
	last := binary.BigEndian.Uint64(r.last[:])
	before := r.last[:size]
	for at := 0; at < len(out); at += size {
		if _, err := r.bytes(slack); err != nil {
			return err
		}
		quotient, err := r.unary()
		if err != nil {
			return err
		}
		diff := quotient<<r.rice | at64(r.buf, r.bit)>>(64-r.rice)
		r.bit += uint64(r.rice)
		head, carry := bits.Add64(last, diff, 0)
		if carry != 0 {
			return errors.New("secrets pass the last possible")
		}
		secret := out[at : at+size]
		binary.BigEndian.PutUint64(secret, head)
		for j := 8; j < size; j += 8 {
			binary.BigEndian.PutUint64(secret[j:], at64(r.buf, r.bit))
			r.bit += 64
		}
		if r.bit > 8*uint64(r.end) {
			return io.ErrUnexpectedEOF
		}
		if diff == 0 && r.started && string(secret[8:]) <= string(before[8:]) {
			return errors.New("secrets do not ascend")
		}
		last, before, r.started = head, secret, true
	}
	copy(r.last[:], before)
	r.left -= n
	r.batch.Secrets = out
	return nil
}

// unary reads ones up to a zero, of which there is one behind the end at the latest. More
// ones than a quotient can have are refused before all are read.
func (r *KeySetReader) unary() (uint64, error) {
	n := uint64(0)
	for {
		ones := uint64(bits.LeadingZeros64(^at64(r.buf, r.bit)))
		n += ones
		if n>>(64-r.rice) != 0 {
			return 0, errors.New("secrets pass the last possible")
		}
		if ones < 64 {
			r.bit += ones + 1
			return n, nil
		}
		r.bit += 64
		if _, err := r.bytes(slack); err != nil {
			return 0, err
		}
	}
}

// align skips the unused bits of a group's last byte, which must be zero.
func (r *KeySetReader) align() error {
	if used := r.bit & 7; used > 0 {
		if r.buf[r.bit>>3]<<used != 0 {
			return errors.New("unused bits are not zero")
		}
		r.bit += 8 - used
	}
	return nil
}

// finish checks the digest and that nothing follows.
func (r *KeySetReader) finish() error {
	p, err := r.bytes(sha256.Size + 1)
	if err != nil {
		return err
	}
	r.hash.Write(r.buf[:r.bit>>3])
	digest := r.hash.Sum(nil)
	switch {
	case len(p) < sha256.Size:
		return io.ErrUnexpectedEOF
	case string(p[:sha256.Size]) != string(digest):
		return errors.New("the digest at its end is wrong: the file is damaged")
	case len(p) > sha256.Size:
		return errors.New("it goes on after its end")
	}
	return io.EOF
}
