package config

import (
	"maps"
	"strings"
	"testing"
)

func known(flag string) bool {
	return flag == "min-keys" || flag == "region" || flag == "signer" || flag == "tls-cert"
}

func TestParse(t *testing.T) {
	for _, row := range []struct {
		name, text string
		want       map[string]string // nil: refused
		says       string
	}{
		{"nothing", "", map[string]string{}, ""},
		{"a comment", "# later\n", map[string]string{}, ""},
		{"values", "min_keys: 5\nregion: VN-HP\n", map[string]string{"min-keys": "5", "region": "VN-HP"}, ""},
		{"a list", "signer: [a, b]\n", map[string]string{"signer": "a,b"}, ""},
		{"unknown", "region: VN-HP\nmin_kyes: 5\n", nil, `line 2: unknown option "min_kyes"`},
		{"written as a flag", "min-keys: 5\n", nil, `line 1: unknown option "min-keys"`},
		{"twice", "region: a\nregion: b\n", nil, "line 2: region stands here a second time"},
		{"a mapping", "region:\n  a: b\n", nil, "line 2: region is neither"},
		{"lists in a list", "signer: [[a]]\n", nil, "line 1: signer is a list of something else"},
		{"no mapping", "region\n", nil, "line 1: want lines"},
		{"two documents", "region: a\n---\nregion: b\n", nil, "a second document"},
		{"no YAML", "\t:\n", nil, "yaml: "},
	} {
		got, err := Parse([]byte(row.text), known)
		switch {
		case row.want == nil && (err == nil || !strings.Contains(err.Error(), row.says)):
			t.Errorf("%s: %v, %v", row.name, got, err)
		case row.want != nil && (err != nil || !maps.Equal(got, row.want)):
			t.Errorf("%s: %v, %v", row.name, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("region: VN-HP\nmin_keys: 5\nsigner: [452-v2@2026-12-01T00:00:00Z]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		values, err := Parse(data, known)
		for name := range values {
			if err == nil && !known(name) {
				t.Fatalf("%q is no option", name)
			}
		}
	})
}
