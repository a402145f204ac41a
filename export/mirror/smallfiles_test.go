package mirror

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

const (
	ringPath  = exportlog.KeyringPath
	ringProof = exportlog.KeyringPath + exportlog.ProofSuffix
)

// hasty is for tests of trees in which something stays wrong.
func hasty(t *testing.T) {
	before := rereadAfter
	rereadAfter = time.Millisecond
	t.Cleanup(func() { rereadAfter = before })
}

// replaced is a site before and after its keyring was replaced at noon of its first day.
func replaced(t *testing.T) (q *quiet, old memory) {
	q = newQuiet(t)
	q.put("notice/vi.html", []byte("<p>xin chào\n"), start0)
	q.put(ringPath, q.keyring(0, day0, day0+1, day0+2), start0)
	q.until(start0 + 3*period)
	old = q.copy()
	q.put(ringPath, q.keyring(0, day0, day0+1, day0+2, day0+3), q.now)
	q.publish(q.now)
	return q, old
}

// A small file is two files, and neither is replaced in the instant of the other. What an
// audit meets meanwhile is no breach; what stays like that is one.
func TestAuditSmallFile(t *testing.T) {
	hasty(t)
	q, old := replaced(t)
	type files = map[string][]byte
	with := func(base files, change func(m files)) func() memory {
		return func() memory {
			m := memory{map[string][]byte{}}
			for path, data := range base {
				m.files[path] = data
			}
			change(m.files)
			return m
		}
	}
	from := func(other files, paths ...string) func(m files) {
		return func(m files) {
			for _, p := range paths {
				m[p] = other[p]
			}
		}
	}
	stranger := newSite(t)
	stranger.signer("v1", start0)
	stranger.put(ringPath, q.files[ringPath], start0)
	stranger.publish(start0)
	for _, row := range []struct {
		name      string
		tree      func() memory
		soon      string // codes within settle of the replacement
		late      string // and after it
		unsettled bool
		words     string
	}{
		{"as it should be", with(q.files, func(files) {}), "", "", false, ""},
		{"the old file", with(q.files, from(old.files, ringPath)), "", "small-file", true, "keyring: "},
		{"the old proof", with(q.files, from(old.files, ringProof)), "", "proof", true, "keyring.tlog-proof: it proves entry 1"},
		{"the old pair", with(q.files, from(old.files, ringPath, ringProof)), "", "proof small-file", true, ""},
		{"the new file before its checkpoint", with(old.files, from(q.files, ringPath)), "small-file", "small-file", false, "the log says"},
		{"the new proof before its checkpoint", with(old.files, from(q.files, ringProof)), "", "proof", true, "keyring.tlog-proof: it proves entry 8"},
		{"the new pair before its checkpoint", with(old.files, from(q.files, ringPath, ringProof)), "", "proof small-file", true, ""},
		{"no file", with(q.files, func(m files) { delete(m, ringPath) }), "small-file", "small-file", false, "keyring: the file is missing"},
		{"no proof", with(q.files, func(m files) { delete(m, ringProof) }), "proof", "proof", false, "keyring.tlog-proof: the file is missing"},
		{"neither", with(q.files, func(m files) { delete(m, ringPath); delete(m, ringProof) }), "proof small-file", "proof small-file", false, ""},
		{"an endless file", with(q.files, func(m files) { m[ringPath] = make([]byte, exportlog.MaxSmall+1) }), "small-file", "small-file", false, "too large"},
		{"an endless proof", with(q.files, func(m files) { m[ringProof] = make([]byte, exportlog.MaxProof+1) }), "proof", "proof", false, "too large"},
		{"one bit of the file", func() memory { m := q.copy(); m.flip(ringPath); return m }, "small-file", "small-file", false, "SHA-256"},
		{"one bit of the proof", func() memory { m := q.copy(); m.flip(ringProof); return m }, "proof", "proof", false, "proof: "},
		{"the proof of a notice", with(q.files, func(m files) { m[ringProof] = m["notice/vi.html"+exportlog.ProofSuffix] }), "proof", "proof", false, "it proves entry 0"},
		{"the proof of a window", with(q.files, func(m files) { m[ringProof] = q.prove(4, m[exportlog.CheckpointPath]) }), "proof", "proof", false, "it proves entry 4"},
		{"the proof of a fork", with(q.files, from(stranger.files, ringProof)), "fork", "fork", false, "its checkpoint of 2 entries, signed by the log, contradicts the tree's of 9"},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := row.tree()
			r := auditAt(t, m, q.pinned(), nil, q.now+5*60)
			found(t, r, row.soon)
			if noted := strings.Contains(strings.Join(r.Notes, "\n"), "keyring is just being replaced"); noted != row.unsettled {
				t.Errorf("notes: %q", r.Notes)
			}
			r = auditAt(t, m, q.pinned(), nil, q.now+11*60)
			found(t, r, row.late, row.words)
			for _, f := range r.Findings {
				if f.Code == CodeFork && len(f.Evidence) != 2 {
					t.Errorf("a fork without evidence: %v", f)
				}
			}
			// A mirror neither copies a mixture nor calls it a breach.
			c := pass(t, m, t.TempDir(), q.pinned(), q.now+5*60)
			if c.Moved != (row.soon == "" && !row.unsettled) || c.Unsettled != row.unsettled {
				t.Errorf("moved %v, unsettled %v", c.Moved, c.Unsettled)
			}
		})
	}
}

// replacing serves one tree until a path has been read, and another from then on.
type replacing struct {
	before, after memory
	path          string
	read          *atomic.Bool
}

func (r replacing) String() string { return "replacing" }

