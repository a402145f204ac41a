package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
)

// What a client over HTTP/2 opens with: the preface and settings that change nothing.
const h2Opening = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// Types and flags of frames (RFC 9113, section 6).
const (
	dataFrame, headersFrame, settingsFrame, windowUpdateFrame = 0, 1, 4, 8
	endStream, endHeaders                                     = 1, 4
)

// frameHead begins a frame whose payload has this length.
func frameHead(typ, flags byte, stream uint32, length int) []byte {
	head := binary.BigEndian.AppendUint32(nil, uint32(length)<<8|uint32(typ))
	return binary.BigEndian.AppendUint32(append(head, flags), stream)
}

func h2Frame(typ, flags byte, stream uint32, payload []byte) []byte {
	return append(frameHead(typ, flags, stream, len(payload)), payload...)
}

// h2Fields are the header fields of a request, as HPACK literals without index.
func h2Fields(method, path string, more ...string) []byte {
	var fields []byte
	all := append([]string{":method", method, ":scheme", "http", ":path", path, ":authority", "x"}, more...)
	for i, s := range all {
		if i%2 == 0 {
			fields = append(fields, 0)
		}
		fields = append(append(fields, byte(len(s))), s...)
	}
	return fields
}

// exchangeFields are those of an Exchange with a body of this length.
func exchangeFields(length int) []byte {
	return h2Fields("POST", bluekeyv1connect.PhoneServiceExchangeProcedure, "content-type", "application/proto", "content-length", strconv.Itoa(length))
}

// speak opens a connection and says all of this.
func (a *appliance) speak(parts ...[]byte) net.Conn {
	a.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(a.url, "http://"))
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { c.Close() })
	for _, p := range parts {
		if _, err := c.Write(p); err != nil {
			a.t.Fatal(err)
		}
	}
	return c
}

// h2NoWindow are settings under which no body of an answer can be sent.
var h2NoWindow = h2Frame(settingsFrame, 0, 0, []byte{0, 4, 0, 0, 0, 0})

// h2Client speaks HTTP/2 only, by one connection.
func h2Client(t *testing.T) *http.Client {
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: h2}, Timeout: 20 * time.Second}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// heap is what is in use, in bytes.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestCutBodyEndsConnection: over HTTP/2 too, who sends half a body loses the connection
// when that is found out, and does not have it for an idle one's time.
func TestCutBodyEndsConnection(t *testing.T) {
	const door = "/door"
	a := start(t, func(c *Config) {
		c.ReadTimeout, c.IdleTimeout = 300*time.Millisecond, time.Minute
		c.Doors = map[string]http.Handler{door: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err != nil {
				w.WriteHeader(http.StatusBadRequest)
			}
		})}
	})
	body := exchangeBody(a.sealedUpload(a.held(), teks(14)))
	half := body[:len(body)/2]
	exchange := h2Frame(headersFrame, endHeaders, 1, exchangeFields(len(body)))
	for name, conn := range map[string]net.Conn{
		"half a frame":     a.speak([]byte(h2Opening), exchange, frameHead(dataFrame, endStream, 1, len(body)), half),
		"one frame of two": a.speak([]byte(h2Opening), exchange, h2Frame(dataFrame, 0, 1, half)),
		"no frame":         a.speak([]byte(h2Opening), exchange),
		"half, at a door":  a.speak([]byte(h2Opening), h2Frame(headersFrame, endHeaders, 1, h2Fields("POST", door)), h2Frame(dataFrame, 0, 1, half)),
	} {
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRefusedKeepsConnection: a request over HTTP/2 that is refused unread ends alone.
func TestRefusedKeepsConnection(t *testing.T) {
	a := start(t)
	client := h2Client(t)
	var reused []bool
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = append(reused, i.Reused) }})
	body := string(exchangeBody(a.sealedUpload(a.held(), teks(14))))
	for _, b := range []string{body, strings.Repeat(body, 5), body} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+bluekeyv1connect.PhoneServiceExchangeProcedure, strings.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/proto")
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if want := map[bool]int{true: 200, false: 400}[b == body]; res.StatusCode != want {
			t.Errorf("%d bytes: %d, want %d", len(b), res.StatusCode, want)
		}
	}
	if want := "[false true true]"; fmt.Sprint(reused) != want {
		t.Errorf("reused: %v, want %s", reused, want)
	}
}

// TestAnnouncedFrames: a frame that is only announced costs next to nothing.
func TestAnnouncedFrames(t *testing.T) {
	const n, each = 100, 200 << 10
	a := start(t)
	before := heap()
	for range n {
		a.speak([]byte(h2Opening), frameHead(dataFrame, 0, 1, 1<<20))
	}
	time.Sleep(500 * time.Millisecond)
	if after := heap(); after > before+n*each {
		t.Errorf("%d KB for each", (after-before)/n>>10)
	}
}

