package witness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"
)

// Limits of the service. A request is 7 kB for a log of ours.
const (
	maxJudged    = 64 // checkpoints judged at once; more are told to come again
	maxHeader    = 8 << 10
	readTimeout  = 15 * time.Second // from a request's first byte to its last
	writeTimeout = 30 * time.Second
	idleTimeout  = time.Minute
	endTimeout   = 10 * time.Second // for requests being answered when the process ends
)

// sizeType is the content type of a reply that tells the size of the newest tree.
const sizeType = "text/x.tlog.size"

// Handler serves the two addresses of a witness:
//
//	POST /add-checkpoint                      200 and cosignature lines, or
//	                                          400 404 403 409 422, in this order of checks
//	GET  /<hex SHA-256 of origin>/checkpoint  the newest record
func (w *Witness) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", w.serveAdd)
	mux.HandleFunc("GET /{log}/checkpoint", w.serveRecord)
	return mux
}

func (w *Witness) serveAdd(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxRequest))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		http.Error(rw, fmt.Sprintf("a request of more than %d bytes", maxRequest), http.StatusRequestEntityTooLarge)
		return
	} else if err != nil {
		http.Error(rw, "the request ended early", http.StatusBadRequest)
		return
	}
	select {
	case w.slots <- struct{}{}:
		defer func() { <-w.slots }()
	default:
		rw.Header().Set("Retry-After", "1")
		http.Error(rw, "too many requests at once", http.StatusServiceUnavailable)
		return
	}
	lines, err := w.addCheckpoint(body)
	if refused := (*refusal)(nil); errors.As(err, &refused) {
		refused.write(rw)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Write(lines)
}

func (r *refusal) write(rw http.ResponseWriter) {
	if r.status != http.StatusConflict {
		http.Error(rw, r.Error(), r.status)
		return
	}
	rw.Header().Set("Content-Type", sizeType)
	rw.WriteHeader(r.status)
	fmt.Fprintf(rw, "%d\n", r.size)
}

func (w *Witness) serveRecord(rw http.ResponseWriter, r *http.Request) {
	text := w.held(r.PathValue("log") + "/checkpoint")
	if text == nil {
		http.Error(rw, "this witness has cosigned no such log", http.StatusNotFound)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Header().Set("Cache-Control", "public, max-age=5")
	rw.Write(text)
}

// Run serves on l until ctx is done, and closes l. A Witness runs once; when Run has
// returned, no record is being written.
func (w *Witness) Run(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           w.Handler(),
		ReadHeaderTimeout: readTimeout / 2,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		// What this log would hold is the addresses of clients that misbehave.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serving the witness: %w", err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	err := server.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close() // a client that neither reads nor goes
	}
	<-ended
	// A request whose connection was cut may still be at work. Whoever holds the lock of
	// the records next must not meet it.
	for range cap(w.slots) {
		w.slots <- struct{}{}
	}
	return err
}
