package mirror

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
	"bluekey/signing/seal"
)

// keyring is a keyring for some days. Its keys are others for each variant.
func (s *site) keyring(variant byte, days ...uint32) []byte {
	s.t.Helper()
	r := &seal.Keyring{Origin: s.origin, Region: "VN-HP"}
	for _, d := range days {
		key, err := seal.LoadPrivateKey(s.origin, d, bytes.Repeat([]byte{byte(d) ^ variant}, seal.SeedLen))
		if err != nil {
			s.t.Fatal(err)
		}
		r.Permits = append(r.Permits, seal.PermitKey{Day: d, Key: [32]byte(bytes.Repeat([]byte{byte(d) ^ variant}, 32))})
		r.Seals = append(r.Seals, seal.SealKey{Day: d, Key: [seal.PublicLen]byte(key.Public().Bytes())})
	}
	text, err := r.Format()
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

// quiet is a site whose windows, all empty, are closed as time passes.
type quiet struct {
	*site
	now int64
}

func newQuiet(t testing.TB) *quiet {
	q := &quiet{newSite(t), start0}
	q.publish(start0)
	return q
}

// until closes windows up to a time, of whole periods, and publishes.
func (q *quiet) until(end int64) {
	q.t.Helper()
	for ; q.now < end; q.now += period {
		for _, scheme := range diagnosis.Schemes {
			q.window(window{scheme: scheme, start: q.now, end: q.now + period})
		}
		q.publish(q.now + period)
	}
	q.publish(q.now)
}

const oneDay = int64(86400)

// The service announces its keys days ahead; whoever does otherwise is found by an audit that
// remembers. Each step is a keyring and an audit after it.
func TestAuditKeyring(t *testing.T) {
	const d = uint32(day0)
	type step struct {
		day     int64 // after the first; windows are closed up to it
		keyring func(q *quiet) []byte
		at      int64 // time that the entry states, in seconds after that day's start
		unread  bool  // no audit after this step
		codes   string
		words   string
	}
	ring := func(variant byte, days ...uint32) func(*quiet) []byte {
		return func(q *quiet) []byte { return q.keyring(variant, days...) }
	}
	// mixed has the permit keys of one keyring and the sealing keys of another.
	mixed := func(permits, seals func(*quiet) []byte) func(*quiet) []byte {
		return func(q *quiet) []byte {
			p, err := seal.ParseKeyring(permits(q))
			if err != nil {
				q.t.Fatal(err)
			}
			s, err := seal.ParseKeyring(seals(q))
			if err != nil {
				q.t.Fatal(err)
			}
			p.Seals = s.Seals
			text, err := p.Format()
			if err != nil {
				q.t.Fatal(err)
			}
			return text
		}
	}
	first := step{0, ring(0, d, d+1, d+2, d+3), 0, false, "", ""}
	for name, steps := range map[string][]step{
		"as it should be": {
			first,
			{1, ring(0, d, d+1, d+2, d+3, d+4), 0, false, "", ""},
			{2, ring(0, d+1, d+2, d+3, d+4, d+5), 0, false, "", ""},
			{3, ring(0, d+2, d+3, d+4, d+5, d+6), 60, true, "", ""},
			{5, ring(0, d+5, d+6, d+7, d+8), 0, false, "", ""},
		},
		"a second permit key": {
			first,
			{1, mixed(ring(9, d+1, d+2, d+3), ring(0, d+1, d+2, d+3)), 0, false, "service-key-second", "entry 13: keyring: the permit key of 2026-09-02 is another"},
		},
		"a second sealing key": {
			first,
			{1, mixed(ring(0, d+1, d+2, d+3), ring(9, d+1, d+2, d+3)), 0, false, "service-key-second", "the seal key of 2026-09-04 is another"},
			// The first is what counts from then on.
			{2, ring(0, d+1, d+2, d+3), 0, false, "", ""},
		},
		"a second key of a day that has passed": {
			first,
			{4, ring(0, d+4), 0, true, "", ""},
			{6, ring(9, d+2, d+3, d+9), 0, false, "service-key-second", "the seal key of 2026-09-04"},
		},
		"announced on its day": {
			first,
			{1, ring(0, d, d+1, d+2, d+3, d+4), 0, false, "", ""},
			{5, ring(0, d+5, d+6), 0, false, "service-key-late", "the permit key of 2026-09-06 was announced at 2026-09-06T00:00:00Z at the earliest, after 2026-09-04T23:00:00Z"},
		},
		"announced at the last moment": {
			{0, ring(0, d, d+1), 0, false, "", ""},
			{0, ring(0, d, d+1, d+2), 23 * 3600, false, "future", ""},
		},
		"announced a second later": {
			{0, ring(0, d, d+1), 0, false, "", ""},
			{0, ring(0, d, d+1, d+2), 23*3600 + 1, false, "future service-key-late", ""},
		},
		"announced late, and dated back": {
			{0, ring(0, d, d+1, d+2), 0, false, "", ""},
			{2, ring(0, d+2, d+3), -2 * oneDay, false, "service-key-late", "the seal key of 2026-09-04 was announced at 2026-09-03T00:00:00Z"},
		},
		"late, between two audits, in the first of two keyrings": {
			{0, ring(0, d, d+1), 0, false, "", ""},
			{1, ring(0, d+1, d+2), 0, true, "", ""},
			{1, ring(0, d+1, d+2, d+4), 0, false, "service-key-late", "2026-09-03"},
		},
		"perhaps late: the keyring that had it first has gone": {
			{0, ring(0, d, d+1, d+2), 0, false, "", ""},
			{0, ring(0, d, d+1, d+2, d+3), 0, true, "", ""},
			{3, ring(0, d+3), 0, false, "", ""},
		},
		"withdrawn": {
			first,
			{1, ring(0, d+1, d+2), 0, false, "service-key-dropped", "the permit key of 2026-09-04, which was announced before, is left out"},
			{2, ring(0, d+2, d+3, d+5), 0, false, "", ""},
		},
		"not a keyring":     {{0, func(*quiet) []byte { return []byte("keys\n") }, 0, false, "keyring", "bluekey keyring v1"}},
		"of another log":    {{0, func(q *quiet) []byte { return newSiteOf(q.t, "other.example").keyring(0, d) }, 0, false, "keyring", "it is of other.example"}},
		"of another region": {{0, func(q *quiet) []byte { return bytes.Replace(q.keyring(0, d), []byte("VN-HP"), []byte("VN-HN"), 1) }, 0, false, "keyring", "it is of region VN-HN, of which the log has no window"}},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQuiet(t)
			q.until(start0 + period)
			state := new(State)
			for i, s := range steps {
				if s.day > 0 {
					q.until(start0 + s.day*oneDay)
				}
				q.put(exportlog.KeyringPath, s.keyring(q), start0+s.day*oneDay+s.at)
				q.publish(q.now)
				if s.unread {
					continue
				}
				r := auditAt(t, q.copy(), q.pinned(), state, q.now+2*60)
				found(t, r, s.codes, s.words)
				again, err := ParseState(state.Format())
				if err != nil {
					t.Fatal(err)
				}
				state = again
				// What was said is not said again, but for a contradiction, which lasts.
				r = auditAt(t, q.copy(), q.pinned(), state, q.now+2*60)
				for _, c := range codes(r) {
					if c == string(CodeServiceKeyLate) || c == string(CodeServiceKeyDropped) {
						t.Errorf("step %d: %s again", i, c)
					}
				}
				// Without memory nothing can be said of when keys came.
				blind := auditAt(t, q.copy(), q.pinned(), nil, q.now+2*60)
				if strings.Contains(findings(blind), "service-key") || s.codes == "" && !strings.Contains(blind.String(), "this audit remembers no keyring") {
					t.Errorf("step %d: without memory: %s", i, blind)
				}
			}
		})
	}
}

