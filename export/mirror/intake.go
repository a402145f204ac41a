package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

// intake is the tree that a mirror copies, as an audit reads it. Files that never change
// and that the copy has already come from the copy, so that they are not fetched again but
// are checked again; all others are fetched, and set aside until the verdict.
//
// They are set aside in one unnamed file: the copy is not touched before everything new
// has been read and found right.
type intake struct {
	remote tree.Source
	disk   tree.FS
	root   string // of the copy
	reuse  bool

	mu     sync.Mutex
	aside  *os.File
	size   int64
	spans  map[string]span // what was fetched, by path
	reused bool            // something came from the copy
}

// span is a part of the file aside.
type span struct{ at, size int64 }

// newIntake sets files aside in folder temp; "" is the system's.
func newIntake(remote tree.Source, disk tree.FS, root, temp string, reuse bool) (*intake, error) {
	f, err := os.CreateTemp(temp, "bluekey-mirror-*")
	if err != nil {
		return nil, fmt.Errorf("setting files aside: %w", err)
	}
	// Without a name nothing is left behind, however the process ends.
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &intake{remote: remote, disk: disk, root: root, reuse: reuse, aside: f, spans: map[string]span{}}, nil
}

func (in *intake) Close() error { return in.aside.Close() }

func (in *intake) String() string { return in.remote.String() }

func (in *intake) name(path string) string { return filepath.Join(in.root, filepath.FromSlash(path)) }

// Open implements tree.Source.
func (in *intake) Open(ctx context.Context, path string, limit int64) (tree.Blob, error) {
	if err := tree.CheckPath(path); err != nil {
		return nil, err
	}
	row, ok := exportlog.Lookup(path)
	if in.reuse && ok && (row.Class == exportlog.ClassExport || row.Class == exportlog.ClassTile) {
		if blob, err := in.disk.Open(in.name(path)); err == nil {
			if blob.Size() <= limit {
				in.mu.Lock()
				defer in.mu.Unlock()
				in.reused = true
				return blob, nil
			}
			if err := blob.Close(); err != nil {
				return nil, err
			}
		}
	}
	blob, err := in.remote.Open(ctx, path, limit)
	if err != nil {
		return nil, err
	}
	if err := in.put(path, blob); err != nil {
		return nil, errors.Join(fmt.Errorf("setting %s aside: %w", path, err), blob.Close())
	}
	return blob, nil
}

func (in *intake) put(path string, blob tree.Blob) error {
	in.mu.Lock()
	at := in.size
	in.size += blob.Size()
	in.mu.Unlock()
	if _, err := io.Copy(io.NewOffsetWriter(in.aside, at), io.NewSectionReader(blob, 0, blob.Size())); err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.spans[path] = span{at, blob.Size()}
	return nil
}

// get gives what was fetched from a path; ok is false if nothing was.
func (in *intake) get(path string) (data []byte, ok bool, err error) {
	s, ok := in.spans[path]
	if !ok {
		return nil, false, nil
	}
	data = make([]byte, s.size)
	if _, err := io.ReadFull(io.NewSectionReader(in.aside, s.at, s.size), data); err != nil {
		return nil, false, fmt.Errorf("reading %s back: %w", path, err)
	}
	return data, true, nil
}
