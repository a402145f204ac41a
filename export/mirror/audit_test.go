package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

func auditAt(t testing.TB, src tree.Source, p *exportlog.Policy, state *State, now int64) *Report {
	t.Helper()
	r, err := Audit(context.Background(), src, AuditOptions{Policy: p, State: state, Now: func() time.Time { return time.Unix(now, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func codes(r *Report) (list []string) {
	for _, f := range r.Findings {
		list = append(list, string(f.Code))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func findings(r *Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

// found demands exactly these codes, and words in the findings.
func found(t *testing.T, r *Report, want string, words ...string) {
	t.Helper()
	if got := strings.Join(codes(r), " "); got != want {
		t.Errorf("found %q, want %q\n%s", got, want, findings(r))
	}
	if r.Clean != (want == "") {
		t.Errorf("clean is %v", r.Clean)
	}
	for _, w := range words {
		if !strings.Contains(findings(r), w) {
			t.Errorf("nothing says %q:\n%s", w, findings(r))
		}
	}
}

func TestAuditClean(t *testing.T) {
	for _, n := range []int{0, 1, 2, 6, 7, 8, 9, 13, 60} {
		t.Run(fmt.Sprint(n, " windows"), func(t *testing.T) {
			s, now := history(t, n)
			state := new(State)
			r := auditAt(t, s.copy(), s.pinned(), state, now)
			found(t, r, "")
			if r.Size != s.log.Size() || r.Windows != 2*n || r.Origin != origin || !r.Quorum || r.Since != 0 {
				t.Errorf("report: %+v", r)
			}
			if n >= 8 && (r.Files != 4*3 || r.Keys != 4*2*20) { // of six windows kept two are empty
				t.Errorf("%d files, %d keys", r.Files, r.Keys)
			}
			// From a folder, where strays would be seen, and knowing the first audit.
			r = auditAt(t, tree.FolderSource(s.copy().folder(t)), s.pinned(), state, now)
			found(t, r, "")
			if r.Since != s.log.Size() {
				t.Errorf("since %d", r.Since)
			}
		})
	}
}

// The tree of a live server moves on between two audits, and while one reads it.
func TestAuditFollowsALog(t *testing.T) {
	s, now := history(t, 3)
	state := new(State)
	old := s.copy()
	found(t, auditAt(t, old, s.pinned(), state, now), "")
	for range 140 { // past the first full tile
		now += period
		for _, scheme := range diagnosis.Schemes {
			s.window(window{scheme: scheme, start: now - period, end: now})
		}
		if now == start0+7*period {
			s.erase(now, diagnosis.GAEN, start0+period)
			s.erase(now, diagnosis.Bluezone, start0+period)
		}
		if now == start0+8*period {
			s.erase(now, diagnosis.GAEN, start0+2*period)
			s.erase(now, diagnosis.Bluezone, start0+2*period)
		}
		s.publish(now)
	}
	// Everything but the checkpoint and the indexes has moved on.
	mixed := s.copy()
	for path, data := range old.files {
		if row, _ := exportlog.Lookup(path); row.Class != exportlog.ClassTile {
			mixed.files[path] = data
		}
	}
	for path := range mixed.files { // partial tiles may be pruned
		if strings.Contains(path, ".p/") {
			if _, ok := mixed.files[strings.Split(path, ".p/")[0]]; ok {
				delete(mixed.files, path)
			}
		}
	}
	found(t, auditAt(t, mixed, s.pinned(), nil, start0+3*period), "")
	found(t, auditAt(t, s.copy(), s.pinned(), state, now), "")
	if got := state.logs[origin].Size; got != s.log.Size() {
		t.Errorf("the state remembers %d entries of %d", got, s.log.Size())
	}
}

// What a mirror, or anybody on the way, can do to a tree.
func TestAuditFindsTampering(t *testing.T) {
	s, now := history(t, 8)
	before, _ := history(t, 7)
	fork := forked(t, 8, 4)
	zip, keys := s.path(".zip"), s.path(".keys")
	known := new(State)
	found(t, auditAt(t, s.copy(), s.pinned(), known, now), "")
	line := func(signed []byte, n int) []byte { // the checkpoint without its n-th signature
		lines := bytes.SplitAfter(signed, []byte("\n"))
		return bytes.Join(slices.Delete(lines, 4+n, 5+n), nil)
	}
	for _, row := range []struct {
		name   string
		tamper func(m memory) memory
		codes  string
		words  string
	}{
		{"an old checkpoint", func(memory) memory { return before.copy() }, "rollback", fmt.Sprintf("%d entries, %d were seen before", before.log.Size(), s.log.Size())},
		{"a forked log of the same size", func(memory) memory { return fork.copy() }, "fork", "the log tells different stories"},
		{"a forked log that went on", func(memory) memory { return forked(t, 9, 4).copy() }, "fork future", "the log tells different stories"},
		{"Ed25519 signature missing", func(m memory) memory { m.files["checkpoint"] = line(m.files["checkpoint"], 0); return m }, "checkpoint", "not signed as the policy demands"},
		{"ML-DSA signature missing", func(m memory) memory { m.files["checkpoint"] = line(m.files["checkpoint"], 1); return m }, "checkpoint", "not signed as the policy demands"},
		{"signature wrong", func(m memory) memory { m.flip("checkpoint"); return m }, "checkpoint", "checkpoint: "},
		{"checkpoint missing", func(m memory) memory { delete(m.files, "checkpoint"); return m }, "checkpoint", "the file is missing"},
		{"checkpoint of another log", func(m memory) memory {
			m.files["checkpoint"] = newSiteOf(t, "other.example").checkpoint(now)
			return m
		}, "checkpoint", "the policy names no log of this origin"},
		{"checkpoint signs another root", func(m memory) memory {
			m.files["checkpoint"] = fork.files["checkpoint"]
			return m
		}, "fork root", "the checkpoint signs"},
		{"hash tile, one bit", func(m memory) memory { m.flip(s.partial("tile/0/")); return m }, "tile", s.partial("tile/0/") + ": its hashes are not those"},
		{"entry bundle, one bit", func(m memory) memory { m.flip(s.partial("tile/entries/")); return m }, "tile", s.partial("tile/entries/") + ": its entries are not those"},
		{"hash tile missing", func(m memory) memory { delete(m.files, s.partial("tile/0/")); return m }, "tile", "the tile is missing"},
		{"entry bundle missing", func(m memory) memory { delete(m.files, s.partial("tile/entries/")); return m }, "tile", "the tile is missing"},
		{"entry bundle cut short", func(m memory) memory {
			p := s.partial("tile/entries/")
			m.files[p] = m.files[p][:100]
			return m
		}, "tile", "ends in entry"},
		{"archive missing", func(m memory) memory { delete(m.files, zip); return m }, "file-missing", zip},
		{"archive cut short", func(m memory) memory { m.files[zip] = m.files[zip][:50]; return m }, "file-bytes", zip + ": 50 bytes, the log says"},
		{"archive, one bit", func(m memory) memory { m.flip(zip); return m }, "file-bytes", zip + ": SHA-256"},
		{"archive and key set swapped", func(m memory) memory {
			m.files[zip], m.files[keys] = m.files[keys], m.files[zip]
			return m
		}, "file-bytes", keys},
		{"proof missing", func(m memory) memory { delete(m.files, zip+".tlog-proof"); return m }, "proof", zip + ".tlog-proof: the file is missing"},
		{"proof, one bit", func(m memory) memory { m.flip(zip + ".tlog-proof"); return m }, "proof", zip + ".tlog-proof"},
		{"proof of another entry", func(m memory) memory {
			last := parseManifest(t, s.exports[len(s.exports)-1].Manifest)
			m.files[zip+".tlog-proof"] = m.files[last.Files[0].Path+".tlog-proof"]
			return m
		}, "proof", "it proves entry"},
		{"key of a signer, one bit", func(m memory) memory { m.flip("gaen/keys/452-v1.pem"); return m }, "signer-key", "gaen/keys/452-v1.pem: "},
		{"key of a signer missing", func(m memory) memory { delete(m.files, "gaen/keys/452-v1.pem"); return m }, "signer-key", "the file is missing"},
		{"policy of another log", func(m memory) memory {
			stranger := newSiteOf(t, "other.example")
			m.files["policy"] = stranger.policy
			return m
		}, "policy", "policy: "},
		{"policy missing", func(m memory) memory { delete(m.files, "policy-ed25519"); return m }, "policy", "policy-ed25519: the file is missing"},
		{"index missing", func(m memory) memory { delete(m.files, "index.json"); return m }, "index", "index.json: the file is missing"},
		{"index ahead of the checkpoint", func(m memory) memory {
			ahead, _ := history(t, 9)
			m.files["index.json"] = ahead.files["index.json"]
			return m
		}, "index", "the checkpoint of"},
		{"index hides a window", func(m memory) memory { m.files["index.json"] = s.indexWithout(t, 2); return m }, "index", "the window is left out"},
		{"index with another manifest", func(m memory) memory {
			m.files["index.json"] = bytes.Replace(m.files["index.json"], []byte("\\nperiod 14400"), []byte("\\nperiod 14401"), 1)
			return m
		}, "index", "it gives the entry another text than the log"},
		{"GAEN index hides an archive", func(m memory) memory {
			_, rest, _ := bytes.Cut(m.files["gaen/index.txt"], []byte("\n"))
			m.files["gaen/index.txt"] = rest
			return m
		}, "index", zip + " is left out"},
		{"GAEN index names a stranger", func(m memory) memory {
			m.files["gaen/index.txt"] = append(bytes.Clone(m.files["gaen/index.txt"]), "\nexports/x.zip"...)
			return m
		}, "index", `"exports/x.zip" is not an archive`},
	} {
		t.Run(row.name, func(t *testing.T) {
			state, err := ParseState(known.Format())
			if err != nil {
				t.Fatal(err)
			}
			r := auditAt(t, row.tamper(s.copy()), s.pinned(), state, now)
			found(t, r, row.codes, row.words)
			for _, f := range r.Findings {
				if f.Code == CodeFork && len(f.Evidence) != 2 {
					t.Errorf("a fork without both checkpoints: %v", f)
				}
			}
			if moved := !bytes.Equal(state.Format(), known.Format()); moved {
				t.Error("the state moved on")
			}
		})
	}
}

// What an operator can do: the log itself says so, signed.
func TestAuditFindsMisconduct(t *testing.T) {
	pair := func(s *site, now int64, keys int) { // one period as it should be
		for _, scheme := range diagnosis.Schemes {
			s.window(window{scheme: scheme, start: now - period, end: now, keys: s.draw(scheme, keys, now)})
		}
	}
	gaen := diagnosis.GAEN
	for _, row := range []struct {
		name  string
		after int64 // periods from the last window to the audit
		round func(s *site, now int64)
		codes string
		words string
	}{
		{"nothing", 0, func(s *site, now int64) { pair(s, now, 5) }, "", ""},
		{"one window late", 1, func(s *site, now int64) { pair(s, now, 5) }, "", ""},
		{"silence of two periods", 2, func(s *site, now int64) { pair(s, now, 5) }, "silence", "no gaen window of VN-HP was closed since"},
		{"one scheme silent", 1, func(s *site, now int64) {
			s.window(window{scheme: gaen, start: now - period, end: now})
		}, "silence", "no bluezone window"},
		{"a window of three periods", 0, func(s *site, now int64) {
			pair(s, now, 0)
			s.window(window{scheme: gaen, start: now, end: now + 3*period})
		}, "future silence", "is longer than two periods"},
		{"window gap", 0, func(s *site, now int64) {
			pair(s, now-60, 0)
			s.window(window{scheme: gaen, start: now, end: now + 60})
		}, "window-gap window-overlap", "entry 5: the gaen window starts at"},
		{"window twice", 0, func(s *site, now int64) { pair(s, now, 5); pair(s, now, 0) }, "window-overlap", ""},
		{"a window that has not ended", 0, func(s *site, now int64) {
			pair(s, now, 0)
			s.window(window{scheme: gaen, start: now, end: now + period})
		}, "future", "which has not come yet"},
		{"an unreadable entry", 0, func(s *site, now int64) {
			pair(s, now, 0)
			s.addText([]byte("bluekey window v9\n"))
		}, "entry", "unknown first line"},
		{"a manifest of another log", 0, func(s *site, now int64) {
			pair(s, now, 0)
			s.window(window{scheme: gaen, start: now, end: now + 60, change: func(m *exportlog.Manifest) { m.Origin = "other.example" }})
			s.exports = s.exports[:len(s.exports)-1]
		}, "entry", "the manifest of another log"},
		{"signer never introduced", 0, func(s *site, now int64) {
			stranger, err := signing.NewExportSigner(signing.SeedOf([32]byte{3}), "452", "v7", time.Unix(0, 0))
			if err != nil {
				s.t.Fatal(err)
			}
			s.signers = []*signing.ExportSigner{stranger}
			pair(s, now, 5)
		}, "signature signer", "archives signed by 452-v7, which the log has not introduced"},
		{"signer introduced afterwards", 0, func(s *site, now int64) {
			s.signers = nil
			late, err := signing.NewExportSigner(signing.SeedOf([32]byte{3}), "452", "v2", time.Unix(0, 0))
			if err != nil {
				s.t.Fatal(err)
			}
			s.signers = []*signing.ExportSigner{late}
			pair(s, now, 5)
			s.signer("v2", now-period)
		}, "signer", "archives signed by 452-v2, which the log has not introduced"},
		{"signer not yet in force", 0, func(s *site, now int64) {
			s.signer("v2", now)
			pair(s, now, 5)
		}, "signer", "which may sign from"},
		{"signer retired", 0, func(s *site, now int64) {
			v1 := s.signers[0]
			s.add(exportlog.SignerChange{Time: now - period, Retires: true, KeyID: "452", Version: "v1", From: now - period, SPKI: v1.SPKI()})
			pair(s, now, 5)
		}, "signer", "which was retired at"},
		{"a signer's key replaced", 0, func(s *site, now int64) {
			other, err := signing.NewExportSigner(signing.SeedOf([32]byte{4}), "452", "v1", time.Unix(0, 0))
			if err != nil {
				s.t.Fatal(err)
			}
			s.add(exportlog.SignerChange{Time: now, KeyID: "452", Version: "v1", From: now, SPKI: other.SPKI()})
			pair(s, now, 5)
		}, "signer", "another key as 452-v1 than entry 0"},
		{"archive signed by another key than the logged one", 0, func(s *site, now int64) {
			other, err := signing.NewExportSigner(signing.SeedOf([32]byte{4}), "452", "v1", time.Unix(0, 0))
			if err != nil {
				s.t.Fatal(err)
			}
			s.signers = []*signing.ExportSigner{other}
			pair(s, now, 5)
		}, "signature", "export.sig is not by 452-v1"},
		{"archive and key set hold different keys", 0, func(s *site, now int64) {
			pair(s, now, 5)
			s.window(window{scheme: gaen, start: now, end: now + 60, keys: s.draw(gaen, 5, now), other: s.draw(gaen, 5, now)})
		}, "disagree", "archive and key set hold different keys"},
		{"one key with another risk in the key set", 0, func(s *site, now int64) {
			pair(s, now, 5)
			keys := s.draw(gaen, 5, now)
			other := slices.Clone(keys)
			other[3].Risk++
			s.window(window{scheme: gaen, start: now, end: now + 60, keys: keys, other: other})
		}, "disagree", ""},
		{"an archive in three parts", 0, func(s *site, now int64) {
			pair(s, now, 5)
			s.window(window{scheme: gaen, start: now, end: now + 60, keys: s.draw(gaen, 25, now), split: 10})
		}, "", ""},
		{"fewer keys than the manifest says", 0, func(s *site, now int64) {
			pair(s, now, 5)
			s.window(window{scheme: diagnosis.Bluezone, start: now, end: now + 60, keys: s.draw(diagnosis.Bluezone, 5, now), change: func(m *exportlog.Manifest) {
				m.Keys, m.Files[0].Keys = 6, 6
			}})
		}, "contents", "5 keys, the manifest says 6"},
		{"header of another region", 0, func(s *site, now int64) {
			pair(s, now, 5)
			s.window(window{scheme: gaen, start: now, end: now + 60, keys: s.draw(gaen, 5, now), change: func(m *exportlog.Manifest) { m.Region = "VN-HN" }})
			s.exports = s.exports[:len(s.exports)-1]
		}, "contents index proof", "region VN-HP"},
		{"a file of garbage", 0, func(s *site, now int64) {
			pair(s, now, 5)
			s.window(window{scheme: diagnosis.Bluezone, start: now, end: now + 60, keys: s.draw(diagnosis.Bluezone, 5, now), files: func(m *exportlog.Manifest, s *site) {
				garbage := []byte("garbage that is no key set")
				m.Files[0] = exportlog.NewFile(m.Start, m.End, exportlog.KeySet, int64(len(garbage)), sha(garbage), 5)
				s.files[m.Files[0].Path] = garbage
			}})
		}, "contents", "neither an archive nor a key set"},
		{"a key older than the terms allow", 0, func(s *site, now int64) {
			keys := s.draw(gaen, 5, now)
			keys[2].Start = diagnosis.Interval((now-15*86400-7200-hold-600)/600 - 144)
			s.window(window{scheme: gaen, start: now - period, end: now, keys: keys})
			s.window(window{scheme: diagnosis.Bluezone, start: now - period, end: now})
		}, "key-old", ".keys: it holds a key that ended at"},
		{"the oldest key that they allow", 0, func(s *site, now int64) {
			keys := s.draw(gaen, 5, now)
			keys[2].Start = diagnosis.Interval((now-15*86400-7200-hold)/600 - 144)
			s.window(window{scheme: gaen, start: now - period, end: now, keys: keys})
			s.window(window{scheme: diagnosis.Bluezone, start: now - period, end: now})
		}, "", ""},
		{"a key that was not due", 0, func(s *site, now int64) {
			keys := s.draw(gaen, 5, now)
			keys[2].Start = diagnosis.Interval((now-7200+600)/600 - 144)
			s.window(window{scheme: gaen, start: now - period, end: now, keys: keys})
			s.window(window{scheme: diagnosis.Bluezone, start: now - period, end: now})
		}, "key-early", "was due 2h0m0s later"},
		{"terms under which nothing is ever due", 0, func(s *site, now int64) {
			pair(s, now, 5)
			s.window(window{scheme: gaen, start: now, end: now + 60, keys: s.draw(gaen, 5, now), change: func(m *exportlog.Manifest) {
				m.Period, m.Hold, m.Retain = 1<<62, 1<<62, 1<<62
			}})
		}, "terms", "no term may be longer"},
		{"erased too early", 0, func(s *site, now int64) {
			pair(s, now, 5)
			s.erase(now, gaen, now)
		}, "erasure-early", "before its retention ends"},
		{"incident", 0, func(s *site, now int64) {
			pair(s, now, 5)
			s.add(exportlog.Incident{Time: now, Text: "the disk was full"})
		}, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, now := history(t, 1)
			now += period
			row.round(s, now)
			s.publish(now)
			now += row.after * period
			r := auditAt(t, s.copy(), s.pinned(), nil, now+60)
			found(t, r, row.codes, row.words)
			if row.name == "incident" && !strings.Contains(strings.Join(r.Notes, "\n"), "the disk was full") {
				t.Errorf("notes: %q", r.Notes)
			}
		})
	}
}

// Files that stay too long, in the tree or in the log.
func TestAuditFindsLateFiles(t *testing.T) {
	s, now := history(t, 6)
	old := s.copy()
	for range 4 {
		now += period
		for _, scheme := range diagnosis.Schemes {
			s.window(window{scheme: scheme, start: now - period, end: now})
		}
		s.publish(now)
	}
	r := auditAt(t, s.copy(), s.pinned(), nil, now)
	found(t, r, "erasure-late file-late", "no entry says that its files are gone", "it is still served")

	// Also if it is dated back to when it was in time: the windows before it are not.
	s.erase(start0+retain+period, diagnosis.GAEN, start0+period)
	s.erase(now, diagnosis.GAEN, now-retain)
	s.erase(now, diagnosis.Bluezone, now-retain)
	s.publish(now)
	r = auditAt(t, s.copy(), s.pinned(), nil, now)
	found(t, r, "erasure-late", "more than a period after its retention ended", fmt.Sprintf("entry %d: erases entry 1 at", s.log.Size()-3))

	s, now = history(t, 9)
	kept := s.copy()
	for path, data := range old.files { // a mirror that deletes nothing
		if _, ok := kept.files[path]; !ok && strings.HasPrefix(path, "exports/") {
			kept.files[path] = data
		}
	}
	r = auditAt(t, kept, s.pinned(), nil, now)
	found(t, r, "file-late", "it is still served")

	// A folder shows also what no entry names.
	kept = s.copy()
	kept.files["exports/1-2-0011223344556677.keys"] = []byte("x")
	r = auditAt(t, tree.FolderSource(kept.folder(t)), s.pinned(), nil, now)
	found(t, r, "file-stray", "exports/1-2-0011223344556677.keys")

	// Files of the window that is being published are there before its checkpoint. Those of
	// one that has not ended yet are not.
	kept = s.copy()
	kept.files[fmt.Sprintf("exports/%d-%d-0011223344556677.keys", now, now+1)] = []byte("x")
	found(t, auditAt(t, tree.FolderSource(kept.folder(t)), s.pinned(), nil, now+1), "")
	kept.files[fmt.Sprintf("exports/%d-%d-0011223344556677.keys", now, now+period)] = []byte("x")
	found(t, auditAt(t, tree.FolderSource(kept.folder(t)), s.pinned(), nil, now+1), "file-stray", fmt.Sprint(now+period))
}

func TestAuditQuorum(t *testing.T) {
	witness, err := signing.NewWitnessKeys("witness.example", [32]byte{5}, [32]byte{6})
	if err != nil {
		t.Fatal(err)
	}
	s, now := history(t, 1)
	s.setPolicy(exportlog.PolicyTerms{Log: s.keys.VKeys(), Quorum: 1, Witnesses: []exportlog.PolicyWitness{{Name: "w1", Ed25519: witness.VKeys()[0], MLDSA44: witness.VKeys()[1]}}})
	r := auditAt(t, s.copy(), s.pinned(), nil, now)
	found(t, r, "quorum", "the quorum of witnesses is not met")
	if r.blocked() {
		t.Error("a missing witness keeps a mirror from moving on")
	}
	s.witness = &witness
	s.publish(now)
	r = auditAt(t, s.copy(), s.pinned(), nil, now)
	found(t, r, "")
	if !slices.Equal(r.Cosigners, []string{"w1"}) {
		t.Errorf("cosigners %v", r.Cosigners)
	}
}

// A log with many tiles: each of them counts.
func TestAuditEveryTile(t *testing.T) {
	s := newSite(t)
	now := start0
	for range 70_000 {
		now += 60
		s.add(exportlog.Incident{Time: now, Text: "nothing happened"})
	}
	s.publish(now)
	found(t, auditAt(t, s.copy(), s.pinned(), nil, now), "")
	for _, path := range []string{"tile/0/000", "tile/0/272", "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1", "tile/entries/017", "tile/entries/273.p/112"} {
		m := s.copy()
		m.flip(path)
		found(t, auditAt(t, m, s.pinned(), nil, now), "tile", path+":")
		delete(m.files, path)
		found(t, auditAt(t, m, s.pinned(), nil, now), "tile", path+": the tile is missing")
	}
}

func TestAuditOverHTTP(t *testing.T) {
	s, now := history(t, 8)
	dir := s.copy().folder(t)
	var endless atomic.Value
	endless.Store("")
	files := http.FileServer(http.Dir(dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/"+endless.Load().(string) {
			for _, err := w.Write(make([]byte, 1<<16)); err == nil; _, err = w.Write(make([]byte, 1<<16)) {
			}
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	source, err := tree.NewSource(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	found(t, auditAt(t, source, s.pinned(), nil, now), "")
	// A file without end is a finding: it does not keep the rest from being audited.
	for _, row := range []struct {
		path string
		code Code
	}{
		{"checkpoint", CodeCheckpoint}, {"index.json", CodeIndex}, {"gaen/index.txt", CodeIndex}, {"policy", CodePolicy},
		{s.partial("tile/entries/"), CodeTile}, {s.partial("tile/0/"), CodeTile}, {s.path(".pem"), CodeSignerKey},
		{s.path(".zip"), CodeFileBytes}, {s.path(".keys"), CodeFileBytes}, {s.path(".tlog-proof"), CodeProof},
	} {
		endless.Store(row.path)
		found(t, auditAt(t, source, s.pinned(), nil, now), string(row.code), row.path+": ", tree.ErrTooLarge.Error())
		ok, lines := verify(t, VerifyOptions{}, server.URL)
		if row.code != CodeTile && ok && row.path != "gaen/index.txt" {
			t.Errorf("%s without end is verified: %s", row.path, lines)
		}
	}
}

func TestAuditCannotFinish(t *testing.T) {
	s, now := history(t, 2)
	broken := failing{s.copy(), s.path(".zip")}
	_, err := Audit(context.Background(), broken, AuditOptions{Policy: s.pinned(), Now: func() time.Time { return time.Unix(now, 0) }})
	if err == nil || !strings.Contains(err.Error(), s.path(".zip")) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Audit(ctx, s.copy(), AuditOptions{Policy: s.pinned()}); err == nil {
		t.Error("a cancelled audit has a verdict")
	}
}

func TestReportJSON(t *testing.T) {
	s, now := history(t, 2)
	m := s.copy()
	m.flip(s.path(".zip"))
	text, err := json.Marshal(auditAt(t, m, s.pinned(), nil, now))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"clean":false`, `"code":"file-bytes"`, `"path":"exports/`, `"entry":`, `"unseen":["keys that were accepted`, `"origin":"` + origin} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}

func TestState(t *testing.T) {
	s, now := history(t, 2)
	state := new(State)
	auditAt(t, s.copy(), s.pinned(), state, now)
	name := t.TempDir() + "/sub/state.json"
	if err := state.Save(name); err != nil {
		t.Fatal(err)
	}
	again, err := LoadState(name)
	if err != nil || !bytes.Equal(again.Format(), state.Format()) {
		t.Errorf("saved and loaded: %v", err)
	}
	if none, err := LoadState(name + "x"); err != nil || len(none.logs) != 0 {
		t.Errorf("a missing state: %v", err)
	}
	text := string(state.Format())
	for what, bad := range map[string]string{
		"empty":          "",
		"other version":  strings.Replace(text, `"version": 1`, `"version": 2`, 1),
		"unknown member": strings.Replace(text, `"version": 1`, `"version": 1, "x": 1`, 1),
		"other indent":   strings.Replace(text, " \"version\"", "  \"version\"", 1),
		"no checkpoint":  "{\n \"version\": 1,\n \"checkpoints\": [\n  \"x\"\n ]\n}\n",
		"something more": text + "\n",
	} {
		if _, err := ParseState([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte("{\n \"version\": 1,\n \"checkpoints\": []\n}\n"))
	f.Add([]byte("{\n \"version\": 1,\n \"checkpoints\": [\n  \"a\\n0\\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\\n\\n— a AAAA\\n\"\n ]\n}\n"))
	f.Add([]byte("{\n \"version\": 1,\n \"checkpoints\": [],\n \"keyrings\": [\n  {\n   \"origin\": \"a\",\n   \"entry\": 1,\n   \"keys\": [\n    \"seal 1 " + strings.Repeat("0", 64) + "\"\n   ]\n  }\n ]\n}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := ParseState(data); err == nil && !bytes.Equal(s.Format(), data) {
			t.Error("a second spelling")
		}
	})
}

// The sum tells sets apart and nothing else.
func TestKeySum(t *testing.T) {
	s := newSite(t)
	sum := newSummer()
	total := func(keys []diagnosis.Key) (n keySum) {
		for _, k := range keys {
			n.add(sum.hash(&k))
		}
		return n
	}
	n := keySum{1, 0, math.MaxUint64}
	if n.add(keySum{1, 0, 1}); n != (keySum{2, 1, 0}) {
		t.Errorf("the sum does not carry: %v", n)
	}
	for _, scheme := range diagnosis.Schemes {
		keys := s.draw(scheme, 50, start0)
		want := total(keys)
		if got := total(sortKeys(keys)); got != want {
			t.Error("the order matters")
		}
		for name, change := range map[string]func(k *diagnosis.Key){
			"first byte": func(k *diagnosis.Key) { k.Secret[0] ^= 1 },
			"last byte":  func(k *diagnosis.Key) { k.Secret[scheme.SecretLen()-1] ^= 1 },
			"start":      func(k *diagnosis.Key) { k.Start++ },
			"count":      func(k *diagnosis.Key) { k.Count-- },
			"report":     func(k *diagnosis.Key) { k.Report = diagnosis.SelfReport },
			"onset":      func(k *diagnosis.Key) { k.Onset++ },
			"risk":       func(k *diagnosis.Key) { k.Risk++ },
		} {
			other := slices.Clone(keys)
			change(&other[17])
			if total(other) == want {
				t.Errorf("%s: another %s gives the same sum", scheme, name)
			}
		}
	}
}
