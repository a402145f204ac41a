package phone

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
	"google.golang.org/protobuf/proto"

	"bluekey/keystore/diagnosis"
	bluekeyv1 "bluekey/server/api/bluekey/v1"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

type replyVector struct {
	Name      string `json:"name"`
	Operation int    `json:"operation"`      // of the request
	Sent      int    `json:"sent,omitempty"` // records in it
	Plain     hexes  `json:"reply_plain"`
	Status    *int   `json:"status,omitempty"`
	Reason    int    `json:"reason,omitempty"`
	Record    int    `json:"record,omitempty"`
	Retry     int    `json:"retry_minutes,omitempty"`
	PublishBy int64  `json:"publish_by,omitempty"`
}

type repliesFile struct {
	About   string        `json:"about"`
	Good    []replyVector `json:"good"`
	Refused []replyVector `json:"refused"`
}

// replyVectors are replies beside those of permit.json, and texts that are none.
func replyVectors(t *testing.T) *repliesFile {
	t.Helper()
	f := &repliesFile{About: "plaintexts of replies as a phone reads them, and plaintexts that are no reply to the operation; hex"}
	good := func(name string, op permit.Operation, r permit.Reply) {
		t.Helper()
		v := replyVector{Name: name, Operation: int(op), Plain: encoded(t, r), Status: new(int)}
		switch r := r.(type) {
		case permit.UploadReply:
			v.PublishBy = r.PublishBy
		case permit.Refusal:
			*v.Status, v.Reason, v.Record, v.Retry = int(r.Reason.Status()), int(r.Reason), r.Record, int(r.Retry/time.Minute)
		}
		f.Good = append(f.Good, v)
	}
	good("stored", permit.OpUpload, permit.UploadReply{PublishBy: day*86400 + 28800})
	good("code not valid", permit.OpRedeem, permit.Refusal{Operation: permit.OpRedeem, Reason: permit.ReasonCode})
	good("short codes are paused", permit.OpRedeem, permit.Refusal{Operation: permit.OpRedeem, Reason: permit.ReasonPaused, Retry: time.Hour})
	good("busy", permit.OpRedeem, permit.Refusal{Operation: permit.OpRedeem, Reason: permit.ReasonBusy, Retry: time.Minute})
	good("longest wait", permit.OpUpload, permit.Refusal{Operation: permit.OpUpload, Reason: permit.ReasonBusy, Retry: permit.MaxRetry})
	good("operation not readable", permit.OpRedeem, permit.Refusal{Reason: permit.ReasonMalformed})
	good("malformed", permit.OpUpload, permit.Refusal{Operation: permit.OpUpload, Reason: permit.ReasonMalformed, Record: 30})
	for _, r := range []permit.Reason{permit.ReasonPermit, permit.ReasonFull, permit.ReasonClosed} {
		good(r.String(), permit.OpUpload, permit.Refusal{Operation: permit.OpUpload, Reason: r})
	}
	for _, r := range []permit.Reason{permit.ReasonTooOld, permit.ReasonFuture, permit.ReasonOverlap} {
		good(r.String(), permit.OpUpload, permit.Refusal{Operation: permit.OpUpload, Reason: r, Record: 3})
	}
	good("closed", permit.OpRedeem, permit.Refusal{Operation: permit.OpRedeem, Reason: permit.ReasonClosed})

	stored, paused := f.Good[0].Plain, f.Good[2].Plain
	refuse := func(name string, op permit.Operation, from hexes, change map[int]byte) {
		t.Helper()
		b := slices.Clone(from)
		for at, v := range change {
			b[at] = v
		}
		if _, err := permit.DecodeReply(op, b); err == nil {
			t.Errorf("%s: it is a reply", name)
		}
		f.Refused = append(f.Refused, replyVector{Name: name, Operation: int(op), Plain: b})
	}
	refuse("version 2", permit.OpUpload, stored, map[int]byte{0: 2})
	refuse("of the other operation", permit.OpRedeem, stored, nil)
	refuse("status 3", permit.OpUpload, stored, map[int]byte{2: 3})
	refuse("a status that is not that of the reason", permit.OpRedeem, paused, map[int]byte{2: 1})
	refuse("a reason that is not on the list", permit.OpUpload, f.Good[8].Plain, map[int]byte{3: 11})
	refuse("a reason where all was done", permit.OpUpload, stored, map[int]byte{3: 1})
	refuse("a reason for the other operation", permit.OpUpload, f.Good[7].Plain, map[int]byte{3: 2})
	refuse("later, without a wait", permit.OpRedeem, paused, map[int]byte{6: 0, 7: 0})
	refuse("refused, with a wait", permit.OpRedeem, f.Good[1].Plain, map[int]byte{7: 1})
	refuse("record 31", permit.OpUpload, f.Good[6].Plain, map[int]byte{4: 31})
	refuse("a record for a reason that names none", permit.OpUpload, f.Good[7].Plain, map[int]byte{4: 1})
	refuse("filling that is not zero", permit.OpUpload, stored, map[int]byte{511: 1})
	refuse("a time beyond 2^63 - 1", permit.OpUpload, stored, map[int]byte{8: 0x80})
	refuse("public at 0", permit.OpUpload, stored, map[int]byte{12: 0, 13: 0, 14: 0, 15: 0})
	f.Refused = append(f.Refused, beyondSent(t, diagnosis.Bluezone, 16, 17), beyondSent(t, diagnosis.GAEN, 3, 4))
	refuse("one byte short", permit.OpUpload, stored[:511], nil)
	refuse("a permit of a report type that staff do not issue", permit.OpRedeem, stored, map[int]byte{1: 1, 5: 5})
	return f
}

