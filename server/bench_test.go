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
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bluekey/keystore"
	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

// The benchmarks send sealed requests over HTTP/1.1 on loopback, 64 connections at once, to a
// server whose store on the real disk holds a million keys (BLUEKEY_BENCH_KEYS says how
// many), with reply_after 0. Every reply follows the sync of what it acknowledges. Codes,
// permits and requests are made beforehand, and replies are opened and checked afterwards; the
// load comes from this process, on the same cores. The store lies in TMPDIR, which must not
// be a disk in memory. cpu-µs is what one request costs on all cores together, load
// included.
//
//	go test -run xxx -bench 'UploadDurable|Redeem' -benchtime 1x -count 5 ./server
const (
	benchConns    = 64
	benchRequests = 10_000 // in one iteration
	benchKeys     = 14     // in one upload
)

// BenchmarkUploadDurable uploads 14 keys with a permit at a time. The rows of cover must be
// within 10% of those of real.
func BenchmarkUploadDurable(b *testing.B) {
	server := startBench(b)
	b.Run("real", func(b *testing.B) {
		server.run(b, "uploads/s", permit.OpUpload, func(int) ([]byte, error) {
			held, err := server.permit()
			if err != nil {
				return nil, err
			}
			return held.Upload(names, benchTEKs())
		})
	})
	b.Run("cover", func(b *testing.B) {
		server.run(b, "uploads/s", permit.OpUpload, func(int) ([]byte, error) {
			return permit.CoverUpload(names, diagnosis.GAEN, today())
		})
	})
}

// BenchmarkRedeem redeems a long code at a time.
func BenchmarkRedeem(b *testing.B) {
	server := startBench(b)
	b.Run("real", func(b *testing.B) {
		server.run(b, "redeems/s", permit.OpRedeem, func(i int) ([]byte, error) {
			p, err := permit.NewPending()
			if err != nil {
				return nil, err
			}
			code, err := server.code()
			if err != nil {
				return nil, err
			}
			r := p.Redeem(code)
			return r.Encode()
		})
	})
	b.Run("cover", func(b *testing.B) {
		server.run(b, "redeems/s", permit.OpRedeem, func(int) ([]byte, error) { return permit.CoverRedeem() })
	})
}

// benchServer is a server on the real disk.
type benchServer struct {
	store *keystore.Store
	clock *clock
	keys  *PhoneKeys
	key   *seal.PublicKey // of the day
	addr  string
	mu    sync.Mutex
	codes []string // not handed out
}

