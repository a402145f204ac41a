package mirror

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

// gateway is a real S3 server, versitygw, over a folder of the disk: what it is told to
// store can be looked at, and damaged, behind its back.
type gateway struct {
	t      *testing.T
	access tree.Access
	dir    string // one folder a bucket
}

// program finds a program that a test needs: on a laptop it may be missing, in CI not.
func program(t *testing.T, name, how string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return path
	case os.Getenv("CI") == "true":
		t.Fatalf("%s: %v", how, err)
	}
	t.Skip(how)
	return ""
}

// freePort is an address that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs a server until the test ends, and waits until it listens.
func start(t *testing.T, addr string, cmd *exec.Cmd) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill(); <-done })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		select {
		case err := <-done:
			done <- err
			t.Fatalf("%s ended: %v\n%s", cmd.Path, err, &out)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen\n", cmd.Path)
		}
	}
}

func startGateway(t *testing.T) *gateway {
	t.Helper()
	path := program(t, os.Getenv("BLUEKEY_VERSITYGW"), "BLUEKEY_VERSITYGW names no S3 server; .ci/s3 builds one")
	g := &gateway{t: t, access: tree.Access{KeyID: "bluekey", Secret: "only-for-tests"}, dir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(g.dir, "public"), 0o755); err != nil {
		t.Fatal(err)
	}
	addr := freePort(t)
	g.access.Endpoint = "http://" + addr
	cmd := exec.Command(path, "--quiet", "--port", addr, "posix", g.dir)
	cmd.Env = []string{"ROOT_ACCESS_KEY=" + g.access.KeyID, "ROOT_SECRET_KEY=" + g.access.Secret}
	start(t, addr, cmd)
	return g
}

// bucket opens the tree below a prefix of the bucket.
func (g *gateway) bucket(prefix string) *tree.Bucket {
	g.t.Helper()
	b, err := tree.NewBucket("s3://public/"+prefix, g.access, Headers)
	if err != nil {
		g.t.Fatal(err)
	}
	return b
}

// holds reads what lies below a prefix, from the server's disk.
func (g *gateway) holds(prefix string) memory {
	g.t.Helper()
	return readFolder(g.t, filepath.Join(g.dir, "public", prefix))
}

