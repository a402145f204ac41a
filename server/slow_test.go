//go:build linux

package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bluekey/keystore/diagnosis"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
	"bluekey/signing/permit"
)

// TestTenThousandSlowConnections: phones get through while ten thousand connections have
// each sent half a request and no more. The limit of open files may allow fewer, and the race
// detector does.
func TestTenThousandSlowConnections(t *testing.T) {
	const (
		phones   = 4
		patience = 5 * time.Second
		spare    = 500       // files for all else
		memory   = 300 << 20 // of both ends
	)
	n, places, queue := slowLoad(t, spare)

	a := start(t, func(c *Config) {
		c.MaxConns, c.ReadTimeout, c.IdleTimeout = places, 1500*time.Millisecond, 1500*time.Millisecond
	})
	a.put("checkpoint", []byte("x"))
	codes := a.codes(phones)
	kinds := halfRequests(exchangeBody(a.sealedUpload(a.held(), teks(14))))
	a.client.CloseIdleConnections()
	if open, err := a.connections(0); err != nil {
		t.Fatalf("before the beginning: %d connections, %v", open, err)
	}
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	routines := runtime.NumGoroutine()

	// What it comes to at most.
	var peakOpen, peakRoutines int
	var peakUse, peakSys uint64
	watched, watching := make(chan struct{}), make(chan struct{})
	stopWatch := sync.OnceFunc(func() { close(watching); <-watched })
	defer stopWatch()
	go func() {
		defer close(watched)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			open, err := a.metric("bluekey_connections")
			if err != nil {
				t.Error(err)
			}
			peakOpen, peakRoutines = max(peakOpen, open), max(peakRoutines, runtime.NumGoroutine())
			peakUse, peakSys = max(peakUse, m.HeapInuse+m.StackInuse), max(peakSys, m.Sys)
			select {
			case <-watching:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()

	slow := make([]net.Conn, n)
	defer func() {
		for _, c := range slow {
			if c != nil {
				c.Close()
			}
		}
	}()
	began := time.Now()
	each(n, func(i int) {
		c, err := net.DialTimeout("tcp", strings.TrimPrefix(a.url, "http://"), 10*time.Second)
		if err != nil {
			t.Error(err)
			return
		}
		slow[i] = c
		if _, err := c.Write(kinds[i%len(kinds)].sent); err != nil {
			t.Errorf("%s: %v", kinds[i%len(kinds)].name, err)
		}
	})
	dialled := time.Since(began)
	openThen, err := a.metric("bluekey_connections")
	if err != nil || t.Failed() {
		t.Fatal("not all slow connections came about: ", err)
	}

	// Each phone, and each reader, comes by a connection of its own.
	var wg sync.WaitGroup
	var slowest atomic.Int64
	began = time.Now()
	customer := func(what string, do func(*http.Client) error) {
		wg.Go(func() {
			client := &http.Client{Transport: new(http.Transport), Timeout: 2 * patience}
			defer client.CloseIdleConnections()
			err := do(client)
			took := time.Since(began)
			if err != nil || took > patience {
				t.Errorf("%s, after %v: %v", what, took, err)
			}
			for {
				last := slowest.Load()
				if int64(took) <= last || slowest.CompareAndSwap(last, int64(took)) {
					return
				}
			}
		})
	}
	for _, code := range codes {
		customer("a phone", func(c *http.Client) error {
			service := bluekeyv1connect.NewPhoneServiceClient(c, a.url)
			p, err := permit.NewPending()
			if err != nil {
				return err
			}
			held, err := a.redeemBy(service, p, code)
			if err != nil {
				return fmt.Errorf("redeeming: %w", err)
			}
			_, err = a.uploadBy(service, held, teks(14))
			return err
		})
		customer("a reader", func(c *http.Client) error {
			res, err := c.Get(a.url + "/checkpoint")
			if err != nil {
				return err
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err == nil && (res.StatusCode != 200 || string(body) != "x") {
				err = fmt.Errorf("%d %q", res.StatusCode, body)
			}
			return err
		})
	}
	wg.Wait()

	// It is the server that ends them: this side of them is open still.
	_, err = a.connections(0)
	gone := time.Since(began)
	if err != nil {
		t.Error(err)
	}
	stopWatch()
	var lasting, served [16]atomic.Int64
	deadline := time.Now().Add(patience) // data and ends that are here already do not wait for it
	each(n, func(i int) {
		slow[i].SetReadDeadline(deadline)
		reply, err := io.ReadAll(slow[i])
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
			lasting[i%len(kinds)].Add(1)
		}
		if bytes.Contains(reply, []byte("200 OK")) {
			served[i%len(kinds)].Add(1)
		}
	})
	for i, k := range kinds {
		if l, s := lasting[i].Load(), served[i].Load(); l > 0 || s > 0 {
			t.Errorf("%s: %d are connected still, %d were served", k.name, l, s)
		}
	}
	left := runtime.NumGoroutine()
	for end := time.Now().Add(patience); left > routines+20 && time.Now().Before(end); left = runtime.NumGoroutine() {
		time.Sleep(20 * time.Millisecond)
	}
	if left > routines+20 {
		t.Errorf("%d goroutines, %d before", left, routines)
	}
	if keys := a.due(diagnosis.GAEN); keys != phones*14 {
		t.Errorf("%d keys are due, want the phones' %d", keys, phones*14)
	}
	if peakOpen > places {
		t.Errorf("%d connections were open, of %d allowed", peakOpen, places)
	}
	if grown := peakSys - before.Sys; grown > memory && !raceDetector() {
		t.Errorf("the process has grown by %d MiB", grown>>20)
	}
	t.Logf("%d slow connections for %d places and a queue of %d, dialled in %v; at most %d open, %d as the phones came; phones done after %v, all cut off after %v",
		n, places, queue, dialled.Round(time.Millisecond), peakOpen, openThen, time.Duration(slowest.Load()).Round(time.Millisecond), gone.Round(time.Millisecond))
	t.Logf("goroutines: %d before, %d at most, %d after; heap and stacks in use: +%d MiB at most; from the system: +%d MiB",
		routines, peakRoutines, left, (int64(peakUse)-int64(before.HeapInuse+before.StackInuse))>>20, (peakSys-before.Sys)>>20)
}

// slowLoad says how many slow connections this machine bears, and how many places a server
// has so that the kernel's queue takes the rest and some more. What the queue has no room
// for would be tried again by the sender's kernel after 1 s, 3 s and 7 s. Both ends of a
// connection are files of this process.
func slowLoad(t *testing.T, spare int) (n, places, queue int) {
	t.Helper()
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	queue = 100
	if b, err := os.ReadFile("/proc/sys/net/core/somaxconn"); err == nil {
		if limit, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			queue = min(limit*8/10, 4000)
		}
	}
	most := 10_000
	if raceDetector() { // which ends the process at 8,128 goroutines
		most = 4_000
	}
	limit := int(min(files.Max, 1<<20)) - spare
	n = min(most, limit*10/16, (limit+queue)/2)
	if n < 2_000 {
		text := fmt.Sprintf("the hard limit of %d open files allows %d slow connections only, and this takes 2,000", files.Max, n)
		if os.Getenv("CI") == "true" {
			t.Fatal(text)
		}
		t.Skip(text)
	}
	places = max(n*6/10, n-queue)
	if need := uint64(n + places + spare); files.Cur < need {
		raised := files
		raised.Cur = need
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files) })
	}
	return n, places, queue
}

