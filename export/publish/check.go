package publish

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"iter"
	"path"
	"time"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
)

// Check renders every window still held again, from the store, and compares it with what
// its manifest says: the same bytes if this build has the manifest's encoder, else the same
// keys as in the published file. It changes nothing. report hears of each window; ok is
// whether all agree.
func (p *Publisher) Check(ctx context.Context, report func(string)) (ok bool, err error) {
	ok = true
	for _, scheme := range diagnosis.Schemes {
		list, err := p.held(scheme)
		if err != nil {
			return false, err
		}
		for i := range list {
			held, m := &list[i], list[i].manifest
			how, err := p.checkWindow(ctx, &held.window, m)
			var differs *differsError
			switch {
			case err == nil:
				report(fmt.Sprintf("same    entry %d: %s window to %s, %d keys: %s", held.Entry, scheme, held.End.Format(time.RFC3339), m.Keys, how))
			case errors.As(err, &differs):
				ok = false
				report(fmt.Sprintf("DIFFERS entry %d: %s window to %s: %v", held.Entry, scheme, held.End.Format(time.RFC3339), err))
			default:
				return false, fmt.Errorf("rendering the %s window to %s again: %w", scheme, held.End.Format(time.RFC3339), err)
			}
		}
	}
	return ok, nil
}

// differsError is a verdict, not a failure to reach one.
type differsError struct{ what string }

func (e *differsError) Error() string { return e.what }

func (p *Publisher) checkWindow(ctx context.Context, w *window, m exportlog.Manifest) (how string, err error) {
	for _, err := range w.walk {
		if err != nil {
			return "", err
		}
		w.keys++
	}
	if w.keys != m.Keys {
		return "", &differsError{fmt.Sprintf("the store holds %d keys of it, the log says %d", w.keys, m.Keys)}
	}
	if m.Encoder != export.Encoder {
		return "the keys (another encoder, " + m.Encoder + ")", p.compareKeys(ctx, w, m)
	}
	var first error
	for _, w.idBits = range append([]int{p.IDSetBits}, p.earlierBits()...) {
		wrong, err := p.compareBytes(ctx, w, m)
		if err != nil {
			return "", err
		}
		if wrong == nil {
			return "byte for byte", nil
		}
		if first == nil {
			first = &differsError{fmt.Sprintf("%s comes out differently", wrong.Path)}
		}
		if isNotIDSet(*wrong) {
			break // other bits would not mend it
		}
	}
	return "", first
}

// compareBytes renders a window and gives the first file that comes out differently than the
// log says, nil if none does.
func (p *Publisher) compareBytes(ctx context.Context, w *window, m exportlog.Manifest) (wrong *exportlog.File, err error) {
	again := m
	again.Signers, again.Files = nil, nil
	r := round{create: func() (output, error) { return &hashed{hash: sha256.New()}, nil }}
	if err := p.renderFiles(ctx, &r, w, &again, kinds(m.Files)); err != nil {
		return nil, err
	}
	for i, f := range m.Files {
		if i >= len(again.Files) || again.Files[i] != f {
			return &f, nil
		}
	}
	if len(again.Files) > len(m.Files) {
		return &again.Files[len(m.Files)], nil
	}
	return nil, nil
}

func isNotIDSet(f exportlog.File) bool { return path.Ext(f.Path) != "."+string(exportlog.IDSet) }

// kinds is the profile that gave a window its files.
func kinds(files []exportlog.File) []exportlog.FileKind {
	var profile []exportlog.FileKind
	for _, f := range files {
		profile = append(profile, exportlog.FileKind(path.Ext(f.Path)[1:]))
	}
	return profile
}

// compareKeys compares the keys in the published files with those in the store, of a window
// that another build has encoded. Parts of a split archive follow each other.
func (p *Publisher) compareKeys(ctx context.Context, w *window, m exportlog.Manifest) error {
	sums := map[exportlog.FileKind]*keySum{}
	for _, f := range m.Files {
		kind := exportlog.FileKind(path.Ext(f.Path)[1:])
		if kind == exportlog.IDSet {
			continue // holds no keys; its encoding has a version of its own
		}
		data, err := p.folder.Get(f.Path, f.Size)
		if err != nil {
			return err
		}
		file, err := export.OpenFile(tree.NewBlob(data), int64(len(data)))
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		if sums[kind] == nil {
			sums[kind] = &keySum{}
		}
		if err := sums[kind].add(file.Keys()); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	var want keySum
	if err := want.add(p.dueKeys(ctx, w)); err != nil {
		return err
	}
	for kind, got := range sums {
		if *got != want {
			return &differsError{fmt.Sprintf("the .%s files hold other keys than the store", kind)}
		}
	}
	return nil
}

// keySum is a sum over a set of keys that does not depend on their order: both are ours,
// nobody looks for collisions.
type keySum struct{ words [4]uint64 }

func (s *keySum) add(keys iter.Seq2[diagnosis.Key, error]) error {
	for k, err := range keys {
		if err != nil {
			return err
		}
		line := fmt.Appendf(nil, "%s %d %d %d %d %d ", k.Scheme, k.Start, k.Count, k.Report, k.Onset, k.Risk)
		sum := sha256.Sum256(append(line, k.Bytes()...))
		for i := range s.words {
			for j := range 8 {
				s.words[i] += uint64(sum[8*i+j]) << (8 * j)
			}
		}
	}
	return nil
}

// hashed is an output that keeps nothing but size and digest.
type hashed struct {
	hash hash.Hash
	size int64
}

func (h *hashed) Write(p []byte) (int, error) {
	h.size += int64(len(p))
	return h.hash.Write(p)
}

func (h *hashed) Finish() (tree.Staged, error) {
	return tree.Staged{Size: h.size, SHA256: [32]byte(h.hash.Sum(nil))}, nil
}

func (h *hashed) Discard() error { return nil }
