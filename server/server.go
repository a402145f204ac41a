// Package server is everything of bluekey that speaks HTTP: the calls of the phone and
// export services (Connect, gRPC and plain JSON over one set of handlers), the public
// tree as static files, local administration over a unix socket, and the listener for
// those who operate the machine.
//
//	public   bluekey.v1.PhoneService, bluekey.v1.ExportService, health, reflection,
//	         and every path of the public tree
//	admin    bluekey.v1.CodeService, on a unix socket with mode 0600
//	ops      /livez, /readyz, /metrics
//
// It is the only package that sees a request, and nothing below it is given one: no inner
// package can know an address. It keeps none itself. No log line is written for a request
// that a client sent, not even for a wrong one; failures of the server's own are logged
// with their route at most once a minute.
//
// Bad input is refused before it costs much: a request is read whole, at most 64 KB and
// never decompressed, within a time limit, before it takes one of a bounded number of
// places.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	"bluekey/export/exportlog"
	"bluekey/keystore"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
)

// Config says what a server serves. Store and Tree must be set.
type Config struct {
	// Store takes the uploads, and its desk issues the codes.
	Store *keystore.Store
	// Tree is the folder of the public tree. It must exist.
	Tree string
	// Home answers "/", the page for people; nil means there is none.
	Home http.Handler
	// Ready says what besides the store keeps the server from doing its work, such as a
	// publication that cannot be written; nil means nothing can.
	Ready func() error
	// Published says when the last publication was made (zero before the first) and how
	// long its oldest key had been due; nil means nobody publishes here.
	Published func() (at time.Time, delay time.Duration)

	// MaxConns bounds the open connections of the public listener; 0 means 4096. Those
	// beyond it wait in the kernel's queue.
	MaxConns int
	// MaxInFlight bounds the requests of the phone service being answered at once, and
	// as many again of all other calls; those beyond are refused as busy. 0 means 512.
	MaxInFlight int
	// ReadTimeout bounds the time from a request's first byte to its last; 0 means 15 s.
	ReadTimeout time.Duration
	// IdleTimeout bounds the wait for the next request of a connection; 0 means 60 s.
	IdleTimeout time.Duration
	// ShutdownTimeout bounds the wait for requests being answered at the end; 0 means
	// 20 s. What takes longer is cut off.
	ShutdownTimeout time.Duration

	// Logger hears of failures; nil means slog.Default.
	Logger *slog.Logger
}

// Server serves what its Config says. It owns no listener and no goroutine until Run.
type Server struct {
	cfg      Config
	root     *os.Root
	faults   *faults
	meters   *meters
	files    *files
	calls    map[string]http.Handler // public services by name
	open     atomic.Int64            // public connections
	draining atomic.Bool
}

