package server

import (
	"bufio"
	"context"
	"crypto/rand"
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

	"google.golang.org/protobuf/proto"

	"bluekey/keystore"
	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
	v1 "bluekey/server/api/bluekey/v1"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
)

const (
	benchConns   = 64
	benchUploads = 20_000 // in one iteration
	benchKeys    = 14     // in one upload
)

// BenchmarkUploadDurable uploads 14 keys a time over HTTP/1.1 on loopback, 64 connections
// at once, to a store on the real disk that holds a million keys (BLUEKEY_BENCH_KEYS says
// how many). Every reply follows the sync of its upload. Codes and requests are made
// beforehand; the load comes from this process, on the same cores. The store lies in
// TMPDIR, which must not be a disk in memory. cpu-µs is what one upload costs on all cores
// together, load included.
//
//	go test -run xxx -bench UploadDurable -count 5 ./server
func BenchmarkUploadDurable(b *testing.B) {
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
		Dir: b.TempDir(), CodeKey: [32]byte{1}, DedupeKey: [32]byte{2}, Period: 4 * time.Hour, Hold: 4 * time.Hour, CodeCap: 1 << 30,
		Now: func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }, Logger: quiet,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	back.Store(0)
	preload(b, store, stored)

	s, err := New(Config{Store: store, Tree: b.TempDir(), Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, Listeners{Public: l}) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}()

	var took, cpu time.Duration
	var delays []time.Duration
	for b.Loop() {
		b.StopTimer()
		requests := benchRequests(b, store)
		b.StartTimer()
		began, cpu0 := time.Now(), cpuTime()
		delays = append(delays, load(b, l.Addr().String(), requests)...)
		took += time.Since(began)
		cpu += cpuTime() - cpu0
	}
	slices.Sort(delays)
	b.ReportMetric(float64(len(delays))/took.Seconds(), "uploads/s")
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
	for left := n; left > 0; {
		keys := make([]diagnosis.Key, min(left, 10_000))
		left -= len(keys)
		for i := range keys {
			k := &keys[i]
			*k = diagnosis.Key{Scheme: diagnosis.GAEN, Start: diagnosis.Interval((today() - 2 - uint32(i%13)) * 144), Count: 144, Report: diagnosis.ConfirmedTest}
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

// benchRequests are whole HTTP requests, each with a code of its own.
func benchRequests(b *testing.B, store *keystore.Store) [][]byte {
	b.Helper()
	var codes []string
	for len(codes) < benchUploads {
		more, err := store.Desk().Issue(b.Context(), desk.Request{Officer: "bench", Report: diagnosis.ConfirmedTest, OnsetDay: today() - 3, Count: 100, Long: true})
		if err != nil {
			b.Fatal(err)
		}
		codes = append(codes, more...)
	}
	requests := make([][]byte, benchUploads)
	for i := range requests {
		keys := make([]*v1.Key, benchKeys)
		for j := range keys {
			secret := make([]byte, 16)
			rand.Read(secret)
			keys[j] = &v1.Key{Secret: secret, Start: (today() - 1 - uint32(j)) * 144, Count: 144, Risk: 4}
		}
		body, err := proto.Marshal(&v1.UploadRequest{Code: codes[i], Scheme: v1.Scheme_SCHEME_GAEN, Keys: keys})
		if err != nil {
			b.Fatal(err)
		}
		requests[i] = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/proto\r\nContent-Length: %d\r\n\r\n%s",
			bluekeyv1connect.PhoneServiceUploadProcedure, len(body), body)
	}
	return requests
}

// load sends the requests over 64 connections, each waiting for its reply before it
// sends the next, and gives the time that each took.
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
				if err != nil || res.StatusCode != http.StatusOK || len(body) < 2 {
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
