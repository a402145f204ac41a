package server

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"bluekey/keystore"
	v1 "bluekey/server/api/bluekey/v1"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

// bareService is the phone service without a server around it.
func bareService(t testing.TB, disk vfs.FS, delay time.Duration) (*phoneService, *seal.Keyring) {
	t.Helper()
	c := newClock()
	quiet := slog.New(slog.DiscardHandler)
	store, err := keystore.Open(keystore.Options{
		Dir: "data", FS: disk, CodeKey: [32]byte{1}, DedupeKey: [32]byte{2}, Period: 4 * time.Hour, Hold: 4 * time.Hour, CodeCap: 1 << 20, CacheSize: 8 << 20,
		Now: c.Now, Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	file := new(publicFile)
	keys := testKeys(t, filepath.Join(t.TempDir(), "sealing"), file, store, c.Now, quiet)
	return &phoneService{keys: keys, store: store, delay: delay, now: c.Now}, file.ring(t)
}

// FuzzExchange: whatever is sealed properly is answered by a reply that opens and reads as
// one to what was asked for; whatever else comes is answered by as many bytes, or refused.
func FuzzExchange(f *testing.F) {
	p, ring := bareService(f, vfs.NewMem(), 0)
	redeem, err := permit.CoverRedeem()
	if err != nil {
		f.Fatal(err)
	}
	upload, err := permit.CoverUpload(names, 1, today())
	if err != nil {
		f.Fatal(err)
	}
	sealed, _, err := sealTo(ring, today(), redeem)
	if err != nil {
		f.Fatal(err)
	}
	const plain, binary, json = 0, 1, 2
	for _, seed := range [][]byte{redeem, upload} {
		for cover := range byte(2) {
			b := bytes.Clone(seed)
			b[2] = cover
			f.Add(b, byte(plain))
		}
	}
	f.Add(exchangeBody(sealed), byte(binary))
	f.Add(exchangeBody(sealed[1:]), byte(binary))
	f.Add([]byte{0x8a, 0x00, 0x00}, byte(binary))
	f.Add([]byte(`{"sealed":"BwcHBwcHBwcHBwcHBwcHBw=="}`), byte(json))
	f.Add([]byte(`{"sealed":"\ud800"}`), byte(json))
	f.Fuzz(func(t *testing.T, b []byte, form byte) {
		if form%3 == plain {
			b = append(b, make([]byte, permit.RequestLen)...)[:permit.RequestLen]
			request, sent, err := sealTo(ring, today(), b)
			if err != nil {
				t.Fatal(err)
			}
			reply, err := p.work(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			opened, err := sent.Open(reply)
			if err != nil {
				t.Fatal(err)
			}
			op := permit.Operation(b[1])
			if b[0] != 1 || op != permit.OpRedeem && op != permit.OpUpload {
				op = permit.OpRedeem
			}
			if _, err := permit.DecodeReply(op, opened); err != nil {
				t.Fatal(err)
			}
			return
		}
		req := new(v1.ExchangeRequest)
		if form%3 == json {
			err = jsonCodec{"json"}.Unmarshal(b, req)
		} else {
			err = binaryCodec{}.Unmarshal(b, req)
		}
		if err != nil {
			t.Fatal(err)
		}
		if problem := marked(req); problem != "" {
			if len(req.Sealed) != 0 {
				t.Fatal("something is left of a message that could not be read")
			}
			return
		}
		if form%3 == binary {
			// Everything that was sent was understood: written again it has at most the
			// same length, an empty field being left out.
			again, err := proto.Marshal(req)
			if err != nil || len(again) > len(b) {
				t.Fatalf("%d bytes read, %d written, %v", len(b), len(again), err)
			}
		}
		reply, err := p.work(t.Context(), req.Sealed)
		if no := (*refusal)(nil); err != nil && !errors.As(err, &no) || err == nil && len(reply) != seal.ReplyLen {
			t.Fatalf("%d bytes, %v", len(reply), err)
		}
	})
}

// FuzzAcceptEncoding: no header makes the choice fail or choose what was refused.
func FuzzAcceptEncoding(f *testing.F) {
	f.Add("gzip;q=0.5, zstd;q=1.000, *;q=0")
	f.Add(",;q=,q")
	doc := &document{variants: encode(bytes.Repeat([]byte("x"), 1000), true)}
	f.Fuzz(func(t *testing.T, accept string) {
		v := doc.choose([]string{accept})
		if w, ok := weigh([]string{accept})[v.encoding]; ok && w == 0 && v.encoding != "" {
			t.Fatalf("%q chooses %s", accept, v.encoding)
		}
	})
}
