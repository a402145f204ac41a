package tree

import (
	"cmp"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"
)

// Order gives the class of a path: what a file refers to has a lower one. ok is false for
// what is no file of the tree.
type Order func(path string) (class int, ok bool)

// Synced is what one Sync did.
type Synced struct {
	Put     int   // files
	Bytes   int64 // in them
	Removed int   // files
}

// localFile is one file of a folder as it was found.
type localFile struct {
	path  string
	class int
	size  int64
	at    time.Time
}

// files lists those files of the folder that order knows, in its order.
func (s FolderSource) files(order Order) ([]localFile, error) {
	var files []localFile
	err := filepath.WalkDir(string(s), func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && name != string(s) {
			return nil // removed since its folder was read
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		path, err := filepath.Rel(string(s), name)
		if err != nil {
			return err
		}
		path = filepath.ToSlash(path)
		class, ok := order(path)
		if !ok {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		files = append(files, localFile{path, class, info.Size(), info.ModTime()})
		return nil
	})
	slices.SortFunc(files, func(a, b localFile) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.path, b.path))
	})
	return files, err
}

// Stamp changes whenever a file of the folder does, by what the disk says of sizes and
// times.
func (s FolderSource) Stamp(order Order) (string, error) {
	files, err := s.files(order)
	if err != nil {
		return "", fmt.Errorf("looking through %s: %w", s, err)
	}
	h := md5.New()
	for _, f := range files {
		fmt.Fprintln(h, f.path, f.size, f.at.UnixNano())
	}
	return string(h.Sum(nil)), nil
}

// Sync makes a bucket say what a folder says, while somebody may be publishing to the
// folder: files in the order of their classes, so that whoever reads the bucket meanwhile
// finds what is referred to, then the removal of what the folder has no longer. What order
// does not know is left alone on both sides. A Sync that fails may be repeated, and takes
// up where it ended.
//
// Nothing is read from the bucket but its listing. An immutable file of the right size is
// taken to be there; one that is not ends in ErrTaken. Others are compared by the digest
// that the listing has, and put again where it has none.
func (b *Bucket) Sync(ctx context.Context, from FolderSource, order Order) (Synced, error) {
	done, err := b.sync(ctx, from, order)
	if err != nil {
		return done, fmt.Errorf("copying %s to %s: %w", from, b, err)
	}
	return done, nil
}

func (b *Bucket) sync(ctx context.Context, from FolderSource, order Order) (done Synced, err error) {
	if b.headers == nil {
		return done, errReadOnly
	}
	files, heads, err := b.standing(ctx, from, order)
	if err != nil {
		return done, err
	}
	if len(files) == 0 {
		return done, errors.New("there is nothing in the folder: the bucket is left as it is")
	}
	there := map[string]minio.ObjectInfo{}
	root := b.root()
	if err := b.each(ctx, root, true, func(o minio.ObjectInfo) { there[o.Key[len(root):]] = o }); err != nil {
		return done, err
	}
	local := map[string]bool{}
	for _, f := range files {
		local[f.path] = true
		old, ok := there[f.path]
		data, head := heads[f.path]
		if ok && old.Size == f.size && (!head || old.ETag == digest(data)) {
			continue
		}
		if !head {
			if data, err = ReadAll(ctx, from, f.path, f.size); err != nil {
				return done, err
			}
		}
		if err := b.put(ctx, f.path, data); err != nil {
			return done, err
		}
		done.Put++
		done.Bytes += int64(len(data))
	}
	for path := range there {
		if _, ok := order(path); !ok || local[path] {
			continue
		}
		if err := b.remove(ctx, path); err != nil {
			return done, err
		}
		done.Removed++
	}
	return done, nil
}

// digest is the ETag of an object that was put in one piece.
func digest(data []byte) string {
	sum := md5.Sum(data)
	return hex.EncodeToString(sum[:])
}

// standing lists a folder and reads its files that change, all as of one instant: a
// publisher writes files before what refers to them, so at every instant a tree is whole.
func (b *Bucket) standing(ctx context.Context, from FolderSource, order Order) (files []localFile, heads map[string][]byte, err error) {
	const tries = 20
	if files, err = from.files(order); err != nil {
		return nil, nil, err
	}
	for range tries {
		heads, err = b.readHeads(ctx, from, files)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrTooLarge) {
			return nil, nil, err
		}
		again, err2 := from.files(order)
		if err2 != nil {
			return nil, nil, err2
		}
		if err == nil && slices.Equal(files, again) {
			return files, heads, nil
		}
		files = again
	}
	return nil, nil, errors.New("the folder changes all the time")
}

// readHeads reads the files that may change.
func (b *Bucket) readHeads(ctx context.Context, from FolderSource, files []localFile) (map[string][]byte, error) {
	heads := map[string][]byte{}
	for _, f := range files {
		if _, cacheControl, _ := b.headers(f.path); isImmutable(cacheControl) {
			continue
		}
		data, err := ReadAll(ctx, from, f.path, f.size)
		if err != nil {
			return nil, err
		}
		heads[f.path] = data
	}
	return heads, nil
}
