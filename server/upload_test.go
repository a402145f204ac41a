package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	v1 "bluekey/server/api/bluekey/v1"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
)

const (
	gaen     = v1.Scheme_SCHEME_GAEN
	bluezone = v1.Scheme_SCHEME_BLUEZONE
)

func uploadBody(t testing.TB, code string, keys []*v1.Key) []byte {
	t.Helper()
	b, err := proto.Marshal(&v1.UploadRequest{Code: code, Scheme: gaen, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rawUpload is the head of an upload of n bytes.
func rawUpload(n int) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/proto\r\nContent-Length: %d\r\n\r\n",
		bluekeyv1connect.PhoneServiceUploadProcedure, n)
}

// post sends bytes as an upload and gives status and answer.
func (a *appliance) post(kind string, body []byte, header ...string) (int, []byte) {
	a.t.Helper()
	res, b := a.do(http.MethodPost, a.url+bluekeyv1connect.PhoneServiceUploadProcedure, bytes.NewReader(body), append(header, "Content-Type", kind)...)
	return res.StatusCode, b
}

// seeds are n Bluezone day seeds of the last n days.
func seeds(n int) []*v1.Key {
	keys := make([]*v1.Key, n)
	for i := range keys {
		keys[i] = &v1.Key{Secret: noise(32), Start: (today() - 1 - uint32(i)) * 96, Count: 96}
	}
	return keys
}

func TestUpload(t *testing.T) {
	a := start(t)
	unencrypted := new(http.Protocols)
	unencrypted.SetUnencryptedHTTP2(true)
	over2 := &http.Client{Transport: &http.Transport{Protocols: unencrypted}}
	h2 := bluekeyv1connect.NewPhoneServiceClient(over2, a.url, connect.WithGRPC())
	defer over2.CloseIdleConnections()
	codes := a.codes(6)
	for i, row := range []struct {
		name   string
		client bluekeyv1connect.PhoneServiceClient
		scheme v1.Scheme
		keys   []*v1.Key
	}{
		{"one key", a.phone(), gaen, teks(1)},
		{"14 keys", a.phone(), gaen, teks(14)},
		{"14 day seeds", a.phone(), bluezone, seeds(14)},
		{"as JSON", a.phone(connect.WithProtoJSON()), gaen, teks(14)},
		{"over gRPC", h2, gaen, teks(14)},
		{"over gRPC-Web", a.phone(connect.WithGRPCWeb()), gaen, teks(14)},
	} {
		req := &v1.UploadRequest{Code: codes[i], Scheme: row.scheme, Keys: row.keys}
		now := time.Now()
		res, err := row.client.Upload(t.Context(), req)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if by := time.Unix(res.PublishBy, 0); by.Before(now) || by.After(now.Add(48*time.Hour)) {
			t.Errorf("%s: public by %v", row.name, by)
		}
		again, err := row.client.Upload(t.Context(), req)
		if err != nil || again.PublishBy != res.PublishBy {
			t.Errorf("%s, sent again: %v, %v", row.name, again, err)
		}
		req.Keys = teks(2)
		req.Scheme = gaen
		_, err = row.client.Upload(t.Context(), req)
		if code, r := refused(t, err); code != connect.CodePermissionDenied || r.Reason != "spent_code" || r.Retry {
			t.Errorf("%s, the code with other keys: %v %v", row.name, code, r)
		}
	}
}

// TestRefusals: what is wrong is named, and the code is as good as before.
func TestRefusals(t *testing.T) {
	a := start(t)
	code := a.codes(1)[0]
	with := func(f func(*v1.Key)) []*v1.Key {
		keys := teks(3)
		f(keys[1])
		return keys
	}
	same := teks(1)[0]
	for _, row := range []struct {
		name   string
		req    *v1.UploadRequest
		code   connect.Code
		reason string
		field  string
		index  int // -1: none
	}{
		{"no code", &v1.UploadRequest{Scheme: gaen, Keys: teks(1)}, connect.CodeInvalidArgument, "malformed", "code", -1},
		{"no scheme", &v1.UploadRequest{Code: code, Keys: teks(1)}, connect.CodeInvalidArgument, "malformed", "scheme", -1},
		{"unknown scheme", &v1.UploadRequest{Code: code, Scheme: 3, Keys: teks(1)}, connect.CodeInvalidArgument, "malformed", "scheme", -1},
		{"scheme 257", &v1.UploadRequest{Code: code, Scheme: 257, Keys: teks(1)}, connect.CodeInvalidArgument, "malformed", "scheme", -1},
		{"no keys", &v1.UploadRequest{Code: code, Scheme: gaen}, connect.CodeInvalidArgument, "malformed", "keys", -1},
		{"31 keys", &v1.UploadRequest{Code: code, Scheme: gaen, Keys: append(teks(14), append(teks(14), teks(3)...)...)}, connect.CodeInvalidArgument, "malformed", "keys", -1},
		{"17 day seeds", &v1.UploadRequest{Code: code, Scheme: bluezone, Keys: append(seeds(14), seeds(3)...)}, connect.CodeInvalidArgument, "malformed", "keys", -1},
		{"keys of the other scheme", &v1.UploadRequest{Code: code, Scheme: bluezone, Keys: teks(1)}, connect.CodeInvalidArgument, "malformed", "secret", 0},
		{"day seeds as TEKs", &v1.UploadRequest{Code: code, Scheme: gaen, Keys: seeds(1)}, connect.CodeInvalidArgument, "malformed", "secret", 0},
		{"no secret", &v1.UploadRequest{Code: code, Scheme: gaen, Keys: with(func(k *v1.Key) { k.Secret = nil })}, connect.CodeInvalidArgument, "malformed", "secret", 1},
		{"15 bytes", &v1.UploadRequest{Code: code, Scheme: gaen, Keys: with(func(k *v1.Key) { k.Secret = k.Secret[1:] })}, connect.CodeInvalidArgument, "malformed", "secret", 1},
		{"count 0", &v1.UploadRequest{Code: code, Scheme: gaen, Keys: with(func(k *v1.Key) { k.Count = 0 })}, connect.CodeInvalidArgument, "malformed", "count", 1},
		{"count 145", &v1.UploadRequest{Code: code, Scheme: gaen, Keys: with(func(k *v1.Key) { k.Count = 145 })}, connect.CodeInvalidArgument, "malformed", "count", 1},
		{"count 2^31", &v1.UploadRequest{Code: code, Scheme: gaen, Keys: with(func(k *v1.Key) { k.Count = 1 << 31 })}, connect.CodeInvalidArgument, "malformed", "count", 1},
		{"risk 9", &v1.UploadRequest{Code: code, Scheme: gaen, Keys: with(func(k *v1.Key) { k.Risk = 9 })}, connect.CodeInvalidArgument, "malformed", "risk", 1},
		{"risk 256", &v1.UploadRequest{Code: code, Scheme: gaen, Keys: with(func(k *v1.Key) { k.Risk = 256 })}, connect.CodeInvalidArgument, "malformed", "risk", 1},
		{"beyond the last interval", &v1.UploadRequest{Code: code, Scheme: gaen, Keys: with(func(k *v1.Key) { k.Start = 1<<32 - 1 })}, connect.CodeInvalidArgument, "malformed", "start", 1},
		{"in the future", &v1.UploadRequest{Code: code, Scheme: gaen, Keys: with(func(k *v1.Key) { k.Start = (today() + 2) * 144 })}, connect.CodeInvalidArgument, "future", "start", 1},
		{"too old", &v1.UploadRequest{Code: code, Scheme: gaen, Keys: with(func(k *v1.Key) { k.Start = (today() - 17) * 144 })}, connect.CodeInvalidArgument, "too_old", "start", 1},
		{"overlap", &v1.UploadRequest{Code: code, Scheme: gaen, Keys: with(func(k *v1.Key) { k.Start -= 72 })}, connect.CodeInvalidArgument, "overlap", "*", 0},
		{"one key twice", &v1.UploadRequest{Code: code, Scheme: gaen, Keys: []*v1.Key{same, same}}, connect.CodeInvalidArgument, "*", "*", 0},
		{"a code that never was", &v1.UploadRequest{Code: "0123456789ABCDEF", Scheme: gaen, Keys: teks(1)}, connect.CodePermissionDenied, "bad_code", "code", -1},
		{"a mistyped code", &v1.UploadRequest{Code: "00", Scheme: gaen, Keys: teks(1)}, connect.CodePermissionDenied, "bad_code", "code", -1},
		{"a code of 60 KB", &v1.UploadRequest{Code: strings.Repeat("7", 60_000), Scheme: gaen, Keys: teks(1)}, connect.CodePermissionDenied, "bad_code", "code", -1},
	} {
		_, err := a.phone().Upload(t.Context(), row.req)
		if err == nil {
			t.Errorf("%s: accepted", row.name)
			continue
		}
		got, r := refused(t, err)
		if got != row.code || row.reason != "*" && r.Reason != row.reason || row.field != "*" && r.Field != row.field {
			t.Errorf("%s: %v %v", row.name, got, r)
		}
		if row.field != "*" && (r.Index == nil) != (row.index < 0) || r.Index != nil && row.field != "*" && int(*r.Index) != row.index {
			t.Errorf("%s: index %v, want %d", row.name, r.Index, row.index)
		}
		if strings.Contains(err.Error(), row.req.Code) && row.req.Code != "" {
			t.Errorf("%s: the answer repeats the code", row.name)
		}
	}
	if _, err := a.phone().Upload(t.Context(), &v1.UploadRequest{Code: code, Scheme: gaen, Keys: teks(1)}); err != nil {
		t.Errorf("the code afterwards: %v", err)
	}
}

// TestMalformed sends bytes that are no upload, or a second spelling of one.
func TestMalformed(t *testing.T) {
	a := start(t)
	code := a.codes(1)[0]
	good := uploadBody(t, code, teks(2))
	goodJSON, err := protojson.Marshal(&v1.UploadRequest{Code: code, Scheme: gaen, Keys: teks(1)})
	if err != nil {
		t.Fatal(err)
	}
	tag := func(n protowire.Number, typ protowire.Type) []byte { return protowire.AppendTag(nil, n, typ) }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	key := func(fields ...[]byte) []byte {
		return join(tag(1, protowire.BytesType), protowire.AppendString(nil, code), tag(2, protowire.VarintType), []byte{1},
			tag(3, protowire.BytesType), protowire.AppendBytes(nil, join(fields...)))
	}
	secret := join(tag(1, protowire.BytesType), protowire.AppendBytes(nil, noise(16)))
	start := join(tag(2, protowire.VarintType), protowire.AppendVarint(nil, uint64(teks(1)[0].Start)))
	count := join(tag(3, protowire.VarintType), protowire.AppendVarint(nil, 144))
	const bin, text = "application/proto", "application/json"
	for _, row := range []struct {
		name, kind string
		body       []byte
		text       string // part of the answer
	}{
		{"empty", bin, nil, "code is missing"},
		{"noise", bin, bytes.Repeat([]byte{0xff}, 200), "tag"},
		{"cut in the middle", bin, good[:len(good)-7], "damaged length: keys"},
		{"cut in a tag", bin, join(good, []byte{0x80}), "tag"},
		{"unknown field", bin, join(good, tag(4, protowire.VarintType), []byte{1}), "unknown field 4"},
		{"unknown field of a key", bin, key(secret, start, count, tag(5, protowire.VarintType), []byte{1}), "unknown field 5"},
		{"field 0", bin, join(good, []byte{0, 0}), "tag"},
		{"group", bin, join(good, tag(3, protowire.StartGroupType), tag(3, protowire.EndGroupType)), "wrong wire type: keys"},
		{"code twice", bin, join(good, tag(1, protowire.BytesType), protowire.AppendString(nil, code)), "given twice: code"},
		{"scheme twice", bin, join(good, tag(2, protowire.VarintType), []byte{2}), "given twice: scheme"},
		{"secret twice", bin, key(secret, secret, start, count), "given twice: secret"},
		{"start twice", bin, key(secret, start, start, count), "given twice: start"},
		{"wrong wire type", bin, key(secret, start, tag(3, protowire.Fixed32Type), make([]byte, 4)), "wrong wire type: count"},
		{"number as text", bin, key(secret, start, tag(3, protowire.BytesType), []byte{1, 1}), "wrong wire type: count"},
		{"start beyond 32 bits", bin, key(secret, tag(2, protowire.VarintType), protowire.AppendVarint(nil, 1<<32+5), count), "too large: start"},
		{"negative scheme", bin, join(tag(2, protowire.VarintType), protowire.AppendVarint(nil, 1<<64-1)), "too large: scheme"},
		{"long varint", bin, key(secret, start, tag(3, protowire.VarintType), []byte{0x81, 0x00}), "damaged number: count"},
		{"endless varint", bin, key(secret, start, tag(3, protowire.VarintType), bytes.Repeat([]byte{0x80}, 11)), "damaged number: count"},
		{"long tag", bin, join(good, []byte{0x9a, 0x00, 0x00}), "tag"},
		{"not UTF-8", bin, join(tag(1, protowire.BytesType), []byte{2, 0xff, 0xfe}), "UTF-8"},

		{"no JSON", text, []byte("code=1"), "not the JSON form"},
		{"empty JSON", text, nil, "not the JSON form"},
		{"cut JSON", text, goodJSON[:len(goodJSON)-3], "not the JSON form"},
		{"two objects", text, join(goodJSON, goodJSON), "not the JSON form"},
		{"unknown name", text, []byte(`{"code":"x","colour":1}`), "not the JSON form"},
		{"name twice", text, []byte(`{"code":"x","code":"y"}`), "not the JSON form"},
		{"nested", text, []byte(strings.Repeat(`{"keys":[`, 5000)), "not the JSON form"},
		{"start beyond 32 bits in JSON", text, []byte(`{"keys":[{"start":4294967301}]}`), "not the JSON form"},
		{"negative count", text, []byte(`{"keys":[{"count":-1}]}`), "not the JSON form"},
	} {
		status, body := a.post(row.kind, row.body)
		var answer struct{ Code, Message string }
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Errorf("%s: %d %q", row.name, status, body)
			continue
		}
		if status != 400 || answer.Code != "invalid_argument" || !strings.HasPrefix(answer.Message, "malformed: ") || !strings.Contains(answer.Message, row.text) {
			t.Errorf("%s: %d %s %q, want %q", row.name, status, answer.Code, answer.Message, row.text)
		}
	}
	if status, body := a.post("application/x-www-form-urlencoded", good); status != 415 {
		t.Errorf("a form: %d %q", status, body)
	}
	if status, body := a.post(bin, good); status != 200 {
		t.Errorf("the code afterwards: %d %q", status, body)
	}
}

