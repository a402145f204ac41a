package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
)

const defaultSplit = export.MaxKeys

// render writes the files of a closed window into the staging folder and adds its entry.
// A window that publishes nothing has an entry all the same.
func (p *Publisher) render(ctx context.Context, r *round, w *window) error {
	m := exportlog.Manifest{
		Origin:   p.Origin,
		Region:   p.Region,
		Scheme:   w.Scheme,
		Start:    w.Start.Unix(),
		End:      w.End.Unix(),
		Period:   int64(p.Period.Seconds()),
		Hold:     int64(p.Hold.Seconds()),
		Retain:   int64(p.Retention.Seconds()),
		Keys:     w.keys,
		Metadata: exportlog.Coarse,
		Encoder:  export.Encoder,
	}
	if p.Exact {
		m.Metadata = exportlog.Exact
	}
	w.Entry = p.store.LogSize() + uint64(len(r.entries))
	if w.keys > 0 {
		w.walk = p.store.DueKeys(w.Scheme, w.End)
		if err := p.renderFiles(ctx, r, w, &m, p.profile(w.Scheme)); err != nil {
			return err
		}
	}
	entry, err := m.Format()
	if err != nil {
		return err
	}
	r.entries = append(r.entries, entry)
	return nil
}

// renderFiles writes the files of a profile, and their lines into the manifest.
func (p *Publisher) renderFiles(ctx context.Context, r *round, w *window, m *exportlog.Manifest, profile []exportlog.FileKind) error {
	if slices.Contains(profile, exportlog.Archive) {
		if err := p.renderArchives(ctx, r, w, m); err != nil {
			return err
		}
	}
	if slices.Contains(profile, exportlog.KeySet) {
		if err := p.renderKeySet(ctx, r, w, m); err != nil {
			return err
		}
	}
	if slices.Contains(profile, exportlog.IDSet) {
		return p.renderIDSet(ctx, r, w, m)
	}
	return nil
}

func (p *Publisher) renderArchives(ctx context.Context, r *round, w *window, m *exportlog.Manifest) error {
	signers, err := p.activeSigners(w.End)
	if err != nil {
		return err
	}
	for _, s := range signers {
		m.Signers = append(m.Signers, s.Name())
	}
	parts := (w.keys + p.Split - 1) / p.Split
	all := p.dueKeys(ctx, w)
	if parts > 1 {
		next, stop := iter.Pull2(all)
		defer stop()
		all = func(yield func(diagnosis.Key, error) bool) {
			for {
				k, err, ok := next()
				if !ok || !yield(k, err) {
					return
				}
			}
		}
	}
	for part := 1; part <= parts; part++ {
		h := export.ArchiveHeader{Start: m.Start, End: export.PartEnd(m.End, part, parts), Region: p.Region}
		n := min(p.Split, w.keys-(part-1)*p.Split)
		keys := all
		if part < parts {
			keys = first(n, all) // the last part runs to the end, so that a key too many is noticed
		}
		err := p.stage(r, w, m, exportlog.Archive, n, func(out io.Writer) (export.Info, error) {
			return export.WriteArchive(out, h, signers, keys)
		})
		if err != nil {
			return fmt.Errorf("archive %d of %d: %w", part, parts, err)
		}
	}
	return nil
}

func (p *Publisher) renderKeySet(ctx context.Context, r *round, w *window, m *exportlog.Manifest) error {
	err := p.stage(r, w, m, exportlog.KeySet, w.keys, func(out io.Writer) (export.Info, error) {
		return p.writeKeySet(ctx, out, w, m)
	})
	if err != nil {
		return fmt.Errorf("key set: %w", err)
	}
	return nil
}

func (p *Publisher) writeKeySet(ctx context.Context, out io.Writer, w *window, m *exportlog.Manifest) (export.Info, error) {
	return export.WriteKeySet(out, export.KeySetHeader{Scheme: w.Scheme, Start: m.Start, End: m.End}, p.dueKeys(ctx, w))
}

// stage writes one file of n keys with write and records it in manifest and plan.
func (p *Publisher) stage(r *round, w *window, m *exportlog.Manifest, kind exportlog.FileKind, n int, write func(io.Writer) (export.Info, error)) error {
	f, err := r.create()
	if err != nil {
		return err
	}
	info, err := write(f)
	if err == nil && info.Keys != n {
		// Nothing can change a closed window: the store contradicts itself.
		err = fmt.Errorf("%d keys were written, the window holds %d", info.Keys, n)
	}
	if err != nil {
		return errors.Join(err, f.Discard())
	}
	staged, err := f.Finish()
	if err != nil {
		return err
	}
	file := exportlog.NewFile(m.Start, m.End, kind, staged.Size, staged.SHA256, n)
	m.Files = append(m.Files, file)
	r.plan.Adopt = append(r.plan.Adopt, adoption{Staged: staged.Name(), Path: file.Path, Entry: w.Entry})
	return nil
}

// dueKeys walks the keys of a window and stops when ctx does.
func (p *Publisher) dueKeys(ctx context.Context, w *window) iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		n := 0
		for k, err := range w.walk {
			if n++; err == nil && n%4096 == 0 {
				err = ctx.Err()
			}
			if !yield(k, err) || err != nil {
				return
			}
		}
	}
}

// first passes on the next n keys of a walk that goes on.
func first(n int, keys iter.Seq2[diagnosis.Key, error]) iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		left := n
		for k, err := range keys {
			left--
			if !yield(k, err) || err != nil || left == 0 {
				return
			}
		}
	}
}

// manifest reads a window's entry back from the log.
func (p *Publisher) manifest(entry uint64) (exportlog.Manifest, error) {
	text, err := p.store.Entry(entry)
	if err != nil {
		return exportlog.Manifest{}, err
	}
	e, err := exportlog.ParseEntry(text)
	if err != nil {
		return exportlog.Manifest{}, err
	}
	m, ok := e.(exportlog.Manifest)
	if !ok {
		return exportlog.Manifest{}, fmt.Errorf("log entry %d is a %T, not the manifest of a window", entry, e)
	}
	return m, nil
}
