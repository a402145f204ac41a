package phone

import (
	"strings"
	"testing"

	"bluekey/signing/permit"
)

func TestParseCode(t *testing.T) {
	for typed, want := range map[string]string{
		goodCode: goodCode, "572-389 127": goodCode, " 5723 8912 7 ": goodCode,
		"0123456789abcdef": "0123456789ABCDEF", "oilO-ilil-0000-0000": "0110111100000000",
		"": "", "57238912": "", "5723891240": "", "572389128": "", "57238912४": "", "0123456789ABCDEU": "", "ſ123456789ABCDEF": "",
		strings.Repeat(" ", 60) + goodCode: "",
	} {
		got, err := ParseCode(typed)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", typed, got, err, want)
		}
	}
	// Every wrong digit and every swap of neighbours is caught.
	for i := range goodCode {
		for c := byte('0'); c <= '9'; c++ {
			b := []byte(goodCode)
			if b[i] = c; string(b) != goodCode && damm(string(b)) == 0 {
				t.Errorf("%s passes", b)
			}
		}
		if b := []byte(goodCode); i > 0 && b[i] != b[i-1] {
			if b[i], b[i-1] = b[i-1], b[i]; damm(string(b)) == 0 {
				t.Errorf("%s passes", b)
			}
		}
	}
}

func FuzzParseCode(f *testing.F) {
	f.Add("572-389 127")
	f.Fuzz(func(t *testing.T, typed string) {
		code, err := ParseCode(typed)
		if err != nil {
			return
		}
		if again, err := ParseCode(code); err != nil || again != code {
			t.Fatalf("%q gives %q, which gives %q", typed, code, again)
		}
		p, err := permit.NewPending()
		if err != nil {
			t.Fatal(err)
		}
		if r := p.Redeem(code); true {
			if _, err := r.Encode(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
