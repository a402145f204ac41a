package exportlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/mldsa"

	"bluekey/signing"
)

// signedLines are the parts of a checkpoint of the vector log: its body with the empty
// line, the log's two lines, and the two lines of each witness.
type signedLines struct {
	body     string
	ed, pq   string
	w1, w2   [2]string
	checked  Checkpoint
	released time.Time
}

func linesOf(t testing.TB) (s signedLines) {
	keys := keysOf(t)
	s.checked = Checkpoint{Origin: keys.log.Name(), Size: 5, Root: vectorLog(5).Root()}
	s.released = time.Unix(1767225600, 0).UTC()
	signed, err := SignCheckpoint(s.checked, s.released, keys.log)
	if err != nil {
		t.Fatal(err)
	}
	s.body = string(s.checked.Body()) + "\n"
	log := strings.SplitAfter(string(signed[len(s.body):]), "\n")
	s.ed, s.pq = log[0], log[1]
	for i, out := range []*[2]string{&s.w1, &s.w2} {
		lines, err := Cosign(s.checked, s.released.Add(time.Second), keys.witness[i])
		if err != nil {
			t.Fatal(err)
		}
		*out = [2]string(strings.SplitAfter(string(lines), "\n")[:2])
	}
	return s
}

// flip changes one bit of a signature line's payload, near its end.
func flip(line string) string {
	i := len(line) - 8
	b := byte('A')
	if line[i] == b {
		b = 'B'
	}
	return line[:i] + string(b) + line[i+1:]
}

