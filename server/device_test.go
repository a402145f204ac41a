package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
	v1 "bluekey/server/api/bluekey/v1"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

// The phone of these tests: it seals and signs as server/PHONES.md says, one request at a
// time and without any patience. Package phone has the real one.

const (
	testOrigin = "example.org/bluekey"
	testRegion = "VN-HP"
)

// startDay is the day that tests happen on, whatever midnight they run over.
var startDay = uint32(time.Now().Unix() / 86400)

func today() uint32 { return startDay }

// clock runs as fast as the real one, and begins half an hour after noon of
// startDay, which is half an hour into a window.
type clock struct{ ahead atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.set(time.Unix(int64(startDay)*86400+12*3600+1800, 0))
	return c
}

func (c *clock) Now() time.Time           { return time.Now().Add(time.Duration(c.ahead.Load())).UTC() }
func (c *clock) set(t time.Time)          { c.ahead.Store(int64(time.Until(t))) }
func (c *clock) advance(by time.Duration) { c.ahead.Add(int64(by)) }

// publicFile is /keyring of a public tree in memory.
type publicFile struct {
	mu   sync.Mutex
	text []byte
	all  [][]byte // every text there was
	fail error    // of the next announcements
}

func (f *publicFile) read() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text, nil
}

func (f *publicFile) failWith(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func (f *publicFile) announce(_ context.Context, text []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	f.text = bytes.Clone(text)
	f.all = append(f.all, f.text)
	return nil
}

func (f *publicFile) ring(t testing.TB) *seal.Keyring {
	t.Helper()
	text, _ := f.read()
	ring, err := seal.ParseKeyring(text)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// testKeys are opened and announced for the days from now on.
func testKeys(t testing.TB, dir string, file *publicFile, store *keystore.Store, now func() time.Time, logger *slog.Logger) *PhoneKeys {
	t.Helper()
	seeds, err := keystore.OpenSeeds(dir)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := OpenPhoneKeys(KeysConfig{
		Origin: testOrigin, Region: testRegion, PermitSeed: [32]byte{3}, Seeds: seeds, Published: file.read, Announce: file.announce,
		Retired: func() bool { _, retired := store.Retired(); return retired }, Now: now, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	keys.note(keys.tend(t.Context()))
	if err := keys.Ready(); err != nil {
		t.Fatal(err)
	}
	return keys
}

// names is the service that the tests' permits are of.
var names, _ = permit.NewService(testOrigin, testRegion)

// seal seals a plaintext to the key of the day.
func (a *appliance) seal(plain []byte) ([]byte, *seal.Sent, error) {
	return sealTo(a.ring, seal.DayAt(a.clock.Now()), plain)
}

func sealTo(ring *seal.Keyring, day uint32, plain []byte) ([]byte, *seal.Sent, error) {
	key, err := ring.Seal(day)
	if err != nil {
		return nil, nil, err
	}
	return key.Seal(plain)
}

// exchange sends a request and gives the plaintext of its reply.
func (a *appliance) exchange(client bluekeyv1connect.PhoneServiceClient, plain []byte) ([]byte, error) {
	request, sent, err := a.seal(plain)
	if err != nil {
		return nil, err
	}
	res, err := client.Exchange(a.t.Context(), &v1.ExchangeRequest{Sealed: request})
	if err != nil {
		return nil, err
	}
	if len(res.Sealed) != seal.ReplyLen {
		return nil, fmt.Errorf("a reply of %d bytes", len(res.Sealed))
	}
	return sent.Open(res.Sealed)
}

// ask sends a request and reads its reply, a Refusal too.
func (a *appliance) ask(op permit.Operation, plain []byte) (permit.Reply, error) {
	return a.askBy(a.phone(), op, plain)
}

func (a *appliance) askBy(client bluekeyv1connect.PhoneServiceClient, op permit.Operation, plain []byte) (permit.Reply, error) {
	b, err := a.exchange(client, plain)
	if err != nil {
		return nil, err
	}
	return permit.DecodeReply(op, b)
}

// redeem buys a permit. A refusal is an error.
func (a *appliance) redeem(code string) (*permit.Held, error) {
	p, err := permit.NewPending()
	if err != nil {
		return nil, err
	}
	return a.redeemBy(a.phone(), p, code)
}

func (a *appliance) redeemBy(client bluekeyv1connect.PhoneServiceClient, p *permit.Pending, code string) (*permit.Held, error) {
	r := p.Redeem(code)
	plain, err := r.Encode()
	if err != nil {
		return nil, err
	}
	reply, err := a.askBy(client, permit.OpRedeem, plain)
	if err != nil {
		return nil, err
	}
	switch r := reply.(type) {
	case permit.RedeemReply:
		return p.Finalize(names, r, seal.DayAt(a.clock.Now()), a.ring.Permit)
	case permit.Refusal:
		return nil, r
	}
	return nil, fmt.Errorf("a %T to a redeem", reply)
}

// upload hands in keys. A refusal is an error.
func (a *appliance) upload(h *permit.Held, keys []diagnosis.Key) (permit.UploadReply, error) {
	return a.uploadBy(a.phone(), h, keys)
}

func (a *appliance) uploadBy(client bluekeyv1connect.PhoneServiceClient, h *permit.Held, keys []diagnosis.Key) (permit.UploadReply, error) {
	plain, err := h.Upload(names, keys)
	if err != nil {
		return permit.UploadReply{}, err
	}
	reply, err := a.askBy(client, permit.OpUpload, plain)
	if err != nil {
		return permit.UploadReply{}, err
	}
	switch r := reply.(type) {
	case permit.UploadReply:
		return r, nil
	case permit.Refusal:
		return permit.UploadReply{}, r
	}
	return permit.UploadReply{}, fmt.Errorf("a %T to an upload", reply)
}

// held is a permit bought with a fresh code.
func (a *appliance) held() *permit.Held {
	a.t.Helper()
	h, err := a.redeem(a.codes(1)[0])
	if err != nil {
		a.t.Fatal(err)
	}
	return h
}

// tend does what Run of the phone's keys does, and what a phone does that fetches the
// keyring again.
func (a *appliance) tend() {
	a.t.Helper()
	a.keys.note(a.keys.tend(a.t.Context()))
	if err := a.keys.Ready(); err != nil {
		a.t.Fatal(err)
	}
	a.ring = a.file.ring(a.t)
}

// teks are n GAEN keys of the last n days, one a day, as a phone has them.
func teks(n int) []diagnosis.Key { return fresh(diagnosis.GAEN, n) }

// seeds are n Bluezone day seeds of the last n days.
func seeds(n int) []diagnosis.Key { return fresh(diagnosis.Bluezone, n) }

func fresh(scheme diagnosis.Scheme, n int) []diagnosis.Key {
	keys := make([]diagnosis.Key, n)
	for i := range keys {
		k := diagnosis.Key{Scheme: scheme, Start: diagnosis.Interval(today()-1-uint32(i)) * scheme.PerDay(), Count: uint8(scheme.PerDay())}
		rand.Read(k.Secret[:scheme.SecretLen()])
		keys[i] = k
	}
	return keys
}

// frame is an Exchange of a sealed request as it goes over the wire.
func frame(sealed []byte) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/proto\r\nContent-Length: %d\r\n\r\n%s",
		bluekeyv1connect.PhoneServiceExchangeProcedure, len(sealed)+3, exchangeBody(sealed))
}

// exchangeBody is the binary form of an ExchangeRequest of seal.RequestLen bytes, or of
// any number from 128 to 16383.
func exchangeBody(sealed []byte) []byte {
	n := len(sealed)
	return append([]byte{0x0a, byte(n)&0x7f | 0x80, byte(n >> 7)}, sealed...)
}

// post sends bytes as an Exchange and gives status and answer.
func (a *appliance) post(kind string, body []byte, header ...string) (int, []byte) {
	a.t.Helper()
	res, b := a.do(http.MethodPost, a.url+bluekeyv1connect.PhoneServiceExchangeProcedure, bytes.NewReader(body), append(header, "Content-Type", kind)...)
	return res.StatusCode, b
}

func filesIn(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = b
	}
	return files
}
