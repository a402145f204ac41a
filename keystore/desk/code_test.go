package desk

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	short := "12345678" + string('0'+damm("12345678"))
	const long = "0123456789ABCDEF"
	for _, row := range []struct {
		name, typed, want string
		kind              Kind
	}{
		{"short", short, short, Short},
		{"short in groups", short[:3] + " " + short[3:6] + "-" + short[6:], short, Short},
		{"short with spaces around", "  " + short + " ", short, Short},
		{"letters that look like digits", strings.ReplaceAll(short, "1", "l"), short, Short},
		{"long", long, long, Long},
		{"long in small letters and groups", "0123-4567-89ab-cdef", long, Long},
		{"I, L and O", "oOiIlL6789ABCDEF", "0011116789ABCDEF", Long},
		{"long of digits only", "0123456789012345", "0123456789012345", Long},

		{"nothing", "", "", 0},
		{"wrong check digit", short[:8] + string('0'+(short[8]-'0'+1)%10), "", 0},
		{"8 digits", short[:8], "", 0},
		{"10 digits", short + "0", "", 0},
		{"9 characters, not all digits", "A23456789", "", 0},
		{"15 characters", long[:15], "", 0},
		{"17 characters", long + "0", "", 0},
		{"U, which no code has", "U123456789ABCDEF", "", 0},
		{"another hyphen", "0123–456789ABCDEF", "", 0},
		{"digits of another script", "١٢٣٤٥٦٧٨٩", "", 0},
		{"endless filler", strings.Repeat(" ", 100) + short, "", 0},
		{"a line end", short + "\n", "", 0},
	} {
		got, kind, err := Parse(row.typed)
		if got != row.want || kind != row.kind || (err == nil) != (row.want != "") {
			t.Errorf("%s: got %q, kind %d, %v", row.name, got, kind, err)
		}
		if err != nil && !errors.Is(err, ErrForm) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// Every wrong digit and every swap of neighbours is a mistake that the check digit finds.
func TestCheckDigit(t *testing.T) {
	if got := damm("572"); got != 4 {
		t.Fatalf("check digit of 572 is %d, want 4", got) // the example of Damm's table
	}
	for n := 0; n < shortCodes; n += 99_991 {
		code, err := newCode(Short)
		if err != nil {
			t.Fatal(err)
		}
		for i := range code {
			for d := byte('0'); d <= '9'; d++ {
				wrong := code[:i] + string(d) + code[i+1:]
				if _, _, err := Parse(wrong); (err == nil) != (wrong == code) {
					t.Fatalf("%s typed as %s: %v", code, wrong, err)
				}
			}
			if i > 0 && code[i] != code[i-1] {
				swapped := code[:i-1] + string(code[i]) + string(code[i-1]) + code[i+1:]
				if _, _, err := Parse(swapped); err == nil {
					t.Fatalf("%s typed as %s is taken", code, swapped)
				}
			}
		}
	}
}

func TestNewCodesAreSpreadEvenly(t *testing.T) {
	for kind, symbols := range map[Kind]int{Short: 10, Long: 32} {
		const n = 20_000
		seen := map[string]bool{}
		counts := map[byte]int{}
		total := 0
		for range n {
			code, err := newCode(kind)
			if err != nil {
				t.Fatal(err)
			}
			if canonical, k, err := Parse(code); err != nil || canonical != code || k != kind {
				t.Fatalf("a new code is no code: %v", err)
			}
			seen[code] = true
			for _, c := range []byte(code[:8]) {
				counts[c]++
				total++
			}
		}
		if len(seen) < n-10 { // of 10^8 about two pairs are equal
			t.Errorf("kind %d: %d of %d codes are different", kind, len(seen), n)
		}
		if len(counts) != symbols {
			t.Errorf("kind %d: %d symbols", kind, len(counts))
		}
		for c, got := range counts {
			want := total / symbols
			if got < want*9/10 || got > want*11/10 {
				t.Errorf("kind %d: %c comes %d times, want about %d", kind, c, got, want)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"123456782", "0123-4567-89ab-cdef", "oil oil oil", "", "-", "١٢٣", "UUUUUUUUUUUUUUUU"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		canonical, kind, err := Parse(typed)
		if err != nil {
			if canonical != "" || kind != 0 || err.Error() != ErrForm.Error() {
				t.Fatalf("refused, but %q, %d, %v", canonical, kind, err)
			}
			return
		}
		again, k, err := Parse(canonical)
		if err != nil || again != canonical || k != kind {
			t.Fatalf("the canonical form of %q is %q, and that of it %q, %v", typed, canonical, again, err)
		}
		if want := map[Kind]int{Short: 9, Long: 16}[kind]; len(canonical) != want {
			t.Fatalf("canonical form %q", canonical)
		}
	})
}
