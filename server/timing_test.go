package server

import (
	"bufio"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"bluekey/signing/permit"
)

// TestRepliesLookAlike: replies of every kind have the same status, headers and length.
func TestRepliesLookAlike(t *testing.T) {
	s := startLoaded(t, 0)
	var first string
	for _, kind := range s.kinds() {
		c := s.prepare(t, 1, kind.op, func(int) ([]byte, error) { return kind.plain() })[0]
		if kind.op == 0 {
			c.frame[len(c.frame)-1] ^= 1
		}
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write(c.frame)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		res.Header.Del("Date")
		look := fmt.Sprintln(res.Status, res.Proto, res.Header, res.ContentLength, res.TransferEncoding, res.Trailer)
		if first == "" {
			first = look
		}
		if look != first {
			t.Errorf("%s: %s, the first kind: %s", kind.name, look, first)
		}
	}
}

func (s *benchServer) kinds() []requestKind {
	return requestKinds(&phoneService{keys: s.keys, store: s.store, now: s.clock.Now}, func() string {
		code, err := s.code()
		if err != nil {
			panic(err)
		}
		return code
	})
}

func timing(t *testing.T) {
	t.Helper()
	if os.Getenv("BLUEKEY_TIMING") == "" {
		t.Skip("a run of minutes on an idle machine: BLUEKEY_TIMING=1 go test -v -run Timing -timeout 20m ./server, with TMPDIR on a real disk")
	}
}

