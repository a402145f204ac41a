// Package gaen is the door for apps that speak to the GAEN reference key server: POST
// /v1/publish, with the keys of a case in JSON, the verification certificate of a health
// authority (a JWT), and an HMAC that binds the one to the other. The contract is that of
// the reference server's API v1; the keys end in the same store and exports as those of the
// phone service, under the same policy.
//
// What it does, where the contract leaves a choice or the reference server has a defect:
//
//   - A report type of "negative" takes back keys that are not published, which then are
//     forgotten as if they had never come. It needs the revision token; keys that are not
//     known are dropped and the answer is 200. Confirmed keys cannot be taken back, nor
//     become likely ones first. That holds for the newest token, the one apps send: where
//     metadata is coarse the store keeps both as one value, and only the token remembers.
//   - Revision tokens are our own (token.go) and hold until the window that the key lies in
//     is closed. After that the key stays as it was published: it is left out with
//     partial_failure, or refused with key_already_published if there is nothing else.
//   - The same request sent again is answered again and changes nothing.
//   - Replies never say how many keys were stored, and are all of one length. Failures of
//     the store are 500, overload 503; 410 says that another service has taken over.
//   - A request with the header X-Chaff costs what a real one costs and stores junk of the
//     same size; its reply has the length of every other.
//   - Days since onset beyond the range are held within it. No key is lost for them.
//
// A door sees a person's certificate and keys in one request. It stores and logs nothing of
// it but the keys: no address, no healthAuthorityID, no member of a certificate. That is a
// promise about storage; the phone service is for those who do not want to rely on it.
package gaen

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
)

// Path is where the door stands.
const Path = "/v1/publish"

// Config says whom a door lets in. Store, Authorities and TokenKey must be set.
type Config struct {
	Store *keystore.Store
	// Authorities are those whose certificates count; see ParseAuthorities.
	Authorities []Authority
	// TokenKey seals revision tokens. With another key those that are out no longer open.
	TokenKey [32]byte
	// Region is what a token is bound to beside the key.
	Region string
	// MaxInFlight bounds the requests being answered at once; those beyond are refused as
	// busy. 0 means 256.
	MaxInFlight int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger hears of failures of our own, never of a request; nil means slog.Default.
	Logger *slog.Logger
}

// Door answers POST /v1/publish. Its methods are safe for concurrent use.
type Door struct {
	cfg     Config
	store   store
	issuers issuers
	apps    map[string]bool // of all issuers
	tokens  *tokens
	decoy   *decoy
	client  *http.Client // for key sets
	slots   chan struct{}
	faults  faults
}

// store is what the door needs of a keystore.Store.
type store interface {
	UploadGAEN(context.Context, []keystore.GAENKey) ([]*keystore.Refusal, error)
	Scratch(context.Context, []diagnosis.Key) error
}

// New prepares a door. It fetches nothing: Run does, and until it has, requests that need
// keys from a JWKS are answered unable_to_load_health_authority.
func New(cfg Config) (*Door, error) {
	cfg.MaxInFlight = cmp.Or(cfg.MaxInFlight, 256)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Store == nil || cfg.TokenKey == [32]byte{} {
		return nil, errors.New("the GAEN door needs a store and a key for its tokens")
	}
	d := &Door{
		cfg: cfg, store: cfg.Store, apps: map[string]bool{}, client: newClient(),
		slots: make(chan struct{}, cfg.MaxInFlight), faults: faults{logger: cfg.Logger},
	}
	var err error
	if d.issuers, err = newIssuers(cfg.Authorities); err != nil {
		return nil, err
	}
	for _, is := range d.issuers {
		for app := range is.apps {
			d.apps[app] = true
		}
	}
	if d.tokens, err = newTokens(cfg.TokenKey, cfg.Region); err != nil {
		return nil, err
	}
	if d.decoy, err = newDecoy(); err != nil {
		return nil, err
	}
	return d, nil
}

var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// ServeHTTP answers one request. It is read to its end before it takes a place.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := bodies.Get().(*bytes.Buffer)
	defer bodies.Put(body)
	body.Reset()
	if no := readBody(body, w, r); no != nil {
		if r.ProtoMajor == 1 { // the rest of it must not be taken for the next request
			w.Header().Set("Connection", "close")
		}
		no.send(w)
		return
	}
	d.answer(r.Context(), r.Header.Get("X-Chaff") != "", body.Bytes()).send(w)
}

func (d *Door) answer(ctx context.Context, chaff bool, body []byte) *reply {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	default:
		return busy()
	}
	if chaff {
		return d.chaff(ctx, body)
	}
	return d.publish(ctx, body)
}

func readBody(body *bytes.Buffer, w http.ResponseWriter, r *http.Request) *reply {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return refuse(http.StatusMethodNotAllowed, codeBadRequest, "want POST")
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, codeBadRequest, "want content type application/json")
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return refuse(http.StatusUnsupportedMediaType, codeBadRequest, "compressed requests are not read")
	}
	if r.ContentLength <= MaxBody {
		_, err = body.ReadFrom(io.LimitReader(r.Body, MaxBody+1))
	}
	if r.ContentLength > MaxBody || body.Len() > MaxBody {
		return refuse(http.StatusRequestEntityTooLarge, codeBadRequest, fmt.Sprintf("the request is larger than %d bytes", MaxBody))
	}
	if err != nil {
		return refuse(http.StatusBadRequest, codeBadRequest, "the request ended early or came too slowly")
	}
	return nil
}