func TestOpenDemandsBothSignatures(t *testing.T) {
	s, keys := linesOf(t), keysOf(t)
	policy := mustPolicy(t, file(t, "policy.txt"))
	ed, pq := keys.log.VKeys()[0], keys.log.VKeys()[1]
	twoLogs := mustPolicy(t, fmt.Appendf(nil, "log %s\nlog %s\nquorum none\n", ed, pq))
	lax := mustPolicy(t, fmt.Appendf(nil, "log %s\nwitness x %s\nquorum none\n", ed, pq))
	other, err := signing.NewLogKeys(s.checked.Origin, [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	forged, err := SignCheckpoint(s.checked, s.released, other)
	if err != nil {
		t.Fatal(err)
	}
	otherLines := strings.SplitAfter(string(forged[len(s.body):]), "\n")
	timeless := s.timeless(t)

	for what, row := range map[string]struct {
		signed string
		want   error
	}{
		"both":                         {s.body + s.ed + s.pq, nil},
		"both, other order":            {s.body + s.pq + s.ed, nil},
		"unknown key beside them":      {s.body + otherLines[0] + s.ed + s.pq + otherLines[1], nil},
		"Ed25519 only":                 {s.body + s.ed, ErrUnsigned},
		"ML-DSA-44 only":               {s.body + s.pq, ErrUnsigned},
		"neither":                      {s.body + s.w1[0], ErrUnsigned},
		"no line at all":               {s.body, errAny},
		"another ML-DSA-44 key":        {s.body + s.ed + otherLines[1], ErrUnsigned},
		"another Ed25519 key":          {s.body + otherLines[0] + s.pq, ErrUnsigned},
		"Ed25519 wrong":                {s.body + flip(s.ed) + s.pq, ErrUnsigned},
		"ML-DSA-44 wrong":              {s.body + s.ed + flip(s.pq), ErrUnsigned},
		"ML-DSA-44 of time 0":          {s.body + s.ed + timeless, ErrUnsigned},
		"another body":                 {strings.Replace(s.body, "\n5\n", "\n4\n", 1) + s.ed + s.pq, ErrUnsigned},
		"another origin":               {strings.Replace(s.body, "hai", "sai", 1) + s.ed + s.pq, ErrUnknownOrigin},
		"extension line":               {s.body[:len(s.body)-1] + "x\n\n" + s.ed + s.pq, ErrUnsigned},
		"size with leading zero":       {strings.Replace(s.body, "\n5\n", "\n05\n", 1) + s.ed + s.pq, errAny},
		"text after the signatures":    {s.body + s.ed + s.pq + "x\n", errAny},
		"a second body in front of it": {s.body + s.body + s.ed + s.pq, errAny},
	} {
		for name, p := range map[string]*Policy{"as published": policy, "two log lines": twoLogs, "no quorum": lax} {
			o, err := p.Open([]byte(row.signed))
			switch {
			case row.want == nil && (err != nil || !o.Both || o.Checkpoint != s.checked || !o.Time.Equal(s.released)):
				t.Errorf("%s, policy %s: %+v, %v", what, name, o, err)
			case row.want == errAny && err == nil, row.want != nil && row.want != errAny && !errors.Is(err, row.want):
				t.Errorf("%s, policy %s: %v, want %v", what, name, err, row.want)
			}
		}
	}
}

// A witness line is no log line, though its key bears the name of the log.
func TestOpenDemandsALogLine(t *testing.T) {
	s, pq := linesOf(t), keysOf(t).log.VKeys()[1]
	other, err := signing.NewLogKeys(s.checked.Origin, [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	policy := mustPolicy(t, fmt.Appendf(nil, "log %s\nwitness x %s\nquorum x\n", other.VKeys()[1], pq))
	if o, err := policy.Open([]byte(s.body + s.pq)); !errors.Is(err, ErrUnsigned) {
		t.Errorf("opened %+v, %v", o, err)
	}
}

var errAny = errors.New("any error")

// timeless is a valid line of the log's ML-DSA-44 key that states time 0, made by hand: no
// function of ours would.
func (s signedLines) timeless(t testing.TB) string {
	t.Helper()
	var rows []struct {
		Seed string `json:"seed_hex"`
	}
	vector(t, "keys.json", &rows)
	key, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), unhex(t, rows[1].Seed))
	if err != nil {
		t.Fatal(err)
	}
	name := append([]byte{byte(len(s.checked.Origin))}, s.checked.Origin...)
	msg := slices.Concat([]byte("subtree/v1\n\x00"), name, make([]byte, 8), name, make([]byte, 8),
		binary.BigEndian.AppendUint64(nil, s.checked.Size), s.checked.Root[:])
	sig, err := key.Sign(nil, msg, nil)
	if err != nil {
		t.Fatal(err)
	}
	vkey := keysOf(t).log.VKeys()[1]
	if at, ok := vkey.Verify(s.checked.statement(time.Time{}), append(make([]byte, 8), sig...)); !ok || at != 0 {
		t.Fatal("the line of time 0 does not verify")
	}
	return signing.Signature{Name: vkey.Name(), KeyID: vkey.ID(), Bytes: append(make([]byte, 8), sig...)}.Line()
}

func TestQuorum(t *testing.T) {
	s := linesOf(t)
	log := s.body + s.ed + s.pq
	lines := strings.SplitAfter(string(file(t, "policy.txt")), "\n")
	head := strings.Join(lines[:5], "") // log, log-mldsa, w1, w2
	for what, row := range map[string]struct {
		tail   string
		signed string
		ok     bool
	}{
		"none":                     {"quorum none\n", log, true},
		"log itself":               {"quorum log-mldsa\n", log, true},
		"any, none signed":         {"group o any w1 w2\nquorum o\n", log, false},
		"any, first signed":        {"group o any w1 w2\nquorum o\n", log + s.w1[0], true},
		"any, second signed":       {"group o any w1 w2\nquorum o\n", log + s.w2[1], true},
		"all, one signed":          {"group o all w1 w2\nquorum o\n", log + s.w1[0], false},
		"all, both signed":         {"group o all w1 w2\nquorum o\n", log + s.w2[1] + s.w1[0], true},
		"1 of 2":                   {"group o 1 w1 w2\nquorum o\n", log + s.w1[0], true},
		"2 of 2":                   {"group o 2 w1 w2\nquorum o\n", log + s.w1[0], false},
		"witness by name":          {"quorum w2\n", log + s.w2[1], true},
		"other kind of the key":    {"quorum w2\n", log + s.w2[0], false},
		"group in a group":         {"group o any w1 w2\ngroup r all log-mldsa o\nquorum r\n", log + s.w1[0], true},
		"group in a group, unmet":  {"group o any w1 w2\ngroup r all log-mldsa o\nquorum r\n", log, false},
		"the same witness twice":   {"group o 2 w1 w2\nquorum o\n", log + s.w1[0] + s.w1[0], false},
		"outside quorum, no group": {"group o any w1\nquorum w2\n", log + s.w1[0], false},
	} {
		p := mustPolicy(t, []byte(head+row.tail))
		o, err := p.Open([]byte(row.signed))
		if err != nil || o.Quorum != row.ok {
			t.Errorf("%s: quorum %v, %v", what, o.Quorum, err)
		}
		if _, err := p.Verify([]byte(row.signed)); errors.Is(err, ErrQuorum) == row.ok {
			t.Errorf("%s: Verify says %v", what, err)
		}
	}
	if _, err := mustPolicy(t, []byte(head+"quorum none\n")).Open([]byte(log + flip(s.w1[0]))); !errors.Is(err, ErrUnsigned) {
		t.Errorf("a wrong line of a known witness: %v", err)
	}
}

func TestOpenLimits(t *testing.T) {
	s := linesOf(t)
	policy := mustPolicy(t, file(t, "policy.txt"))
	var extra strings.Builder
	for i := range 16 {
		k, err := signing.NewWitnessKeys(fmt.Sprintf("witness.example/%d", i), [32]byte{}, [32]byte{})
		if err != nil {
			t.Fatal(err)
		}
		lines, err := Cosign(s.checked, s.released, k)
		if err != nil {
			t.Fatal(err)
		}
		extra.WriteString(strings.SplitAfter(string(lines), "\n")[1])
	}
	if _, err := policy.Open([]byte(s.body + extra.String() + s.ed + s.pq)); err != nil {
		t.Errorf("16 ML-DSA-44 lines of strangers: %v", err)
	}
	unknown := strings.Replace(s.w1[0], "/w1", "/w9", 1)
	if _, err := policy.Open([]byte(s.body + strings.Repeat(unknown, 99) + s.ed + s.pq)); err == nil {
		t.Error("101 lines pass")
	}
	if _, err := policy.Open([]byte(s.body + s.ed + s.pq + strings.Repeat("\n", MaxCheckpoint))); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a checkpoint beyond the limit: %v", err)
	}
}

func TestParsePolicyRefuses(t *testing.T) {
	keys := keysOf(t)
	log, pq, w := keys.log.VKeys()[0].String(), keys.log.VKeys()[1].String(), keys.witness[0].VKeys()
	base := "log " + log + "\nwitness a " + w[0].String() + "\nwitness b " + w[1].String() + "\n"
	for what, text := range map[string]string{
		"empty":                        "",
		"no log":                       "witness a " + w[0].String() + "\nquorum a\n",
		"no quorum":                    base,
		"two quorums":                  base + "quorum a\nquorum a\n",
		"quorum of nobody":             base + "quorum c\n",
		"quorum of two":                base + "quorum a b\n",
		"quorum above its group":       base + "quorum g\ngroup g any a b\n",
		"unknown line":                 base + "mirror a\nquorum a\n",
		"log twice":                    base + "log " + log + "\nquorum a\n",
		"witness key twice":            base + "witness c " + w[0].String() + "\nquorum a\n",
		"witness name twice":           base + "witness a " + pq + "\nquorum a\n",
		"witness named none":           base + "witness none " + pq + "\nquorum a\n",
		"log with a cosignature key":   base + "log " + w[0].String() + "\nquorum a\n",
		"witness with a log key":       base + "witness c " + log + "\nquorum a\n",
		"witness without a key":        base + "witness c\nquorum a\n",
		"witness with four items":      base + "witness c " + pq + " https://x y\nquorum a\n",
		"bad key":                      base + "witness c " + pq + "x\nquorum a\n",
		"group without members":        base + "group g any\nquorum a\n",
		"group of 0":                   base + "group g 0 a b\nquorum g\n",
		"group of 3 of 2":              base + "group g 3 a b\nquorum g\n",
		"group of 01":                  base + "group g 01 a b\nquorum g\n",
		"group of +1":                  base + "group g +1 a b\nquorum g\n",
		"group of some":                base + "group g some a b\nquorum g\n",
		"group of nobody":              base + "group g any a c\nquorum g\n",
		"group of itself":              base + "group g any a g\nquorum g\n",
		"member twice":                 base + "group g any a a\nquorum g\n",
		"member of two groups":         base + "group g any a\ngroup h any a b\nquorum h\n",
		"group named as a witness":     base + "group a any b\nquorum a\n",
		"CR":                           strings.ReplaceAll(base, "\n", "\r\n") + "quorum a\r\n",
		"NUL in a comment":             "# \x00\n" + base + "quorum a\n",
		"DEL":                          base + "quorum a\x7f\n",
		"form feed as space":           base + "quorum\fa\n",
		"no-break space as space":      base + "quorum\u00a0a\n",
		"comment at the end of a line": base + "quorum a # here\n",
		"too long":                     base + "quorum a\n" + strings.Repeat("#\n", MaxPolicy/2),
	} {
		if _, err := ParsePolicy([]byte(text)); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	free := "\t# comment\n\n" + strings.ReplaceAll(base, " ", " \t") + "  \nquorum  a" // no last LF
	if _, err := ParsePolicy([]byte(free)); err != nil {
		t.Errorf("free spacing: %v", err)
	}
}

func TestFormatPolicies(t *testing.T) {
	s, keys := linesOf(t), keysOf(t)
	w1, w2 := keys.witness[0].VKeys(), keys.witness[1].VKeys()
	both := []PolicyWitness{{Name: "w1", Ed25519: w1[0], MLDSA44: w1[1], URL: "https://w1.example"}, {Name: "w2", Ed25519: w2[0]}}
	log := s.body + s.ed + s.pq
	for what, row := range map[string]struct {
		terms        PolicyTerms
		signed       string
		full, plain  bool // quorum met
		witnessLines int
	}{
		"no witness":                               {PolicyTerms{}, log, true, true, 1},
		"witness not needed":                       {PolicyTerms{Witnesses: both}, log, true, true, 3},
		"one needed, missing":                      {PolicyTerms{Witnesses: both, Quorum: 1}, log, false, false, 3},
		"one needed, by ML-DSA":                    {PolicyTerms{Witnesses: both, Quorum: 1}, log + s.w1[1], true, false, 3},
		"one needed, Ed25519 of one that has both": {PolicyTerms{Witnesses: both, Quorum: 1}, log + s.w1[0], false, true, 3},
		"two needed, two kinds":                    {PolicyTerms{Witnesses: both, Quorum: 2}, log + s.w1[0] + s.w1[1] + s.w2[0], true, true, 3},
	} {
		row.terms.Log = keys.log.VKeys()
		full, plain, err := FormatPolicies(row.terms)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		o, err := mustPolicy(t, full).Open([]byte(row.signed))
		if err != nil || o.Quorum != row.full || !o.Both || bytes.Count(full, []byte("witness ")) != row.witnessLines {
			t.Errorf("%s: %+v, %v\n%s", what, o, err, full)
		}
		o, err = mustPolicy(t, plain).Open([]byte(row.signed))
		if err != nil || o.Quorum != row.plain || o.Both {
			t.Errorf("%s, Ed25519: %+v, %v\n%s", what, o, err, plain)
		}
		if _, err := mustPolicy(t, full).Open([]byte(s.body + s.ed + s.w1[0] + s.w1[1] + s.w2[0])); !errors.Is(err, ErrUnsigned) {
			t.Errorf("%s: opened without the log's ML-DSA-44 line: %v", what, err)
		}
	}
	for what, terms := range map[string]PolicyTerms{
		"quorum beyond the witnesses":          {Witnesses: both, Quorum: 3},
		"quorum that Ed25519 cannot meet":      {Witnesses: []PolicyWitness{{Name: "w1", MLDSA44: w1[1]}}, Quorum: 1},
		"witness without a key":                {Witnesses: []PolicyWitness{{Name: "w1"}}},
		"witness named as one of our own":      {Witnesses: []PolicyWitness{{Name: "log-mldsa", Ed25519: w1[0]}}},
		"witness name that adds a line":        {Witnesses: []PolicyWitness{{Name: "x\nquorum", Ed25519: w1[0]}}},
		"witness that signs with a log's kind": {Witnesses: []PolicyWitness{{Name: "x", Ed25519: keys.log.VKeys()[0]}}},
	} {
		terms.Log = keys.log.VKeys()
		if full, _, err := FormatPolicies(terms); err == nil {
			t.Errorf("%s: rendered\n%s", what, full)
		}
	}
}

func TestSignCheckpointRefuses(t *testing.T) {
	keys, now := keysOf(t), time.Unix(1767225600, 0)
	good := Checkpoint{Origin: keys.log.Name(), Size: 5}
	for what, row := range map[string]struct {
		change func(c *Checkpoint)
		at     time.Time
	}{
		"another origin":  {func(c *Checkpoint) { c.Origin = "other.example" }, now},
		"two-line origin": {func(c *Checkpoint) { c.Origin += "\n9" }, now},
		"too large":       {func(c *Checkpoint) { c.Size = MaxSize + 1 }, now},
		"extension line":  {func(c *Checkpoint) { c.Extension = "x\n" }, now},
		"zero time":       {func(c *Checkpoint) {}, time.Time{}},
		"epoch":           {func(c *Checkpoint) {}, time.Unix(0, 0)},
	} {
		c := good
		row.change(&c)
		if signed, err := SignCheckpoint(c, row.at, keys.log); err == nil {
			t.Errorf("%s: signed\n%s", what, signed)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add(file(f, "policy-ed25519.txt"))
	f.Add([]byte("group g 1 a b\nquorum none\n"))
	s := linesOf(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		if p, err := ParsePolicy(text); err == nil {
			p.Open([]byte(s.body + s.ed))
		}
	})
}

func FuzzOpen(f *testing.F) {
	s := linesOf(f)
	policy := mustPolicy(f, file(f, "policy.txt"))
	f.Add([]byte(s.body + s.ed + s.pq))
	f.Add([]byte(s.body + s.ed + s.w1[0]))
	f.Fuzz(func(t *testing.T, signed []byte) {
		// Without the private keys nothing but the vector's own checkpoint can open.
		if o, err := policy.Open(signed); err == nil && (o.Checkpoint != s.checked || !o.Both) {
			t.Errorf("opened %q as %+v", signed, o)
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add([]byte(linesOf(f).checked.Body()))
	f.Add([]byte("o\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\next\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if c, err := ParseCheckpoint(body); err == nil && !bytes.Equal(c.Body(), body) {
			t.Errorf("%q is a second spelling of %q", body, c.Body())
		}
	})
}
