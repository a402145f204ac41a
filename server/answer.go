package server

import (
	"io"
	"net/http"
	"time"
)

const (
	// patience is how long one write of an answer may take; the next one starts afresh.
	patience = 30 * time.Second
	// slowest is the rate, in bytes a second, below which a download is given up.
	slowest = 8 << 10
)

// answer is a ResponseWriter that remembers its status and gives each write a deadline
// of its own, so that a long download may last while a stalled one may not.
type answer struct {
	http.ResponseWriter
	control *http.ResponseController
	status  int    // 0 until the header is written
	cache   string // Cache-Control of an answer of 200, empty for whatever the handler set
	shed    bool   // refused by a gate before it was looked at
}

func newAnswer(w http.ResponseWriter) *answer {
	return &answer{ResponseWriter: w, control: http.NewResponseController(w)}
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
	if a.cache != "" && status == http.StatusOK {
		a.Header().Set("Cache-Control", a.cache)
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.begin(int64(len(b)))
	return a.ResponseWriter.Write(b)
}

// ReadFrom keeps the way open for sendfile.
func (a *answer) ReadFrom(src io.Reader) (int64, error) {
	var n int64
	if l, ok := src.(*io.LimitedReader); ok {
		n = l.N
	}
	a.begin(n)
	return io.Copy(a.ResponseWriter, src)
}

// begin sets the deadline for a write of n bytes.
func (a *answer) begin(n int64) {
	a.settle(http.StatusOK)
	// It fails for connections that have no deadlines, which only tests make.
	_ = a.control.SetWriteDeadline(time.Now().Add(patience + time.Duration(n/slowest)*time.Second))
}

// Flush is what Connect's streams ask for.
func (a *answer) Flush() { _ = a.control.Flush() }

func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
