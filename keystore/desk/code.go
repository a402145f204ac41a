package desk

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// Kind tells the forms of a code apart; see Door for the third.
type Kind uint8

const (
	Short Kind = 1 // 8 random digits and a check digit, to be read out
	Long  Kind = 2 // 16 Crockford characters, 80 random bits, for slips and QR
)

const (
	shortDigits = 8
	longBytes   = 10
	maxTyped    = 64 // bytes of input looked at; a code with every filler is far below
)

// ErrForm means that the text cannot be a code that was ever issued: wrong length, a
// character no code has, or a wrong check digit. It was mistyped, so it never counts as a
// guess.
var ErrForm = errors.New("not a code: mistyped")

var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// Parse brings a typed code into its one canonical form. People type codes, so lower case
// is taken as upper, I and L as 1, O as 0, and spaces and hyphens are dropped. The error
// is ErrForm and does not repeat what was typed.
func Parse(typed string) (canonical string, kind Kind, err error) {
	if len(typed) > maxTyped {
		return "", 0, ErrForm
	}
	var b strings.Builder
	digits := true
	for _, c := range []byte(typed) {
		switch {
		case c == ' ' || c == '-':
			continue
		case c >= 'a' && c <= 'z':
			c -= 'a' - 'A'
		}
		switch c {
		case 'I', 'L':
			c = '1'
		case 'O':
			c = '0'
		}
		switch {
		case c >= '0' && c <= '9':
		case c >= 'A' && c <= 'Z' && c != 'U':
			digits = false
		default:
			return "", 0, ErrForm
		}
		b.WriteByte(c)
	}
	canonical = b.String()
	switch {
	case digits && len(canonical) == shortDigits+1 && damm(canonical) == 0:
		return canonical, Short, nil
	case len(canonical) == crockford.EncodedLen(longBytes):
		return canonical, Long, nil
	}
	return "", 0, ErrForm
}

// newCode draws a code. Every code of a kind is equally likely.
func newCode(kind Kind) (string, error) {
	if kind == Long {
		var b [longBytes]byte
		rand.Read(b[:]) // never fails: the runtime ends the process instead
		return crockford.EncodeToString(b[:]), nil
	}
	n, err := rand.Int(rand.Reader, big.NewInt(shortCodes))
	if err != nil {
		return "", fmt.Errorf("draw a code: %w", err)
	}
	s := fmt.Sprintf("%0*d", shortDigits, n)
	return s + string('0'+damm(s)), nil
}

// dammTable is the totally anti-symmetric quasigroup of order 10 from H. M. Damm's thesis
// (Marburg, 2004). With zeros on its diagonal it catches every single wrong digit and
// every swap of neighbours.
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

// damm is the check digit of a row of digits; 0 for a row that ends with its own.
func damm(digits string) byte {
	var interim byte
	for _, c := range []byte(digits) {
		interim = dammTable[interim][c-'0'] - '0'
	}
	return interim
}
