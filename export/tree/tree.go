// Package tree is the public tree as a place: a folder, a URL, a bucket. It knows how to
// write files so that they survive a power cut whole or not at all, and how to read them
// from wherever a tree lies. What the files mean is the business of export and exportlog.
//
// Writing goes through FS, a disk of seven calls, so that tests can run the same code on a
// disk that crashes.
package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// FS is the disk that a tree is written to. Names are paths of the operating system.
type FS interface {
	// Create makes an empty file, over an old one if there is any.
	Create(name string) (File, error)
	// Open opens a file for reading; a missing one is fs.ErrNotExist.
	Open(name string) (Blob, error)
	// Rename moves a file over any old one, in one step.
	Rename(from, to string) error
	// Remove deletes a file; a missing one is fs.ErrNotExist.
	Remove(name string) error
	// MkdirAll makes a folder and its parents. It need not sync them.
	MkdirAll(dir string) error
	// SyncDir makes the entries of a folder durable.
	SyncDir(dir string) error
	// List names the entries of a folder, in any order; a missing one is fs.ErrNotExist.
	List(dir string) ([]string, error)
}

// File is a file being written.
type File interface {
	io.Writer
	Sync() error
	io.Closer
}

// Blob is a file being read, in any order.
type Blob interface {
	io.ReaderAt
	io.Closer
	// Size is the length in bytes.
	Size() int64
}

// Disk is the operating system's FS.
type Disk struct{}

func (Disk) Create(name string) (File, error) { return os.Create(name) }

func (Disk) Open(name string) (Blob, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return diskBlob{f, info.Size()}, nil
}

func (Disk) Rename(from, to string) error { return os.Rename(from, to) }
func (Disk) Remove(name string) error     { return os.Remove(name) }
func (Disk) MkdirAll(dir string) error    { return os.MkdirAll(dir, 0o755) }

func (Disk) SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (Disk) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

type diskBlob struct {
	*os.File
	size int64
}

func (b diskBlob) Size() int64 { return b.size }

// CheckPath refuses what is not a plain slash-separated path below a tree's root.
func CheckPath(path string) error {
	if !fs.ValidPath(path) || path == "." || strings.ContainsAny(path, "\\\x00") {
		return fmt.Errorf("%q is not a path inside a tree", path)
	}
	return nil
}

// makeDir makes a folder below root and syncs every parent up to and including root's own:
// a folder whose parent was not synced takes everything in it along when the power fails.
func makeDir(disk FS, root, dir string) error {
	if err := disk.MkdirAll(dir); err != nil {
		return err
	}
	for d := dir; ; d = filepath.Dir(d) {
		parent := filepath.Dir(d)
		if err := disk.SyncDir(parent); err != nil {
			return err
		}
		if d == root || parent == d || len(parent) < len(root) {
			return nil
		}
	}
}

// writeFile writes a file beside its final name, syncs it, and renames it into place. The
// folder's entry is durable when it returns.
func writeFile(disk FS, name string, data []byte) error {
	temp := name + tempSuffix
	f, err := disk.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, disk.Remove(temp))
	}
	if err := disk.Rename(temp, name); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(name))
}

// tempSuffix marks a file that is not yet whole. No path of the public tree ends so.
const tempSuffix = ".new"
