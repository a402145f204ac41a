package phone

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
	bluekeyv1 "bluekey/server/api/bluekey/v1"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

const goodCode = "572389127"

// service is a phone service and its public tree, made of the same parts as the real one
// and without a store: whatever is well signed is taken.
type service struct {
	bluekeyv1connect.UnimplementedPhoneServiceHandler
	t      *testing.T
	url    string
	place  *place
	names  permit.Service
	issuer *permit.Issuer
	ring   *seal.Ring
	info   permit.Info
	onset  uint32

	// What a test makes it do, each may be nil: answer with an HTTP status alone, answer in
	// clear before opening, take the place of what is done, alter what is sealed.
	front func() int
	clear func() error
	reply func(permit.Request) permit.Reply
	wire  func([]byte) []byte

	mu      sync.Mutex
	now     time.Time
	seen    []permit.Request
	sealed  [][]byte
	origins []string // address and port that each came from
}

// newService runs one on day.
func newService(t *testing.T) *service { return newServiceAt(t, newPlace(t)) }

func newServiceAt(t *testing.T, p *place) *service {
	t.Helper()
	names, err := permit.NewService(origin, region)
	if err != nil {
		t.Fatal(err)
	}
	s := &service{t: t, place: p, names: names, ring: &seal.Ring{}, now: time.Unix(day*86400+10*3600, 0).UTC(), info: permit.Info{Report: diagnosis.ConfirmedTest, Epoch: day}}
	if s.issuer, err = permit.NewIssuer(names, [32]byte{7}); err != nil {
		t.Fatal(err)
	}
	for d := uint32(day); d < day+6; d++ {
		k, err := seal.NewPrivateKey(origin, d)
		if err == nil {
			err = s.ring.Add(k)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.announce(s.keyring())
	mux := http.NewServeMux()
	mux.Handle(bluekeyv1connect.NewPhoneServiceHandler(s))
	mux.Handle("/", http.FileServer(http.Dir(p.dir)))
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			s.mu.Lock()
			s.origins = append(s.origins, r.RemoteAddr)
			if compress := r.Header.Get("Accept-Encoding") + r.Header.Get("Content-Encoding"); compress != "identity" {
				t.Errorf("a request speaks of compression: %s", compress)
			}
			s.mu.Unlock()
			if s.front != nil {
				w.WriteHeader(s.front())
				return
			}
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	s.url = web.URL
	return s
}

// keyring has the keys from yesterday's permits on.
func (s *service) keyring() *seal.Keyring {
	k := &seal.Keyring{Origin: origin, Region: region, Seals: s.ring.Public()}
	for d := uint32(day - 1); d < day+6; d++ {
		k.Permits = append(k.Permits, seal.PermitKey{Day: d, Key: s.issuer.PublicKey(d)})
	}
	return k
}

// announce puts a keyring into the tree and its log.
func (s *service) announce(k *seal.Keyring) {
	s.t.Helper()
	text, err := k.Format()
	if err != nil {
		s.t.Fatal(err)
	}
	s.place.write(exportlog.KeyringPath, text)
	s.place.proveFile(exportlog.SmallFile{Path: exportlog.KeyringPath, Size: int64(len(text)), SHA256: sha256.Sum256(text)}, exportlog.KeyringPath)
}

// proveFile appends an entry, and writes its proof beside a path.
func (p *place) proveFile(f exportlog.SmallFile, path string) {
	p.t.Helper()
	entry, err := f.Format()
	if err != nil {
		p.t.Fatal(err)
	}
	p.log.Append(entry)
	index := p.log.Size() - 1
	hashes, err := exportlog.ProveEntry(p.log.Size(), index, &p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(path+exportlog.ProofSuffix, exportlog.FormatProof(exportlog.Proof{Index: index, Hashes: hashes, Extra: entry, Checkpoint: p.checkpoint()}))
}

func (s *service) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *service) Exchange(_ context.Context, req *bluekeyv1.ExchangeRequest) (*bluekeyv1.ExchangeResponse, error) {
	now := s.clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = append(s.sealed, slices.Clone(req.Sealed))
	if s.clear != nil {
		if err := s.clear(); err != nil {
			return nil, err
		}
	}
	opened, err := s.ring.Open(req.Sealed, now)
	switch {
	case errors.Is(err, seal.ErrSealed):
		return &bluekeyv1.ExchangeResponse{Sealed: seal.NoReply()}, nil
	case errors.Is(err, seal.ErrKey):
		return nil, clear(connect.CodeFailedPrecondition, "unknown_key")
	case err != nil:
		return nil, clear(connect.CodeInvalidArgument, "malformed")
	}
	request, err := permit.DecodeRequest(opened.Plain)
	if err != nil {
		s.t.Errorf("the phone sent what cannot be read: %v", err)
		return nil, err
	}
	s.seen = append(s.seen, request)
	var reply permit.Reply
	if s.reply != nil {
		reply = s.reply(request)
	}
	if reply == nil {
		reply = s.answer(request, seal.DayAt(now))
	}
	plain, err := reply.Encode()
	if err != nil {
		s.t.Errorf("encoding a reply: %v", err)
		return nil, err
	}
	out, err := opened.Seal(plain)
	if err != nil {
		return nil, err
	}
	if s.wire != nil {
		if out = s.wire(out); out == nil {
			return nil, connect.NewError(connect.CodeUnavailable, errors.New("the connection broke"))
		}
	}
	return &bluekeyv1.ExchangeResponse{Sealed: out}, nil
}

func (s *service) answer(request permit.Request, today uint32) permit.Reply {
	switch r := request.(type) {
	case *permit.RedeemRequest:
		evaluate := s.issuer.Evaluate
		if r.Cover {
			evaluate = s.issuer.EvaluateDecoy
		} else if r.Code != goodCode {
			return permit.Refusal{Operation: permit.OpRedeem, Reason: permit.ReasonCode}
		}
		e, err := evaluate(s.info, r.Blinded)
		if err != nil {
			s.t.Errorf("evaluating: %v", err)
		}
		return permit.RedeemReply{Info: s.info, OnsetDay: s.onset, Evaluation: e}
	case *permit.UploadRequest:
		if s.issuer.Check(r, today) == r.Cover {
			s.t.Errorf("an upload, cover %v, has the permit of the other kind", r.Cover)
		}
	}
	return permit.UploadReply{PublishBy: s.now.Add(8 * time.Hour).Unix()}
}

// clear is an answer before opening, as the server gives it.
func clear(code connect.Code, reason string) error {
	e := connect.NewError(code, errors.New(reason+": words for people"))
	if d, err := connect.NewErrorDetail(&bluekeyv1.Refusal{Reason: reason}); err == nil {
		e.AddDetail(d)
	}
	return e
}

// client is a phone of the service, pinned to its policy.
func (s *service) client() *Client {
	s.t.Helper()
	c, err := NewClient(Options{URL: s.url, Policy: s.place.policy, Now: s.clock})
	if err != nil {
		s.t.Fatal(err)
	}
	c.resend = time.Millisecond
	return c
}

// redeemed gives the Redeems that were seen, covers left out.
func (s *service) redeemed() (list []*permit.RedeemRequest) {
	for _, r := range s.seen {
		if r, ok := r.(*permit.RedeemRequest); ok && !r.Cover {
			list = append(list, r)
		}
	}
	return list
}

// uploaded gives the Uploads that were seen, covers left out.
func (s *service) uploaded() (list []*permit.UploadRequest) {
	for _, r := range s.seen {
		if r, ok := r.(*permit.UploadRequest); ok && !r.Cover {
			list = append(list, r)
		}
	}
	return list
}

// app is a newly installed app with these keys.
func (s *service) app(keys *[]diagnosis.Key) *App {
	return &App{
		Client: s.client(), Scheme: diagnosis.GAEN,
		Save: func(State) error { return nil },
		Keys: func() ([]diagnosis.Key, error) { return *keys, nil },
	}
}

// daily gives GAEN keys for n days up to the one that ends when lastDay does.
func daily(lastDay uint32, n int) []diagnosis.Key {
	keys := make([]diagnosis.Key, n)
	for i := range keys {
		d := lastDay - uint32(n-1-i)
		keys[i] = diagnosis.Key{Scheme: diagnosis.GAEN, Start: diagnosis.Interval(d) * 144, Count: 144}
		keys[i].Secret[0], keys[i].Secret[1] = byte(d), 1
	}
	return keys
}
