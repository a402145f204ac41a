package phone

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"

	bluekeyv1 "bluekey/server/api/bluekey/v1"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

const (
	attempts = 3                // how often a request is sent whose reply is lost
	patience = 30 * time.Second // for one of them
)

// exchanged is a reply that is no refusal, and the keys under which it was asked for.
type exchanged struct {
	reply   permit.Reply
	service permit.Service
	keyring *seal.Keyring
}

// exchange sends one request and gives its reply. Real and cover take this one way, so that
// they behave alike when something goes wrong: a lost reply is asked for again, and where
// the service does not know the sealing key, the keyring is read again, once.
func (c *Client) exchange(ctx context.Context, op permit.Operation, request func(permit.Service) ([]byte, error)) (got exchanged, err error) {
	var stale *seal.Keyring
	for try := 1; ; try++ {
		if got.keyring, err = c.current(ctx, stale); err != nil {
			return got, err
		}
		if got.service, err = permit.NewService(got.keyring.Origin, got.keyring.Region); err != nil {
			return got, err
		}
		plain, err := request(got.service)
		if err != nil {
			return got, err
		}
		key, err := got.keyring.Seal(seal.DayAt(c.Now()))
		if err != nil {
			return got, err
		}
		got.reply, err = c.ask(ctx, key, op, plain)
		switch {
		case errors.Is(err, seal.ErrKey) && stale == nil:
			stale, try = got.keyring, try-1
		case errors.Is(err, errLost) && ctx.Err() == nil && try < attempts:
			if err := sleep(ctx, c.resend<<(try-1)); err != nil {
				return got, err
			}
		default:
			return got, err
		}
	}
}

// errLost means that no reply came, or none to this request: the request may have arrived
// or not, and asking again does no harm.
var errLost = errors.New("no reply from the service")

// ask seals one request, sends it on a connection of its own and opens the reply. Asked
// again, the same plaintext is another text on the wire. The error may be seal.ErrKey,
// errLost, a permit.Refusal.
func (c *Client) ask(ctx context.Context, key *seal.PublicKey, op permit.Operation, plain []byte) (permit.Reply, error) {
	request, sent, err := key.Seal(plain)
	if err != nil {
		return nil, err
	}
	// A kept connection would show that the request of today and that of an hour ago, or
	// the download before it, came from one phone.
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	defer transport.CloseIdleConnections()
	watched := &statusWatch{RoundTripper: transport}
	service := bluekeyv1connect.NewPhoneServiceClient(&http.Client{Transport: watched, Timeout: patience, CheckRedirect: stay}, c.URL,
		connect.WithAcceptCompression("gzip", nil, nil), // sealed bytes do not compress
		connect.WithReadMaxBytes(64<<10))
	answer, err := service.Exchange(ctx, &bluekeyv1.ExchangeRequest{Sealed: request})
	if err != nil {
		return nil, inClear(op, watched.status, err)
	}
	opened, err := sent.Open(answer.Sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	reply, err := permit.DecodeReplyTo(plain, opened)
	if err != nil {
		return nil, err
	}
	if r, ok := reply.(permit.Refusal); ok {
		return nil, refused(r)
	}
	return reply, nil
}

// inClear reads an answer that was given without opening the request, by the service or by
// anybody between: nobody signed it, so it decides about nothing but when to ask again.
func inClear(op permit.Operation, status int, err error) error {
	var wire *connect.Error
	if !errors.As(err, &wire) {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	switch reasonInClear(wire) {
	case "unknown_key":
		return fmt.Errorf("%w: %w", seal.ErrKey, err)
	case "busy":
		seconds, _ := strconv.Atoi(wire.Meta().Get("Retry-After"))
		wait := max(time.Minute, time.Duration(min(seconds, 3600))*time.Second).Round(time.Minute)
		return refused(permit.Refusal{Operation: op, Reason: permit.ReasonBusy, Retry: wait})
	case "":
		if status == http.StatusUnsupportedMediaType {
			break
		}
		switch wire.Code() {
		case connect.CodeUnimplemented, connect.CodeNotFound, connect.CodePermissionDenied, connect.CodeUnauthenticated:
			return fmt.Errorf("there is no phone service at this address: %w", err)
		}
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return fmt.Errorf("the service does not take this app's requests; update the app: %w", err)
}

// statusWatch remembers the HTTP status of the last answer: Connect has no code of its own
// for some of them.
type statusWatch struct {
	http.RoundTripper
	status int
}

func (w *statusWatch) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := w.RoundTripper.RoundTrip(r)
	if err == nil {
		w.status = answer.StatusCode
	}
	return answer, err
}

// reasonInClear is the stable word of an error of the service; empty if it has none.
func reasonInClear(wire *connect.Error) string {
	for _, d := range wire.Details() {
		if value, err := d.Value(); err == nil {
			if r, ok := value.(*bluekeyv1.Refusal); ok {
				return r.Reason
			}
		}
	}
	return ""
}

// refused says what to do about a refusal. errors.As finds the permit.Refusal in it.
func refused(r permit.Refusal) error {
	var advice string
	switch r.Reason {
	case permit.ReasonMalformed:
		advice = "update the app"
	case permit.ReasonCode:
		advice = "check it, or ask staff for a new one"
	case permit.ReasonPermit:
		advice = "ask staff for a new code"
	case permit.ReasonFull:
		advice = "everything handed in before it counts"
	case permit.ReasonTooOld:
		advice = "leave out keys that ended more than 15 days ago"
	case permit.ReasonFuture:
		advice = "check the phone's clock"
	case permit.ReasonOverlap:
		advice = "hand in keys of one phone only"
	case permit.ReasonPaused:
		advice = fmt.Sprintf("try again in %v, or ask staff for a long code", r.Retry)
	case permit.ReasonBusy:
		advice = fmt.Sprintf("try again in %v", r.Retry)
	case permit.ReasonClosed:
		advice = "another service has followed: update the app, and ask staff for a new code"
	}
	return fmt.Errorf("%w; %s", r, advice)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// stay follows no redirect: a request is for the service that it is sealed to.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