// beyondSent is a reply that names a record of which its request has none.
func beyondSent(t *testing.T, scheme diagnosis.Scheme, sent, record int) replyVector {
	t.Helper()
	request := make([]byte, permit.RequestLen)
	request[1], request[3], request[4] = byte(permit.OpUpload), byte(scheme), byte(sent)
	name := fmt.Sprintf("record %d of %d", record, sent)
	for n, good := range map[int]bool{sent: true, record: false} {
		b := encoded(t, permit.Refusal{Operation: permit.OpUpload, Reason: permit.ReasonTooOld, Record: n})
		if _, err := permit.DecodeReplyTo(request, b); (err == nil) != good {
			t.Errorf("%s: record %d: %v", name, n, err)
		}
	}
	return replyVector{Name: name, Operation: int(permit.OpUpload), Sent: sent, Plain: encoded(t, permit.Refusal{Operation: permit.OpUpload, Reason: permit.ReasonTooOld, Record: record})}
}

type exchangeVector struct {
	Name         string `json:"name"`
	RequestPlain hexes  `json:"request_plain"`
	Request      hexes  `json:"request"`
	Export       hexes  `json:"export"`
	ReplyNonce   hexes  `json:"reply_nonce"`
	PRK          hexes  `json:"prk"`
	Key          hexes  `json:"key"`
	Nonce        hexes  `json:"nonce"`
	ReplyPlain   hexes  `json:"reply_plain"`
	Reply        hexes  `json:"reply"`
	ProtoRequest hexes  `json:"proto_request"`
	ProtoReply   hexes  `json:"proto_reply"`
	JSONRequest  string `json:"json_request"`
	JSONReply    string `json:"json_reply"`
}

type sealedFile struct {
	About     string           `json:"about"`
	Origin    string           `json:"origin"`
	Seed      hexes            `json:"recipient_seed"`
	Public    hexes            `json:"recipient_public"`
	KeyID     hexes            `json:"key_id"`
	Info      hexes            `json:"hpke_info"`
	Exchanges []exchangeVector `json:"exchanges"`
	NoReplies []namedReply     `json:"not_replies_to_the_first"`
}

type namedReply struct {
	Name  string `json:"name"`
	Reply hexes  `json:"reply"`
}