// damage writes a file behind the server's back.
func (g *gateway) damage(prefix, path string, data []byte) {
	g.t.Helper()
	f, err := os.OpenFile(filepath.Join(g.dir, "public", prefix, path), os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		_, err = f.Write(data)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// openToAll lets everybody read the bucket, as operators do for a CDN.
func (g *gateway) openToAll() {
	g.t.Helper()
	c, err := minio.New(strings.TrimPrefix(g.access.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(g.access.KeyID, g.access.Secret, ""), Region: "us-east-1",
	})
	if err == nil {
		err = c.SetBucketPolicy(g.t.Context(), "public", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::public/*"}]}`)
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// The calls of a disk, on a bucket.
func TestBucketIsADisk(t *testing.T) {
	g := startGateway(t)
	ctx := t.Context()
	b := g.bucket("hai/phong")
	disk := b.Disk(ctx)
	folder, err := tree.NewFolder(disk, ".")
	if err != nil {
		t.Fatal(err)
	}
	tile, export := "tile/0/000.p/5", "exports/1788264000-1788278400-0011223344556677.zip"
	files := map[string]string{"checkpoint": "signed", "index.json": "{}", "gaen/index.txt": "", tile: "hashes", export: strings.Repeat("PK", 1<<20)}
	for path, text := range files {
		if err := folder.Put(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := folder.Put(path, []byte(text)); err != nil {
			t.Errorf("putting %s again: %v", path, err)
		}
		got, err := folder.Get(path, int64(len(text)))
		if err != nil || string(got) != text {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
		got, err = tree.ReadAll(ctx, b, path, int64(len(text)))
		if err != nil || string(got) != text {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
		if len(text) > 0 {
			if _, err := folder.Get(path, int64(len(text))-1); !errors.Is(err, tree.ErrTooLarge) {
				t.Errorf("%s over its limit: %v", path, err)
			}
			if _, err := b.Open(ctx, path, int64(len(text))-1); !errors.Is(err, tree.ErrTooLarge) {
				t.Errorf("%s over its limit: %v", path, err)
			}
		}
	}
	if len(g.holds("hai/phong").files) != len(files) {
		t.Errorf("the server has %d files", len(g.holds("hai/phong").files))
	}

	// What changes is replaced, what does not is not.
	if err := folder.Put("checkpoint", []byte("newer")); err != nil {
		t.Error(err)
	}
	if got, err := folder.Get("checkpoint", 100); string(got) != "newer" {
		t.Errorf("%q, %v", got, err)
	}
	if err := folder.Put(tile, []byte("others")); !errors.Is(err, tree.ErrTaken) {
		t.Errorf("a tile was replaced: %v", err)
	}

	for dir, want := range map[string][]string{
		".": {"checkpoint", "exports", "gaen", "index.json", "tile"}, "tile/0": {"000.p"}, "tile/0/000.p": {"5"}, "exports": {export[len("exports/"):]},
	} {
		got, err := disk.List(dir)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", dir, got, err)
		}
	}
	for _, err := range []error{
		func() error { _, err := disk.List("notice"); return err }(),
		func() error { _, err := disk.Open("notice/x.txt"); return err }(),
		func() error { _, err := b.Open(ctx, "exports", 100); return err }(), // a folder is no file
		func() error { _, err := g.bucket("elsewhere").Open(ctx, "checkpoint", 100); return err }(),
		disk.Rename("checkpoint", "index.json"),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("want %v, got %v", fs.ErrNotExist, err)
		}
	}
	if err := folder.Remove(export, tile, "notice/x.txt"); err != nil {
		t.Error(err)
	}
	if left := g.holds("hai/phong").files; len(left) != len(files)-2 || left[export] != nil || left[tile] != nil {
		t.Errorf("%d files left", len(left))
	}
	if err := folder.Put("secrets/x", nil); err == nil {
		t.Error("what is no file of a tree was published")
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := b.Disk(cancelled).Open("checkpoint"); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

// served asks the server as a browser would and checks what the table says of a path.
func served(t *testing.T, url, path string) {
	t.Helper()
	resp, err := http.Get(url + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	row, _ := exportlog.Lookup(path)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != row.ContentType || resp.Header.Get("Cache-Control") != row.CacheControl {
		t.Errorf("%s: %s, %q, %q; want %q, %q", path, resp.Status, resp.Header.Get("Content-Type"), resp.Header.Get("Cache-Control"), row.ContentType, row.CacheControl)
	}
}

// A mirror in a bucket is what a mirror in a folder is: it follows, removes what was
// erased, refuses, repairs itself, and can be audited and mirrored in turn.
func TestMirrorToBucket(t *testing.T) {
	g := startGateway(t)
	ctx := t.Context()
	s, now := history(t, 7)
	b := g.bucket("mirror")
	mirrored := func(src tree.Source) *Copied {
		t.Helper()
		c, err := Mirror(ctx, src, Place{Disk: b.Disk(ctx), Root: ".", Temp: t.TempDir()}, options(s.pinned(), now))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := mirrored(s.copy()); !c.Moved || !c.Clean || c.Written < 20 {
		t.Fatalf("moved %v, %d written: %s", c.Moved, c.Written, findings(c.Report))
	}
	old := s.copy()
	removed := 0
	for range 3 {
		now += period
		s.next(now)
		removed += mirrored(s.copy()).Removed
	}
	if removed == 0 {
		t.Error("nothing was removed")
	}
	if c := mirrored(s.copy()); !c.Moved || c.Written+c.Removed != 0 {
		t.Errorf("%d written, %d removed by a pass without news", c.Written, c.Removed)
	}
	holds := g.holds("mirror")
	for path, data := range s.files {
		if !strings.Contains(path, ".p/") && !bytes.Equal(holds.files[path], data) {
			t.Errorf("%s differs", path)
		}
	}
	for path := range holds.files {
		if s.files[path] == nil {
			t.Errorf("%s is not in the source", path)
		}
	}
	found(t, auditAt(t, b, s.pinned(), nil, now), "")
	dir := t.TempDir()
	pass(t, b, dir, s.pinned(), now)
	found(t, auditAt(t, tree.FolderSource(dir), s.pinned(), nil, now), "")

	if c := mirrored(old); c.Moved || !slices.Contains(codes(c.Report), string(CodeRollback)) {
		t.Errorf("an old tree: moved %v, %s", c.Moved, findings(c.Report))
	}
	if !bytes.Equal(g.holds("mirror").files["checkpoint"], holds.files["checkpoint"]) {
		t.Error("the bucket went back")
	}

	// One flipped bit in the bucket is found, and the next pass repairs it.
	path := s.path(".zip")
	flipped := bytes.Clone(s.files[path])
	flipped[len(flipped)/2] ^= 1
	g.damage("mirror", path, flipped)
	found(t, auditAt(t, b, s.pinned(), nil, now), string(CodeFileBytes), path)
	if c := mirrored(s.copy()); !c.Moved || c.Written != 1 {
		t.Errorf("moved %v, %d written: %s", c.Moved, c.Written, findings(c.Report))
	}
	found(t, auditAt(t, b, s.pinned(), nil, now), "")

	// A file that was erased and is back is found by listing.
	folder, err := tree.NewFolder(b.Disk(ctx), ".")
	if err != nil {
		t.Fatal(err)
	}
	stray := "exports/1788264000-1788278400-0011223344556677.zip"
	if err := folder.Put(stray, []byte("back")); err != nil {
		t.Fatal(err)
	}
	found(t, auditAt(t, b, s.pinned(), nil, now), string(CodeFileStray), stray)
}

// Several mirrors in one bucket: a prefix each, and what lists them.
func TestMirrorAllToBucket(t *testing.T) {
	g := startGateway(t)
	b := g.bucket("")
	s, now := history(t, 2)
	c, err := MirrorAll(t.Context(), []tree.Source{s.copy(), memory{}}, Place{Disk: b.Disk(t.Context()), Root: ".", Temp: t.TempDir()}, options(s.pinned(), now))
	if err == nil || !c[0].Moved {
		t.Fatalf("%v: %s", err, findings(c[0].Report))
	}
	feeds, err := ReadFeeds(t.Context(), b)
	if err != nil || len(feeds.Feeds) != 1 || feeds.Feeds[0].Origin != origin {
		t.Fatalf("%v, %v", feeds, err)
	}
	found(t, auditAt(t, g.bucket(feeds.Feeds[0].Path), s.pinned(), nil, now), "")
}

// What the server hands out to everybody has the content types and cache classes of the
// table, without any configuration of its own.
func TestBucketHeaders(t *testing.T) {
	g := startGateway(t)
	s, now := history(t, 2)
	b := g.bucket("")
	if c, err := Mirror(t.Context(), s.copy(), Place{Disk: b.Disk(t.Context()), Root: ".", Temp: t.TempDir()}, options(s.pinned(), now)); err != nil || !c.Moved {
		t.Fatal(err, findings(c.Report))
	}
	g.openToAll()
	for path := range g.holds("").files {
		served(t, g.access.Endpoint+"/public", path)
	}
	source, err := tree.NewSource(g.access.Endpoint + "/public")
	if err != nil {
		t.Fatal(err)
	}
	found(t, auditAt(t, source, s.pinned(), nil, now), "")
	anonymous, err := tree.NewBucket("s3://public", tree.Access{Endpoint: g.access.Endpoint}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.ReadAll(t.Context(), anonymous, "checkpoint", exportlog.MaxCheckpoint); err != nil {
		t.Error(err)
	}
	wrong := g.access
	wrong.Secret = "mistyped"
	refused, err := tree.NewBucket("s3://public", wrong, Headers)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.ReadAll(t.Context(), refused, "checkpoint", 100); err == nil || !strings.Contains(err.Error(), "403 SignatureDoesNotMatch") || strings.Contains(err.Error(), "mistyped") {
		t.Errorf("with a wrong secret: %v", err)
	}
}
