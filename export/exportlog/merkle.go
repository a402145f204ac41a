package exportlog

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// HashReader reads stored hashes of a log by their index, in the numbering of
// golang.org/x/mod/sumdb/tlog: entry after entry, each followed by the subtrees that it
// completes.
type HashReader interface {
	ReadHashes(indexes []int64) ([][32]byte, error)
}

// tlogReader reads a HashReader's hashes for package tlog.
type tlogReader struct{ from HashReader }

func (r tlogReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	if len(indexes) == 0 {
		return nil, nil
	}
	found, err := r.from.ReadHashes(indexes)
	if err != nil {
		return nil, err
	}
	if len(found) != len(indexes) {
		return nil, fmt.Errorf("%d stored hashes, want %d", len(found), len(indexes))
	}
	hashes := make([]tlog.Hash, len(found))
	for i, h := range found {
		hashes[i] = h
	}
	return hashes, nil
}

// overlay is a log with hashes appended that its reader does not have yet.
type overlay struct {
	base  HashReader
	first int64 // index of added[0]
	added [][32]byte
}

func (o *overlay) ReadHashes(indexes []int64) ([][32]byte, error) {
	hashes := make([][32]byte, len(indexes))
	var old []int64
	var at []int
	for i, x := range indexes {
		if x >= o.first {
			hashes[i] = o.added[x-o.first]
		} else {
			old, at = append(old, x), append(at, i)
		}
	}
	if len(old) == 0 {
		return hashes, nil
	}
	found, err := o.base.ReadHashes(old)
	if err != nil {
		return nil, err
	}
	if len(found) != len(old) {
		return nil, fmt.Errorf("%d stored hashes, want %d", len(found), len(old))
	}
	for i, h := range found {
		hashes[at[i]] = h
	}
	return hashes, nil
}

func checkSize(sizes ...uint64) error {
	for _, n := range sizes {
		if n > MaxSize {
			return fmt.Errorf("a log of %d entries is larger than any", n)
		}
	}
	return nil
}

// EmptyRoot is the root hash of a log without entries.
func EmptyRoot() [32]byte {
	h, _ := tlog.TreeHash(0, tlogReader{}) // reads nothing
	return h
}

// LeafHash is the hash of an entry in the tree.
func LeafHash(entry []byte) [32]byte { return tlog.RecordHash(entry) }

// StoredHashCount is the number of stored hashes of a log of size entries, and so the
// index of the first that Append gives for it.
func StoredHashCount(size uint64) uint64 { return uint64(tlog.StoredHashCount(int64(size))) }

// Append computes what a log of size entries gains by further entries: the stored hashes
// to append, and the root hash afterwards. It changes nothing.
func Append(size uint64, hashes HashReader, entries [][]byte) (added [][32]byte, root [32]byte, err error) {
	if err := checkSize(size, uint64(len(entries)), size+uint64(len(entries))); err != nil {
		return nil, root, fmt.Errorf("appending to the log: %w", err)
	}
	all := &overlay{base: hashes, first: tlog.StoredHashCount(int64(size))}
	for i, entry := range entries {
		if err := limit(entry, MaxEntry); err != nil {
			return nil, root, fmt.Errorf("appending to the log: entry: %w", err)
		}
		stored, err := tlog.StoredHashes(int64(size)+int64(i), entry, tlogReader{all})
		if err != nil {
			return nil, root, fmt.Errorf("appending to the log: %w", err)
		}
		for _, h := range stored {
			all.added = append(all.added, h)
		}
	}
	root, err = Root(size+uint64(len(entries)), all)
	return all.added, root, err
}

// Root is the root hash that the log had at a size.
func Root(size uint64, hashes HashReader) ([32]byte, error) {
	err := checkSize(size)
	var root tlog.Hash
	if err == nil {
		root, err = tlog.TreeHash(int64(size), tlogReader{hashes})
	}
	if err != nil {
		return [32]byte{}, fmt.Errorf("root hash of %d entries: %w", size, err)
	}
	return root, nil
}

