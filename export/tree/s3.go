package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// Access is what a bucket is opened with besides its URL. It prints without its secrets.
type Access struct {
	KeyID, Secret string // of an access key; without either a bucket is read as the public reads it
	Token         string // that goes with a temporary access key, else empty
	Region        string // empty means us-east-1, which most servers but Amazon's take
	Endpoint      string // http(s)://host[:port] for URLs that name none; empty means Amazon's
}

// Format implements fmt.Formatter for every verb.
func (a Access) Format(s fmt.State, _ rune) {
	fmt.Fprintf(s, "access key %.4s… (secret)", a.KeyID)
}

// MarshalText implements encoding.TextMarshaler, for logs and JSON.
func (a Access) MarshalText() ([]byte, error) { return []byte(fmt.Sprint(a)), nil }

// Headers gives what the public tree's table says of a path: how it is to be served. A file
// whose Cache-Control says immutable is never replaced by other bytes. ok is false for
// what is no file of the tree.
type Headers func(path string) (contentType, cacheControl string, ok bool)

// Bucket is a tree in a bucket of an S3 server, below a prefix: a Source to audit and to
// mirror from, and through Disk a place to mirror to. One file is one object; a put is
// whole or nothing, and what it returns from is durable. Who may read the bucket is settled
// there, not here.
//
// An object that is removed from a bucket with versions stays in it as an old version, with
// the keys in it. Bluekey's buckets want none.
type Bucket struct {
	client  *minio.Core
	name    string
	prefix  string // without slashes at its ends
	headers Headers
}

// ErrTaken means that an immutable file is in the bucket with other bytes: it was damaged,
// or somebody else publishes there.
var ErrTaken = errors.New("it is there with other bytes and must not change: remove it if it was damaged, and if another server writes there stop one of the two")

var errReadOnly = errors.New("the bucket was opened for reading")

// bucketRetries is how often a request is sent that was not answered, or with a failure
// that passes.
const bucketRetries = 3

// NewBucket opens the tree at s3://bucket[/prefix][?endpoint=https://host[:port]]. Nothing
// is asked of the server yet. headers may be nil where nothing will be written.
func NewBucket(target string, access Access, headers Headers) (*Bucket, error) {
	// No error repeats the URL: people put secrets into URLs.
	bad := errors.New("not the URL of a bucket: want s3://BUCKET[/PREFIX][?endpoint=https://HOST[:PORT]]")
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "s3" || u.User != nil || u.Fragment != "" || s3utils.CheckValidBucketNameStrict(u.Host) != nil {
		return nil, bad
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, bad
	}
	endpoint := access.Endpoint
	for key, values := range query {
		if key != "endpoint" || len(values) != 1 {
			return nil, bad
		}
		endpoint = values[0]
	}
	b := &Bucket{name: u.Host, prefix: strings.Trim(u.Path, "/"), headers: headers}
	if b.prefix != "" && CheckPath(b.prefix) != nil {
		return nil, bad
	}
	if (access.KeyID == "") != (access.Secret == "") {
		return nil, fmt.Errorf("opening %s: the access key has an id or a secret, but not both", b)
	}
	b.client, err = newS3(endpoint, access)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", b, err)
	}
	return b, nil
}

func newS3(endpoint string, access Access) (*minio.Core, error) {
	if endpoint == "" {
		endpoint = "https://s3.amazonaws.com"
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("its endpoint is none: want http(s)://HOST[:PORT]")
	}
	region := access.Region
	if region == "" {
		region = "us-east-1"
	}
	transport := newTransport()
	transport.DisableCompression = true // the length of an answer is that of the file
	core, err := minio.NewCore(u.Host, &minio.Options{
		Creds:      credentials.NewStaticV4(access.KeyID, access.Secret, access.Token),
		Secure:     u.Scheme == "https",
		Region:     region,
		Transport:  transport,
		MaxRetries: bucketRetries,
	})
	if err != nil {
		return nil, errors.New("its endpoint or region cannot be used")
	}
	return core, nil
}

// String is s3://bucket[/prefix].
func (b *Bucket) String() string { return strings.TrimRight("s3://"+b.name+"/"+b.prefix, "/") }

// key is the name of the object that holds the file at path.
func (b *Bucket) key(path string) string { return strings.TrimPrefix(b.prefix+"/"+path, "/") }

// Open implements Source.
func (b *Bucket) Open(ctx context.Context, path string, limit int64) (Blob, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, fileTimeout)
	defer cancel()
	body, info, err := b.get(ctx, path)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if info.Size > limit {
		return nil, tooLarge(path, limit)
	}
	data, err := readBody(body, path, limit)
	if err != nil {
		return nil, err
	}
	return NewBlob(data), nil
}

