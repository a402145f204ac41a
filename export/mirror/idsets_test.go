package mirror

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/match/idset"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
)

// withIDs adds the ID set of keys to a window, and leaves out its files of other kinds.
func withIDs(keys []diagnosis.Key, change func(*idset.Params), without ...exportlog.FileKind) func(*exportlog.Manifest, *site) {
	return func(m *exportlog.Manifest, s *site) {
		s.t.Helper()
		info, err := export.WriteKeySet(io.Discard, export.KeySetHeader{Scheme: m.Scheme, Start: m.Start, End: m.End}, all(sortKeys(keys)))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, f := range m.Files { // the digest of what is published, where it is
			if strings.HasSuffix(f.Path, ".keys") {
				info.SHA256 = f.SHA256
			}
		}
		p := idset.Params{Origin: m.Origin, Region: m.Region, Scheme: m.Scheme, Start: m.Start, End: m.End, KeySet: info.SHA256}
		if change != nil {
			change(&p)
		}
		var b bytes.Buffer
		if _, err := idset.Write(&b, p, all(keys), idset.Options{}); err != nil {
			s.t.Fatal(err)
		}
		m.Files = slices.DeleteFunc(m.Files, func(f exportlog.File) bool {
			gone := slices.ContainsFunc(without, func(k exportlog.FileKind) bool { return strings.HasSuffix(f.Path, "."+string(k)) })
			if gone {
				delete(s.files, f.Path)
			}
			return gone
		})
		f := exportlog.NewFile(m.Start, m.End, exportlog.IDSet, int64(b.Len()), sha(b.Bytes()), m.Keys)
		m.Files = append(m.Files, f)
		s.files[f.Path] = b.Bytes()
	}
}

// one is a site with one published window.
func one(t *testing.T, scheme diagnosis.Scheme, files func(keys []diagnosis.Key) func(*exportlog.Manifest, *site)) (*site, int64) {
	t.Helper()
	s := newSite(t)
	s.signer("v1", start0)
	now := start0 + period
	keys := s.draw(scheme, 30, now)
	s.window(window{scheme: scheme, start: start0, end: now, keys: keys, files: files(keys)})
	for _, other := range diagnosis.Schemes {
		if other != scheme {
			s.window(window{scheme: other, start: start0, end: now})
		}
	}
	s.publish(now)
	return s, now
}

func TestAuditOpensIDSets(t *testing.T) {
	type files = func(keys []diagnosis.Key) func(*exportlog.Manifest, *site)
	ids := func(change func(*idset.Params), without ...exportlog.FileKind) files {
		return func(keys []diagnosis.Key) func(*exportlog.Manifest, *site) { return withIDs(keys, change, without...) }
	}
	of := func(other func([]diagnosis.Key) []diagnosis.Key, without ...exportlog.FileKind) files {
		return func(keys []diagnosis.Key) func(*exportlog.Manifest, *site) {
			return withIDs(other(slices.Clone(keys)), nil, without...)
		}
	}
	fewer := func(k []diagnosis.Key) []diagnosis.Key { return k[1:] }
	another := func(k []diagnosis.Key) []diagnosis.Key { k[0].Secret[3] ^= 1; return k }
	tiny := func(k []diagnosis.Key) []diagnosis.Key { k[0].Start, k[0].Count = k[0].Start+95, 1; return k[:1] }
	for name, row := range map[string]struct {
		scheme  diagnosis.Scheme
		files   files
		code    Code
		keyless int
	}{
		"beside keys":                   {diagnosis.Bluezone, ids(nil), "", 0},
		"beside archive and keys":       {diagnosis.GAEN, ids(nil), "", 0},
		"beside an archive":             {diagnosis.GAEN, ids(nil, exportlog.KeySet), "", 0},
		"alone":                         {diagnosis.Bluezone, ids(nil, exportlog.KeySet), "", 1},
		"many false answers":            {diagnosis.Bluezone, ids(func(p *idset.Params) { p.F = 12 }), "", 0},
		"a key is missing":              {diagnosis.Bluezone, of(fewer), CodeDisagree, 0},
		"another key":                   {diagnosis.GAEN, of(another), CodeDisagree, 0},
		"another key, of an archive":    {diagnosis.GAEN, of(another, exportlog.KeySet), CodeDisagree, 0},
		"of another origin":             {diagnosis.GAEN, ids(func(p *idset.Params) { p.Origin = "x" }), CodeDisagree, 0},
		"of another window":             {diagnosis.Bluezone, ids(func(p *idset.Params) { p.End++ }), CodeContents, 0},
		"of another key set":            {diagnosis.Bluezone, ids(func(p *idset.Params) { p.KeySet[0] ^= 1 }), CodeContents, 0},
		"alone, of another window":      {diagnosis.Bluezone, ids(func(p *idset.Params) { p.Start++ }, exportlog.KeySet), CodeContents, 0},
		"alone, fewer IDs than keys":    {diagnosis.Bluezone, of(tiny, exportlog.KeySet), CodeContents, 0},
		"of an archive's other key set": {diagnosis.GAEN, ids(func(p *idset.Params) { p.KeySet[0] ^= 1 }, exportlog.KeySet), CodeDisagree, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, now := one(t, row.scheme, row.files)
			r := auditAt(t, s.copy(), s.pinned(), nil, now)
			found(t, r, string(row.code))
			if row.code != "" {
				return
			}
			wantIDs := int64(30) * int64(row.scheme.PerDay())
			if r.IDSets != 1 || r.Keyless != row.keyless || r.IDs != wantIDs || r.Keys != 30 {
				t.Errorf("%d sets, %d keyless, %d IDs, %d keys", r.IDSets, r.Keyless, r.IDs, r.Keys)
			}
			rate := 1.0 * (1 << idset.DefaultF)
			if strings.HasPrefix(name, "many") {
				rate = 1 << 12
			}
			if r.OneFalseIn < rate || r.OneFalseIn > 1.01*rate {
				t.Errorf("one false answer in %.0f, want %.0f", r.OneFalseIn, rate)
			}
			unseen := slices.ContainsFunc(r.Unseen, func(u string) bool { return strings.Contains(u, "published without keys") })
			if unseen != (row.keyless > 0) || !strings.Contains(r.String(), "ID sets of") {
				t.Errorf("the report is\n%s", r)
			}
		})
	}
}