// New prepares a server.
func New(cfg Config) (*Server, error) {
	setDefault(&cfg.MaxConns, 4096)
	setDefault(&cfg.MaxInFlight, 512)
	setDefault(&cfg.ReadTimeout, 15*time.Second)
	setDefault(&cfg.IdleTimeout, time.Minute)
	setDefault(&cfg.ShutdownTimeout, 20*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	// A Root cannot be left, whatever links lie in the tree.
	root, err := os.OpenRoot(cfg.Tree)
	if err != nil {
		return nil, fmt.Errorf("opening the public tree: %w", err)
	}
	s := &Server{
		cfg:    cfg,
		root:   root,
		faults: &faults{logger: cfg.Logger},
		files:  &files{root: root, documents: newDocuments(), home: cfg.Home},
	}
	s.meters = newMeters(s)
	s.calls = s.publicCalls()
	return s, nil
}

func setDefault[T comparable](v *T, d T) {
	if *v == *new(T) {
		*v = d
	}
}

// ready is nil while uploads are taken and exports are made.
func (s *Server) ready() error {
	if s.draining.Load() {
		return errors.New("shutting down")
	}
	if err := s.cfg.Store.Healthy(); err != nil {
		return err
	}
	if s.cfg.Ready != nil {
		return s.cfg.Ready()
	}
	return nil
}

// options are those of every service of ours.
func (s *Server) options() connect.HandlerOption {
	return connect.WithHandlerOptions(
		connect.WithCodec(binaryCodec{}),
		connect.WithCodec(jsonCodec{"json"}),
		connect.WithCodec(jsonCodec{"json; charset=utf-8"}),
		connect.WithReadMaxBytes(maxBody),
		connect.WithCompressMinBytes(1<<10),
		connect.WithInterceptors(strict{s.faults}),
	)
}

// publicCalls are the services of the public listener, behind their gates.
func (s *Server) publicCalls() map[string]http.Handler {
	calls := map[string]http.Handler{}
	rest := make(chan struct{}, s.cfg.MaxInFlight)
	add := func(slots chan struct{}) func(string, http.Handler) {
		return func(prefix string, h http.Handler) {
			calls[strings.Trim(prefix, "/")] = newGate(h, slots)
		}
	}
	// Replies of the phone service stay as they are: a compressed one would show its
	// content by its length.
	add(make(chan struct{}, s.cfg.MaxInFlight))(bluekeyv1connect.NewPhoneServiceHandler(
		phoneService{s.cfg.Store}, s.options(), connect.WithCompression("gzip", nil, nil)))
	add(rest)(bluekeyv1connect.NewExportServiceHandler(&exportService{files: s.files}, s.options()))
	add(rest)(grpchealth.NewHandler(health{s}, connect.WithReadMaxBytes(maxBody)))

	// Reflection is a conversation, so it cannot be read to its end first.
	reflector := grpcreflect.NewStaticReflector(bluekeyv1connect.PhoneServiceName, bluekeyv1connect.ExportServiceName, grpchealth.HealthV1ServiceName)
	prefix, h := grpcreflect.NewHandlerV1(reflector, connect.WithReadMaxBytes(maxBody))
	calls[strings.Trim(prefix, "/")] = &talk{next: h, slots: rest}
	return calls
}

// health is the gRPC health service. It has no Watch: a stream that waits for bad news
// holds a place for nothing.
type health struct{ s *Server }

func (h health) Check(_ context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	switch req.Service {
	case "", bluekeyv1connect.PhoneServiceName, bluekeyv1connect.ExportServiceName:
	default:
		return nil, connect.NewError(connect.CodeNotFound, errors.New("unknown service"))
	}
	if h.s.ready() != nil {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}

// Public is the handler of the public listener.
func (s *Server) Public() http.Handler { return s.counted(http.HandlerFunc(s.route)) }

func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	service, _, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if h := s.calls[service]; ok && h != nil {
		if r.Method == http.MethodGet {
			// As long as the index, from which these calls answer.
			index, _ := exportlog.Lookup(exportlog.IndexPath)
			w.(*answer).cache = index.CacheControl
		}
		h.ServeHTTP(w, r)
		return
	}
	s.files.ServeHTTP(w, r)
}

// Admin is the handler of the unix socket.
func (s *Server) Admin() http.Handler {
	mux := http.NewServeMux()
	prefix, h := bluekeyv1connect.NewCodeServiceHandler(codeService{s.cfg.Store.Desk()}, s.options())
	mux.Handle(prefix, newGate(h, make(chan struct{}, s.cfg.MaxInFlight)))
	return s.counted(mux)
}

// counted measures requests and survives handlers that panic.
func (s *Server) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w := newAnswer(rw)
		route := s.routeName(r)
		inFlight := s.meters.inFlight.WithLabelValues(route)
		inFlight.Inc()
		defer func() {
			inFlight.Dec()
			p := recover()
			if p != nil && p != http.ErrAbortHandler {
				s.faults.log(route, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			}
			s.meters.requests.WithLabelValues(route, statusName(route, w)).Inc()
			if p != nil {
				// Ends the connection: what was written may be half an answer.
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// routeName names the route of a request from a closed list, so that no client makes up
// labels.
func (s *Server) routeName(r *http.Request) string {
	path := strings.TrimPrefix(r.URL.Path, "/")
	switch path {
	case "":
		return "/"
	case strings.TrimPrefix(bluekeyv1connect.PhoneServiceUploadProcedure, "/"):
		return phoneRoute
	}
	service, _, _ := strings.Cut(path, "/")
	if _, ok := s.calls[service]; ok || service == bluekeyv1connect.CodeServiceName {
		return service
	}
	if row, ok := exportlog.Lookup(path); ok {
		return classNames[row.Class]
	}
	return "other"
}

// phoneRoute is the route of whatever a phone sends.
const phoneRoute = "phone"

var classNames = map[exportlog.Class]string{
	exportlog.ClassExport:     "export",
	exportlog.ClassSmall:      "small",
	exportlog.ClassSigner:     "signer",
	exportlog.ClassPolicy:     "policy",
	exportlog.ClassTile:       "tile",
	exportlog.ClassCheckpoint: "checkpoint",
	exportlog.ClassProof:      "proof",
	exportlog.ClassIndex:      "index",
}

func statusName(route string, w *answer) string {
	switch {
	case w.shed:
		return "shed"
	case route == phoneRoute:
		return "answered"
	}
	return fmt.Sprint(max(w.status, http.StatusOK))
}

// Listeners are where a server listens. Run closes them. Those that are nil are not
// served.
type Listeners struct {
	Public net.Listener // phones, mirrors, everybody
	Ops    net.Listener // those who operate the machine; keep it on loopback
	Admin  net.Listener // local administration, from ListenAdmin
}

// Run serves until ctx ends or a listener fails, then takes no new request, lets those
// in flight finish and returns. While it does so /readyz says so. It returns nil after a
// clean end. A server runs once.
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
	}
	start("the public listener", l.Public, s.Public())
	start("the admin socket", l.Admin, s.Admin())
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
	return err
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
	protocols.SetUnencryptedHTTP2(true) // gRPC clients and reflection need it
	return &http.Server{
		Handler:           h,
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 64},
		ReadHeaderTimeout: s.cfg.ReadTimeout / 2,
		ReadTimeout:       s.cfg.ReadTimeout,
		WriteTimeout:      patience,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    16 << 10,
		// Its lines name the addresses of clients, and what they tell is counted.
		ErrorLog: log.New(io.Discard, "", 0),
	}
}
