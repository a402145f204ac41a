package server

import (
	"io"
	"math"
	"net/http"
	"sync/atomic"
	"time"
)

// piece is how much of an answer is written under one deadline, in bytes.
const piece = 256 << 10

// answer is a ResponseWriter that remembers its status and gives each piece a deadline of
// its own, so that a long download may last while a stalled one may not. It ends the
// connection of a request that was cut off.
type answer struct {
	http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration // how long one piece may take
	status   int           // 0 until the header is written
	cache    string        // Cache-Control of an answer of 200, empty for whatever the handler set
	shed     bool          // refused by a gate before it was looked at
	cut      atomic.Bool   // the body of the request did not come to its end
}

func newAnswer(w http.ResponseWriter, patience time.Duration) *answer {
	return &answer{ResponseWriter: w, control: http.NewResponseController(w), patience: patience}
}

// watch gives the request that is answered for a handler to read. It is a copy, because the
// library looks at the body of its own to see what was left unread.
func (a *answer) watch(r *http.Request) *http.Request {
	r = r.WithContext(r.Context())
	r.Body = &watchedBody{r.Body, &a.cut}
	return r
}

// watchedBody notes that a body was cut off.
type watchedBody struct {
	io.ReadCloser
	cut *atomic.Bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.cut.Store(true)
	}
	return n, err
}

func (a *answer) WriteHeader(status int) {
	a.settle(status)
	a.ResponseWriter.WriteHeader(status)
}

// settle notes the status, when there is one for the first time.
func (a *answer) settle(status int) {
	if a.status != 0 {
		return
	}
	a.status = status
	if a.cut.Load() {
		// Over HTTP/2 it would be an idle one now, for as long as those may last.
		a.Header().Set("Connection", "close")
	}
	if h := a.Header(); status >= http.StatusBadRequest && h.Get("Etag") != "" {
		// A condition failed under the headers of the file itself, and caches would keep that
		// as long as the file.
		for _, name := range []string{"Etag", "Content-Encoding", "Content-Length"} {
			h.Del(name)
		}
		h.Set("Cache-Control", "no-store")
	}
	if a.cache != "" && status == http.StatusOK {
		a.Header().Set("Cache-Control", a.cache)
	}
}

func (a *answer) Write(b []byte) (n int, err error) {
	for {
		a.begin()
		m, err := a.ResponseWriter.Write(b[n:min(n+piece, len(b))])
		n += m
		if err != nil || n == len(b) {
			return n, err
		}
	}
}

// ReadFrom keeps the way open for sendfile, which sees through one LimitedReader.
func (a *answer) ReadFrom(src io.Reader) (n int64, err error) {
	whole, ok := src.(*io.LimitedReader)
	if !ok {
		whole = &io.LimitedReader{R: src, N: math.MaxInt64}
	}
	for whole.N > 0 {
		a.begin()
		m, err := io.Copy(a.ResponseWriter, &io.LimitedReader{R: whole.R, N: min(whole.N, piece)})
		n, whole.N = n+m, whole.N-m
		if err != nil || m == 0 {
			return n, err
		}
	}
	return n, nil
}

// begin starts a piece.
func (a *answer) begin() {
	a.settle(http.StatusOK)
	// It fails for connections that have no deadlines, which only tests make.
	_ = a.control.SetWriteDeadline(time.Now().Add(a.patience))
}

// Flush is what Connect's streams ask for.
func (a *answer) Flush() { _ = a.control.Flush() }

func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