func TestBodyLimit(t *testing.T) {
	a := start(t)
	code := a.codes(1)[0]
	big := uploadBody(t, code+strings.Repeat(" ", maxBody), teks(1))
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	for range 1000 {
		z.Write(make([]byte, 60_000))
	}
	z.Close()
	var small bytes.Buffer
	z = gzip.NewWriter(&small)
	z.Write(uploadBody(t, code, teks(1)))
	z.Close()

	for _, row := range []struct {
		name   string
		body   io.Reader
		header []string
		status int
		text   string
	}{
		{"declared too large", bytes.NewReader(big), nil, 400, "larger than 64 KB"},
		{"too large in chunks", io.MultiReader(bytes.NewReader(big)), nil, 400, "larger than 64 KB"},
		{"a bomb", bytes.NewReader(bomb.Bytes()), []string{"Content-Encoding", "gzip"}, 501, "not read"},
		{"compressed", bytes.NewReader(small.Bytes()), []string{"Content-Encoding", "gzip"}, 501, "not read"},
		{"compressed by an unknown way", bytes.NewReader(small.Bytes()), []string{"Content-Encoding", "canary"}, 501, "not read"},
		{"a bomb as it is", bytes.NewReader(bomb.Bytes()[:1000]), nil, 400, "malformed"},
	} {
		res, body := a.do(http.MethodPost, a.url+bluekeyv1connect.PhoneServiceUploadProcedure, row.body, append(row.header, "Content-Type", "application/proto")...)
		if res.StatusCode != row.status || !strings.Contains(string(body), row.text) || strings.Contains(string(body), "canary") {
			t.Errorf("%s: %d %q", row.name, res.StatusCode, body)
		}
	}
	for _, row := range []struct {
		name string
		opts []connect.ClientOption
	}{
		{"gzip by Connect", []connect.ClientOption{connect.WithSendGzip()}},
		{"gzip by gRPC-Web", []connect.ClientOption{connect.WithSendGzip(), connect.WithGRPCWeb()}},
	} {
		_, err := a.phone(row.opts...).Upload(t.Context(), &v1.UploadRequest{Code: code, Scheme: gaen, Keys: teks(14)})
		if got, r := refused(t, err); got != connect.CodeUnimplemented || r.Field != "body" {
			t.Errorf("%s: %v %v", row.name, got, r)
		}
	}
	if _, err := a.phone().Upload(t.Context(), &v1.UploadRequest{Code: code, Scheme: gaen, Keys: teks(1)}); err != nil {
		t.Errorf("the code afterwards: %v", err)
	}
}

