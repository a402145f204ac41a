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
// Bad input is refused before it costs much: a request is read whole, at most 8 KB and
// never decompressed, within a time limit, before it takes one of a bounded number of
// places.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	"bluekey/keystore"
	"bluekey/keystore/desk"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
)

// Config says what a server serves. Store, Tree and Keys must be set.
type Config struct {
	// Store takes the uploads, and its desk issues the codes.
	Store *keystore.Store
	// Office writes the journal of codes; nil means one over the store's desk.
	Office *desk.Office
	// Adoption answers /adoption.json; nil means there is none.
	Adoption http.Handler
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
	// Behind is for how long the bucket that gets the tree too has lacked something; nil
	// means there is none.
	Behind func() time.Duration

	// RotateSigner answers the call of that name on the unix socket; nil means that
	// nothing signs here.
	RotateSigner func(ctx context.Context, version string, from, retire time.Time) error
	// CloseLog answers the call of that name: it returns by when the log is closed, or zero
	// if it is. nil means that there is no log here.
	CloseLog func(ctx context.Context, policy, opening []byte) (by time.Time, err error)

	// Keys are those that phones seal and redeem with.
	Keys *PhoneKeys
	// ReplyAfter is when replies to phones leave, after the last byte of the request, or at
	// its next multiple; 0 is at once, which lets time tell requests apart.
	ReplyAfter time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	// Invite answers the call of that name: it makes a link for a new account of the
	// console. nil means that there is no console here.
	Invite func(role, unit string) (url string, expires time.Time, err error)

	// Certificate is what the public listener ends TLS with; nil means that something in
	// front of it does, or nothing.
	Certificate *Certificate
	// Doors answer apps that speak another protocol, by path. Each limits for itself what it
	// reads and how much it does at once.
	Doors map[string]http.Handler

	// MaxConns bounds the open connections of the public listener; 0 means 4096. Those
	// beyond it wait in the kernel's queue. Twice as many requests are being read or answered
	// at once, of all connections together; those beyond are refused as busy.
	MaxConns int
	// MaxInFlight bounds the requests of the phone service being worked on at once, and as
	// many again of each other service; those beyond are refused as busy. 0 means 512.
	MaxInFlight int
	// ReadTimeout bounds the time from a request's first byte to its last; 0 means 15 s.
	ReadTimeout time.Duration
	// WriteTimeout bounds the time that 256 KB of an answer may take; 0 means 30 s.
	WriteTimeout time.Duration
	// IdleTimeout bounds the wait for the next request of a connection; 0 means 60 s.
	IdleTimeout time.Duration
	// ShutdownTimeout bounds the wait for requests being answered at the end; 0 means
	// 20 s. What takes longer loses its connection.
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
	inside   sync.RWMutex // held for reading by every request, for good by Run when it ends
}

// New prepares a server.
func New(cfg Config) (*Server, error) {
	cfg.MaxConns = cmp.Or(cfg.MaxConns, 4096)
	cfg.MaxInFlight = cmp.Or(cfg.MaxInFlight, 512)
	cfg.ReadTimeout = cmp.Or(cfg.ReadTimeout, 15*time.Second)
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, 30*time.Second)
	cfg.IdleTimeout = cmp.Or(cfg.IdleTimeout, time.Minute)
	cfg.ShutdownTimeout = cmp.Or(cfg.ShutdownTimeout, 20*time.Second)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Office == nil {
		var err error
		if cfg.Office, err = desk.OpenOffice(cfg.Store.Desk()); err != nil {
			return nil, err
		}
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

// ready is nil while uploads are taken and exports are made.
func (s *Server) ready() error {
	if s.draining.Load() {
		return errors.New("shutting down")
	}
	if err := s.cfg.Store.Healthy(); err != nil {
		return err
	}
	if _, retired := s.cfg.Store.Retired(); retired {
		return errors.New("closed: another service follows this one, and uploads go there; files are served on")
	}
	if s.cfg.Ready != nil {
		if err := s.cfg.Ready(); err != nil {
			return err
		}
	}
	return s.cfg.Keys.Ready()
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
	// Each service has places of its own: a reply that nobody reads keeps one for a while.
	places := func() chan struct{} { return make(chan struct{}, s.cfg.MaxInFlight) }
	add := func(prefix string, h http.Handler) {
		g := newGate(h, places())
		g.most = maxPublicBody
		calls[strings.Trim(prefix, "/")] = g
	}
	asTheyAre := connect.WithCompression("gzip", nil, nil)
	// Replies of the phone service stay as they are: a compressed one would show its
	// content by its length.
	add(bluekeyv1connect.NewPhoneServiceHandler(&phoneService{
		keys: s.cfg.Keys, store: s.cfg.Store, delay: s.cfg.ReplyAfter, now: s.cfg.Now,
	}, s.options(), asTheyAre))
	// So do exports, which are compressed in themselves.
	add(bluekeyv1connect.NewExportServiceHandler(&exportService{files: s.files, sending: places()}, s.options(),
		connect.WithConditionalHandlerOptions(func(call connect.Spec) []connect.HandlerOption {
			if call.Procedure == bluekeyv1connect.ExportServiceFetchExportProcedure {
				return []connect.HandlerOption{asTheyAre}
			}
			return nil
		})))
	add(grpchealth.NewHandler(health{s}, connect.WithReadMaxBytes(maxBody)))

	// Reflection is a conversation, so it cannot be read to its end first. Its messages are
	// limited one by one.
	reflector := grpcreflect.NewStaticReflector(bluekeyv1connect.PhoneServiceName, bluekeyv1connect.ExportServiceName, grpchealth.HealthV1ServiceName)
	prefix, h := grpcreflect.NewHandlerV1(reflector, connect.WithReadMaxBytes(maxBody))
	calls[strings.Trim(prefix, "/")] = newRoom(h, maxTalks)
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
