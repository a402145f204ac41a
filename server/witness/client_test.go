package witness

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"bluekey/export/exportlog"
	"bluekey/signing"
)

func newClient(t testing.TB, w exportlog.PolicyWitness) *Client {
	t.Helper()
	c, err := NewClient(w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

// spy counts what passes on its way to a witness.
type spy struct {
	next   http.Handler
	bodies []string
}

func (s *spy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	s.bodies = append(s.bodies, string(body))
	r.Body = io.NopCloser(bytes.NewReader(body))
	s.next.ServeHTTP(w, r)
}

func TestClientAsksOurWitness(t *testing.T) {
	log := newLog(t, 3)
	s := newSite(t, parseLog(t, log.policy()))
	watched := &spy{next: s.w.Handler()}
	web := httptest.NewServer(http.StripPrefix("/some/prefix", watched))
	defer web.Close()
	at := s.witness()
	at.URL = web.URL + "/some/prefix/"
	ctx := context.Background()

	c := newClient(t, at)
	if _, err := c.Held(ctx, log.keys.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the first cosignature: %v", err)
	}
	watched.bodies = nil
	asked := 0
	for i, row := range []struct {
		what     string
		grow     int
		change   func()
		requests int
	}{
		{"first", 0, nil, 1},
		{"grown", 2, nil, 1},
		{"again", 0, nil, 1},
		{"a client that knows nothing", 4, func() { c = newClient(t, at) }, 2},
		{"a client whose knowledge is old", 1, func() {
			log.grow(1, "entry")
			if _, err := newClient(t, at).Cosign(ctx, log.checkpoint(), log.prove); err != nil {
				t.Fatal(err)
			}
			asked += 2
		}, 2},
	} {
		log.grow(row.grow, "entry")
		s.now = s.now.Add(time.Minute)
		if row.change != nil {
			row.change()
		}
		// Lines of other witnesses are not sent on.
		signed := append(log.checkpoint(), "\u2014 other.example/w AAAAAAAA\n"...)
		lines, err := c.Cosign(ctx, signed, log.prove)
		if err != nil {
			t.Fatalf("%s: %v", row.what, err)
		}
		for kind := range 2 {
			if _, err := s.quorum(log.keys, kind).Verify(append(signed, lines...)); err != nil {
				t.Errorf("%s: key %d: %v", row.what, kind, err)
			}
		}
		if asked += row.requests; len(watched.bodies) != asked {
			t.Errorf("%s: %d requests so far, want %d", row.what, len(watched.bodies), asked)
		}
		if strings.Contains(strings.Join(watched.bodies, ""), "other.example") {
			t.Errorf("%s: lines of others were sent", row.what)
		}
		held, err := c.Held(ctx, log.keys.Name())
		if err != nil || string(held) != string(log.checkpoint())+string(lines) {
			t.Errorf("%s: round %d: held %q, %v", row.what, i, held, err)
		}
		watched.bodies = watched.bodies[:len(watched.bodies)-1]
	}

	fork := newLog(t, 3)
	fork.grow(int(log.tree.Size())-3, "other")
	if _, err := c.Cosign(ctx, fork.checkpoint(), fork.prove); err == nil || !strings.Contains(err.Error(), "422") {
		t.Errorf("a fork: %v", err)
	}
	small := newLog(t, 3)
	if _, err := newClient(t, at).Cosign(ctx, small.checkpoint(), small.prove); !errors.Is(err, ErrAhead) {
		t.Errorf("a log put back: %v", err)
	}
	if _, err := c.Cosign(ctx, small.checkpoint(), small.prove); !errors.Is(err, ErrAhead) {
		t.Errorf("a log put back, known client: %v", err)
	}
}

// TestClientDistrusts meets the client with witnesses of every bad kind.
func TestClientDistrusts(t *testing.T) {
	log := newLog(t, 5)
	_, keys := vectorKeys(t)
	strangers, err := signing.NewWitnessKeys(keys[0].Name(), [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	cosign := func(c exportlog.Checkpoint, keys signing.WitnessKeys) []string {
		text, err := exportlog.Cosign(c, published, keys)
		if err != nil {
			t.Fatal(err)
		}
		return strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
	}
	own := cosign(log.at(5), keys[0])
	own[1] += "\n"
	seed := [32]byte{3}
	doubter, err := signing.NewWitnessKeys("w.example/doubter", seed, seed)
	if err != nil {
		t.Fatal(err)
	}
	// Our keys refuse to sign for the time 0.
	timeless := signing.Signature{Name: doubter.Name(), KeyID: doubter.VKeys()[0].ID(), Bytes: append(make([]byte, 8),
		ed25519.Sign(ed25519.NewKeyFromSeed(seed[:]), append([]byte("cosignature/v1\ntime 0\n"), log.at(5).Body()...))...)}
	if _, ok := doubter.VKeys()[0].Verify(signing.Statement{Origin: log.keys.Name(), Size: 5, Root: log.at(5).Root}, timeless.Bytes); !ok {
		t.Fatal("the cosignature of the time 0 is wrong in itself")
	}
	text := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }
	}
	conflict := func(kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(http.StatusConflict)
			io.WriteString(w, body)
		}
	}
	elsewhere := httptest.NewServer(text(own[0]))
	defer elsewhere.Close()
	n := 0

	for _, row := range []struct {
		what    string
		witness http.HandlerFunc
		want    string // the lines returned; empty: an error
	}{
		{"both", text(own[0] + own[1]), own[0] + own[1]},
		{"both, the other way round", text(own[1] + own[0]), own[0] + own[1]},
		{"Ed25519 only", text(own[0]), own[0]},
		{"ML-DSA-44 only", text(own[1]), own[1]},
		{"a stranger's beside them", text(cosign(log.at(5), strangers)[0] + own[0]), own[0]},
		{"twice the same", text(own[0] + own[0]), own[0]},

		{"nothing", text(""), ""},
		{"a stranger's", text(cosign(log.at(5), strangers)[0]), ""},
		{"a wrong one", text(flip(own[0])), ""},
		{"a right and a wrong one", text(own[0] + flip(own[1])), ""},
		{"of the time 0", text(timeless.Line()), ""},
		{"of another size", text(cosign(log.at(4), keys[0])[0]), ""},
		{"a page", text("<html>"), ""},
		{"text after the line", text(own[0] + "\n" + own[1]), ""},
		{"the whole checkpoint", text(string(log.checkpoint()) + own[0]), ""},
		{"endless", func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, ""},
		{"unfolding", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			io.WriteString(z, own[0])
			z.Close()
		}, ""},
		{"silent", func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body) // only then does the server see the client go
			<-r.Context().Done()
		}, ""},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, ""},
		{"out of order", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, ""},
		{"cutting off", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, ""},
		{"a conflict without type", conflict("text/plain", "3\n"), ""},
		{"a conflict without size", conflict(sizeType, ""), ""},
		{"a conflict of a strange size", conflict(sizeType, "03\n"), ""},
		{"a conflict about nothing", conflict(sizeType, "0\n"), ""},
		{"a conflict with the largest size", conflict(sizeType, "18446744073709551615\n"), ""},
		{"conflicts for ever", func(w http.ResponseWriter, r *http.Request) {
			n++
			conflict(sizeType, fmt.Sprintln(1+n%4))(w, r)
		}, ""},
	} {
		web := httptest.NewServer(row.witness)
		c := newClient(t, exportlog.PolicyWitness{Name: "w", Ed25519: keys[0].VKeys()[0], MLDSA44: keys[0].VKeys()[1], URL: web.URL})
		if row.what == "of the time 0" {
			c.keys = []*signing.VKey{doubter.VKeys()[0]}
		}
		c.http.Timeout = time.Second
		if row.what == "silent" {
			c.http.Timeout = 50 * time.Millisecond
		}
		got, err := c.Cosign(context.Background(), log.checkpoint(), log.prove)
		if string(got) != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%s: %q, %v", row.what, got, err)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%s: an error of %d bytes", row.what, len(err.Error()))
		}
		web.Close()
	}
	if n > maxTries {
		t.Errorf("asked %d times", n)
	}
}

func TestClientGivesUp(t *testing.T) {
	log := newLog(t, 5)
	s := newSite(t, parseLog(t, log.policy()))
	s.mustAdd(newLog(t, 3).ask(0))
	c := newClient(t, s.witness())
	broken := errors.New("the disk is gone")
	if _, err := c.Cosign(context.Background(), log.checkpoint(), func(uint64) ([][32]byte, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("no proof: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Cosign(ctx, log.checkpoint(), log.prove); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := c.Cosign(context.Background(), []byte("no checkpoint"), log.prove); err == nil {
		t.Error("no checkpoint: no error")
	}
	for what, w := range map[string]exportlog.PolicyWitness{
		"no key": {Name: "w", URL: s.web.URL},
		"no URL": {Name: "w", Ed25519: s.keys.VKeys()[0]},
		"a path": {Name: "w", Ed25519: s.keys.VKeys()[0], URL: "/w"},
	} {
		if _, err := NewClient(w); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}