// raceDetector reports whether this test was built with it.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, s := range info.Settings {
			if s.Key == "-race" {
				return s.Value == "true"
			}
		}
	}
	return false
}

type halfRequest struct {
	name string
	sent []byte
}

// halfRequests are beginnings of an Exchange with this body.
func halfRequests(body []byte) []halfRequest {
	head := func(more ...string) string {
		return "POST " + bluekeyv1connect.PhoneServiceExchangeProcedure + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/proto\r\n" + strings.Join(more, "")
	}
	half := string(body[:len(body)/2])
	length := fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body))
	fields := exchangeFields(len(body))
	halfFrame := func(typ, flags byte, payload []byte) string {
		return string(append(frameHead(typ, flags, 1, len(payload)), payload[:len(payload)/2]...))
	}
	return []halfRequest{
		{"nothing", nil},
		{"half a request line", []byte("POST /bluek")},
		{"headers without end", []byte(head())},
		{"half a header", []byte(head("Content-Le"))},
		{"no body", []byte(head(length))},
		{"half a body", []byte(head(length, half))},
		{"half a body in chunks", []byte(head("Transfer-Encoding: chunked\r\n\r\n", fmt.Sprintf("%x\r\n", len(half)), half, "\r\n"))},
		{"half a chunk", []byte(head("Transfer-Encoding: chunked\r\n\r\n", fmt.Sprintf("%x\r\n", len(body)), half))},
		{"half a body that waits to be asked for", []byte(head("Expect: 100-continue\r\n", length))},
		{"half an h2 preface", []byte(h2Opening[:12])},
		{"half a header of h2", []byte(h2Opening + halfFrame(headersFrame, endHeaders, fields))},
		{"half a body of h2", []byte(h2Opening + string(h2Frame(headersFrame, endHeaders, 1, fields)) + halfFrame(dataFrame, endStream, body))},
	}
}

// each does all of n, 64 at a time.
func each(n int, do func(int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 64 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	wg.Wait()
}

// connections waits until at most this many are open, as the operations listener says.
func (a *appliance) connections(most int) (open int, err error) {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		open, err = a.metric("bluekey_connections")
		if err != nil || open <= most {
			return open, err
		}
		if time.Now().After(end) {
			return open, fmt.Errorf("%d connections are open still", open)
		}
	}
}

// inside waits until so many requests of a route are being answered.
func (a *appliance) inside(route string, want int) {
	a.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		n, err := a.metric(`bluekey_requests_in_flight{route="` + route + `"}`)
		if err == nil && n == want {
			return
		}
		if time.Now().After(end) {
			a.t.Fatalf("%d requests of %s inside, want %d: %v", n, route, want, err)
		}
	}
}

// metric is a whole number of /metrics. Other than do it may be called by any goroutine.
func (a *appliance) metric(name string) (int, error) {
	res, err := a.client.Get(a.ops + "/metrics")
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(body), "\n"+name+" ")
	if !ok {
		return 0, fmt.Errorf("no %s in %q", name, body)
	}
	value, _, _ := strings.Cut(rest, "\n")
	f, err := strconv.ParseFloat(value, 64) // large ones have an exponent
	return int(f), err
}