// An entry was not made before the checkpoint that does not have it, whatever it says.
func TestAuditKeyringDatedBack(t *testing.T) {
	for seen, codes := range map[int64]string{22*3600 + 1: "", 23*3600 + 1: "service-key-late"} {
		q := newQuiet(t)
		q.put(exportlog.KeyringPath, q.keyring(0, day0, day0+1), start0)
		q.until(start0 + 5*period) // 20:00
		q.publish(start0 + seen)
		state := new(State)
		found(t, auditAt(t, q.copy(), q.pinned(), state, start0+seen), "")
		q.put(exportlog.KeyringPath, q.keyring(0, day0, day0+1, day0+2), start0+22*3600)
		q.publish(start0 + oneDay)
		found(t, auditAt(t, q.copy(), q.pinned(), state, start0+oneDay), codes)
	}
}

// A mirror remembers by the keyring that it has.
func TestMirrorKeyring(t *testing.T) {
	q := newQuiet(t)
	q.put(exportlog.KeyringPath, q.keyring(0, day0, day0+1, day0+2), start0)
	q.until(start0 + period)
	dir := t.TempDir()
	copied := func(codes string) {
		t.Helper()
		c := pass(t, q.copy(), dir, q.pinned(), q.now+60)
		found(t, c.Report, codes)
		if !c.Moved {
			t.Fatalf("the copy stays behind: %s", c)
		}
		m := readFolder(t, dir)
		for _, path := range []string{exportlog.KeyringPath, exportlog.KeyringPath + exportlog.ProofSuffix} {
			if !bytes.Equal(m.files[path], q.files[path]) {
				t.Fatalf("%s is not copied", path)
			}
		}
	}
	copied("")
	q.until(start0 + 2*period)
	copied("")
	q.put(exportlog.KeyringPath, q.keyring(0, day0, day0+1, day0+2, day0+3), q.now)
	q.until(start0 + 3*period)
	copied("")
	q.put(exportlog.KeyringPath, q.keyring(5, day0, day0+1, day0+2, day0+3), q.now)
	q.until(start0 + 4*period)
	copied("service-key-second")
}