func (r replacing) Open(ctx context.Context, path string, limit int64) (tree.Blob, error) {
	from := r.before
	if r.read.Load() {
		from = r.after
	}
	if path == r.path {
		r.read.Store(true)
	}
	return from.Open(ctx, path, limit)
}

// A file that is replaced in the middle of an audit, a mirror's pass or a verification is no
// finding, whichever part of it was read before.
func TestSmallFileReplacedMeanwhile(t *testing.T) {
	q, old := replaced(t)
	half := memory{maps.Clone(old.files)} // the instant between the file and its proof
	half.files[ringPath] = q.files[ringPath]
	for path, before := range map[string]memory{
		exportlog.CheckpointPath: old, exportlog.PolicyPath: old, ringPath: old, ringProof: half,
	} {
		source := func() replacing { return replacing{before, q.copy(), path, new(atomic.Bool)} }
		r := auditAt(t, source(), q.pinned(), nil, q.now+1)
		found(t, r, "")
		dir := t.TempDir()
		c := pass(t, source(), dir, q.pinned(), q.now+1)
		if !c.Moved {
			t.Fatalf("replaced after %s was read: %s", path, c)
		}
		found(t, auditAt(t, tree.FolderSource(dir), q.pinned(), nil, q.now+3600), "")
	}
}

// A checkpoint in a proof binds a log like any other: one that contradicts the tree's is a
// fork, even if it stands beside a file only, and whatever its size.
func TestAuditFindsForkInProof(t *testing.T) {
	s, now := history(t, 4)
	for _, row := range []struct {
		name  string
		fork  *site
		entry uint64 // that it proves
	}{
		{"a smaller log", forked(t, 3, 1), 1},
		{"a log of this size", forked(t, 4, 3), 1},
		{"a larger log with another entry here", forked(t, 6, 0), 1},
	} {
		if same := bytes.Equal(row.fork.entries[row.entry], s.entries[row.entry]); same != (row.fork.log.Size() <= s.log.Size()) {
			t.Fatalf("%s: its entry %d is the same: %v", row.name, row.entry, same)
		}
		m := s.copy()
		path := parseManifest(t, string(s.entries[row.entry])).Files[0].Path
		m.files[path+exportlog.ProofSuffix] = row.fork.prove(row.entry, row.fork.files[exportlog.CheckpointPath])
		r := auditAt(t, m, s.pinned(), nil, now)
		found(t, r, "fork", "contradicts the tree's of 9: the log tells different stories")
		if len(r.Findings) != 1 || len(r.Findings[0].Evidence) != 2 {
			t.Errorf("%s: %v", row.name, r.Findings)
		}
		ok, lines := verify(t, VerifyOptions{Policy: s.pinned()}, m.folder(t))
		want(t, ok, false, lines, "tells different stories")
	}
	// A proof may be of a later checkpoint of the same log.
	later, _ := history(t, 5)
	m := s.copy()
	path := parseManifest(t, string(s.entries[1])).Files[0].Path
	m.files[path+exportlog.ProofSuffix] = later.prove(1, later.files[exportlog.CheckpointPath])
	found(t, auditAt(t, m, s.pinned(), nil, now), "")
}

// A keyring that somebody has on a disk is verified by the proof beside it and a policy.
func TestVerifyKeyring(t *testing.T) {
	q, old := replaced(t)
	dir := q.copy().folder(t)
	policy := VerifyOptions{Policy: q.pinned()}
	ok, lines := verify(t, policy, dir+"/"+ringPath)
	want(t, ok, true, lines, "digest", "4 permit keys and 4 sealing keys of VN-HP", "both signatures of the log", "whether a newer one has replaced it only its tree tells")
	ok, lines = verify(t, policy, dir+"/notice/vi.html")
	want(t, ok, true, lines, "notice/vi.html as the log names it")
	web := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer web.Close()
	ok, lines = verify(t, policy, web.URL+"/keyring")
	want(t, ok, true, lines, "4 permit keys")
	ok, lines = verify(t, VerifyOptions{}, dir+"/"+ringPath)
	want(t, ok, false, lines, "no policy was given")
	ok, lines = verify(t, VerifyOptions{Policy: strangersPolicy(t)}, dir+"/"+ringPath)
	want(t, ok, false, lines, "not signed as the policy demands")

	for name, row := range map[string]struct {
		change func(m memory)
		words  string
	}{
		"no proof":         {func(m memory) { delete(m.files, ringProof) }, "keyring.tlog-proof is missing"},
		"one bit":          {func(m memory) { m.flip(ringPath) }, "names no file"},
		"the proof before": {func(m memory) { m.files[ringProof] = old.files[ringProof] }, "names no file"},
		"a notice in its place": {func(m memory) {
			m.files[ringPath], m.files[ringProof] = m.files["notice/vi.html"], m.files["notice/vi.html.tlog-proof"]
		}, "it is called keyring, and the log names it notice/vi.html"},
	} {
		m := q.copy()
		row.change(m)
		ok, lines := verify(t, policy, m.folder(t)+"/"+ringPath)
		if ok || !strings.Contains(lines, row.words) {
			t.Errorf("%s: %s", name, lines)
		}
	}
	for name, text := range map[string][]byte{"not a keyring": []byte("x\n"), "of another log": newSiteOf(t, "other.example").keyring(0, day0)} {
		s := newSite(t)
		s.put(ringPath, text, start0)
		s.publish(start0)
		if ok, lines := verify(t, policy, s.copy().folder(t)+"/"+ringPath); ok {
			t.Errorf("%s: %s", name, lines)
		}
	}
}
