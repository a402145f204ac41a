package server

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"

	"bluekey/export/exportlog"
	"bluekey/keystore/desk"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
)

// public is the handler of the public listener. A connection over HTTP/2 brings up to 16
// requests, each of which may hold some 70 KB until the time for it is up, so their number
// is bounded beside that of connections.
func (s *Server) public() http.Handler {
	return s.counted(newRoom(http.HandlerFunc(s.route), 2*s.cfg.MaxConns))
}

func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/adoption.json" && s.cfg.Adoption != nil {
		s.cfg.Adoption.ServeHTTP(w, r)
		return
	}
	if door, ok := s.cfg.Doors[r.URL.Path]; ok {
		door.ServeHTTP(w, r)
		return
	}
	service, _, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if h := s.calls[service]; ok && h != nil {
		if r.Method == http.MethodGet && service == bluekeyv1connect.ExportServiceName {
			// As long as the index, from which these calls answer.
			index, _ := exportlog.Lookup(exportlog.IndexPath)
			w.(*answer).cache = index.CacheControl
		}
		h.ServeHTTP(w, r)
		return
	}
	s.files.ServeHTTP(w, r)
}

// CodeAPI answers CodeService, under its full path, in the name of an officer: the console
// hands it to laboratory systems that have a key.
func (s *Server) CodeAPI(officer string) http.Handler {
	_, h := bluekeyv1connect.NewCodeServiceHandler(codeService{s.cfg.Store, s.cfg.Office, officer}, s.options())
	return newGate(h, make(chan struct{}, s.cfg.MaxInFlight))
}

// admin is the handler of the unix socket.
func (s *Server) admin() http.Handler {
	mux := http.NewServeMux()
	prefix, h := bluekeyv1connect.NewCodeServiceHandler(codeService{s.cfg.Store, s.cfg.Office, desk.Local}, s.options())
	gate := make(chan struct{}, s.cfg.MaxInFlight)
	mux.Handle(prefix, newGate(h, gate))
	prefix, h = bluekeyv1connect.NewAdminServiceHandler(adminService{s.cfg.RotateSigner, s.cfg.CloseLog, s.cfg.Invite, s.cfg.Office}, s.options())
	mux.Handle(prefix, newGate(h, gate))
	return s.counted(mux)
}

// counted measures requests and survives handlers that panic.
func (s *Server) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w := newAnswer(rw, s.cfg.WriteTimeout)
		route := s.routeName(r)
		inFlight := s.meters.inFlight.WithLabelValues(route)
		inFlight.Inc()
		defer func() {
			inFlight.Dec()
			p := recover()
			if p != nil && p != http.ErrAbortHandler {
				s.faults.log(route, describe(p))
				w.settle(http.StatusInternalServerError)
			}
			s.meters.requests.WithLabelValues(route, statusName(route, w)).Inc()
			if p != nil {
				// Ends the connection: what was written may be half an answer.
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(w, w.watch(r))
	})
}

// describe tells where a handler panicked. A stack as the runtime prints it shows the
// arguments of functions, and a value may hold anything: neither belongs in a log.
func describe(p any) error {
	what := fmt.Sprintf("%T", p)
	if e, ok := p.(runtime.Error); ok {
		what = e.Error()
	}
	var callers [32]uintptr
	frames := runtime.CallersFrames(callers[:runtime.Callers(3, callers[:])])
	for {
		f, more := frames.Next()
		what += fmt.Sprintf(" < %s:%d", f.Function, f.Line)
		if !more {
			return errors.New("panic: " + what)
		}
	}
}

// routeName names the route of a request from a closed list, so that no client makes up
// labels.
func (s *Server) routeName(r *http.Request) string {
	path := strings.TrimPrefix(r.URL.Path, "/")
	switch path {
	case "":
		return "/"
	case strings.TrimPrefix(bluekeyv1connect.PhoneServiceExchangeProcedure, "/"):
		return phoneRoute
	}
	if _, ok := s.cfg.Doors[r.URL.Path]; ok {
		return doorRoute
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

// doorRoute is the route of whatever comes to a door.
const doorRoute = "door"

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
	case route == phoneRoute || route == doorRoute:
		return "answered"
	}
	return fmt.Sprint(max(w.status, http.StatusOK))
}
