package server

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	v1 "bluekey/server/api/bluekey/v1"
)

// A refusal is an answer that says no. It is the only error whose text leaves the
// process; every other one is logged here and reaches the wire as "internal error".
type refusal struct {
	code   connect.Code
	reason string // stable, for programs: Refusal.reason
	text   string // for people, ending with what to do
	field  string
	index  int // of the repeated value that is wrong, or -1
	retry  bool
}

func (r *refusal) Error() string { return r.reason + ": " + r.text }

// onWire is the error as Connect sends it, with its Refusal detail.
func (r *refusal) onWire() *connect.Error {
	e := connect.NewError(r.code, errors.New(r.Error()))
	msg := &v1.Refusal{Reason: r.reason, Field: r.field, Retry: r.retry}
	if r.index >= 0 {
		msg.Index = proto.Uint32(uint32(r.index))
	}
	if d, err := connect.NewErrorDetail(msg); err == nil {
		e.AddDetail(d)
	}
	if r.retry {
		e.Meta().Set("Retry-After", "5")
	}
	return e
}

func malformed(field, text string) *refusal {
	return &refusal{code: connect.CodeInvalidArgument, reason: "malformed", text: text, field: field, index: -1}
}

var (
	errBusy = &refusal{code: connect.CodeUnavailable, reason: "busy", index: -1, retry: true,
		text: "too many requests at once; send this one again in a few seconds"}
	errNotFound = &refusal{code: connect.CodeNotFound, reason: "not_found", index: -1,
		text: "there is no such export; list the exports for those within retention"}
	errCompressed = &refusal{code: connect.CodeUnimplemented, reason: "malformed", field: "body", index: -1,
		text: "compressed requests are not read; send the request uncompressed"}
	errTooLarge = malformed("body", "the request is too large")
	errClosed   = &refusal{code: connect.CodeFailedPrecondition, reason: "closed", index: -1,
		text: "this service takes no uploads any more; issue codes at the service that follows"}
	errGone = &refusal{code: connect.CodeCanceled, reason: "gone", index: -1, text: "the client is gone"}
	errCut  = malformed("body", "the request ended early or came too slowly")
)

// strict is the interceptor of every service: it refuses the messages that the codecs
// marked, and lets only refusals out.
type strict struct{ faults *faults }

func (s strict) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if problem := marked(req.Any().(proto.Message)); problem != "" {
			return nil, malformed("", problem).onWire()
		}
		res, err := next(ctx, req)
		if err != nil {
			return nil, s.out(ctx, req.Spec().Procedure, err)
		}
		return res, nil
	}
}

func (s strict) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if err := next(ctx, strictConn{conn}); err != nil {
			return s.out(ctx, conn.Spec().Procedure, err)
		}
		return nil
	}
}

func (s strict) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// strictConn refuses marked messages of a stream.
type strictConn struct{ connect.StreamingHandlerConn }

func (c strictConn) Receive(m any) error {
	if err := c.StreamingHandlerConn.Receive(m); err != nil {
		return err
	}
	if problem := marked(m.(proto.Message)); problem != "" {
		return malformed("", problem)
	}
	return nil
}

// out turns what a handler returned into what the client may see.
func (s strict) out(ctx context.Context, procedure string, err error) error {
	var r *refusal
	if errors.As(err, &r) {
		return r.onWire()
	}
	if ctx.Err() != nil {
		return connect.NewError(connect.CodeCanceled, errors.New("the request was given up"))
	}
	s.faults.log(procedure, err)
	return connect.NewError(connect.CodeInternal, errors.New("internal error"))
}

// faults logs errors that are the server's own, at most one line a minute: a line for
// each failed request would tell when requests came.
type faults struct {
	logger *slog.Logger

	mu     sync.Mutex
	next   time.Time
	hidden int
}

func (f *faults) log(route string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Before(f.next) {
		f.hidden++
		return
	}
	f.logger.Error("request failed", "route", route, "err", err, "unlogged", f.hidden)
	f.next, f.hidden = now.Add(time.Minute), 0
}
