package mirror

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/match/idset"
	"bluekey/export/tree"
)

// prebuildJob is one window of a log, and what it lacks.
type prebuildJob struct {
	verifier *verifier
	folder   *prebuiltFolder
	entry    exportlog.IndexEntry
	manifest exportlog.Manifest
	from     []listed // the files to make it from: the key set, or all archives
	kinds    []exportlog.FileKind
}

// job says what there is to do for a window that an index lists; nil if nothing.
func (b *prebuilder) job(v *verifier, f *prebuiltFolder, e exportlog.IndexEntry) (*prebuildJob, error) {
	entry, err := exportlog.ParseEntry([]byte(e.Manifest))
	if err != nil {
		return nil, err // ParseIndex has parsed it
	}
	j := &prebuildJob{verifier: v, folder: f, entry: e, manifest: entry.(exportlog.Manifest)}
	if b.now.Unix() >= keptUntil(&j.manifest) {
		return nil, nil
	}
	list, err := files(&j.manifest)
	if err != nil {
		return nil, err
	}
	has := map[exportlog.FileKind]bool{}
	for _, l := range list {
		has[l.kind] = true
	}
	for _, l := range list {
		if l.kind == exportlog.KeySet || l.kind == exportlog.Archive && !has[exportlog.KeySet] {
			l.keep = true
			j.from = append(j.from, l)
		}
	}
	for _, kind := range []exportlog.FileKind{exportlog.KeySet, exportlog.IDSet} {
		if !has[kind] && slices.Contains(b.Kinds, kind) {
			j.kinds = append(j.kinds, kind)
		}
	}
	if len(j.from) == 0 || len(j.kinds) == 0 {
		return nil, nil
	}
	return j, nil
}

// do makes the files of a window that are not there yet. What does not hold against the log
// is a problem of its tree.
func (j *prebuildJob) do(ctx context.Context, b *prebuilder) error {
	missing, err := j.missing(b)
	if err == nil && len(missing) > 0 {
		err = j.make(ctx, b, missing)
	}
	flaw, fatal := flawOf(err)
	if flaw != nil {
		j.folder.mu.Lock()
		defer j.folder.mu.Unlock()
		j.folder.Problems = append(j.folder.Problems, fmt.Sprintf("entry %d: %v", j.entry.Entry, err))
		slices.Sort(j.folder.Problems)
	}
	return fatal
}

// missing are the kinds of which no file of an earlier run is there and whole.
func (j *prebuildJob) missing(b *prebuilder) (kinds []exportlog.FileKind, err error) {
	f := j.folder
	for _, kind := range j.kinds {
		there := ""
		for _, path := range f.there[j.entry.Manifest] {
			named, err := exportlog.ParseExportPath(path)
			if err != nil || named.Kind != kind {
				continue
			}
			whole, err := b.whole(f, path, named)
			if err != nil {
				return nil, err
			}
			if whole {
				there = path
			}
		}
		if there == "" {
			kinds = append(kinds, kind)
			continue
		}
		f.mu.Lock()
		f.wanted[there] = true
		f.Kept++
		f.mu.Unlock()
	}
	return kinds, nil
}

// whole reports whether a file has the digest that it is named after.
func (b *prebuilder) whole(f *prebuiltFolder, path string, named exportlog.ExportPath) (bool, error) {
	blob, err := b.Disk.Open(filepath.Join(b.Root, f.Folder, filepath.FromSlash(path)))
	if err != nil {
		return false, err
	}
	digest, err := hashBlob(blob)
	if err = errors.Join(err, blob.Close()); err != nil {
		return false, fmt.Errorf("reading %s: %w", path, err)
	}
	return [8]byte(digest[:8]) == [8]byte(named.SHA256[:8]), nil
}

// make reads the keys of a window, checked against the log, and makes files of them.
func (j *prebuildJob) make(ctx context.Context, b *prebuilder, kinds []exportlog.FileKind) error {
	m := &j.manifest
	proof, found, err := j.read(ctx)
	defer closeAll(found)
	if err != nil {
		return err
	}
	keys, digest, err := windowKeys(ctx, j.from, found)
	if err != nil {
		return err
	}
	if slices.Contains(kinds, exportlog.KeySet) {
		err := j.write(exportlog.KeySet, proof, func(w io.Writer) error {
			_, err := export.WriteKeySet(w, export.KeySetHeader{Scheme: m.Scheme, Start: m.Start, End: m.End}, keys)
			return err
		})
		if err != nil {
			return err
		}
	}
	if slices.Contains(kinds, exportlog.IDSet) {
		params := idset.Params{Origin: m.Origin, Region: m.Region, Scheme: m.Scheme, Start: m.Start, End: m.End, KeySet: digest}
		return j.write(exportlog.IDSet, proof, func(w io.Writer) error {
			_, err := idset.Write(w, params, keys, idset.Options{MaxHashes: max(b.MaxHashes/b.Workers, 1<<18), Tier: b.Tier})
			return err
		})
	}
	return nil
}

// read opens the files to make others from, and gives the proof of the first. They are to
// be closed even on an error.
func (j *prebuildJob) read(ctx context.Context) (proof []byte, found []*contents, err error) {
	home := *j.folder.home // windows are read side by side, and it remembers keys
	home.keys = map[string]*ecdsa.PublicKey{}
	for _, l := range j.from {
		text, _, err := home.prove(ctx, j.entry, l)
		if err != nil {
			return nil, found, named(l, err)
		}
		if proof == nil {
			proof = text
		}
		c, err := l.check(ctx, home.source, j.verifier.sum, j.verifier.key(ctx, &home))
		if err != nil {
			return nil, found, named(l, err)
		}
		found = append(found, c)
	}
	return proof, found, nil
}

// named says which file a flaw or an error is about.
func named(l listed, err error) error { return fmt.Errorf("%s: %w", l.file.Path, err) }

// write makes one file: staged, then in its place, then its proof, which says that it is
// whole.
func (j *prebuildJob) write(kind exportlog.FileKind, proof []byte, write func(io.Writer) error) error {
	f := j.folder
	staged, err := f.stage(write)
	if err != nil {
		return fmt.Errorf("making a .%s: %w", kind, err)
	}
	file := exportlog.NewFile(j.manifest.Start, j.manifest.End, kind, staged.Size, staged.SHA256, j.manifest.Keys)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.folder.Adopt(f.staging, staged.Name(), file.Path); err != nil {
		return err
	}
	if err := f.folder.Put(file.Path+exportlog.ProofSuffix, proof); err != nil {
		return err
	}
	f.wanted[file.Path] = true
	f.Made++
	f.Bytes += file.Size
	return nil
}

func (f *prebuiltFolder) stage(write func(io.Writer) error) (tree.Staged, error) {
	f.mu.Lock()
	file, err := f.staging.Create()
	f.mu.Unlock()
	if err != nil {
		return tree.Staged{}, err
	}
	if err := write(file); err != nil {
		return tree.Staged{}, errors.Join(err, file.Discard())
	}
	return file.Finish()
}
