package server

import (
	"bytes"
	"container/list"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"bluekey/export/exportlog"
)

const (
	// maxDocument is the largest file served from memory: an index of 16 MB lists ten
	// thousand exports, and bundles of entries stay below it in practice.
	maxDocument = exportlog.MaxIndex
	// documentsSize bounds the memory of all of them, all encodings counted.
	documentsSize = 64 << 20
)

// documents keeps the small files of the tree in memory with their encodings, each as
// long as the file it came from is the same; those not asked for the longest go first.
type documents struct {
	mu    sync.Mutex
	known map[string]*list.Element // of *document
	order *list.List               // most recently used first
	size  int
}

// document is one version of one file.
type document struct {
	path     string
	info     fs.FileInfo
	once     sync.Once
	variants []variant // as it is first, then by falling preference
	err      error
	size     int
}

// variant is one encoding of a document. Each has an ETag of its own: a range of one
// must never be joined to a range of another.
type variant struct {
	encoding string // empty: as it is
	body     []byte
	etag     string
}

func newDocuments() *documents {
	return &documents{known: map[string]*list.Element{}, order: list.New()}
}

// get gives the document for the open file, encoding it if it is new. Only one caller
// does that work, the others wait for it.
func (d *documents) get(path string, info fs.FileInfo, file io.Reader, compress bool) (*document, error) {
	d.mu.Lock()
	e, ok := d.known[path]
	if ok && sameVersion(e.Value.(*document).info, info) {
		d.order.MoveToFront(e)
	} else {
		if ok {
			d.drop(e)
		}
		e = d.order.PushFront(&document{path: path, info: info})
		d.known[path] = e
	}
	doc := e.Value.(*document)
	d.mu.Unlock()

	doc.once.Do(func() { d.fill(doc, file, compress) })
	return doc, doc.err
}

// fill reads and encodes a document and makes room for it.
func (d *documents) fill(doc *document, file io.Reader, compress bool) {
	body, err := readAll(file, maxDocument)
	if err == nil {
		doc.variants = encode(body, compress)
	}
	doc.err = err
	size := 0
	for _, v := range doc.variants {
		size += len(v.body)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.known[doc.path]
	if !ok || e.Value != doc {
		return // replaced or dropped meanwhile: it serves those who wait for it, and goes
	}
	if err != nil {
		d.drop(e)
		return
	}
	doc.size = size
	d.size += size
	for d.size > documentsSize && d.order.Back() != e {
		d.drop(d.order.Back())
	}
}

func (d *documents) drop(e *list.Element) {
	doc := d.order.Remove(e).(*document)
	delete(d.known, doc.path)
	d.size -= doc.size
}

// sameVersion compares what a rename into place changes.
func sameVersion(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// encode makes the variants of a body. An encoding that does not pay is left out.
func encode(body []byte, compress bool) []variant {
	digest := sha256.Sum256(body)
	variants := []variant{{body: body, etag: fmt.Sprintf(`"%x"`, digest[:16])}}
	if !compress {
		return variants
	}
	for _, enc := range []struct {
		name string
		run  func([]byte) []byte
	}{{"zstd", zstdBytes}, {"gzip", gzipBytes}} {
		if b := enc.run(body); len(b) < len(body)-len(body)/16 {
			variants = append(variants, variant{enc.name, b, fmt.Sprintf(`"%x-%s"`, digest[:16], enc.name)})
		}
	}
	return variants
}

var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	// One goroutine, no state between calls: EncodeAll may be called by many.
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err) // only for options that contradict each other
	}
	return e
})

func zstdBytes(b []byte) []byte { return zstdEncoder().EncodeAll(b, nil) }

func gzipBytes(b []byte) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, 9)
	if err != nil {
		panic(err) // only for a level that does not exist
	}
	// A bytes.Buffer takes every write.
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

// choose picks the variant for the Accept-Encoding values of a request (RFC 9110,
// section 12.5.3): the highest weight, ours breaking ties. A client that takes none gets
// the file as it is.
func (d *document) choose(accept []string) *variant {
	weights := weigh(accept)
	best, bestWeight := &d.variants[0], -1
	for i := range d.variants {
		v := &d.variants[i]
		w, ok := weights[v.encoding]
		if !ok {
			w, ok = weights["*"]
		}
		if !ok && v.encoding == "" {
			w = 1 // the file as it is, below anything asked for by name
		}
		// From the second on the list falls in preference; the first is the fallback.
		if w > 0 && (w > bestWeight || best.encoding == "" && w == bestWeight) {
			best, bestWeight = v, w
		}
	}
	return best
}

// weigh reads Accept-Encoding into thousandths by encoding; "identity" is the empty
// encoding. What is not understood is left out.
func weigh(accept []string) map[string]int {
	weights := map[string]int{}
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		name, params, _ := strings.Cut(part, ";")
		name = strings.ToLower(strings.TrimSpace(name))
		weight := 1000
		if q, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(params)), "q="); ok {
			weight = thousandths(q)
		}
		switch name {
		case "":
			continue
		case "identity":
			name = ""
		case "x-gzip":
			name = "gzip"
		}
		weights[name] = weight
	}
	return weights
}

// thousandths reads a weight: 0 to 1 with at most three decimals. Anything else is 0.
func thousandths(q string) int {
	whole, part, _ := strings.Cut(q, ".")
	if len(part) > 3 || whole != "0" && whole != "1" {
		return 0
	}
	n := 0
	for i := range 3 {
		digit := byte('0')
		if i < len(part) {
			digit = part[i]
		}
		if digit < '0' || digit > '9' {
			return 0
		}
		n = 10*n + int(digit-'0')
	}
	if whole == "1" {
		n += 1000
	}
	return min(n, 1000)
}
