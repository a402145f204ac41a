package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/match/idset"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
)

// maxIDSet bounds an ID set in bytes. One of two million GAEN keys has as many.
const maxIDSet = 1 << 30

// idSetHashes bounds what checking one ID set holds at once, 16 bytes each: several are
// checked side by side.
const idSetHashes = 2 << 20

// idsFound is what an ID set was found to hold.
type idsFound struct {
	set *idset.Set
	ids int64 // that it was made of
	// oneFalseIn is how many questions about IDs that it was not made of bring one wrong
	// "yes".
	oneFalseIn float64
}

// checkIDs holds an ID set against its manifest: what its header says, its one right form,
// and how many IDs it was made of. Whether they are those of the window's keys is for
// compareIDs, where there are any.
func (l listed) checkIDs(blob tree.Blob) (*contents, error) {
	m, r := l.manifest, &watched{ReaderAt: blob}
	set, err := idset.Open(r, blob.Size(), m.Origin, m.Region)
	if err != nil {
		return nil, r.blame(CodeContents, err)
	}
	if set.Scheme != m.Scheme || set.Start != m.Start || set.End != m.End {
		return nil, flawf(CodeContents, "its header says %s from %d to %d, the manifest %s from %d to %d",
			set.Scheme, set.Start, set.End, m.Scheme, m.Start, m.End)
	}
	if named, ok := keySetOf(m); ok && named.SHA256 != set.KeySet {
		return nil, flawf(CodeContents, "it is bound to key set %x, the window's is %x", set.KeySet, named.SHA256)
	}
	hashes, err := set.Check()
	if err != nil {
		return nil, r.blame(CodeContents, err)
	}
	ids, keys := set.IDs(), int64(l.file.Keys)
	if l.file.Keys != m.Keys || ids < keys || ids > keys*int64(m.Scheme.PerDay()) {
		return nil, flawf(CodeContents, "%d IDs of %d keys, where the window has %d keys of 1 to %d IDs", ids, keys, m.Keys, m.Scheme.PerDay())
	}
	return &contents{
		File: export.File{Scheme: set.Scheme, Start: set.Start, End: set.End},
		sum:  keySum{keys: l.file.Keys},
		ids:  &idsFound{set, ids, math.Ldexp(float64(ids), set.F) / float64(hashes)},
	}, nil
}

func isIDSet(l listed) bool { return l.kind == exportlog.IDSet }

// keySetOf is the one key set that a manifest names.
func keySetOf(m *exportlog.Manifest) (named exportlog.File, ok bool) {
	list, err := files(m)
	for _, l := range list {
		if err == nil && isKeySet(l) {
			if ok {
				return exportlog.File{}, false
			}
			named, ok = l.file, true
		}
	}
	return named, ok
}

// compareIDs demands that an ID set is, byte for byte, that of the keys of its window. It
// is for windows of which every file passed its own check. compared is false where there is
// no ID set, or no keys are published to compare it with.
func compareIDs(ctx context.Context, list []listed, found []*contents) (compared bool, err error) {
	if !slices.ContainsFunc(list, isIDSet) {
		return false, nil
	}
	keys, digest, err := windowKeys(ctx, list, found)
	if keys == nil || err != nil {
		return false, err
	}
	for i, l := range list {
		if !isIDSet(l) {
			continue
		}
		r := &watched{ReaderAt: found[i].blob}
		var broken error // reading the keys again, which were right before
		params := found[i].ids.set.Params
		params.KeySet = digest
		err := idset.Verify(io.NewSectionReader(r, 0, found[i].blob.Size()), params, watch(keys, &broken), idset.Options{MaxHashes: idSetHashes})
		if broken != nil {
			return false, broken
		}
		if err != nil {
			return false, r.blame(CodeDisagree, fmt.Errorf("it is not the ID set of the window's keys: %w", err))
		}
		compared = true
	}
	return compared, nil
}

// windowKeys gives the keys of a window, as often as they are wanted, and the digest of its
// key set, which is made where none is published. keys is nil if the window has none.
func windowKeys(ctx context.Context, list []listed, found []*contents) (keys iter.Seq2[diagnosis.Key, error], digest [32]byte, err error) {
	var sets, archives []*contents
	for i, l := range list {
		switch l.kind {
		case exportlog.KeySet:
			sets, digest = append(sets, found[i]), l.file.SHA256
		case exportlog.Archive:
			archives = append(archives, found[i])
		}
	}
	switch {
	case len(sets) == 1:
		return again(ctx, sets[0]), digest, nil
	case len(sets) > 1:
		return nil, digest, flawf(CodeContents, "%d key sets in one window: an ID set is bound to one", len(sets))
	case archives == nil:
		return nil, digest, nil
	}
	m := list[0].manifest
	keys = again(ctx, archives...)
	info, err := export.WriteKeySet(io.Discard, export.KeySetHeader{Scheme: m.Scheme, Start: m.Start, End: m.End}, keys)
	if err != nil && ctx.Err() == nil {
		err = flawf(CodeContents, "its archives are no set of keys: %w", err)
	}
	return keys, info.SHA256, err
}

// again walks the keys of files, one file after the other, anew each time it is ranged over.
func again(ctx context.Context, files ...*contents) iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		n := 0
		for _, f := range files {
			for k, err := range f.Keys() {
				if n++; err == nil && n%4096 == 0 {
					err = ctx.Err()
				}
				if !yield(k, err) || err != nil {
					return
				}
			}
		}
	}
}

// watch notes the error that keys end with.
func watch(keys iter.Seq2[diagnosis.Key, error], failed *error) iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		for k, err := range keys {
			if err != nil {
				*failed = err
			}
			if !yield(k, err) {
				return
			}
		}
	}
}

// watched tells a file that cannot be read from one that reads wrong.
type watched struct {
	io.ReaderAt
	failed error
}

func (w *watched) ReadAt(p []byte, at int64) (int, error) {
	n, err := w.ReaderAt.ReadAt(p, at)
	if err != nil && !errors.Is(err, io.EOF) {
		w.failed = err
	}
	return n, err
}

// blame makes err a flaw of this code, unless it is that the file could not be read.
func (w *watched) blame(code Code, err error) error {
	if w.failed != nil {
		return w.failed
	}
	return flawf(code, "%w", err)
}

// closeAll ends the use of files that were kept open to be compared.
func closeAll(found []*contents) {
	for _, c := range found {
		if c != nil && c.blob != nil {
			c.blob.Close()
		}
	}
}
