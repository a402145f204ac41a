package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/signing/seal"
)

// Place is where a copy is kept.
type Place struct {
	Disk tree.FS
	Root string // folder; the copy is a whole public tree
	Temp string // folder of the operating system for what is fetched; "" is the system's
}

// Lock makes a folder of this system and keeps it for this process, until the result is
// closed: of two that work there at once, one could put an older checkpoint over the other's
// newer one. Where the system has no such lock there is none.
func (p Place) Lock() (io.Closer, error) {
	if err := p.Disk.MkdirAll(p.Root); err != nil {
		return nil, err
	}
	lock, err := tree.Lock(filepath.Join(p.Root, ".lock"))
	if errors.Is(err, errors.ErrUnsupported) {
		return io.NopCloser(nil), nil
	}
	return lock, err
}

// Copied is what one pass of a mirror did.
type Copied struct {
	*Report
	Moved bool `json:"moved"` // the copy is now what the report describes
	// Unsettled says why it did not move though nothing was found: files of the tree, or of
	// a cache before it, were not of one time. The next pass in a few minutes will do.
	Unsettled bool  `json:"unsettled"`
	Written   int   `json:"written"` // files, those that were the same already not counted
	Bytes     int64 `json:"bytes"`   // in them
	Removed   int   `json:"removed"` // export files and proofs
}

// Good reports whether nothing speaks against the tree: the copy moved, or will with the
// next pass.
func (c *Copied) Good() bool { return c.Moved || c.Unsettled }

// Mirror audits a tree and then makes a copy of it say the same: files first, checkpoint,
// then what clients poll. The copy is a public tree like any other; it can be served,
// audited and mirrored.
//
// Nothing of the copy is touched before the audit is over. If it finds anything that makes
// files doubtful, the copy stays as it is: Moved is false. Findings about what the operator
// did and when do not stop it. A copy never goes back to an older checkpoint and never
// takes up one that contradicts its own; o.State is not used. What fails on the way leaves
// the old checkpoint with everything it covers, or the new one with everything it covers.
//
// Files go when the log says that they were erased, and one period after their retention
// even if it does not, or if its tree is out of reach.
//
// The report is never nil.
func Mirror(ctx context.Context, source tree.Source, place Place, o AuditOptions) (*Copied, error) {
	return mirrorLog(ctx, source, place, o, "")
}

// mirrorLog is Mirror of the log of an origin, and of no other, whatever the source serves
// when it is read again.
func mirrorLog(ctx context.Context, source tree.Source, place Place, o AuditOptions, origin string) (*Copied, error) {
	c, err := mirror(ctx, source, place, o, origin)
	if err != nil {
		return c, fmt.Errorf("mirroring %s: %w", source, err)
	}
	return c, nil
}

func mirror(ctx context.Context, source tree.Source, place Place, o AuditOptions, origin string) (*Copied, error) {
	a := newAudit(source, o)
	done := &Copied{Report: a.report}
	folder, err := tree.NewFolder(place.Disk, place.Root)
	if err != nil {
		return done, err
	}
	c := &copier{Place: place, Copied: done, folder: folder, origin: origin}
	if o.State, err = c.own(a.now); err != nil {
		return done, err
	}
	if err := c.expire(a); err != nil {
		return done, err
	}
	again, err := c.pass(ctx, source, o, true)
	if err == nil && c.Unsettled {
		select {
		case <-ctx.Done():
			return done, ctx.Err()
		case <-time.After(rereadAfter): // for a publisher to be done
		}
		again, err = c.pass(ctx, source, o, true)
	}
	if err == nil && again {
		// Perhaps it is the copy that is damaged. That is no reason to stay behind.
		_, err = c.pass(ctx, source, o, false)
	}
	return done, err
}

type copier struct {
	Place
	*Copied
	folder *tree.Folder
	origin string // of the log that belongs there; empty until that is known
}

