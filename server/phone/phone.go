// Package phone is the client library that an app developer copies: how a phone hands in
// the keys of a confirmed case, and how every other phone finds out whether its owner was
// near one.
//
// What a phone heard never leaves it. It downloads every export, checks each against the
// log, and matches on its own.
package phone

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"bluekey/keystore/diagnosis"
	bluekeyv1 "bluekey/server/api/bluekey/v1"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
)

// Client talks to the phone service of one appliance.
type Client struct {
	service bluekeyv1connect.PhoneServiceClient
}

// NewClient makes a client of the appliance at url (http or https, without a path).
func NewClient(url string) *Client {
	return &Client{bluekeyv1connect.NewPhoneServiceClient(&http.Client{Timeout: 30 * time.Second}, url)}
}

// RefusedError is an answer of the service that says what was wrong with an upload.
type RefusedError struct {
	Reason string // stable: bad_code, spent_code, expired_code, too_old, future, overlap, malformed, busy, paused
	Field  string // what it is about; may be empty
	Index  int    // which key, from 0; -1 if it is not about one
	Retry  bool   // the same upload may succeed later
}

func (e *RefusedError) Error() string {
	where := ""
	if e.Field != "" {
		where = " (" + e.Field
		if e.Index >= 0 {
			where = fmt.Sprintf(" (key %d: %s", e.Index+1, e.Field)
		}
		where += ")"
	}
	return "the server refused the upload: " + e.Reason + where
}

// Upload hands in the keys of one case, all of one scheme, with the code that staff gave.
// It returns the time by which all of them are public. A refusal is a *RefusedError.
func (c *Client) Upload(ctx context.Context, code string, scheme diagnosis.Scheme, keys []diagnosis.Key) (publishBy time.Time, err error) {
	req := &bluekeyv1.UploadRequest{Code: code, Scheme: bluekeyv1.Scheme(scheme)}
	for i := range keys {
		k := &keys[i]
		req.Keys = append(req.Keys, &bluekeyv1.Key{Secret: k.Bytes(), Start: uint32(k.Start), Count: uint32(k.Count), Risk: uint32(k.Risk)})
	}
	resp, err := c.service.Upload(ctx, req)
	if err != nil {
		return time.Time{}, explain(err)
	}
	return time.Unix(resp.PublishBy, 0).UTC(), nil
}

// explain turns a refusal on the wire into a *RefusedError.
func explain(err error) error {
	var wire *connect.Error
	if errors.As(err, &wire) {
		for _, d := range wire.Details() {
			value, decodeErr := d.Value()
			if decodeErr != nil {
				continue
			}
			if r, ok := value.(*bluekeyv1.Refusal); ok {
				refused := &RefusedError{Reason: r.Reason, Field: r.Field, Index: -1, Retry: r.Retry}
				if r.Index != nil {
					refused.Index = int(*r.Index)
				}
				return refused
			}
		}
	}
	return fmt.Errorf("uploading: %w", err)
}
