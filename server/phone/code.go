package phone

import (
	"errors"
	"strings"
)

// ErrCode means that a text is no code that was ever issued: it was mistyped.
var ErrCode = errors.New("not a code: check what was typed")

const (
	shortCode = 9  // digits, the last a check digit
	longCode  = 16 // of Crockford's base 32
	maxTyped  = 64
)

// ParseCode gives the canonical form of a code as people type it: spaces and hyphens are
// dropped, lower case is upper case, I and L are 1, O is 0. Nine digits must have the right
// check digit. The error is ErrCode and repeats nothing of the text.
func ParseCode(typed string) (canonical string, err error) {
	if len(typed) > maxTyped {
		return "", ErrCode
	}
	canonical = strings.NewReplacer(" ", "", "-", "", "I", "1", "L", "1", "O", "0").Replace(upper(typed))
	switch {
	case len(canonical) == shortCode && strings.Trim(canonical, "0123456789") == "" && damm(canonical) == 0:
	case len(canonical) == longCode && strings.Trim(canonical, "0123456789ABCDEFGHJKMNPQRSTVWXYZ") == "":
	default:
		return "", ErrCode
	}
	return canonical, nil
}

// upper makes a to z upper case and leaves everything else: other alphabets have letters
// that strings.ToUpper would bring into this one.
func upper(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			r -= 'a' - 'A'
		}
		return r
	}, s)
}

// dammTable is the quasigroup of order 10 of H. M. Damm's thesis (Marburg, 2004).
var dammTable = [10]string{
	"0317598642",
	"7092154863",
	"4206871359",
	"1750983426",
	"6123045978",
	"3674209581",
	"5869720134",
	"8945362017",
	"9438617205",
	"2581436790",
}

// damm is 0 for digits that end with their check digit.
func damm(digits string) (interim byte) {
	for _, c := range []byte(digits) {
		interim = dammTable[interim][c-'0'] - '0'
	}
	return interim
}
