package exportlog

import (
	"strings"
	"testing"

	"bluekey/signing"
)

// TestCheckPolicies: whatever witnesses a log has, the two policies go together, and a change
// of either is found but for the one thing that only the second says.
func TestCheckPolicies(t *testing.T) {
	keys, err := signing.NewLogKeys("log.example/pair", [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	witness := func(name string, seed byte) [2]*signing.VKey {
		w, err := signing.NewWitnessKeys(name, [32]byte{seed}, [32]byte{seed, 1})
		if err != nil {
			t.Fatal(err)
		}
		return w.VKeys()
	}
	both, plain, strong, other := witness("both.example", 3), witness("plain.example", 4), witness("strong.example", 5), witness("other.example", 6)
	terms := PolicyTerms{Log: keys.VKeys(), URL: "https://log.example", Quorum: 2, Witnesses: []PolicyWitness{
		{Name: "both", Ed25519: both[0], MLDSA44: both[1], URL: "https://both.example"},
		{Name: "plain", Ed25519: plain[0]},
		{Name: "strong", MLDSA44: strong[1]},
	}}
	full, ed25519, err := FormatPolicies(terms)
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct{ full, ed25519 []string }{
		"quorum of one":          {nil, []string{"group outside 2", "group outside 1"}},
		"no quorum":              {nil, []string{"quorum outside", "quorum none"}},
		"another URL of the log": {nil, []string{"https://log.example", "https://logs.example"}},
		"another URL in both":    {[]string{"https://both.example", "https://b.example"}, nil},
		"another witness":        {nil, []string{"witness plain " + plain[0].String(), "witness plain " + other[0].String()}},
		"an ML-DSA-44 key":       {nil, []string{"witness both " + both[0].String(), "witness both " + both[1].String()}},
		"a comment":              {nil, []string{"quorum", "# none\nquorum"}},
		"a comment in /policy":   {[]string{"quorum", "# none\nquorum"}, nil},
		"without the log's own":  {[]string{"group required all log-mldsa outside\nquorum required", "quorum outside"}, nil},
		"another name":           {[]string{"log-mldsa", "log-other"}, nil},
	} {
		a, b := string(full), string(ed25519)
		if row.full != nil {
			a = strings.ReplaceAll(a, row.full[0], row.full[1])
		}
		if row.ed25519 != nil {
			b = strings.ReplaceAll(b, row.ed25519[0], row.ed25519[1])
		}
		if a == string(full) && b == string(ed25519) {
			t.Fatalf("%s: nothing was changed in\n%s", name, b)
		}
		for _, text := range []string{a, b} {
			if _, err := ParsePolicy([]byte(text)); err != nil {
				t.Fatalf("%s: it is not even a policy: %v", name, err)
			}
		}
		if err := CheckPolicies([]byte(a), []byte(b)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, row := range []struct {
		name   string
		change func()
	}{
		{"as they are", func() {}},
		{"none needed", func() { terms.Quorum = 0 }},
		{"none there", func() { terms.Witnesses = nil }},
		{"no URL", func() { terms.URL = "" }},
	} {
		row.change()
		full, ed25519, err := FormatPolicies(terms)
		if err == nil {
			err = CheckPolicies(full, ed25519)
		}
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

func FuzzCheckPolicies(f *testing.F) {
	keys, err := signing.NewLogKeys("log.example/pair", [32]byte{1}, [32]byte{2})
	if err != nil {
		f.Fatal(err)
	}
	full, ed25519, err := FormatPolicies(PolicyTerms{Log: keys.VKeys()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full, ed25519)
	f.Fuzz(func(t *testing.T, full, ed25519 []byte) {
		if CheckPolicies(full, ed25519) != nil {
			return
		}
		for _, text := range [][]byte{full, ed25519} {
			if _, err := ParsePolicy(text); err != nil {
				t.Fatalf("accepted, and no policy: %v", err)
			}
		}
	})
}