// own is what the copy has seen: its own checkpoint and keyring.
func (c *copier) own(now time.Time) (*State, error) {
	s := new(State)
	signed, err := c.folder.Get(exportlog.CheckpointPath, exportlog.MaxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = s.see(signed)
	}
	if err != nil {
		return nil, fmt.Errorf("the copy's own %w: move %s away to begin a new copy", err, c.Root)
	}
	for origin := range s.logs { // the one
		if c.origin != "" && origin != c.origin {
			return nil, c.taken(origin, c.origin)
		}
		c.origin = origin
	}
	return s, c.ownKeyring(s, now)
}

// taken says that a place belongs to another log.
func (c *copier) taken(by, wanted string) error {
	return fmt.Errorf("%s is for a copy of %s, and this is %s: give it a place of its own", c.Root, by, wanted)
}

// ownKeyring remembers the keys of the copy's keyring. One that is missing or damaged is no
// reason to stop: the next pass replaces it.
func (c *copier) ownKeyring(s *State, now time.Time) error {
	text, err := c.folder.Get(exportlog.KeyringPath, seal.MaxKeyring)
	var proof []byte
	if err == nil {
		proof, err = c.folder.Get(exportlog.KeyringPath+exportlog.ProofSuffix, exportlog.MaxProof)
	}
	missing, err := absent(err)
	if err != nil || missing != nil {
		return err
	}
	r, err := seal.ParseKeyring(text)
	if err != nil {
		return nil
	}
	if proved, err := exportlog.ParseProof(proof); err == nil {
		s.readKeyring(r.Origin, proved.Index, serviceKeysOf(r), now)
	}
	return nil
}

// pass audits and, if nothing speaks against it, copies. If something does, again tells
// whether files of the copy were part of what was audited.
func (c *copier) pass(ctx context.Context, source tree.Source, o AuditOptions, reuse bool) (again bool, err error) {
	in, err := newIntake(source, c.Disk, c.Root, c.Temp, reuse)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	if o.State, err = ParseState(o.State.Format()); err != nil { // an audit changes it
		return false, err
	}
	a := newAudit(in, o)
	c.Report = a.report
	err = a.run(ctx)
	a.report.finish()
	c.Unsettled = false
	if other := a.checkpoint.Origin; err == nil && c.origin != "" && other != "" && other != c.origin {
		return false, c.taken(c.origin, other)
	}
	if err != nil || !a.whole || a.report.blocked() {
		return err == nil && in.reused, err
	}
	if c.Unsettled = a.unsettled; c.Unsettled {
		return false, nil
	}
	return false, c.take(a, in)
}

// take makes the copy say what was audited. Every step may be the last: readers of the old
// checkpoint find all they did before, and readers of the new one all they need.
func (c *copier) take(a *audit, in *intake) error {
	// What is added comes before what is replaced: if the disk is full, the copy is as it was.
	exports, replaced := a.paths()
	if err := c.putAll(in, exports...); err != nil {
		return err
	}
	tiles, err := exportlog.TileList(0, a.checkpoint.Size)
	if err != nil {
		return err
	}
	for _, t := range tiles {
		if err := c.putTile(in, t); err != nil {
			return err
		}
	}
	if err := c.putAll(in, replaced...); err != nil {
		return err
	}
	c.Moved = true
	return c.tidy(a, tiles)
}