// The memory of an auditor is bounded, whatever a service announces.
func TestKeyringMemory(t *testing.T) {
	q := newQuiet(t)
	q.until(start0 + period)
	state := new(State)
	size := 0
	for round := range uint32(4) {
		var days []uint32
		for d := range uint32(36) {
			days = append(days, day0+round*36+d)
		}
		q.put(exportlog.KeyringPath, q.keyring(0, days...), q.now)
		q.until(q.now + period)
		auditAt(t, q.copy(), q.pinned(), state, q.now)
		size = len(state.keyrings[origin].keys)
	}
	if size != 2*(rememberDays+1) {
		t.Errorf("%d keys are remembered", size)
	}
	q.until(start0 + 32*oneDay)
	auditAt(t, q.copy(), q.pinned(), state, q.now)
	if n := len(state.keyrings[origin].keys); n > 2*(2*rememberDays+1) || n < 2 {
		t.Errorf("%d keys are remembered a month later", n)
	}
	for k := range state.keyrings[origin].keys {
		if k.day < seal.DayAt(time.Unix(q.now, 0))-rememberDays {
			t.Errorf("the %s is still remembered", k)
		}
	}
}

func TestStateKeyrings(t *testing.T) {
	s := newSite(t)
	state := new(State)
	if err := state.see(s.checkpoint(start0)); err != nil {
		t.Fatal(err)
	}
	line := func(kind string, day int, digest string) string { return fmt.Sprintf("%s %d %s", kind, day, digest) }
	hex := strings.Repeat("ab", 32)
	file := func(keys ...string) []byte {
		text := strings.TrimSuffix(string(state.Format()), "\n}\n")
		for i := range keys {
			keys[i] = "    \"" + keys[i] + "\""
		}
		return []byte(text + ",\n \"keyrings\": [\n  {\n   \"origin\": \"" + origin + "\",\n   \"entry\": 7,\n   \"keys\": [\n" + strings.Join(keys, ",\n") + "\n   ]\n  }\n ]\n}\n")
	}
	good := file(line("permit", 9, hex), line("permit", 10, hex), line("seal", 9, hex))
	read, err := ParseState(good)
	if err != nil {
		t.Fatal(err)
	}
	if k := read.keyrings[origin]; k.entry != 7 || len(k.keys) != 3 {
		t.Errorf("read as %+v", k)
	}
	for name, bad := range map[string][]byte{
		"days descend":    file(line("permit", 10, hex), line("permit", 9, hex)),
		"kinds descend":   file(line("seal", 9, hex), line("permit", 9, hex)),
		"twice":           file(line("permit", 9, hex), line("permit", 9, hex)),
		"unknown kind":    file(line("door", 9, hex)),
		"upper case":      file(line("permit", 9, strings.ToUpper(hex))),
		"short":           file(line("permit", 9, hex[2:])),
		"a leading zero":  file("permit 09 " + hex),
		"a day too large": file("permit 4294967296 " + hex),
		"a part too many": file(line("permit", 9, hex) + " "),
		"null":            bytes.Replace(good, []byte("\"keyrings\": ["), []byte("\"keyrings\": null, \"x\": ["), 1),
	} {
		if _, err := ParseState(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