func startBench(b *testing.B, adjust ...func(*Config)) *benchServer {
	b.Helper()
	stored := 1_000_000
	if s := os.Getenv("BLUEKEY_BENCH_KEYS"); s != "" {
		var err error
		if stored, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	return startLoaded(b, stored, adjust...)
}

func startLoaded(t testing.TB, stored int, adjust ...func(*Config)) *benchServer {
	t.Helper()
	clock := newClock()
	var back atomic.Int64 // how far the store's clock is behind
	back.Store(int64(8 * time.Hour))
	quiet := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	store, err := keystore.Open(keystore.Options{
		Dir: filepath.Join(dir, "data"), CodeKey: [32]byte{1}, DedupeKey: [32]byte{2}, Period: 4 * time.Hour, Hold: 4 * time.Hour, CodeCap: 1 << 30,
		Now: func() time.Time { return clock.Now().Add(-time.Duration(back.Load())) }, Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	back.Store(0)
	preload(t, store, clock.Now(), stored)

	file := new(publicFile)
	s := &benchServer{store: store, clock: clock, keys: testKeys(t, filepath.Join(dir, "sealing"), file, store, clock.Now, quiet)}
	if s.key, err = file.ring(t).Seal(today()); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Store: store, Tree: t.TempDir(), Keys: s.keys, Now: clock.Now, Logger: quiet}
	for _, f := range adjust {
		f(&cfg)
	}
	server, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, Listeners{Public: l}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// preload fills the store with keys of the last 14 days, as publishing adds padding.
func preload(t testing.TB, store *keystore.Store, now time.Time, n int) {
	t.Helper()
	if _, err := store.CloseWindow(t.Context(), diagnosis.GAEN, now.Truncate(time.Second)); err != nil {
		t.Fatal(err)
	}
	for left := n; left > 0; {
		keys := make([]diagnosis.Key, min(left, 10_000))
		left -= len(keys)
		for i := range keys {
			k := &keys[i]
			*k = diagnosis.Key{Scheme: diagnosis.GAEN, Start: diagnosis.Interval((today() - 2 - uint32(i%13)) * 144), Count: 144, Report: diagnosis.ConfirmedTest}
			rand.Read(k.Secret[:16])
		}
		if err := store.AddPadding(t.Context(), keys); err != nil {
			t.Fatal(err)
		}
	}
	// Let the store settle, as it does whenever a window is sealed.
	if err := store.Ungroup(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func benchTEKs() []diagnosis.Key {
	keys := teks(benchKeys)
	for i := range keys {
		keys[i].Risk = 4
	}
	return keys
}

// permit is one that needs no code: the issuer is at hand.
func (s *benchServer) permit() (*permit.Held, error) {
	p, err := permit.NewPending()
	if err != nil {
		return nil, err
	}
	info := permit.Info{Report: diagnosis.ConfirmedTest, Epoch: today()}
	e, err := s.keys.issuer.Evaluate(info, p.Redeem("000000000").Blinded)
	if err != nil {
		return nil, err
	}
	return p.Finalize(names, permit.RedeemReply{Info: info, Evaluation: e}, today(), func(d uint32) ([32]byte, bool) { return s.keys.issuer.PublicKey(d), true })
}

// code is one that nobody has.
func (s *benchServer) code() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.codes) == 0 {
		var err error
		s.codes, err = s.store.Desk().Issue(context.Background(), desk.Request{
			Officer: "bench", Report: diagnosis.ConfirmedTest, OnsetDay: today() - 3, Count: desk.MaxCount, Long: true,
		})
		if err != nil {
			return "", err
		}
	}
	code := s.codes[0]
	s.codes = s.codes[1:]
	return code, nil
}

// call is a request on its way and back.
type call struct {
	op    permit.Operation
	frame []byte // as it goes over the wire
	sent  *seal.Sent
	reply []byte // as it came: 3 bytes of protobuf, then what is sealed
	took  time.Duration
}

// prepare makes n calls of plaintexts, on all cores.
func (s *benchServer) prepare(t testing.TB, n int, op permit.Operation, plain func(i int) ([]byte, error)) []*call {
	t.Helper()
	calls := make([]*call, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				b, err := plain(i)
				if err == nil {
					calls[i] = &call{op: op}
					var sealed []byte
					sealed, calls[i].sent, err = s.key.Seal(b)
					calls[i].frame = frame(sealed)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return calls
}

// answered opens a reply.
func (c *call) answered() (permit.Reply, error) {
	if len(c.reply) != 3+seal.ReplyLen {
		return nil, fmt.Errorf("a reply of %d bytes", len(c.reply))
	}
	b, err := c.sent.Open(c.reply[3:])
	if err != nil {
		return nil, err
	}
	return permit.DecodeReply(c.op, b)
}

// run measures calls that are all to be done.
func (s *benchServer) run(b *testing.B, unit string, op permit.Operation, plain func(i int) ([]byte, error)) {
	var took, cpu time.Duration
	var delays []time.Duration
	for b.Loop() {
		b.StopTimer()
		calls := s.prepare(b, benchRequests, op, plain)
		b.StartTimer()
		began, cpu0 := time.Now(), cpuTime()
		load(b, s.addr, calls)
		took += time.Since(began)
		cpu += cpuTime() - cpu0
		b.StopTimer()
		for _, c := range calls {
			delays = append(delays, c.took)
			if reply, err := c.answered(); err != nil {
				b.Fatal(err)
			} else if no, ok := reply.(permit.Refusal); ok {
				b.Fatal(no)
			}
		}
		b.StartTimer()
	}
	slices.Sort(delays)
	b.ReportMetric(float64(len(delays))/took.Seconds(), unit)
	b.ReportMetric(float64(delays[len(delays)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(cpu.Microseconds())/float64(len(delays)), "cpu-µs")
	b.ReportMetric(0, "ns/op")
}

// load sends the calls over 64 connections, each waiting for its reply before it sends the
// next.
func load(t testing.TB, addr string, calls []*call) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range benchConns {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			r := bufio.NewReader(c)
			for i := int(next.Add(1)) - 1; i < len(calls); i = int(next.Add(1)) - 1 {
				if err := calls[i].make(c, r); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// make sends the call and waits for its reply.
func (c *call) make(conn net.Conn, r *bufio.Reader) error {
	began := time.Now()
	if _, err := conn.Write(c.frame); err != nil {
		return err
	}
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	c.reply, err = io.ReadAll(res.Body)
	c.took = time.Since(began)
	if err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %v %q", res.Status, err, c.reply)
	}
	return nil
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
