package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
)

// Listeners are where a server listens. Run closes them. Those that are nil are not
// served.
type Listeners struct {
	Public net.Listener // phones, mirrors, everybody
	Ops    net.Listener // those who operate the machine; keep it on loopback
	Admin  net.Listener // local administration, from ListenAdmin
}

// Run serves until ctx ends or a listener fails, then takes no new request, lets those
// in flight finish and returns. While it does so /readyz says so. No request is inside when
// it has returned, so that the store may be closed. It returns nil after a clean end. A
// server runs once.
func (s *Server) Run(ctx context.Context, l Listeners) error {
	defer s.root.Close()
	var running []*http.Server
	failed := make(chan error, 3)
	start := func(name string, l net.Listener, h http.Handler) *http.Server {
		if l == nil {
			return nil
		}
		srv := s.httpServer(h)
		go func() {
			err := srv.Serve(l)
			if errors.Is(err, http.ErrServerClosed) {
				err = nil
			} else {
				err = fmt.Errorf("serving %s: %w", name, err)
			}
			failed <- err
		}()
		running = append(running, srv)
		return srv
	}
	if l.Public != nil {
		l.Public = newCapListener(l.Public, s.cfg.MaxConns, &s.open)
		if c := s.cfg.Certificate; c != nil {
			l.Public = tls.NewListener(l.Public, c.config())
		}
	}
	start("the public listener", l.Public, s.public())
	start("the admin socket", l.Admin, s.admin())
	ops := start("the operations listener", l.Ops, s.ops())

	var err error
	stopped := 0
	select {
	case <-ctx.Done():
	case err = <-failed:
		stopped = 1
	}
	s.draining.Store(true)
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.ShutdownTimeout)
	defer cancel()
	for _, srv := range running {
		if srv != ops {
			err = errors.Join(err, end(limit, srv))
		}
	}
	if ops != nil {
		err = errors.Join(err, end(limit, ops))
	}
	for ; stopped < len(running); stopped++ {
		err = errors.Join(err, <-failed)
	}
	s.inside.Lock()
	return err
}

// guarded lets requests in as long as Run has not ended. One whose connection was cut at
// the end may be on its way still.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.inside.TryRLock() {
			panic(http.ErrAbortHandler)
		}
		defer s.inside.RUnlock()
		next.ServeHTTP(w, r)
	})
}

// end stops a server: no new requests, a wait for those in flight, and then the hard way.
func end(limit context.Context, srv *http.Server) error {
	err := srv.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		return srv.Close()
	}
	return err
}

func (s *Server) httpServer(h http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // gRPC clients and reflection need it
	return &http.Server{
		Handler:   s.guarded(h),
		Protocols: protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 16,
			// A frame has its whole length in memory when its first nine bytes have come, and
			// what no handler reads is kept until the answer is out. By default that is 1 MB.
			MaxReadFrameSize:              16 << 10,
			MaxReceiveBufferPerStream:     16 << 10,
			MaxReceiveBufferPerConnection: 64 << 10,
			// The deadlines of answers reset a stream. Who reads nothing at all would not see that.
			WriteByteTimeout: s.cfg.WriteTimeout,
		},
		ReadHeaderTimeout: s.cfg.ReadTimeout / 2,
		ReadTimeout:       s.cfg.ReadTimeout,
		WriteTimeout:      s.cfg.WriteTimeout,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    16 << 10,
		// Its lines name the addresses of clients, and what they tell is counted.
		ErrorLog: log.New(io.Discard, "", 0),
	}
}
