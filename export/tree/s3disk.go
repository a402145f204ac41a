package tree

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/minio/minio-go/v7"
)

// Disk is the bucket as an FS, for as long as ctx lasts; its root is ".". A file that is
// created is in memory until it is renamed to its place, which is the put: a bucket has no
// files that are not whole, and no folders.
func (b *Bucket) Disk(ctx context.Context) FS {
	return &bucketDisk{ctx: ctx, bucket: b, created: map[string][]byte{}}
}

// bucketDisk keeps a context although it is a struct: it stands for one pass over a bucket,
// and an FS, which is a disk, has none to give.
type bucketDisk struct {
	ctx    context.Context
	bucket *Bucket

	mu      sync.Mutex
	created map[string][]byte // files that were closed and not renamed yet
}

// path turns a name of the operating system into a path of the tree.
func (d *bucketDisk) path(name string) (string, error) {
	path := filepath.ToSlash(filepath.Clean(name))
	return path, CheckPath(path)
}

func (d *bucketDisk) Create(name string) (File, error) {
	path, err := d.path(name)
	if err != nil {
		return nil, err
	}
	return &bucketFile{disk: d, path: path}, nil
}

func (d *bucketDisk) Rename(from, to string) error {
	source, err := d.path(from)
	if err != nil {
		return err
	}
	target, err := d.path(to)
	if err != nil {
		return err
	}
	data, ok := d.take(source)
	if !ok {
		return fmt.Errorf("renaming %s: %w", from, fs.ErrNotExist)
	}
	return d.bucket.put(d.ctx, target, data)
}

func (d *bucketDisk) Remove(name string) error {
	path, err := d.path(name)
	if err != nil {
		return err
	}
	if _, ok := d.take(path); ok {
		return nil
	}
	return d.bucket.remove(d.ctx, path)
}

func (d *bucketDisk) take(path string) ([]byte, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	data, ok := d.created[path]
	delete(d.created, path)
	return data, ok
}

func (d *bucketDisk) MkdirAll(string) error { return nil }
func (d *bucketDisk) SyncDir(string) error  { return nil }

func (d *bucketDisk) List(dir string) ([]string, error) {
	return d.bucket.List(d.ctx, filepath.ToSlash(filepath.Clean(dir)))
}

// Open asks for the object; its bytes come when they are first read, all of them into
// memory, so that whoever finds the size too large has not fetched it.
func (d *bucketDisk) Open(name string) (Blob, error) {
	path, err := d.path(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(d.ctx, fileTimeout)
	body, info, err := d.bucket.get(ctx, path)
	if err == nil && info.Size < 0 {
		body.Close()
		err = fmt.Errorf("reading %s from %s: the server does not say how large it is", path, d.bucket)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return &bucketBlob{info: info, body: body, cancel: cancel}, nil
}

// bucketFile is a file being created.
type bucketFile struct {
	disk *bucketDisk
	path string
	bytes.Buffer
}

func (f *bucketFile) Sync() error { return nil }

func (f *bucketFile) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.created[f.path] = f.Bytes()
	return nil
}

// bucketBlob is an object being read.
type bucketBlob struct {
	info   minio.ObjectInfo
	cancel context.CancelFunc

	mu   sync.Mutex
	body io.ReadCloser
	data []byte // once read
	err  error
}

func (b *bucketBlob) Size() int64 { return b.info.Size }

func (b *bucketBlob) ReadAt(p []byte, at int64) (int, error) {
	b.mu.Lock()
	if b.data == nil && b.err == nil {
		b.data = make([]byte, b.info.Size)
		_, b.err = io.ReadFull(b.body, b.data)
	}
	b.mu.Unlock()
	if b.err != nil {
		return 0, fmt.Errorf("reading %s: %w", b.info.Key, b.err)
	}
	return bytes.NewReader(b.data).ReadAt(p, at)
}

func (b *bucketBlob) Close() error {
	defer b.cancel()
	return b.body.Close()
}