// TestUploadBesideDownload: what comes with a request that is answered without it is not
// kept while nobody reads the answer.
func TestUploadBesideDownload(t *testing.T) {
	const n, each = 50, 300 << 10
	a := start(t)
	a.put(exportName+".zip", noise(1<<20))
	before := heap()
	for range n {
		c := a.speak([]byte(h2Opening), h2NoWindow, h2Frame(headersFrame, endHeaders, 1, h2Fields("GET", "/"+exportName+".zip")))
		go func() { // which blocks, or ends with the connection
			chunk := h2Frame(dataFrame, 0, 1, make([]byte, 16<<10))
			for range 63 {
				if _, err := c.Write(chunk); err != nil {
					return
				}
			}
		}()
	}
	time.Sleep(time.Second)
	if after := heap(); after > before+n*each {
		t.Errorf("%d KB for each", (after-before)/n>>10)
	}
}

// TestDeafClient: who asks over HTTP/2 and reads nothing at all is cut off, as is who allows
// no byte of the answer.
func TestDeafClient(t *testing.T) {
	a := start(t, func(c *Config) {
		c.ReadTimeout, c.IdleTimeout, c.WriteTimeout = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
	})
	a.put(exportName+".zip", noise(32<<20)) // more than the buffers of a socket hold
	a.client.CloseIdleConnections()
	get := h2Frame(headersFrame, endHeaders|endStream, 1, h2Fields("GET", "/"+exportName+".zip"))
	const settingWindow = 4
	a.speak([]byte(h2Opening), h2Frame(settingsFrame, 0, 0, []byte{0, settingWindow, 0x7f, 0xff, 0xff, 0xff}),
		h2Frame(windowUpdateFrame, 0, 0, []byte{0x7f, 0xff, 0, 0}), get)
	a.speak([]byte(h2Opening), h2NoWindow, get)
	time.Sleep(100 * time.Millisecond) // both are accepted
	if _, err := a.connections(0); err != nil {
		t.Error(err)
	}
}

// TestFloods: what floods a connection ends it, and brings no more than 16 requests at once.
// This is the library's work, under our limits.
func TestFloods(t *testing.T) {
	const resetFrame, continuationFrame = 3, 9
	var inside, most, calls atomic.Int64
	a := start(t, func(c *Config) {
		c.Home = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			calls.Add(1)
			if n := inside.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(50 * time.Millisecond) // slower than requests come
			inside.Add(-1)
		})
	})
	get := h2Fields("GET", "/")
	var resets []byte
	for i := range uint32(5000) {
		resets = append(resets, h2Frame(headersFrame, endHeaders|endStream, 2*i+1, get)...)
		resets = append(resets, h2Frame(resetFrame, 0, 2*i+1, []byte{0, 0, 0, 8})...)
	}
	endless := h2Frame(headersFrame, endStream, 1, get)
	for range 200 {
		endless = append(endless, h2Frame(continuationFrame, 0, 1, bytes.Repeat([]byte{0, 1, 'x', 1, 'a'}, 3000))...)
	}
	// A field of 4,000 bytes goes into the decoder's table, and is named 10,000 times.
	field := slices.Concat([]byte{0x40, 1, 'x', 0x7f, 0xa1, 0x1e}, bytes.Repeat([]byte("a"), 4000))
	bomb := h2Frame(headersFrame, endHeaders|endStream, 1, slices.Concat(get, field, bytes.Repeat([]byte{0xbe}, 10_000)))
	for _, row := range []struct {
		name string
		sent []byte
		most int64 // calls that come through
		ends bool
	}{
		{"streams that are reset at once", resets, 5 * 16, true},
		{"a header without end", endless, 0, true},
		{"a header that unpacks to 40 MB", bomb, 0, false},
	} {
		calls.Store(0)
		before := heap()
		c := a.speak([]byte(h2Opening))
		c.SetDeadline(time.Now().Add(2 * time.Second))
		c.Write(row.sent) // it may be cut off at that
		_, err := io.ReadAll(c)
		if ended := !errors.Is(err, os.ErrDeadlineExceeded); ended != row.ends {
			t.Errorf("%s: %v", row.name, err)
		}
		if after := heap(); after > before+2<<20 {
			t.Errorf("%s: %d KB", row.name, (after-before)>>10)
		}
		if n := calls.Load(); n > row.most {
			t.Errorf("%s: %d calls", row.name, n)
		}
	}
	if n := most.Load(); n > 16 {
		t.Errorf("%d requests of one connection at once", n)
	}
}
