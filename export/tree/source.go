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
	"path/filepath"
	"strings"
	"time"
)

// Source is a tree to read from: a folder, a web server, a bucket behind one.
type Source interface {
	// Open opens the file at path, of at most limit bytes. A file that is missing or has
	// expired is fs.ErrNotExist.
	Open(ctx context.Context, path string, limit int64) (Blob, error)
	// String names the source for people.
	String() string
}

// Lister is a Source that knows what is in it.
type Lister interface {
	// List names what lies in a folder, in any order; a missing one is fs.ErrNotExist.
	List(ctx context.Context, dir string) ([]string, error)
}

// ErrTooLarge means that a file is larger than any of its kind may be.
var ErrTooLarge = errors.New("the file is too large")

func tooLarge(path string, limit int64) error {
	return fmt.Errorf("%s: %w: more than the %d bytes allowed", path, ErrTooLarge, limit)
}

// ReadAll reads one file of a source, at most limit bytes.
func ReadAll(ctx context.Context, s Source, path string, limit int64) ([]byte, error) {
	blob, err := s.Open(ctx, path, limit)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	data, err := ReadBlob(blob, limit)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return data, nil
}

// OpenSource reads a target as people write it: the URL of a bucket (s3://), for which
// access is, or what NewSource takes.
func OpenSource(target string, access Access) (Source, error) {
	if strings.HasPrefix(target, "s3://") {
		return NewBucket(target, access, nil)
	}
	return NewSource(target)
}

// OpenSources opens several.
func OpenSources(targets []string, access Access) ([]Source, error) {
	var sources []Source
	for _, target := range targets {
		s, err := OpenSource(target, access)
		if err != nil {
			return nil, err
		}
		sources = append(sources, s)
	}
	return sources, nil
}

// NewSource reads a target as people write it: an http or https URL, or a folder.
func NewSource(target string) (Source, error) {
	if !IsURL(target) {
		return FolderSource(target), nil
	}
	u, err := url.Parse(target)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%q is not the URL of a tree: want http(s)://host[/path]", target)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	return &webSource{base: u, client: newClient()}, nil
}

// IsURL reports whether a target is a URL rather than a path.
func IsURL(target string) bool {
	return strings.HasPrefix(target, "http://") || strings.HasPrefix(target, "https://")
}

// FolderSource is a tree in a folder of the operating system's disk.
type FolderSource string

func (s FolderSource) String() string { return string(s) }

func (s FolderSource) Open(_ context.Context, path string, limit int64) (Blob, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	blob, err := Disk{}.Open(filepath.Join(string(s), filepath.FromSlash(path)))
	if err != nil {
		return nil, err
	}
	if blob.Size() > limit {
		blob.Close()
		return nil, tooLarge(path, limit)
	}
	return blob, nil
}

// List implements Lister.
func (s FolderSource) List(_ context.Context, dir string) ([]string, error) {
	if dir != "." {
		if err := CheckPath(dir); err != nil {
			return nil, err
		}
	}
	return Disk{}.List(filepath.Join(string(s), filepath.FromSlash(dir)))
}

// webSource is a tree behind a web server. It trusts the server with nothing: not to stop
// sending, not to answer, not to stay at its address.
type webSource struct {
	base   *url.URL
	client *http.Client
}

const (
	answerTimeout = 30 * time.Second // until the header of a reply is there
	fileTimeout   = 10 * time.Minute // for one whole file
)

func newTransport() *http.Transport {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = answerTimeout
	transport.MaxIdleConnsPerHost = 8
	return transport
}

func newClient() *http.Client {
	return &http.Client{
		Transport: newTransport(),
		Timeout:   fileTimeout,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme {
				return fmt.Errorf("redirected to another place, %s://%s", req.URL.Scheme, req.URL.Host)
			}
			if len(via) >= 5 {
				return errors.New("redirected too often")
			}
			return nil
		},
	}
}

func (s *webSource) String() string { return s.base.String() }

func (s *webSource) Open(ctx context.Context, path string, limit int64) (Blob, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	u := *s.base
	u.Path += "/" + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusGone:
		return nil, fmt.Errorf("reading %s: %s: %w", path, resp.Status, fs.ErrNotExist)
	default:
		return nil, fmt.Errorf("reading %s: the server answered %s", path, resp.Status)
	}
	data, err := readBody(resp.Body, path, limit)
	if err != nil {
		return nil, err
	}
	return NewBlob(data), nil
}

// readBody reads a file of at most limit bytes from a connection.
func readBody(r io.Reader, path string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(data)) > limit {
		return nil, tooLarge(path, limit)
	}
	return data, nil
}

// NewBlob makes a Blob of bytes in memory.
func NewBlob(data []byte) Blob { return memoryBlob{bytes.NewReader(data)} }

type memoryBlob struct{ *bytes.Reader }

func (memoryBlob) Close() error { return nil }
