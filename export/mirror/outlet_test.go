package mirror

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/export/exportlog"
	"bluekey/export/publish"
	"bluekey/export/tree"
	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
)

// outletSite is an appliance without its server: a real publisher, its folder, and an S3
// server behind a proxy that can be told to refuse.
type outletSite struct {
	*gateway
	pub    *publish.Publisher
	store  *keystore.Store
	policy *exportlog.Policy
	public string
	now    atomic.Int64
	writes atomic.Int64 // that the proxy still lets pass
	random *rand.Rand
}

func newOutletSite(t *testing.T, g *gateway, start time.Time) *outletSite {
	t.Helper()
	s := &outletSite{gateway: g, random: rand.New(rand.NewPCG(1, 2))}
	s.now.Store(start.Unix())
	s.writes.Store(1 << 40)
	root := t.TempDir()
	s.public = root + "/public"
	s.pub, s.store, s.policy = realPublisher(t, vfs.NewMem(), tree.Disk{}, root, s.clock)
	return s
}

func (s *outletSite) clock() time.Time { return time.Unix(s.now.Load(), 0) }

// round closes the next window, with or without keys in it.
func (s *outletSite) round(cases int) {
	s.t.Helper()
	for range cases {
		uploadCase(s.t, s.store, s.random, s.clock(), diagnosis.GAEN, 14)
		uploadCase(s.t, s.store, s.random, s.clock(), diagnosis.Bluezone, 7)
	}
	s.now.Store(s.pub.NextEnd().Unix() + 1)
	if err := s.pub.Round(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// proxied is the bucket as the appliance reaches it.
func (s *outletSite) proxied(prefix string) *tree.Bucket {
	s.t.Helper()
	target, err := url.Parse(s.access.Endpoint)
	if err != nil {
		s.t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // it is signed
	}}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && s.writes.Add(-1) < 0 {
			http.Error(w, "", http.StatusForbidden)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	s.t.Cleanup(proxy.Close)
	access := s.access
	access.Endpoint = proxy.URL
	b, err := tree.NewBucket("s3://public/"+prefix, access, Headers)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// same demands that the bucket has what the folder has, and no more.
func (s *outletSite) same(prefix string) {
	s.t.Helper()
	local, there := readFolder(s.t, s.public).files, s.holds(prefix).files
	for path, data := range local {
		if !bytes.Equal(there[path], data) {
			s.t.Errorf("%s differs in the bucket", path)
		}
	}
	for path := range there {
		if _, ok := local[path]; !ok && path != "about.txt" {
			s.t.Errorf("%s is in the bucket only", path)
		}
	}
}

var outletStart = time.Date(2026, 11, 23, 13, 30, 0, 0, time.UTC)

// The bucket follows the tree. Cut off after every single write, it is a tree that passes an
// audit all the same: old, new or in between, never with a hole. Before the first index it is
// no tree yet.
func TestOutletCutAtEveryWrite(t *testing.T) {
	s := newOutletSite(t, startGateway(t), outletStart)
	ctx := t.Context()
	about := filepath.Join(s.dir, "public", "about.txt") // the operator's own
	if err := os.WriteFile(about, []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := s.bucket("")
	s.round(0)
	o := publish.NewOutlet(s.pub, tree.FolderSource(s.public), s.proxied(""))
	cuts := 0
	for round := range 9 { // from the seventh on something is erased
		if round > 0 {
			s.round(round % 3)
		}
		for {
			s.writes.Store(1)
			err := o.Copy(ctx)
			if err == nil {
				break
			}
			if cuts++; cuts > 500 || !strings.Contains(err.Error(), "403") {
				t.Fatalf("after %d cuts: %v", cuts, err)
			}
			if status := o.Status(); status.Err == nil || status.Behind != s.clock() || o.Ready() != nil {
				t.Fatalf("cut off: %+v, %v", status, o.Ready())
			}
			if _, err := os.Stat(filepath.Join(s.dir, "public", "index.json")); err == nil && (round < 3 || cuts%3 == 0) {
				found(t, auditAt(t, b, s.policy, nil, s.now.Load()), "")
			}
		}
		if status := o.Status(); status.Err != nil || !status.Behind.IsZero() {
			t.Errorf("done: %+v", status)
		}
		s.same("")
	}
	found(t, auditAt(t, b, s.policy, nil, s.now.Load()), "")
	if cuts < 50 {
		t.Errorf("%d cuts: too few to show anything", cuts)
	}
	// Nothing new: not one write.
	s.writes.Store(0)
	if err := o.Copy(ctx); err != nil {
		t.Error(err)
	}
	// A bucket that stays out of reach calls a person in the end.
	s.round(1)
	if err := o.Copy(ctx); err == nil || o.Ready() != nil {
		t.Errorf("%v, %v", err, o.Ready())
	}
	s.now.Add(301)
	if err := o.Copy(ctx); err == nil || o.Ready() == nil || !strings.Contains(o.Ready().Error(), "behind since") || o.Behind() != 301*time.Second {
		t.Errorf("%v, %v", err, o.Ready())
	}
	s.writes.Store(1 << 40)
	if err := o.Copy(ctx); err != nil || o.Ready() != nil || o.Behind() != 0 {
		t.Errorf("%v, %v", err, o.Ready())
	}
	s.same("")
	// An emptied folder is an accident, not a wish.
	if err := os.Rename(s.public, s.public+"-lost"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.public, 0o755); err != nil {
		t.Fatal(err)
	}
	before := len(s.holds("").files)
	if err := o.Copy(ctx); err == nil || len(s.holds("").files) != before {
		t.Errorf("an empty folder was copied: %v", err)
	}
}

// While rounds go on, copying beside them never makes a tree that is not whole.
func TestOutletBesideThePublisher(t *testing.T) {
	s := newOutletSite(t, startGateway(t), outletStart)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	o := publish.NewOutlet(s.pub, tree.FolderSource(s.public), s.bucket("live"))
	ended := make(chan error, 1)
	go func() { ended <- o.Run(ctx) }()
	for range 3 {
		s.round(1)
	}
	want := readFolder(t, s.public).files["checkpoint"]
	deadline := time.Now().Add(20 * time.Second)
	for !bytes.Equal(s.holds("live").files["checkpoint"], want) || !o.Status().Behind.IsZero() {
		if time.Now().After(deadline) {
			t.Fatalf("the bucket does not follow: %+v", o.Status())
		}
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s.same("live")
	found(t, auditAt(t, s.bucket("live"), s.policy, nil, s.now.Load()), "")
}

// A bucket that has a later history of this log, or another one, stops the appliance; one
// with somebody else's tree is left alone.
func TestOutletMeetsAnotherHistory(t *testing.T) {
	g := startGateway(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	first := newOutletSite(t, g, outletStart)
	first.round(1)
	first.round(1)
	if err := publish.NewOutlet(first.pub, tree.FolderSource(first.public), g.bucket("")).Copy(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := g.holds("").files["checkpoint"]
	second := newOutletSite(t, g, outletStart.Add(24*time.Hour)) // the same seed and origin
	o := publish.NewOutlet(second.pub, tree.FolderSource(second.public), g.bucket(""))
	if err := o.Run(ctx); !errors.Is(err, publish.ErrFork) {
		t.Errorf("behind the bucket: %v", err)
	}
	second.round(1)
	second.round(1)
	if err := o.Run(ctx); !errors.Is(err, publish.ErrFork) {
		t.Errorf("beside the bucket: %v", err)
	}
	if !bytes.Equal(g.holds("").files["checkpoint"], before) {
		t.Error("the bucket's checkpoint was replaced")
	}
	foreign, _ := history(t, 1)
	g.damage("", "checkpoint", foreign.files["checkpoint"])
	if err := publish.NewOutlet(first.pub, tree.FolderSource(first.public), g.bucket("")).Copy(t.Context()); err == nil || errors.Is(err, publish.ErrFork) || !strings.Contains(err.Error(), "did not sign") {
		t.Errorf("another log's bucket: %v", err)
	}
}