// putAll writes those of the files that were fetched. The others are there already, or, of
// windows past their retention, gone.
func (c *copier) putAll(in *intake, paths ...string) error {
	for _, path := range paths {
		data, fetched, err := in.get(path)
		if err == nil && fetched {
			err = c.put(path, data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// putTile writes a tile. Where the tree has moved on and has a full tile in its stead, only
// what the checkpoint covers is taken of it: nothing speaks for the rest yet.
func (c *copier) putTile(in *intake, t exportlog.Tile) error {
	data, fetched, err := in.get(t.Path())
	if err == nil && !fetched && t.Width < exportlog.TileWidth {
		data, fetched, err = in.get(t.Full().Path())
		if err == nil && fetched {
			data, err = cut(data, t)
		}
	}
	if err == nil && fetched {
		err = c.put(t.Path(), data)
	}
	return err
}

// cut gives the beginning of a full tile or bundle that is partial tile t.
func cut(full []byte, t exportlog.Tile) ([]byte, error) {
	if t.Level != exportlog.EntryLevel {
		return full[:32*t.Width], nil
	}
	entries, err := exportlog.ParseBundle(full, exportlog.TileWidth)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, e := range entries[:t.Width] {
		n += 2 + len(e)
	}
	return full[:n], nil
}

func (c *copier) put(path string, data []byte) error {
	if old, err := c.folder.Get(path, int64(len(data))); err != nil || string(old) != string(data) {
		c.Written++
		c.Bytes += int64(len(data))
	}
	err := c.folder.Put(path, data)
	if errors.Is(err, tree.ErrTaken) {
		// What was audited is what the log names. So a bucket's own object is damaged.
		if err = c.folder.Remove(path); err == nil {
			err = c.folder.Put(path, data)
		}
	}
	return err
}

// paths are the files that a copy gets before the tiles, and after them those that replace
// others, in the order of writing. A proof has a checkpoint of its own, so it can be there
// before the tree's.
func (a *audit) paths() (exports, replaced []string) {
	for _, w := range a.ledger.live {
		if a.expired(&w.Manifest) {
			continue
		}
		for _, f := range w.Files {
			exports = append(exports, f.Path, f.Path+exportlog.ProofSuffix)
		}
	}
	for path := range a.ledger.small {
		replaced = append(replaced, path, path+exportlog.ProofSuffix)
	}
	for _, s := range a.ledger.signers {
		replaced = append(replaced, s.Path())
	}
	return exports, append(replaced, exportlog.PolicyPath, exportlog.PolicyEd25519Path,
		exportlog.CheckpointPath, exportlog.IndexPath, exportlog.GAENIndexPath)
}

// tidy removes what the copy has and the log no longer does: exports that were erased, and
// partial tiles whose full tile is there (C2SP tlog-tiles).
func (c *copier) tidy(a *audit, tiles []exportlog.Tile) error {
	keep := map[string]bool{}
	for _, w := range a.ledger.live {
		for _, f := range w.Files {
			keep[f.Path], keep[f.Path+exportlog.ProofSuffix] = !a.expired(&w.Manifest), !a.expired(&w.Manifest)
		}
	}
	gone, err := c.list("exports")
	if err != nil {
		return err
	}
	gone = slices.DeleteFunc(gone, func(path string) bool { return keep[path] })
	c.Removed += len(gone)
	for _, t := range tiles {
		if t.Width == exportlog.TileWidth {
			partial, err := c.list(t.Path() + ".p")
			if err != nil {
				return err
			}
			gone = append(gone, partial...)
		}
	}
	return c.folder.Remove(gone...)
}

// list gives the paths in a folder of the copy; there are none in a missing one.
func (c *copier) list(dir string) ([]string, error) {
	names, err := c.Disk.List(filepath.Join(c.Root, filepath.FromSlash(dir)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the copy: %w", err)
	}
	for i, n := range names {
		names[i] = dir + "/" + n
	}
	return names, nil
}

// expire removes the copy's files whose retention ended more than a period ago, before the
// source is asked anything. A damaged index is not its business: this pass replaces it.
func (c *copier) expire(a *audit) error {
	data, err := c.folder.Get(exportlog.IndexPath, exportlog.MaxIndex)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, tree.ErrTooLarge) {
		return nil
	}
	if err != nil {
		return err
	}
	x, err := exportlog.ParseIndex(data)
	if err != nil {
		return nil
	}
	expired := map[string]bool{}
	for _, e := range x.Exports {
		entry, err := exportlog.ParseEntry([]byte(e.Manifest))
		if err != nil {
			return err // ParseIndex has parsed it
		}
		m := entry.(exportlog.Manifest)
		for _, f := range m.Files {
			expired[f.Path], expired[f.Path+exportlog.ProofSuffix] = a.expired(&m), a.expired(&m)
		}
	}
	gone, err := c.list("exports")
	if err != nil {
		return err
	}
	gone = slices.DeleteFunc(gone, func(path string) bool { return !expired[path] })
	c.Removed += len(gone)
	return c.folder.Remove(gone...)
}