func TestSlowWriters(t *testing.T) {
	a := start(t, func(c *Config) { c.ReadTimeout = 600 * time.Millisecond; c.IdleTimeout = 600 * time.Millisecond })
	body := uploadBody(t, a.codes(1)[0], teks(14))
	head := rawUpload(len(body))
	var wg sync.WaitGroup
	for name, sent := range map[string]string{
		"nothing":             "",
		"half a request line": "POST /bluek",
		"headers without end": "POST / HTTP/1.1\r\nHost: x\r\n",
		"no body":             head,
		"half a body":         head + string(body[:len(body)/2]),
		"an h2 preface":       "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		wg.Go(func() {
			c, err := net.Dial("tcp", strings.TrimPrefix(a.url, "http://"))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			began := time.Now()
			io.WriteString(c, sent)
			c.SetReadDeadline(began.Add(5 * time.Second))
			reply, err := io.ReadAll(c)
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Errorf("%s: still connected after %v", name, time.Since(began))
			}
			if bytes.Contains(reply, []byte("200 OK")) {
				t.Errorf("%s: %q", name, reply)
			}
		})
	}
	wg.Go(func() {
		h2 := new(http.Protocols)
		h2.SetUnencryptedHTTP2(true)
		client := &http.Client{Transport: &http.Transport{Protocols: h2}, Timeout: 5 * time.Second}
		defer client.CloseIdleConnections()
		half, rest := io.Pipe()
		defer rest.Close()
		go rest.Write(body[:len(body)/2])
		began := time.Now()
		res, err := client.Post(a.url+bluekeyv1connect.PhoneServiceUploadProcedure, "application/proto", half)
		if err == nil {
			defer res.Body.Close()
		}
		if time.Since(began) > 4*time.Second || err == nil && res.StatusCode == 200 {
			t.Errorf("half a body over HTTP/2: %v after %v", err, time.Since(began))
		}
	})
	// One byte at a time resets no timer.
	wg.Go(func() {
		c, err := net.Dial("tcp", strings.TrimPrefix(a.url, "http://"))
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, head)
		began := time.Now()
		for i := 0; time.Since(began) < 5*time.Second; i++ {
			if _, err := c.Write(body[i%len(body) : i%len(body)+1]); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Error("a byte every 20 ms is taken for 5 s")
	})
	wg.Wait()
	if status, reply := a.post("application/proto", body); status != 200 {
		t.Errorf("the code afterwards: %d %q", status, reply)
	}
}

