package export

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"

	"bluekey/keystore/diagnosis"
)

// A key set is a header, groups of keys with equal metadata, and the SHA-256 of all that:
//
//	"BKEYSET" version(1) scheme(1) start length groups keys    varints: start in Unix seconds,
//	                                                           length of the window in seconds
//	for each group, ascending by its first four fields:
//	    start(difference) count(1) onset(1) report·risk(1) n   start and n varints
//	    n secrets, ascending, in bits
//	SHA-256(32)
//
// In a group the first 8 bytes of a secret are a number, coded as its difference from the
// one before by Golomb-Rice with k = 64 − bitlen(n); the rest of the secret is raw. That
// is within 0.1 % of the entropy of a large set, needs no table and no compressor, and
// gives a matcher batches of one start. Interleaved metadata under an entropy coder is no
// smaller and several times slower to read.
//
// One set of keys has one encoding: every number is a shortest varint, every order strict,
// every unused bit zero.

const (
	keySetMagic   = "BKEYSET"
	keySetVersion = 1
)

// BatchKeys is the largest number of keys in a Batch.
const BatchKeys = 4096

// maxKeySet bounds the number of keys of a set, so that the sum of a hostile file's groups
// cannot overflow.
const maxKeySet = 1<<32 - 1

// KeySetHeader says what a key set covers.
type KeySetHeader struct {
	Scheme     diagnosis.Scheme
	Start, End int64 // window, Unix seconds
}

func (h *KeySetHeader) check() error {
	if !h.Scheme.Valid() {
		return fmt.Errorf("unknown scheme %d", h.Scheme)
	}
	return checkWindow(h.Start, h.End)
}

// meta is the metadata of a group in one number, so that numbers ascend as groups do:
// start(32) count(8) onset(8) report(4) risk(4).
type meta uint64

func metaOf(k *diagnosis.Key) meta {
	return meta(k.Start)<<24 | meta(k.Count)<<16 | meta(onsetCode(k.Onset))<<8 | meta(k.Report)<<4 | meta(k.Risk)
}

// onsetCode is 0 for an unknown onset, else the days counted from one before the earliest.
func onsetCode(d diagnosis.DaysSinceOnset) uint8 {
	if d == diagnosis.OnsetUnknown {
		return 0
	}
	return uint8(d + diagnosis.MaxOnset + 1)
}

// key is a key of the group without its secret.
func (m meta) key(s diagnosis.Scheme) (k diagnosis.Key, err error) {
	k = diagnosis.Key{
		Scheme: s, Start: diagnosis.Interval(m >> 24), Count: uint8(m >> 16),
		Onset: diagnosis.OnsetUnknown, Report: diagnosis.ReportType(m >> 4 & 15), Risk: uint8(m & 15),
	}
	if code := uint8(m >> 8); code > 2*uint8(diagnosis.MaxOnset)+1 {
		return k, fmt.Errorf("onset code %d", code)
	} else if code > 0 {
		k.Onset = diagnosis.DaysSinceOnset(code) - diagnosis.MaxOnset - 1
	}
	return k, k.Check()
}

// riceBits is k, the number of low bits of a difference that are stored as they are. From
// n alone: at most 0.04 bit a key above the best k.
func riceBits(n uint64) uint { return 64 - uint(bits.Len64(n)) }

// Batch is up to BatchKeys keys of one group: one metadata, many secrets. It prints
// redacted.
type Batch struct {
	// Key is each key of the batch but for its secret, which is zero.
	Key diagnosis.Key
	// Secrets holds the secrets, Key.Scheme.SecretLen() bytes each, strictly ascending.
	// They are the reader's, until its next call.
	Secrets []byte
}

// Len is the number of keys.
func (b *Batch) Len() int { return len(b.Secrets) / b.Key.Scheme.SecretLen() }

// At is key i of the batch.
func (b *Batch) At(i int) diagnosis.Key {
	k, n := b.Key, b.Key.Scheme.SecretLen()
	copy(k.Secret[:], b.Secrets[i*n:(i+1)*n])
	return k
}

func (b Batch) LogValue() slog.Value       { return slog.StringValue(b.String()) }
func (b Batch) String() string             { return fmt.Sprintf("%d × %s", b.Len(), b.Key) }
func (b Batch) Format(f fmt.State, _ rune) { fmt.Fprint(f, b.String()) }

// uvarint reads a varint of the shortest form from the start of p.
func uvarint(p []byte) (v uint64, n int, err error) {
	v, n = binary.Uvarint(p)
	switch {
	case n == 0:
		return 0, 0, io.ErrUnexpectedEOF
	case n < 0:
		return 0, 0, errors.New("varint overflows 64 bits")
	case n > 1 && p[n-1] == 0:
		return 0, 0, errors.New("varint longer than its value needs")
	}
	return v, n, nil
}
