package gaen

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
)

const (
	benchConns    = 16
	benchRequests = 10_000 // in one iteration
)

// BenchmarkPublishGAEN posts 14 keys a time over HTTP/1.1 on loopback, 16 connections at
// once, each request with a certificate of its own, to a store on the real disk that holds
// a million keys (BLUEKEY_BENCH_KEYS says how many). Every reply follows the check of
// certificate and HMAC and the sync of the keys. Requests are made beforehand; the load
// comes from this process, on the same cores. The store lies in TMPDIR, which must not be a
// disk in memory. cpu-µs is what one request costs on all cores together, load included.
// The chaff row is the same with the header X-Chaff.
//
//	go test -run xxx -bench PublishGAEN -count 5 ./server/gaen
func BenchmarkPublishGAEN(b *testing.B) {
	for _, row := range []struct{ name, header string }{{"real", ""}, {"chaff", "X-Chaff: 1\r\n"}} {
		b.Run(row.name, func(b *testing.B) { benchPublish(b, row.header) })
	}
}

func benchPublish(b *testing.B, header string) {
	stored := 1_000_000
	if s := os.Getenv("BLUEKEY_BENCH_KEYS"); s != "" {
		var err error
		if stored, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	var back atomic.Int64 // how far the store's clock is behind
	back.Store(int64(8 * time.Hour))
	quiet := slog.New(slog.DiscardHandler)
	store, err := keystore.Open(keystore.Options{
		Dir: b.TempDir(), CodeKey: [32]byte{1}, DedupeKey: [32]byte{2}, Period: 4 * time.Hour, Hold: 4 * time.Hour,
		Now: func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }, Logger: quiet,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	back.Store(0)
	preload(b, store, stored)

	ha := newAuthority(b, "v1")
	door, err := New(Config{Store: store, Authorities: []Authority{ha.config()}, TokenKey: [32]byte{3}, Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: door}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	defer func() {
		server.Close()
		<-ended
	}()

	var took, cpu time.Duration
	var delays []time.Duration
	for b.Loop() {
		b.StopTimer()
		requests := prepare(b, ha, header)
		b.StartTimer()
		began, cpu0 := time.Now(), cpuTime()
		delays = append(delays, load(b, l.Addr().String(), requests)...)
		took += time.Since(began)
		cpu += cpuTime() - cpu0
	}
	slices.Sort(delays)
	b.ReportMetric(float64(len(delays))/took.Seconds(), "publishes/s")
	b.ReportMetric(float64(delays[len(delays)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(cpu.Microseconds())/float64(len(delays)), "cpu-µs")
	b.ReportMetric(0, "ns/op")
}

// preload fills the store with keys of the last 14 days, as publishing adds padding.
func preload(b *testing.B, store *keystore.Store, n int) {
	b.Helper()
	if _, err := store.CloseWindow(b.Context(), diagnosis.GAEN, time.Now().Truncate(time.Second)); err != nil {
		b.Fatal(err)
	}
	today := diagnosis.Interval(time.Now().Unix() / 86400)
	for left := n; left > 0; {
		keys := make([]diagnosis.Key, min(left, 10_000))
		left -= len(keys)
		for i := range keys {
			k := &keys[i]
			*k = diagnosis.Key{Scheme: diagnosis.GAEN, Start: (today - 2 - diagnosis.Interval(i%13)) * 144, Count: 144, Report: diagnosis.ConfirmedTest}
			rand.Read(k.Secret[:16])
		}
		if err := store.AddPadding(b.Context(), keys); err != nil {
			b.Fatal(err)
		}
	}
	// Let the store settle, as it does whenever a window is sealed.
	if err := store.Ungroup(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// prepare makes whole HTTP requests, each of a case of its own.
func prepare(b *testing.B, ha *authority, header string) [][]byte {
	b.Helper()
	requests := make([][]byte, benchRequests)
	now := time.Now()
	var group sync.WaitGroup
	for half := range 2 {
		group.Go(func() {
			for i := half; i < len(requests); i += 2 {
				keys := appKeys(now, 14)
				body, err := json.Marshal(object{
					"temporaryExposureKeys": keys, "healthAuthorityID": testApp,
					"verificationPayload": ha.sign(ha.header(), claims(now, "confirmed", mac(appSecret, keys, true))),
					"hmacKey":             base64.StdEncoding.EncodeToString(appSecret), "padding": base64.StdEncoding.EncodeToString(make([]byte, 1024)),
				})
				if err != nil {
					b.Error(err)
					return
				}
				requests[i] = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s",
					Path, header, len(body), body)
			}
		})
	}
	group.Wait()
	return requests
}

// load sends the requests, each connection waiting for its reply before it sends the next,
// and gives the time that each took.
func load(b *testing.B, addr string, requests [][]byte) []time.Duration {
	b.Helper()
	delays := make([]time.Duration, len(requests))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range benchConns {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			r := bufio.NewReader(c)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(requests) {
					return
				}
				began := time.Now()
				if _, err := c.Write(requests[i]); err != nil {
					b.Error(err)
					return
				}
				res, err := http.ReadResponse(r, nil)
				if err != nil {
					b.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != http.StatusOK || len(body) != replySize {
					b.Errorf("%s: %v %q", res.Status, err, body)
					return
				}
				delays[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	return delays
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
