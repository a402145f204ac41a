package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
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
	"google.golang.org/protobuf/encoding/protowire"

	"bluekey/keystore/diagnosis"
	v1 "bluekey/server/api/bluekey/v1"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
	"bluekey/signing/permit"
)

// sealedUpload is an upload of some keys under a permit, sealed.
func (a *appliance) sealedUpload(h *permit.Held, keys []diagnosis.Key) []byte {
	a.t.Helper()
	plain, err := h.Upload(names, keys)
	if err != nil {
		a.t.Fatal(err)
	}
	sealed, _, err := a.seal(plain)
	if err != nil {
		a.t.Fatal(err)
	}
	return sealed
}

// TestMalformed sends bytes that are no Exchange, or a second spelling of one.
func TestMalformed(t *testing.T) {
	a := start(t)
	sealed := a.sealedUpload(a.held(), teks(2))
	good := exchangeBody(sealed)
	goodJSON := []byte(`{"sealed":"` + base64.StdEncoding.EncodeToString(sealed) + `"}`)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	tag := func(n protowire.Number, typ protowire.Type) []byte { return protowire.AppendTag(nil, n, typ) }
	const bin, text = "application/proto", "application/json"
	for _, row := range []struct {
		name, kind string
		body       []byte
		text       string // part of the answer
	}{
		{"empty", bin, nil, "2,168 bytes"},
		{"noise", bin, bytes.Repeat([]byte{0xff}, 200), "tag"},
		{"cut in the middle", bin, good[:len(good)-7], "damaged length: sealed"},
		{"cut in a tag", bin, join(good, []byte{0x80}), "tag"},
		{"unknown field", bin, join(good, tag(2, protowire.VarintType), []byte{1}), "unknown field 2"},
		{"field 0", bin, join(good, []byte{0, 0}), "tag"},
		{"group", bin, join(tag(1, protowire.StartGroupType), tag(1, protowire.EndGroupType)), "wrong wire type: sealed"},
		{"sealed twice", bin, join(good, good), "given twice: sealed"},
		{"a number", bin, join(tag(1, protowire.VarintType), []byte{1}), "wrong wire type: sealed"},
		{"a long length", bin, join(good[:2], []byte{good[2] | 0x80, 0}, sealed), "damaged length: sealed"},
		{"long tag", bin, join([]byte{0x8a, 0x00}, good[1:]), "tag"},
		{"as it is sealed, without a field", bin, sealed, "malformed"},

		{"no JSON", text, []byte("sealed=1"), "not the JSON form"},
		{"empty JSON", text, nil, "not the JSON form"},
		{"nothing in JSON", text, []byte("{}"), "2,168 bytes"},
		{"cut JSON", text, goodJSON[:len(goodJSON)-3], "not the JSON form"},
		{"two objects", text, join(goodJSON, goodJSON), "not the JSON form"},
		{"unknown name", text, []byte(`{"sealed":"","colour":1}`), "not the JSON form"},
		{"name twice", text, []byte(`{"sealed":"AA==","sealed":"AA=="}`), "not the JSON form"},
		{"nested", text, []byte(strings.Repeat(`{"sealed":[`, 500)), "not the JSON form"},
		{"not base64", text, []byte(`{"sealed":"*"}`), "not the JSON form"},
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
	if n := a.due(diagnosis.GAEN); n != 0 {
		t.Errorf("malformed requests left %d keys", n)
	}
	if status, body := a.post(text, goodJSON); status != 200 {
		t.Errorf("the request afterwards: %d %q", status, body)
	}
}

func TestBodyLimit(t *testing.T) {
	a := start(t)
	sealed := a.sealedUpload(a.held(), teks(1))
	big := make([]byte, maxBody+1)
	var bomb, small bytes.Buffer
	z := gzip.NewWriter(&bomb)
	for range 1000 {
		z.Write(make([]byte, 60_000))
	}
	z.Close()
	z = gzip.NewWriter(&small)
	z.Write(exchangeBody(sealed))
	z.Close()

	for _, row := range []struct {
		name   string
		body   io.Reader
		header []string
		status int
		text   string
	}{
		{"declared too large", bytes.NewReader(big), nil, 400, "too large"},
		{"too large in chunks", io.MultiReader(bytes.NewReader(big)), nil, 400, "too large"},
		{"a bomb", bytes.NewReader(bomb.Bytes()), []string{"Content-Encoding", "gzip"}, 501, "not read"},
		{"compressed", bytes.NewReader(small.Bytes()), []string{"Content-Encoding", "gzip"}, 501, "not read"},
		{"compressed by an unknown way", bytes.NewReader(small.Bytes()), []string{"Content-Encoding", "canary"}, 501, "not read"},
		{"a bomb as it is", bytes.NewReader(bomb.Bytes()[:1000]), nil, 400, "malformed"},
	} {
		res, body := a.do(http.MethodPost, a.url+bluekeyv1connect.PhoneServiceExchangeProcedure, row.body, append(row.header, "Content-Type", "application/proto")...)
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
		_, err := a.phone(row.opts...).Exchange(t.Context(), &v1.ExchangeRequest{Sealed: sealed})
		if got, r := refused(t, err); got != connect.CodeUnimplemented || r.Field != "body" {
			t.Errorf("%s: %v %v", row.name, got, r)
		}
	}
	// A compressed reply would show its content by its length, and take its time.
	res, body := a.do(http.MethodPost, a.url+bluekeyv1connect.PhoneServiceExchangeProcedure, bytes.NewReader(exchangeBody(sealed)),
		"Content-Type", "application/proto", "Accept-Encoding", "gzip")
	if res.StatusCode != 200 || res.Header.Get("Content-Encoding") != "" || len(body) != 563 {
		t.Errorf("the request afterwards: %d, %q, %d bytes", res.StatusCode, res.Header.Get("Content-Encoding"), len(body))
	}
}

func TestSlowWriters(t *testing.T) {
	a := start(t, func(c *Config) { c.ReadTimeout = 600 * time.Millisecond; c.IdleTimeout = 600 * time.Millisecond })
	sealed := a.sealedUpload(a.held(), teks(14))
	body := exchangeBody(sealed)
	head := strings.TrimSuffix(string(frame(sealed)), string(body))
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
		client := h2Client(t)
		half, rest := io.Pipe()
		defer rest.Close()
		go rest.Write(body[:len(body)/2])
		began := time.Now()
		res, err := client.Post(a.url+bluekeyv1connect.PhoneServiceExchangeProcedure, "application/proto", half)
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
	if n := a.due(diagnosis.GAEN); n != 0 {
		t.Errorf("half a request left %d keys", n)
	}
	if status, reply := a.post("application/proto", body); status != 200 {
		t.Errorf("the request afterwards: %d %q", status, reply)
	}
}

func TestConnectionCap(t *testing.T) {
	a := start(t, func(c *Config) { c.MaxConns = 3 })
	a.put("checkpoint", []byte("x"))
	dial := func() net.Conn { return a.speak([]byte("GET /checkpoint HTTP/1.1\r\nHost: x\r\n\r\n")) }
	served := func(c net.Conn, wait time.Duration) bool {
		c.SetReadDeadline(time.Now().Add(wait))
		n, _ := c.Read(make([]byte, 1))
		return n == 1
	}
	var held []net.Conn
	for range 3 {
		c := dial()
		if !served(c, 5*time.Second) {
			t.Fatal("a connection below the cap is not served")
		}
		held = append(held, c)
	}
	fourth := dial()
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
	go client.Exchange(t.Context(), &v1.ExchangeRequest{})
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
	_, err = client.Exchange(soon, &v1.ExchangeRequest{})
	close(leave)
	if code, r := refused(t, err); code != connect.CodeUnavailable || r.Reason != "busy" || !r.Retry {
		t.Errorf("%v %v", code, r)
	}
}

// TestNothingLogged plants what must not be kept and looks for it in the log, the metrics
// and the answers.
func TestNothingLogged(t *testing.T) {
	a := start(t)
	codes, shorts := a.codes(2), a.short(1)
	keys := teks(14)
	canaries := []string{codes[0], codes[1], strings.ToLower(codes[0]), shorts[0], "canary-agent", "203.0.113.77", "canary-query", "127.0.0.1"}
	plant := func(secret []byte) {
		canaries = append(canaries, string(secret), hex.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret), fmt.Sprint(secret))
	}
	for i := range keys {
		plant(keys[i].Bytes())
	}
	held, err := a.redeem(codes[0])
	if err != nil {
		t.Fatal(err)
	}
	plant(held.E[:])
	plant(held.Nonce[:])
	plant(held.Output[:])
	spent := held.Spent()
	plant(spent[:])
	header := []string{"User-Agent", "canary-agent", "X-Forwarded-For", "203.0.113.77", "Forwarded", "for=203.0.113.77"}
	var answers []byte
	send := func(kind string, body []byte, extra ...string) {
		_, b := a.post(kind, body, append(extra, header...)...)
		answers = append(answers, b...)
	}
	pending, err := permit.NewPending()
	if err != nil {
		t.Fatal(err)
	}
	redeem := func(code string) []byte {
		r := pending.Redeem(code)
		plant(r.Blinded[:])
		plain, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		sealed, _, err := a.seal(plain)
		if err != nil {
			t.Fatal(err)
		}
		return exchangeBody(sealed)
	}
	body := exchangeBody(a.sealedUpload(held, keys))
	plant(body[100:132])
	for _, b := range [][]byte{
		body, body, redeem(codes[0]), redeem(codes[1]), redeem(codes[1]), redeem(shorts[0]), redeem("000000000"),
		exchangeBody(a.sealedUpload(held, append(teks(14), keys[0]))), body[:len(body)-1], bytes.Repeat(body, 40),
	} {
		send("application/proto", b)
	}
	send("application/json", []byte(`{"sealed":"canary-agent","x":"`+codes[1]+`"}`))
	send("application/proto", body, "Content-Encoding", "gzip")
	send("application/proto", body, "Connect-Timeout-Ms", "canary-agent")
	send("application/proto", body, "Connect-Protocol-Version", "canary-agent")
	a.get("/canary-query?canary-query", header...)
	a.get("/checkpoint?canary-query", header...)
	a.speak([]byte("canary-agent\r\n\r\n")).Close()
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
	if strings.Contains(a.log.String(), "Exchange") || strings.Contains(a.log.String(), "phone") {
		t.Errorf("a line about a request: %s", a.log)
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