// TestTimingOfKinds sends requests of every kind, mixed at random, to a server on the real
// disk, and compares how long each kind took with an upload by a Kolmogorov-Smirnov test. Beside
// it stands the same test with 1 ms added to every time of the kind: the run counts only if
// that is seen.
//
//	BLUEKEY_TIMING=1 go test -v -run TimingOfKinds -timeout 20m ./server
func TestTimingOfKinds(t *testing.T) {
	timing(t)
	const (
		each  = 400 // of a kind
		conns = 40
		alpha = 0.01 // that the run fails although all kinds take the same time
	)
	for _, after := range []time.Duration{0, 500 * time.Millisecond} {
		s := startLoaded(t, 100_000, func(c *Config) { c.ReplyAfter = after })
		kinds := s.kinds()
		var calls []*call
		of := map[*call]int{}
		for i, kind := range kinds {
			for _, c := range s.prepare(t, each, kind.op, func(int) ([]byte, error) { return kind.plain() }) {
				if kind.op == 0 {
					c.frame[len(c.frame)-1] ^= 1
				}
				of[c] = i
				calls = append(calls, c)
			}
		}
		rand.Shuffle(len(calls), func(i, j int) { calls[i], calls[j] = calls[j], calls[i] })
		senders := conns
		if after == 0 {
			senders = 1 // nobody waits for anybody
		}
		var wg sync.WaitGroup
		for n := range senders {
			wg.Go(func() {
				conn, err := net.Dial("tcp", s.addr)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				r := bufio.NewReader(conn)
				time.Sleep(after * time.Duration(n) / time.Duration(senders))
				for i := n; i < len(calls); i += senders {
					if err := calls[i].make(conn, r); err != nil {
						t.Error(err)
						return
					}
					time.Sleep(time.Duration(rand.Int64N(int64(after/20 + 1))))
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		times := make([][]float64, len(kinds)) // ms
		for _, c := range calls {
			times[of[c]] = append(times[of[c]], c.took.Seconds()*1000)
			if c.op != 0 {
				reply, err := c.answered()
				if err != nil {
					t.Fatal(err)
				}
				if no, _ := reply.(permit.Refusal); no.Reason != kinds[of[c]].reason {
					t.Fatalf("%s: %v", kinds[of[c]].name, no.Reason)
				}
			}
		}
		base := slices.IndexFunc(kinds, func(k requestKind) bool { return k.name == "upload" })
		var text strings.Builder
		w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "reply_after %v, %d of each kind, compared with %q\n", after, each, kinds[base].name)
		fmt.Fprintln(w, "kind\tmean ms\tmedian\tp99\tKS D\tp\tp with 1 ms added")
		for i := range times {
			slices.Sort(times[i])
		}
		for i, kind := range kinds {
			d, p := kolmogorovSmirnov(times[i], times[base])
			later := make([]float64, each)
			for j, v := range times[i] {
				later[j] = v + 1
			}
			_, seen := kolmogorovSmirnov(later, times[base])
			fmt.Fprintf(w, "%s\t%.3f\t%.3f\t%.3f\t%.3f\t%.2g\t%.2g\n", kind.name, mean(times[i]), times[i][each/2], times[i][each*99/100], d, p, seen)
			if after == 0 || i == base {
				continue // what reply_after is there to hide
			}
			if bound := alpha / float64(len(kinds)-1); p < bound {
				t.Errorf("%s can be told from an upload: p %.2g", kind.name, p)
			} else if seen > bound {
				t.Errorf("%s: the machine is too noisy to see 1 ms: p %.2g", kind.name, seen)
			}
		}
		w.Flush()
		t.Logf("\n%s", text.String())
	}
}

func mean(v []float64) (sum float64) {
	for _, x := range v {
		sum += x / float64(len(v))
	}
	return sum
}

// kolmogorovSmirnov is the largest distance between the distributions of two sorted
// samples, and the probability of one at least as large if both are of the same.
func kolmogorovSmirnov(x, y []float64) (d, p float64) {
	for i, j := 0, 0; i < len(x) && j < len(y); {
		v := min(x[i], y[j])
		for i < len(x) && x[i] == v {
			i++
		}
		for j < len(y) && y[j] == v {
			j++
		}
		d = max(d, math.Abs(float64(i)/float64(len(x))-float64(j)/float64(len(y))))
	}
	n := math.Sqrt(float64(len(x)*len(y)) / float64(len(x)+len(y)))
	lambda := (n + 0.12 + 0.11/n) * d // Stephens 1970
	if lambda < 0.2 {
		return d, 1
	}
	sign := 2.0
	for k := 1.0; k <= 100; k++ {
		p += sign * math.Exp(-2*k*k*lambda*lambda)
		sign = -sign
	}
	return d, min(max(p, 0), 1)
}

// TestKolmogorovSmirnov checks the statistic of the run against tables.
func TestKolmogorovSmirnov(t *testing.T) {
	x, same, shifted := make([]float64, 400), make([]float64, 400), make([]float64, 400)
	for i := range x {
		x[i] = float64(i)
		same[i] = float64(i) + 0.5
		shifted[i] = float64(i) + 60 // D = 0.15
	}
	if d, p := kolmogorovSmirnov(x, same); d > 0.01 || p < 0.999 {
		t.Errorf("D %v, p %v of like samples", d, p)
	}
	if d, p := kolmogorovSmirnov(x, shifted); math.Abs(d-0.15) > 1e-9 || p < 0.0001 || p > 0.0004 {
		t.Errorf("D %v, p %v, want 0.15 and 0.0002", d, p)
	}
	// 1.36 sqrt((n+m)/nm) is the bound for 0.05.
	for i := range x {
		shifted[i] = x[i] + 1.36*math.Sqrt(2.0/400)*400
	}
	if _, p := kolmogorovSmirnov(x, shifted); p < 0.04 || p > 0.06 {
		t.Errorf("p %v, want 0.05", p)
	}
}

// TestTimingUnderLoad sends 1,000 requests a second, half of them cover, with reply_after
// 500 ms: the 99th percentile must be at most 510 ms.
//
//	BLUEKEY_TIMING=1 go test -v -run TimingUnderLoad -timeout 20m ./server
func TestTimingUnderLoad(t *testing.T) {
	timing(t)
	const (
		rate   = 1000
		rounds = 20 // seconds
	)
	s := startLoaded(t, 100_000, func(c *Config) { c.ReplyAfter = 500 * time.Millisecond })
	kinds := s.kinds()
	var mixed []requestKind
	for _, name := range []string{"upload", "cover upload", "redeem", "cover redeem"} {
		mixed = append(mixed, kinds[slices.IndexFunc(kinds, func(k requestKind) bool { return k.name == name })])
	}
	var calls []*call
	for _, kind := range mixed {
		calls = append(calls, s.prepare(t, rate*rounds/len(mixed), kind.op, func(int) ([]byte, error) { return kind.plain() })...)
	}
	rand.Shuffle(len(calls), func(i, j int) { calls[i], calls[j] = calls[j], calls[i] })
	// A thousand connections with a request a second each, one after the other.
	began := time.Now().Add(time.Second)
	var late time.Duration // the latest of any request sent, behind its time
	var mu sync.Mutex
	var wg sync.WaitGroup
	cpu := cpuTime()
	for n := range rate {
		wg.Go(func() {
			conn, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			r := bufio.NewReader(conn)
			for round := range rounds {
				at := began.Add(time.Duration(round)*time.Second + time.Duration(n)*time.Second/rate)
				time.Sleep(time.Until(at))
				mu.Lock()
				late = max(late, time.Since(at))
				mu.Unlock()
				if err := calls[round*rate+n].make(conn, r); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	cpu = cpuTime() - cpu
	if t.Failed() {
		return
	}
	var took []time.Duration
	for _, c := range calls {
		if reply, err := c.answered(); err != nil {
			t.Fatal(err)
		} else if no, ok := reply.(permit.Refusal); ok {
			t.Fatal(no)
		}
		took = append(took, c.took)
	}
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(10 * time.Microsecond) }
	t.Logf("%d requests at %d/s: median %v, p99 %v, p99.9 %v, longest %v; sent at most %v late; %.0f%% of %d cores",
		len(took), rate, at(0.5), at(0.99), at(0.999), at(1), late.Round(10*time.Microsecond), 100*cpu.Seconds()/rounds/2, 2)
	if p99 := at(0.99); p99 > 510*time.Millisecond {
		t.Errorf("p99 %v, want at most 510 ms", p99)
	}
}