func TestConnectionCap(t *testing.T) {
	a := start(t, func(c *Config) { c.MaxConns = 3 })
	a.put("checkpoint", []byte("x"))
	dial := func() net.Conn {
		c, err := net.Dial("tcp", strings.TrimPrefix(a.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET /checkpoint HTTP/1.1\r\nHost: x\r\n\r\n")
		return c
	}
	served := func(c net.Conn, wait time.Duration) bool {
		c.SetReadDeadline(time.Now().Add(wait))
		n, _ := c.Read(make([]byte, 1))
		return n == 1
	}
	var held []net.Conn
	for range 3 {
		c := dial()
		defer c.Close()
		if !served(c, 5*time.Second) {
			t.Fatal("a connection below the cap is not served")
		}
		held = append(held, c)
	}
	fourth := dial()
	defer fourth.Close()
	if served(fourth, 100*time.Millisecond) {
		t.Fatal("a fourth connection is served")
	}
	held[0].Close()
	if !served(fourth, 5*time.Second) {
		t.Fatal("the fourth is not served after one has gone")
	}
}

func TestBusy(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	g := newGate(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inside <- struct{}{}; <-leave }), make(chan struct{}, 1))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: g}
	go srv.Serve(l)
	defer srv.Close()
	client := bluekeyv1connect.NewPhoneServiceClient(http.DefaultClient, "http://"+l.Addr().String())
	go client.Upload(t.Context(), &v1.UploadRequest{})
	<-inside
	soon, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	go func() { // a second request inside is one too many
		select {
		case <-inside:
			cancel()
		case <-soon.Done():
		}
	}()
	_, err = client.Upload(soon, &v1.UploadRequest{})
	close(leave)
	if code, r := refused(t, err); code != connect.CodeUnavailable || r.Reason != "busy" || !r.Retry {
		t.Errorf("%v %v", code, r)
	}
}