func TestVerifyIDSet(t *testing.T) {
	s, _ := one(t, diagnosis.Bluezone, func(k []diagnosis.Key) func(*exportlog.Manifest, *site) { return withIDs(k, nil) })
	dir := s.copy().folder(t)
	name := filepath.Join(dir, s.path(".ids"))
	ok, lines := verify(t, VerifyOptions{Policy: s.pinned()}, dir)
	want(t, ok, true, lines, "2880 IDs of 30 keys, one false answer in 268435456, the IDs of the window's keys and no others")
	ok, lines = verify(t, VerifyOptions{Policy: s.pinned()}, name)
	want(t, ok, true, lines, "not compared with the keys of its window")
	ok, lines = verify(t, VerifyOptions{}, filepath.Join(memory{map[string][]byte{"a.ids": s.files[s.path(".ids")]}}.folder(t), "a.ids"))
	want(t, ok, false, lines, "nothing in an ID set says where it is from")

	s, _ = one(t, diagnosis.Bluezone, func(k []diagnosis.Key) func(*exportlog.Manifest, *site) { return withIDs(k, nil, exportlog.KeySet) })
	ok, lines = verify(t, VerifyOptions{Policy: s.pinned()}, s.copy().folder(t))
	want(t, ok, true, lines, "published without keys: whose IDs they are cannot be checked")

	s, _ = one(t, diagnosis.Bluezone, func(k []diagnosis.Key) func(*exportlog.Manifest, *site) { return withIDs(k[:29], nil) })
	ok, lines = verify(t, VerifyOptions{Policy: s.pinned()}, s.copy().folder(t))
	want(t, ok, false, lines, "not the ID set of the window's keys")
}

// unreadable reads every file but one, whose middle is on a bad sector.
type unreadable struct {
	memory
	path string
	from int
}

type badBlob struct {
	tree.Blob
	from int64
}

func (b badBlob) ReadAt(p []byte, at int64) (int, error) {
	if at+int64(len(p)) > b.from {
		return 0, io.ErrClosedPipe
	}
	return b.Blob.ReadAt(p, at)
}

func (u unreadable) Open(ctx context.Context, path string, limit int64) (tree.Blob, error) {
	blob, err := u.memory.Open(ctx, path, limit)
	if err == nil && path == u.path {
		blob = badBlob{blob, int64(u.from)}
	}
	return blob, err
}

// TestUnreadableIDSet: a disk that fails is no finding about a publisher.
func TestUnreadableIDSet(t *testing.T) {
	s, now := one(t, diagnosis.Bluezone, func(k []diagnosis.Key) func(*exportlog.Manifest, *site) { return withIDs(k, nil) })
	source := unreadable{memory: s.copy(), path: s.path(".ids"), from: 500}
	r, err := Audit(context.Background(), source, options(s.pinned(), now))
	if err == nil || len(r.Findings) > 0 {
		t.Errorf("%v, %v", err, r.Findings)
	}
	l := listed{manifest: &exportlog.Manifest{Origin: origin, Region: "VN-HP", Scheme: diagnosis.Bluezone, Start: start0, End: start0 + period}, kind: exportlog.IDSet}
	data := s.files[source.path]
	for from := 1; from < len(data); from += 997 {
		_, err := l.checkIDs(badBlob{tree.NewBlob(data), int64(from)})
		if f, err := flawOf(err); f != nil || err == nil {
			t.Fatalf("bad from %d: flaw %v", from, f)
		}
	}
}

func TestMirrorCopiesIDSets(t *testing.T) {
	s, now := one(t, diagnosis.Bluezone, func(k []diagnosis.Key) func(*exportlog.Manifest, *site) { return withIDs(k, nil, exportlog.KeySet) })
	disk := memDisk{vfs.NewMem()}
	for range 2 { // the second time from the copy
		c, err := Mirror(context.Background(), s.copy(), Place{Disk: disk, Root: "/mirror", Temp: t.TempDir()}, options(s.pinned(), now))
		if err != nil || !c.Moved || c.IDSets != 1 {
			t.Fatalf("%v, %+v", err, c)
		}
	}
	found(t, auditAt(t, diskSource{disk, "/mirror"}, s.pinned(), nil, now), "")
}
