package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"bluekey/export/exportlog"
)

// loggedFile is a small file as the newest entry of the log that names it has it.
type loggedFile struct {
	exportlog.File
	entry uint64
}

// PutSmallFile publishes a small file of the tree (exportlog.SmallFile) by an entry of the
// log, with a proof beside it, in the place of what the path held before. Nothing is logged
// if these bytes hold already; if they are missing in the tree they are put back. After an
// error the same may be put again. Run must be running.
func (p *Publisher) PutSmallFile(ctx context.Context, path string, data []byte) error {
	return p.do(ctx, func(ctx context.Context) error {
		if err := p.putSmallFile(ctx, path, data); err != nil {
			return fmt.Errorf("publishing %s: %w", path, err)
		}
		return nil
	})
}

func (p *Publisher) putSmallFile(ctx context.Context, path string, data []byte) error {
	if len(data) > exportlog.MaxSmall {
		return fmt.Errorf("%d bytes, more than the %d that readers take", len(data), exportlog.MaxSmall)
	}
	if err := p.finish(ctx); err != nil {
		return err
	}
	logged, err := p.smallFiles()
	if err != nil {
		return err
	}
	if f, ok := logged[path]; ok && f.Matches(data) {
		if err := p.folder.Put(path, data); err != nil {
			return err
		}
		p.unlose(path)
		return p.proveSmallFile(f)
	}
	if p.closed {
		return ErrClosed
	}
	r := p.newRound()
	if err := p.stageSmallFile(&r, path, data); err != nil {
		return err
	}
	if err := p.commit(ctx, &r); err != nil {
		return err
	}
	p.grown()
	return nil
}

func (p *Publisher) stageSmallFile(r *round, path string, data []byte) error {
	f, err := r.create()
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(fmt.Errorf("staging it: %w", err), f.Discard())
	}
	staged, err := f.Finish()
	if err != nil {
		return err
	}
	entry, err := exportlog.SmallFile{Time: p.Now().Unix(), Path: path, Size: staged.Size, SHA256: staged.SHA256}.Format()
	if err != nil {
		return err
	}
	r.plan.Adopt = append(r.plan.Adopt, adoption{Staged: staged.Name(), Path: path, Entry: p.store.LogSize() + uint64(len(r.entries)), Small: true})
	r.entries = append(r.entries, entry)
	return nil
}

// smallFiles are those that the log names, by path. Entries that were read before are not
// read again.
func (p *Publisher) smallFiles() (map[string]loggedFile, error) {
	for size := p.store.LogSize(); p.small.read < size; p.small.read++ {
		e, err := p.entry(p.small.read)
		if err != nil {
			return nil, err
		}
		if f, ok := e.(exportlog.SmallFile); ok {
			p.small.files[f.Path] = loggedFile{exportlog.Files(f)[0], p.small.read}
		}
	}
	return p.small.files, nil
}

// adopt puts a staged file in its place. The error is fs.ErrNotExist if it is neither staged
// nor there: what lies at the path of a small file may be what it is to replace.
func (p *Publisher) adopt(a adoption) error {
	if err := p.folder.Adopt(p.staging, a.Staged, a.Path); err != nil || !a.Small {
		return err
	}
	logged, err := p.smallFiles()
	if err != nil {
		return err
	}
	there, err := p.inPlace(logged[a.Path].File)
	if err == nil && !there {
		err = fmt.Errorf("publishing %s: what was staged: %w", a.Path, fs.ErrNotExist)
	}
	return err
}

// inPlace reports whether the tree has a small file, byte for byte: the one that it replaces
// may be of its size.
func (p *Publisher) inPlace(f exportlog.File) (bool, error) {
	size, err := p.folder.Size(f.Path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && size != f.Size {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	data, err := p.folder.Get(f.Path, size)
	return err == nil && f.Matches(data), err
}

// restoreSmallFiles notes the small files that are missing, since the log knows their digests
// and not their bytes, and proves those that have no proof, if their entries are among the
// first size.
func (p *Publisher) restoreSmallFiles(size uint64) error {
	logged, err := p.smallFiles()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(logged)) {
		f := logged[name]
		there, err := p.inPlace(f.File)
		switch {
		case err != nil:
			return err
		case !there:
			p.lose(name, errors.New("the log knows its digest only: publish it again"))
		case f.entry < size:
			if err := p.proveSmallFile(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// proveSmallFile writes the proof of a small file, unless the one beside it is of its entry.
func (p *Publisher) proveSmallFile(f loggedFile) error {
	old, err := p.folder.Get(f.Path+exportlog.ProofSuffix, exportlog.MaxProof)
	if err == nil && p.proves(old, f.entry) {
		return nil
	}
	return p.prove(f.entry, f.Path+exportlog.ProofSuffix)
}

// proves reports whether a proof is one of an entry of the store. Whether it holds is for an
// audit.
func (p *Publisher) proves(proof []byte, entry uint64) bool {
	parsed, err := exportlog.ParseProof(proof)
	if err != nil || parsed.Index != entry {
		return false
	}
	text, err := p.store.Entry(entry)
	return err == nil && bytes.Equal(parsed.Extra, text)
}