// TestOneWins: many phones with one code and different keys.
func TestOneWins(t *testing.T) {
	a := start(t)
	code := a.codes(1)[0]
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 32 {
		wg.Go(func() {
			_, err := a.phone().Upload(t.Context(), &v1.UploadRequest{Code: code, Scheme: gaen, Keys: teks(2)})
			if err == nil {
				mu.Lock()
				won++
				mu.Unlock()
				return
			}
			if _, r := refused(t, err); r.Reason != "spent_code" {
				t.Errorf("%v", r)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d of 32 uploads with one code were accepted", won)
	}
}

// TestNothingLogged plants what must not be kept and looks for it in the log and the
// metrics.
func TestNothingLogged(t *testing.T) {
	a := start(t)
	codes := a.codes(2)
	keys := teks(14)
	canaries := []string{codes[0], codes[1], strings.ToLower(codes[0]), "canary-agent", "203.0.113.77", "canary-query", "127.0.0.1"}
	for _, k := range keys {
		canaries = append(canaries, string(k.Secret), hex.EncodeToString(k.Secret))
	}
	header := []string{"User-Agent", "canary-agent", "X-Forwarded-For", "203.0.113.77", "Forwarded", "for=203.0.113.77"}
	body := uploadBody(t, codes[0], keys)
	var answers []byte
	send := func(kind string, body []byte, extra ...string) {
		_, b := a.post(kind, body, append(extra, header...)...)
		answers = append(answers, b...)
	}
	send("application/proto", body)
	send("application/proto", body)
	send("application/proto", uploadBody(t, codes[0], keys[1:]))
	send("application/proto", uploadBody(t, "canary-agent", keys))
	send("application/proto", body[:len(body)-1])
	send("application/json", []byte(`{"code":"`+codes[1]+`","x":1}`))
	send("application/proto", bytes.Repeat(body, 200))
	send("application/proto", body, "Content-Encoding", "gzip")
	send("application/proto", body, "Connect-Timeout-Ms", "canary-agent")
	send("application/proto", body, "Connect-Protocol-Version", "canary-agent")
	a.get("/canary-query?canary-query", header...)
	a.get("/checkpoint?canary-query", header...)
	c, err := net.Dial("tcp", strings.TrimPrefix(a.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "canary-agent\r\n\r\n")
	c.Close()
	_, metrics := a.do(http.MethodGet, a.ops+"/metrics", nil)
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"log": a.log.String(), "metrics": string(metrics), "answers": string(answers)} {
		for _, canary := range canaries {
			if strings.Contains(text, canary) {
				t.Errorf("%s: %q in %s", name, canary, text)
			}
		}
	}
	if strings.Contains(a.log.String(), "Upload") {
		t.Errorf("a line about an upload: %s", a.log)
	}
}

func TestPanicIsContained(t *testing.T) {
	a := start(t, func(c *Config) {
		c.Home = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { panic("canary " + r.URL.RawQuery) })
	})
	for range 3 {
		if res, err := a.client.Get(a.url + "/?secret"); err == nil {
			t.Errorf("an answer: %d", res.StatusCode)
		}
	}
	if n := strings.Count(a.log.String(), "request failed"); n != 1 || strings.Contains(a.log.String(), "127.0.0.1") || strings.Contains(a.log.String(), "canary") ||
		!strings.Contains(a.log.String(), "TestPanicIsContained") {
		t.Errorf("%d lines: %s", n, a.log)
	}
	if res, _ := a.get("/checkpoint"); res.StatusCode != 404 {
		t.Errorf("afterwards: %d", res.StatusCode)
	}
}
