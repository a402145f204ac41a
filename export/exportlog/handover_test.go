package exportlog

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"bluekey/signing"
)

func logKeys(t testing.TB, origin string) signing.LogKeys {
	t.Helper()
	keys, err := signing.NewLogKeys(origin, sha256.Sum256([]byte("ed"+origin)), sha256.Sum256([]byte("mldsa"+origin)))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func opening() Opening {
	return Opening{Time: 20454 * day, Origin: "bluekey.example/hai-phong", Size: 700, Root: sha256.Sum256([]byte("root"))}
}

func closing(t testing.TB) Closing {
	t.Helper()
	text, _, err := FormatPolicies(PolicyTerms{Log: logKeys(t, "bluekey.example/hai-phong-2").VKeys()})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClosing(time.Unix(20460*day, 0), text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHandoverRefuses(t *testing.T) {
	foreign := logKeys(t, "bluekey.example/other").VKeys()
	open := func(change func(o *Opening)) Entry { o := opening(); change(&o); return o }
	end := func(change func(c *Closing)) Entry { c := closing(t); change(&c); return c }
	for what, e := range map[string]Entry{
		"opening without origin":           open(func(o *Opening) { o.Origin = "" }),
		"opening, origin with space":       open(func(o *Opening) { o.Origin = "a b" }),
		"opening, origin of two lines":     open(func(o *Opening) { o.Origin = "a\nb" }),
		"opening of an empty log":          open(func(o *Opening) { o.Size = 0 }),
		"opening of an endless log":        open(func(o *Opening) { o.Size = MaxSize + 1 }),
		"opening, negative time":           open(func(o *Opening) { o.Time = -1 }),
		"closing, negative time":           end(func(c *Closing) { c.Time = -1 }),
		"closing without origin":           end(func(c *Closing) { c.Origin = "" }),
		"closing, keys of another":         end(func(c *Closing) { c.Origin = "bluekey.example/hai-phong" }),
		"closing, one key of another":      end(func(c *Closing) { c.MLDSA44 = foreign[1].String() }),
		"closing, the other's other":       end(func(c *Closing) { c.Ed25519 = foreign[0].String() }),
		"closing, keys swapped":            end(func(c *Closing) { c.Ed25519, c.MLDSA44 = c.MLDSA44, c.Ed25519 }),
		"closing, one key twice":           end(func(c *Closing) { c.MLDSA44 = c.Ed25519 }),
		"closing without a key":            end(func(c *Closing) { c.Ed25519 = "" }),
		"closing, a key in other spelling": end(func(c *Closing) { c.Ed25519 += "\r" }),
	} {
		if text, err := e.Format(); err == nil {
			t.Errorf("%s: accepted\n%s", what, text)
		}
		kind := map[bool]string{true: "opening", false: "closing"}[strings.HasPrefix(what, "opening")]
		text := e.append([]byte("bluekey " + kind + " v1\n"))
		if _, err := ParseEntry(text); err == nil {
			t.Errorf("%s: parsed\n%s", what, text)
		}
	}
}

// A policy is kept as `bluekey keys` prints it, with its digest behind it. The closing entry
// names the digest that stands on posters, either way.
func TestClosingNamesThePublishedPolicy(t *testing.T) {
	keys := logKeys(t, "bluekey.example/hai-phong-2").VKeys()
	text, plain, err := FormatPolicies(PolicyTerms{Log: keys})
	if err != nil {
		t.Fatal(err)
	}
	for what, pinned := range map[string][]byte{"as served": text, "as printed": AnnotatePolicy(text)} {
		c, err := NewClosing(time.Unix(5, 0), pinned)
		if err != nil || c.Policy != sha256.Sum256(text) || c.Origin != keys[0].Name() || !c.Names(keys) {
			t.Errorf("%s: %+v, %v", what, c, err)
		}
	}
	if c, _ := NewClosing(time.Unix(5, 0), text); c.Names(logKeys(t, "bluekey.example/other").VKeys()) {
		t.Error("it names other keys too")
	}
	lying := bytes.Replace(AnnotatePolicy(text), []byte("policy: "), []byte("policy: 0"), 1)
	if got := PolicyText(lying); !bytes.Equal(got, lying) {
		t.Errorf("a comment with another digest was taken off: %q", got)
	}
	second := policyOf(t, "bluekey.example/other")
	for what, pinned := range map[string][]byte{
		"no policy":       []byte("x"),
		"one key only":    plain,
		"of two logs":     append(bytes.Replace(text, []byte("quorum log-mldsa\n"), nil, 1), bytes.ReplaceAll(second, []byte("log-mldsa"), []byte("m2"))...),
		"log of ML-DSA":   []byte("log " + keys[1].String() + "\nquorum none\n"),
		"two ML-DSA keys": append(text, "witness w "+otherMLDSA(t, keys[0].Name())+"\n"...),
	} {
		if c, err := NewClosing(time.Unix(5, 0), pinned); err == nil {
			t.Errorf("%s: %+v", what, c)
		}
	}
}

func policyOf(t testing.TB, origin string) []byte {
	t.Helper()
	text, _, err := FormatPolicies(PolicyTerms{Log: logKeys(t, origin).VKeys()})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// otherMLDSA is a second ML-DSA-44 key under a log's name.
func otherMLDSA(t testing.TB, origin string) string {
	t.Helper()
	keys, err := signing.NewLogKeys(origin, [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	return keys.VKeys()[1].String()
}