// ProveEntry proves that entry index is in the log of size entries: the hashes beside its
// path to the root, the leaf's sibling first.
func ProveEntry(size, index uint64, hashes HashReader) ([][32]byte, error) {
	err := checkSize(size)
	if err == nil && index >= size {
		err = errors.New("the log does not have it")
	}
	var proof tlog.RecordProof
	if err == nil {
		proof, err = tlog.ProveRecord(int64(size), int64(index), tlogReader{hashes})
	}
	if err != nil {
		return nil, fmt.Errorf("proving entry %d of %d: %w", index, size, err)
	}
	return plain(proof), nil
}

// CheckEntry checks a proof of ProveEntry.
func CheckEntry(proof [][32]byte, size uint64, root [32]byte, index uint64, entry []byte) error {
	err := checkSize(size)
	if err == nil && index >= size {
		err = errors.New("the log does not have it")
	}
	if err == nil {
		err = tlog.CheckRecord(hashesOf(proof), int64(size), root, int64(index), tlog.RecordHash(entry))
	}
	if err != nil {
		return fmt.Errorf("inclusion of entry %d of %d: %w", index, size, err)
	}
	return nil
}

// ProveConsistency proves that the log of newSize entries begins with that of oldSize. The
// empty log needs no proof.
func ProveConsistency(oldSize, newSize uint64, hashes HashReader) ([][32]byte, error) {
	err := checkSize(oldSize, newSize)
	if err == nil && oldSize > newSize {
		err = errors.New("the log shrank")
	}
	var proof tlog.TreeProof
	if err == nil && oldSize > 0 {
		proof, err = tlog.ProveTree(int64(newSize), int64(oldSize), tlogReader{hashes})
	}
	if err != nil {
		return nil, fmt.Errorf("proving that %d entries continue %d: %w", newSize, oldSize, err)
	}
	return plain(proof), nil
}

// CheckConsistency checks a proof of ProveConsistency.
func CheckConsistency(proof [][32]byte, oldSize uint64, oldRoot [32]byte, newSize uint64, newRoot [32]byte) error {
	err := checkSize(oldSize, newSize)
	switch {
	case err != nil:
	case oldSize > newSize:
		err = errors.New("the log shrank")
	case oldSize == 0 && (len(proof) > 0 || oldRoot != EmptyRoot()):
		err = errors.New("the empty log has one root and needs no proof")
	case newSize == 0 && newRoot != EmptyRoot():
		err = errors.New("the empty log has one root")
	case oldSize > 0:
		err = tlog.CheckTree(hashesOf(proof), int64(newSize), newRoot, int64(oldSize), oldRoot)
	}
	if err != nil {
		return fmt.Errorf("%d entries do not continue %d: %w", newSize, oldSize, err)
	}
	return nil
}

func plain[P ~[]tlog.Hash](proof P) [][32]byte {
	hashes := make([][32]byte, len(proof))
	for i, h := range proof {
		hashes[i] = h
	}
	return hashes
}

func hashesOf(proof [][32]byte) []tlog.Hash {
	hashes := make([]tlog.Hash, len(proof))
	for i, h := range proof {
		hashes[i] = h
	}
	return hashes
}

// Tree is a log rebuilt in memory from its entries, 64 bytes an entry. The zero Tree is an
// empty log. It is a HashReader of itself.
type Tree struct {
	size   uint64
	hashes [][32]byte
}

// Append adds an entry.
func (t *Tree) Append(entry []byte) {
	h, n := tlog.RecordHash(entry), int64(t.size)
	t.hashes = append(t.hashes, h)
	for level := 0; n>>level&1 == 1; level++ { // each subtree that the entry completes
		left := t.hashes[tlog.StoredHashIndex(level, n>>level-1)]
		h = tlog.NodeHash(left, h)
		t.hashes = append(t.hashes, h)
	}
	t.size++
}

// Size is the number of entries.
func (t *Tree) Size() uint64 { return t.size }

// Root is the root hash at the present size.
func (t *Tree) Root() [32]byte {
	root, _ := Root(t.size, t) // every hash is at hand
	return root
}

// ReadHashes implements HashReader.
func (t *Tree) ReadHashes(indexes []int64) ([][32]byte, error) {
	hashes := make([][32]byte, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(t.hashes)) {
			return nil, fmt.Errorf("stored hash %d of %d", x, len(t.hashes))
		}
		hashes[i] = t.hashes[x]
	}
	return hashes, nil
}