// publish answers a real request.
func (d *Door) publish(ctx context.Context, body []byte) *reply {
	p, err := readPublish(body)
	if err != nil {
		return refuse(http.StatusBadRequest, codeBadRequest, err.Error())
	}
	if !d.apps[p.Authority] {
		return refuse(http.StatusUnauthorized, codeUnknown, "unknown healthAuthorityID")
	}
	now := d.cfg.Now()
	cert, err := d.issuers.verify(p.Authority, p.Certificate, now)
	if err == nil && !checkMAC(p.Keys, p.HMACKey, cert.mac) {
		err = errors.New("tekmac: not that of these keys under hmacKey")
	}
	switch {
	case errors.Is(err, errNoKeys):
		return refuse(http.StatusInternalServerError, codeNoAuthority, err.Error())
	case err != nil:
		return refuse(http.StatusUnauthorized, codeCertificate, err.Error())
	}
	old := new(proofs)
	if p.RevisionToken != "" {
		oldest := diagnosis.GAEN.IntervalAt(now.Add(-keystore.MaxAge))
		if old, err = d.tokens.open(p.RevisionToken, oldest); err != nil {
			return refuse(http.StatusBadRequest, codeBadToken, err.Error())
		}
	}
	return d.take(ctx, p, cert, old, now)
}

// take hands over the keys of a request that is in order, and answers it.
func (d *Door) take(ctx context.Context, p *publish, cert certificate, old *proofs, now time.Time) *reply {
	onset := onsetDay(p.Onset, cert.onset, now)
	var keys []keystore.GAENKey
	var at []int // where each stood
	dropped := make([]string, len(p.Keys))
	for i := range p.Keys {
		k, err := p.Keys[i].key()
		if err != nil {
			dropped[i] = err.Error()
			continue
		}
		k.Report, k.Onset = cert.report, k.OnsetOn(onset)
		was := old.of[hashKey(&k)].report
		keys, at = append(keys, keystore.GAENKey{Key: k, Was: was}), append(at, i)
		if was == diagnosis.ConfirmedTest && cert.report == diagnosis.ConfirmedClinical {
			// The store may have one value for both, and the next token would forget the test.
			return d.refusal(&keystore.Refusal{Reason: keystore.Transition, Index: len(at) - 1}, at, dropped, true)
		}
	}
	if len(keys) == 0 {
		return refuse(http.StatusBadRequest, codeBadRequest, droppedText(dropped))
	}
	refused, err := d.store.UploadGAEN(ctx, keys)
	for i, r := range refused {
		if r != nil {
			dropped[at[i]] = keyText(r)
		}
	}
	if err != nil {
		return d.refusal(err, at, dropped, p.RevisionToken != "")
	}

	var proven proofs
	for i := range keys {
		if h := hashKey(&keys[i].Key); cert.report == diagnosis.Revoked {
			delete(old.of, h)
		} else if refused[i] == nil {
			proven.add(h, proof{keys[i].End(), cert.report})
		}
	}
	for _, h := range old.order {
		if before, there := old.of[h]; there {
			proven.add(h, before)
		}
	}
	answer := &reply{status: http.StatusOK, RevisionToken: d.tokens.seal(&proven)}
	if text := droppedText(dropped); text != "" {
		answer.Code, answer.Error = codePartial, text
	}
	return answer
}

// refusal answers a request of which the store took nothing.
func (d *Door) refusal(err error, at []int, dropped []string, token bool) *reply {
	var r *keystore.Refusal
	if !errors.As(err, &r) {
		if !errors.Is(err, context.Canceled) { // then the app is gone, and nobody reads this
			d.faults.log(err)
		}
		return refuse(http.StatusInternalServerError, codeInternal, "internal error; send the same again later")
	}
	if r.Index >= 0 && r.Index < len(at) {
		dropped[at[r.Index]] = keyText(r)
	}
	text := droppedText(dropped)
	switch r.Reason {
	case keystore.Busy:
		return busy()
	case keystore.Closed:
		return refuse(http.StatusGone, codeClosed, "this service takes no keys any more; another one follows it")
	case keystore.NeedsToken:
		if token {
			return refuse(http.StatusBadRequest, codeBadToken, text)
		}
		return refuse(http.StatusBadRequest, codeNeedsToken, text)
	case keystore.Transition:
		return refuse(http.StatusBadRequest, codeTransition, text)
	case keystore.Sealed:
		return refuse(http.StatusBadRequest, codePublished, text)
	}
	return refuse(http.StatusBadRequest, codeBadRequest, text)
}

func busy() *reply {
	return refuse(http.StatusServiceUnavailable, codeBusy, "too many requests at once; send the same again in a few seconds")
}

// keyTexts say what the store had against a key.
var keyTexts = map[keystore.Reason]string{
	keystore.TooOld:     "ended more than 15 days ago",
	keystore.Future:     "rollingStartNumber: in the future",
	keystore.Overlap:    "overlaps another, or is one too many of one start",
	keystore.Malformed:  "the key of another again",
	keystore.NeedsToken: "known under another report type; revising it needs its revision token",
	keystore.Transition: "its report type cannot become this one",
	keystore.Sealed:     "published already",
}

func keyText(r *keystore.Refusal) string { return keyTexts[r.Reason] }

// droppedText is what the reply says of the keys that were left out, "" if none was.
func droppedText(dropped []string) string {
	var b strings.Builder
	for i, text := range dropped {
		if text == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "key %d cannot be imported: %s", i, text)
	}
	return b.String()
}

// faults logs errors that are our own, at most one line a minute: a line for each failed
// request would tell when requests came.
type faults struct {
	logger *slog.Logger

	mu     sync.Mutex
	next   time.Time
	hidden int
}

func (f *faults) log(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Before(f.next) {
		f.hidden++
		return
	}
	f.logger.Error("request failed", "route", Path, "err", err, "unlogged", f.hidden)
	f.next, f.hidden = now.Add(time.Minute), 0
}
