// Package phone is the client library that an app developer copies: how a phone hands in
// the keys of a confirmed case, and how every other phone finds out whether its owner was
// near one.
//
// What a phone heard never leaves it. It downloads every export, checks each against the
// log, and matches on its own (Match). Who is warned, and in which words, the health
// authority tells every phone alike, in Notices that the log names too (App.Look).
//
// What a phone hands in cannot be traced to the code that paid for it. An App does this:
//
//	Redeem   when the owner types the code: it buys a permit
//	Visit    whenever State.Next has come, on every phone and for as long as the app is
//	         installed: it hands in the keys that the permit waits for, or those that came
//	         late, or, nearly always, nothing: cover
//
// Each is one request on a connection of its own, of one size, at a random time. Requests
// are sealed to keys that the log vouches for, so that no phone can be given a key that
// others have not. PHONES.md describes the same byte by byte.
package phone

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

// Options of a Client.
type Options struct {
	URL  string // of the phone service, http or https, without a path
	Tree string // public tree in which the keyring lies: URL or folder; empty: that of URL
	// Policy names the keys of the log whose service this is and of its witnesses; an app
	// has it built in. nil means that the tree is judged by the policy that lies in it:
	// then whoever runs the tree can give this phone keys of its own, and so recognise it.
	Policy *exportlog.Policy
	// Known is the keyring that the phone saw last; nil if none. Another key for one of its
	// days is an error.
	Known *seal.Keyring
	Note  func(string)     // hears what was not proved; may be nil
	Now   func() time.Time // the phone's clock; nil means time.Now
}

// Client talks to the phone service of one appliance. It keeps the keyring it has read and
// nothing else. Goroutines may share a Client; no two requests share a connection.
type Client struct {
	Options
	source tree.Source
	resend time.Duration // pause before a lost request is sent again

	mu      sync.Mutex
	keyring *seal.Keyring
}

// NewClient makes a client of an appliance.
func NewClient(o Options) (*Client, error) {
	o.URL = strings.TrimSuffix(o.URL, "/")
	if !tree.IsURL(o.URL) {
		return nil, errors.New("the service's address: want an http or https URL")
	}
	if o.Tree == "" {
		o.Tree = o.URL
	}
	if o.Note == nil {
		o.Note = func(string) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	source, err := tree.NewSource(o.Tree)
	if err != nil {
		return nil, err
	}
	return &Client{Options: o, source: source, resend: time.Second, keyring: o.Known}, nil
}

// Redeem buys a permit with a code, as typed. onsetDay is the UTC day that staff noted as
// that of the first symptoms, 0 if none.
//
// A Redeem whose reply was lost is asked again with the same code and Pending, and within
// ten minutes answered again; with another Pending the code is spent. The error is a
// permit.Refusal if the service refused, ErrCode for a code that was mistyped (nothing was
// sent), and wraps permit.ErrTagged if the reply would have marked this phone.
func (c *Client) Redeem(ctx context.Context, code string, p *permit.Pending) (held *permit.Held, onsetDay uint32, err error) {
	canonical, err := ParseCode(code)
	if err != nil {
		return nil, 0, err
	}
	got, err := c.exchange(ctx, permit.OpRedeem, func(permit.Service) ([]byte, error) {
		request := p.Redeem(canonical)
		return request.Encode()
	})
	if err != nil {
		return nil, 0, fmt.Errorf("redeeming the code: %w", err)
	}
	reply := got.reply.(permit.RedeemReply) // as DecodeReply gives it
	held, err = p.Finalize(got.service, reply, seal.DayAt(c.Now()), got.keyring.Permit)
	if err != nil {
		return nil, 0, fmt.Errorf("redeeming the code: %w; check the phone's clock", err)
	}
	return held, reply.OnsetDay, nil
}

// Upload hands in keys of one scheme, each with its days since onset (CoarseOnset), under a
// permit: the first time or late. It gives the time by which all of them are public. Keys
// that the service has already are accepted again. A refusal is a permit.Refusal.
func (c *Client) Upload(ctx context.Context, held *permit.Held, keys []diagnosis.Key) (publishBy time.Time, err error) {
	got, err := c.exchange(ctx, permit.OpUpload, func(s permit.Service) ([]byte, error) { return held.Upload(s, keys) })
	if err != nil {
		return time.Time{}, fmt.Errorf("uploading: %w", err)
	}
	return time.Unix(got.reply.(permit.UploadReply).PublishBy, 0).UTC(), nil
}

// Cover sends a request that carries nothing: one in three a Redeem, the others Uploads, as
// a case sends one Redeem, one Upload and often one late Upload.
func (c *Client) Cover(ctx context.Context, scheme diagnosis.Scheme) error {
	op, request := permit.OpUpload, func(s permit.Service) ([]byte, error) {
		return permit.CoverUpload(s, scheme, seal.DayAt(c.Now()))
	}
	if below(3) == 0 {
		op, request = permit.OpRedeem, func(permit.Service) ([]byte, error) { return permit.CoverRedeem() }
	}
	if _, err := c.exchange(ctx, op, request); err != nil {
		return fmt.Errorf("sending cover: %w", err)
	}
	return nil
}

// CoarseOnset gives keys their days since an onset on a UTC day (0: unknown) in the two
// classes in which they are published: 0 for two days before to three after, else 6.
// Exact days would show whoever watches the running service which code, issued with an
// onset date, the upload goes with.
func CoarseOnset(keys []diagnosis.Key, onsetDay uint32) []diagnosis.Key {
	coarse := make([]diagnosis.Key, len(keys))
	for i, k := range keys {
		if d := k.OnsetOn(onsetDay); d >= -2 && d <= 3 {
			k.Onset = 0
		} else {
			k.Onset = 6
		}
		coarse[i] = k
	}
	return coarse
}
