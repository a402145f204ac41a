package server

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"bluekey/export/exportlog"
)

// files serves the public tree: the paths of exportlog's table and nothing else, to GET
// and HEAD. Validators are ETags alone. Modification times are not sent: they differ
// between copies of a tree, and a checkpoint may change twice in the second they count.
type files struct {
	root      *os.Root
	documents *documents
	home      http.Handler // answers "/", nil for none
}

func (f *files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		f.fail(w, http.StatusMethodNotAllowed)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/")
	if path == "" && f.home != nil {
		f.home.ServeHTTP(w, r)
		return
	}
	h.Set("Access-Control-Allow-Origin", "*")
	row, ok := exportlog.Lookup(path)
	// A path that was escaped means a second name for one file, and caches would keep
	// each.
	if !ok || r.URL.RawPath != "" || r.URL.Path == path {
		f.fail(w, http.StatusNotFound)
		return
	}
	var err error
	if row.Class == exportlog.ClassExport {
		err = f.serveExport(w, r, path, row)
	} else {
		err = f.serveDocument(w, r, path, row)
	}
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(path, "exports/"):
		f.fail(w, http.StatusGone)
	case errors.Is(err, fs.ErrNotExist):
		f.fail(w, http.StatusNotFound)
	default:
		// What is wrong with the disk is seen by the store and the publisher, which say
		// so; a line here would be one for each request.
		f.fail(w, http.StatusInternalServerError)
	}
}

// fail answers without a file. Nothing of it is cached, since most absent files are still
// to come; an expired export stays gone.
func (f *files) fail(w http.ResponseWriter, status int) {
	cache := "no-store"
	if status == http.StatusGone {
		cache = "public, max-age=300"
	}
	w.Header().Set("Cache-Control", cache)
	http.Error(w, strings.ToLower(http.StatusText(status)), status)
}

// open opens a regular file of the tree.
func (f *files) open(path string) (*os.File, fs.FileInfo, error) {
	file, err := f.root.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

// serveExport serves a file that is compressed already, from the disk. Its name holds
// the first half of its digest, which is a validator that every copy of the tree shares.
func (f *files) serveExport(w http.ResponseWriter, r *http.Request, path string, row exportlog.Row) error {
	file, _, err := f.open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	head(w, row, `"`+path[strings.LastIndexByte(path, '-')+1:]+`"`)
	http.ServeContent(w, r, "", time.Time{}, file)
	return nil
}

// serveDocument serves a small file from memory, in the best encoding that the client
// takes and that pays.
func (f *files) serveDocument(w http.ResponseWriter, r *http.Request, path string, row exportlog.Row) error {
	file, info, err := f.open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	doc, err := f.documents.get(path, info, file, pays(row))
	if err != nil {
		return err
	}
	v := doc.choose(r.Header.Values("Accept-Encoding"))
	head(w, row, v.etag)
	h := w.Header()
	if len(doc.variants) > 1 {
		h.Set("Vary", "Accept-Encoding")
	}
	if v.encoding != "" {
		h.Set("Content-Encoding", v.encoding)
		// ServeContent leaves the length out when there is an encoding.
		h.Set("Content-Length", strconv.Itoa(len(v.body)))
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(v.body))
	return nil
}

func head(w http.ResponseWriter, row exportlog.Row, etag string) {
	h := w.Header()
	h.Set("Content-Type", row.ContentType)
	h.Set("Cache-Control", row.CacheControl)
	h.Set("Etag", etag)
}

// pays reports whether files of a row are worth compressing: texts are, and tiles as far
// as they are bundles of entries, which the result shows. Pictures are not.
func pays(row exportlog.Row) bool {
	return row.Class == exportlog.ClassTile || row.Class == exportlog.ClassSigner ||
		strings.HasPrefix(row.ContentType, "text/") || row.ContentType == "application/json" ||
		row.ContentType == "image/svg+xml"
}

// readAll reads a file of at most limit bytes.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = errors.New("larger than any file of its kind")
	}
	return b, err
}
