package keystore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Version is the layout of the data folder that this program writes. VERSION in the folder
// holds one line, "bluekey data N"; a program refuses a folder of a newer layout.
const Version = 1

const versionLine = "bluekey data %d\n"

// openFolder makes the data folder if need be, locks it, and checks its version. The
// lock's Close gives it free.
func openFolder(disk vfs.FS, dir string) (lock io.Closer, err error) {
	if err := mkdirSynced(disk, dir); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	lock, err = disk.Lock(disk.PathJoin(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("data folder %s is in use by another process: %w", dir, err)
	}
	if err := checkVersion(disk, dir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

func checkVersion(disk vfs.FS, dir string) error {
	name := disk.PathJoin(dir, "VERSION")
	text, err := readFile(disk, name)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := disk.Stat(disk.PathJoin(dir, "store")); err == nil {
			return fmt.Errorf("data folder %s has a store but no VERSION: restore the whole folder", dir)
		}
		return writeSynced(disk, dir, "VERSION", fmt.Sprintf(versionLine, Version))
	}
	if err != nil {
		return fmt.Errorf("read data folder version: %w", err)
	}
	var v int
	if _, err := fmt.Sscanf(string(text), versionLine, &v); err != nil || v < 1 || string(text) != fmt.Sprintf(versionLine, v) {
		return fmt.Errorf("%s: not the VERSION of a bluekey data folder", name)
	}
	if v > Version {
		return fmt.Errorf("data folder %s has layout %d, this program knows layouts up to %d: run the newer program", dir, v, Version)
	}
	return nil
}

func readFile(disk vfs.FS, name string) ([]byte, error) {
	f, err := disk.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<10))
}

// writeSynced puts a file in place whole or not at all, and there to stay.
func writeSynced(disk vfs.FS, dir, name, text string) error {
	temp, final := disk.PathJoin(dir, name+".tmp"), disk.PathJoin(dir, name)
	f, err := disk.Create(temp, vfs.WriteCategoryUnspecified)
	if err == nil {
		_, err = f.Write([]byte(text))
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = disk.Rename(temp, final)
	}
	if err == nil {
		err = syncDir(disk, dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", final, err)
	}
	return nil
}

// MakeDir makes a folder of mode 0700 and the folders above it, so that none of them is lost
// to a power cut together with what is synced in it later. It is for whoever writes into the
// data folder before Open does.
func MakeDir(dir string) error {
	if err := mkdirSynced(vfs.Default, dir); err != nil {
		return fmt.Errorf("make folder %s: %w", dir, err)
	}
	return nil
}

// mkdirSynced makes dir and the folders above it, and syncs each folder that got a new
// entry: without that a power loss takes dir away with all that was synced in it.
func mkdirSynced(disk vfs.FS, dir string) error {
	var fresh []string
	for d := dir; ; d = disk.PathDir(d) {
		if _, err := disk.Stat(d); err == nil || d == disk.PathDir(d) {
			break
		}
		fresh = append(fresh, d)
	}
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, d := range fresh {
		if err := syncDir(disk, disk.PathDir(d)); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(disk vfs.FS, dir string) error {
	d, err := disk.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// orderedFS is a disk on which a marker never outlives the file it names. The database
// points at its MANIFEST by a marker's name and syncs the folder once, after both exist:
// a file system that keeps new names in any order it likes may then, at a power loss, keep
// the marker alone, and the store would not open again. The MANIFEST is renewed so often
// here that this is worth a sync of the folder.
type orderedFS struct{ vfs.FS }

func (o orderedFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(o.PathBase(name), "marker.") {
		if err := syncDir(o.FS, o.PathDir(name)); err != nil {
			return nil, err
		}
	}
	return o.FS.Create(name, category)
}

func (o orderedFS) Unwrap() vfs.FS { return o.FS }

// realPath is the one spelling of dir on the real disk, so that a process cannot lock
// one folder under two names.
func realPath(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("data folder %s: %w", dir, err)
	}
	if resolved, err := filepath.EvalSymlinks(abs); err == nil {
		return resolved, nil
	}
	return abs, nil
}
