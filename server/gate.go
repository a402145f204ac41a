package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
)

// maxBody is the largest request body in bytes. Requests are never decompressed, so it
// is the largest message too.
const maxBody = 64 << 10

// maxPublicBody is that of the public listener, where the largest is a sealed request in
// JSON, some 3 KB, with room for what is malformed to be named. Bodies are read before a place is taken, so it is what a slow sender can
// make the process hold for each of its streams.
const maxPublicBody = 8 << 10

// A gate stands before the calls of one kind. It reads the whole request before anything
// is decided about it, so that a slow sender holds a connection and nothing else, and
// then lets a bounded number through at once.
type gate struct {
	next  http.Handler
	slots chan struct{} // one taken for each request inside
	most  int64         // bytes of a body
	words *connect.ErrorWriter
}

func newGate(next http.Handler, slots chan struct{}) *gate {
	return &gate{next: next, slots: slots, most: maxBody, words: connect.NewErrorWriter()}
}

var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if compressed(r) {
		g.refuse(w, r, errCompressed)
		return
	}
	// How long a call may take is the server's to say, and these headers are its
	// library's to complain about.
	for _, name := range []string{"Connect-Timeout-Ms", "Grpc-Timeout", "Connect-Protocol-Version"} {
		r.Header.Del(name)
	}
	if r.ContentLength > g.most {
		g.refuse(w, r, errTooLarge)
		return
	}
	body := bodies.Get().(*bytes.Buffer)
	defer bodies.Put(body)
	body.Reset()
	if _, err := body.ReadFrom(http.MaxBytesReader(nil, r.Body, g.most)); err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			g.refuse(w, r, errTooLarge)
		} else {
			g.refuse(w, r, errCut)
		}
		return
	}
	v := &visit{came: time.Now(), leave: sync.OnceFunc(func() { <-g.slots })}
	select {
	case g.slots <- struct{}{}:
		defer v.leave()
	default:
		g.refuse(w, r, errBusy)
		return
	}
	r = r.WithContext(context.WithValue(r.Context(), visitKey{}, v))
	r.Body = io.NopCloser(bytes.NewReader(body.Bytes()))
	r.ContentLength = int64(body.Len())
	g.next.ServeHTTP(w, r)
}

// visit is a request inside a gate.
type visit struct {
	came  time.Time // its last byte
	leave func()    // gives its place free, for who has only to wait still
}

type visitKey struct{}

// visiting is the visit that a call belongs to.
func visiting(ctx context.Context) *visit { return ctx.Value(visitKey{}).(*visit) }

// refuse answers a request that was not read, or not to its end: the rest of it must not
// be taken for the next one, so the connection ends.
func (g *gate) refuse(w http.ResponseWriter, r *http.Request, why *refusal) {
	if why != errBusy && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	if a, ok := w.(*answer); ok && why == errBusy {
		a.shed = true
	}
	// An error here means the client is gone.
	_ = g.words.Write(w, r, why.onWire())
}

// compressed reports whether the request, or any message in it, is declared compressed
// in one of the ways of Connect, gRPC and gRPC-Web.
func compressed(r *http.Request) bool {
	for _, name := range []string{"Content-Encoding", "Connect-Content-Encoding", "Grpc-Encoding"} {
		for _, v := range r.Header[name] {
			if v != "" && v != "identity" {
				return true
			}
		}
	}
	if r.URL.RawQuery == "" {
		return false
	}
	by := r.URL.Query().Get("compression")
	return by != "" && by != "identity"
}

// maxTalks is how many conversations there are at once. Who says nothing in one keeps its
// place until ReadTimeout.
const maxTalks = 16

// A room lets a bounded number of requests in at once, whatever they are.
type room struct {
	next  http.Handler
	slots chan struct{}
	words *connect.ErrorWriter
}

func newRoom(h http.Handler, places int) *room {
	return &room{next: h, slots: make(chan struct{}, places), words: connect.NewErrorWriter()}
}

func (m *room) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	default:
		if a, ok := w.(*answer); ok {
			a.shed = true
		}
		w.Header().Set("Cache-Control", "no-store")
		if m.words.IsSupported(r) {
			_ = m.words.Write(w, r, errBusy.onWire())
			return
		}
		w.Header().Set("Retry-After", "5")
		http.Error(w, errBusy.Error(), http.StatusServiceUnavailable)
		return
	}
	m.next.ServeHTTP(w, r)
}
