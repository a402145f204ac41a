package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
)

// Folder is a public tree in a folder that bluekey writes.
type Folder struct {
	disk  FS
	root  string
	known map[string]bool // folders made durable since the Folder was opened
}

// NewFolder opens the tree at root, making the folder if it is missing. A Folder is for
// one goroutine.
func NewFolder(disk FS, root string) (*Folder, error) {
	f := &Folder{disk: disk, root: filepath.Clean(root), known: map[string]bool{}}
	if err := f.dir(f.root); err != nil {
		return nil, fmt.Errorf("opening the tree %s: %w", root, err)
	}
	return f, nil
}

func (f *Folder) dir(dir string) error {
	if f.known[dir] {
		return nil
	}
	if err := makeDir(f.disk, f.root, dir); err != nil {
		return err
	}
	f.known[dir] = true
	return nil
}

func (f *Folder) name(path string) (string, error) {
	if err := CheckPath(path); err != nil {
		return "", err
	}
	return filepath.Join(f.root, filepath.FromSlash(path)), nil
}

// Put writes a file, whole and durable, over any old one. A file that already has these
// bytes is left alone, so that a repeated apply changes no modification time.
func (f *Folder) Put(path string, data []byte) error {
	name, err := f.name(path)
	if err != nil {
		return err
	}
	if err := f.dir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if old, err := f.Get(path, int64(len(data))); err == nil && bytes.Equal(old, data) {
		// The entry may date from before a crash that forgot to sync the folder.
		return f.disk.SyncDir(filepath.Dir(name))
	}
	if err := writeFile(f.disk, name, data); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// Adopt moves a staged file to its place. It may be repeated: a file that is no longer
// staged must already be in place.
func (f *Folder) Adopt(s *Staging, staged, path string) error {
	name, err := f.name(path)
	if err != nil {
		return err
	}
	dir := filepath.Dir(name)
	if err := f.dir(dir); err != nil {
		return fmt.Errorf("publishing %s: %w", path, err)
	}
	err = f.disk.Rename(s.name(staged), name)
	if errors.Is(err, fs.ErrNotExist) {
		var blob Blob
		if blob, err = f.disk.Open(name); err == nil {
			err = blob.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("publishing %s: %w", path, err)
	}
	// The old entry needs no sync: a staged copy that comes back after a crash is only
	// a leftover, swept at the next start.
	return f.disk.SyncDir(dir)
}

// Remove deletes files; missing ones are no error.
func (f *Folder) Remove(paths ...string) error {
	dirs := map[string]bool{}
	for _, path := range paths {
		name, err := f.name(path)
		if err != nil {
			return err
		}
		if err := f.disk.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing %s: %w", path, err)
		}
		dirs[filepath.Dir(name)] = true
	}
	for dir := range dirs {
		// A removal that is not synced comes back.
		if err := f.disk.SyncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing files in %s: %w", dir, err)
		}
	}
	return nil
}

// Size is the length of a file in bytes. A missing one is fs.ErrNotExist.
func (f *Folder) Size(path string) (int64, error) {
	name, err := f.name(path)
	if err != nil {
		return 0, err
	}
	blob, err := f.disk.Open(name)
	if err != nil {
		return 0, err
	}
	return blob.Size(), blob.Close()
}

// Get reads a file of at most limit bytes. A missing one is fs.ErrNotExist.
func (f *Folder) Get(path string, limit int64) ([]byte, error) {
	name, err := f.name(path)
	if err != nil {
		return nil, err
	}
	blob, err := f.disk.Open(name)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	return ReadBlob(blob, limit)
}

// ReadBlob reads a whole blob of at most limit bytes.
func ReadBlob(blob Blob, limit int64) ([]byte, error) {
	if blob.Size() > limit {
		return nil, fmt.Errorf("%w: %d bytes, more than the %d allowed", ErrTooLarge, blob.Size(), limit)
	}
	data := make([]byte, blob.Size())
	if _, err := io.ReadFull(io.NewSectionReader(blob, 0, blob.Size()), data); err != nil {
		return nil, err
	}
	return data, nil
}