// get begins to read an object.
func (b *Bucket) get(ctx context.Context, path string) (io.ReadCloser, minio.ObjectInfo, error) {
	body, info, _, err := b.client.GetObject(ctx, b.name, b.key(path), minio.GetObjectOptions{})
	if err != nil {
		return nil, info, b.failed("reading "+path+" from", err)
	}
	return body, info, nil
}

// put writes a file, whole or not at all.
func (b *Bucket) put(ctx context.Context, path string, data []byte) error {
	if b.headers == nil {
		return fmt.Errorf("writing %s to %s: %w", path, b, errReadOnly)
	}
	contentType, cacheControl, ok := b.headers(path)
	if !ok {
		return fmt.Errorf("%s is no file of a public tree", path)
	}
	ctx, cancel := context.WithTimeout(ctx, fileTimeout)
	defer cancel()
	o := minio.PutObjectOptions{ContentType: contentType, CacheControl: cacheControl, SendContentMd5: true, DisableMultipart: true}
	immutable := isImmutable(cacheControl)
	if immutable {
		o.SetMatchETagExcept("*")
	}
	_, err := b.client.Client.PutObject(ctx, b.name, b.key(path), bytes.NewReader(data), int64(len(data)), o)
	if immutable && minio.ToErrorResponse(err).StatusCode == http.StatusPreconditionFailed {
		return b.isThere(ctx, path, data)
	}
	if err != nil {
		return b.failed("writing "+path+" to", err)
	}
	return nil
}

func isImmutable(cacheControl string) bool { return strings.Contains(cacheControl, "immutable") }

// isThere reports an immutable file that has other bytes than these. Most often it has the
// same: they were put before, and the answer was lost.
func (b *Bucket) isThere(ctx context.Context, path string, data []byte) error {
	blob, err := b.Open(ctx, path, int64(len(data)))
	if err != nil && !errors.Is(err, ErrTooLarge) {
		return err
	}
	if err == nil {
		var old []byte
		if old, err = ReadBlob(blob, int64(len(data))); err == nil && bytes.Equal(old, data) {
			return nil
		}
	}
	return fmt.Errorf("writing %s to %s: %w", path, b, ErrTaken)
}

// remove deletes a file. Most servers do not tell whether there was one.
func (b *Bucket) remove(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, fileTimeout)
	defer cancel()
	if err := b.client.Client.RemoveObject(ctx, b.name, b.key(path), minio.RemoveObjectOptions{}); err != nil {
		return b.failed("removing "+path+" from", err)
	}
	return nil
}

// List implements Lister.
func (b *Bucket) List(ctx context.Context, dir string) ([]string, error) {
	prefix := b.key(dir) + "/"
	if dir == "." {
		prefix = b.root()
	} else if err := CheckPath(dir); err != nil {
		return nil, err
	}
	var names []string
	err := b.each(ctx, prefix, false, func(o minio.ObjectInfo) {
		if name := strings.TrimSuffix(strings.TrimPrefix(o.Key, prefix), "/"); name != "" {
			names = append(names, name)
		}
	})
	if err == nil && len(names) == 0 && dir != "." {
		err = fmt.Errorf("listing %s in %s: %w", dir, b, fs.ErrNotExist)
	}
	return names, err
}

// root is what the names of all objects of the tree begin with.
func (b *Bucket) root() string {
	if b.prefix == "" {
		return ""
	}
	return b.prefix + "/"
}

// each calls do for every object whose name begins with prefix, or, unless recursive, for
// every one up to the next slash.
func (b *Bucket) each(ctx context.Context, prefix string, recursive bool, do func(minio.ObjectInfo)) error {
	ctx, cancel := context.WithTimeout(ctx, fileTimeout)
	defer cancel()
	for o := range b.client.Client.ListObjectsIter(ctx, b.name, minio.ListObjectsOptions{Prefix: prefix, Recursive: recursive}) {
		if o.Err != nil {
			return b.failed("listing", o.Err)
		}
		do(o)
	}
	return ctx.Err()
}

// failed says what went wrong, in the server's word for it but not in its sentences: those
// are as long as it likes and may repeat what it was sent.
func (b *Bucket) failed(doing string, err error) error {
	r := minio.ToErrorResponse(err)
	if r.StatusCode == 0 {
		return fmt.Errorf("%s %s: %w", doing, b, err)
	}
	word := r.Code
	if len(word) > 50 || strings.Trim(word, letters) != "" {
		word = http.StatusText(r.StatusCode)
	}
	if r.StatusCode == http.StatusNotFound && r.Code != minio.NoSuchBucket {
		return fmt.Errorf("%s %s: %w", doing, b, fs.ErrNotExist)
	}
	return fmt.Errorf("%s %s: the server answered %d %s", doing, b, r.StatusCode, word)
}

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