// sealedVectors seals requests and replies of the other files, and opens them with the
// standard library's HPKE as the page says.
func sealedVectors(t *testing.T, s *service, p *permitFile, uploads *uploadsFile) *sealedFile {
	t.Helper()
	private, err := seal.NewPrivateKey(origin, day)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := private.Seed()
	if err != nil {
		t.Fatal(err)
	}
	ring := &seal.Ring{}
	if err := ring.Add(private); err != nil {
		t.Fatal(err)
	}
	public := private.Public()
	id := public.ID()
	f := &sealedFile{
		About:  "requests and replies sealed, and their bodies; recipient_seed is the 32 bytes of an X-Wing private key; hex",
		Origin: origin, Seed: seed, Public: public.Bytes(), KeyID: id[:], Info: append([]byte("bluekey/v1 seal\n"+origin+"\n"), id[:]...),
	}
	named := sha256.Sum256(append([]byte("bluekey/v1 seal key\n"+origin+"\n"), f.Public...))
	if !bytes.Equal(named[:8], id[:]) {
		t.Error("key id: the page says otherwise")
	}
	key, err := hpke.MLKEM768X25519().NewPrivateKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	cover, err := permit.CoverUpload(s.names, diagnosis.GAEN, day)
	if err != nil {
		t.Fatal(err)
	}
	stored := encoded(t, permit.UploadReply{PublishBy: day*86400 + 28800})
	var opened *seal.Opened // the first
	var first *seal.Sent
	for _, row := range []struct {
		name           string
		request, reply hexes
	}{
		{"redeem", p.Request, p.Taken[0].Plain},
		{"upload", uploads.Uploads[0].Plain, stored},
		{"cover", cover, stored},
		{"refused", p.Request, encoded(t, permit.Refusal{Operation: permit.OpRedeem, Reason: permit.ReasonCode})},
	} {
		v := exchangeVector{Name: row.name, RequestPlain: row.request, ReplyPlain: row.reply}
		request, sent, err := public.Seal(row.request)
		if err != nil {
			t.Fatal(err)
		}
		o, err := ring.Open(request, time.Unix(day*86400, 0))
		if err != nil {
			t.Fatal(err)
		}
		if v.Reply, err = o.Seal(row.reply); err != nil {
			t.Fatal(err)
		}
		if opened == nil {
			opened, first = o, sent
		}
		if back, err := sent.Open(v.Reply); err != nil || !bytes.Equal(back, row.reply) {
			t.Errorf("%s: %v", row.name, err)
		}
		v.Request = request
		enc := v.Request[8:1128]
		recipient, err := hpke.NewRecipient(enc, key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), f.Info)
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := recipient.Open(nil, v.Request[1128:]); err != nil || !bytes.Equal(plain, row.request) {
			t.Errorf("%s: request: %v", row.name, err)
		}
		if v.Export, err = recipient.Export("bluekey/v1 reply", 32); err != nil {
			t.Fatal(err)
		}
		v.ReplyNonce = v.Reply[:32]
		if v.PRK, err = hkdf.Extract(sha256.New, v.Export, slices.Concat(enc, v.ReplyNonce)); err != nil {
			t.Fatal(err)
		}
		if v.Key, err = hkdf.Expand(sha256.New, v.PRK, "key", 32); err != nil {
			t.Fatal(err)
		}
		if v.Nonce, err = hkdf.Expand(sha256.New, v.PRK, "nonce", 12); err != nil {
			t.Fatal(err)
		}
		aead, err := chacha20poly1305.New(v.Key)
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := aead.Open(nil, v.Nonce, v.Reply[32:], nil); err != nil || !bytes.Equal(plain, row.reply) {
			t.Errorf("%s: reply: %v", row.name, err)
		}
		v.ProtoRequest, v.ProtoReply = wire(t, &bluekeyv1.ExchangeRequest{Sealed: v.Request}), wire(t, &bluekeyv1.ExchangeResponse{Sealed: v.Reply})
		v.JSONRequest, v.JSONReply = jsonBody(v.Request), jsonBody(v.Reply)
		f.Exchanges = append(f.Exchanges, v)
	}
	again, err := opened.Seal(f.Exchanges[0].ReplyPlain)
	if err != nil || bytes.Equal(again, f.Exchanges[0].Reply) {
		t.Errorf("a second reply: %v", err)
	}
	last, nonce := slices.Clone(f.Exchanges[0].Reply), slices.Clone(f.Exchanges[0].Reply)
	last[559] ^= 1
	nonce[0] ^= 1
	for _, row := range []namedReply{
		{"of another request", f.Exchanges[1].Reply}, {"last bit flipped", last}, {"nonce altered", nonce},
		{"random", seal.NoReply()}, {"one byte short", f.Exchanges[0].Reply[:559]},
	} {
		if _, err := first.Open(row.Reply); !errors.Is(err, seal.ErrReply) {
			t.Errorf("%s: %v", row.Name, err)
		}
		f.NoReplies = append(f.NoReplies, row)
	}
	return f
}

func wire(t *testing.T, m proto.Message) hexes {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func jsonBody(sealed []byte) string {
	return `{"sealed":"` + base64.StdEncoding.EncodeToString(sealed) + `"}`
}
