package desk

import (
	"crypto/rand"
	"crypto/subtle"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// Parameters of argon2id: the second choice of RFC 9106 costs 64 MiB, which a small
// virtual machine does not have for several people at once; these are the minimum of the
// OWASP password storage recommendations (19 MiB, two passes, one lane).
const (
	argonMemory = 19 << 10 // KiB
	argonTime   = 2
	argonLanes  = 1
	argonSalt   = 16
	argonLen    = 32
)

const (
	// MinPassword and MaxPassword bound a password, in characters and in bytes.
	MinPassword = 12
	MaxPassword = 256
)

var (
	// ErrPasswordShort, ErrPasswordLong and ErrPasswordCommon refuse a new password.
	ErrPasswordShort  = fmt.Errorf("the password has fewer than %d characters", MinPassword)
	ErrPasswordLong   = fmt.Errorf("the password has more than %d bytes", MaxPassword)
	ErrPasswordCommon = errors.New("the password is one that is tried first")
)

//go:embed common.txt
var commonText string

var commonPasswords = sync.OnceValue(func() map[string]bool {
	m := map[string]bool{}
	for line := range strings.Lines(commonText) {
		m[strings.TrimSpace(line)] = true
	}
	return m
})

// checkPassword refuses what is guessed first: short ones, ones of the list (also with
// digits or marks behind, in any case), one character repeated, and the account's names.
func checkPassword(password string, names ...string) error {
	if utf8.RuneCountInString(password) < MinPassword {
		return ErrPasswordShort
	}
	if len(password) > MaxPassword {
		return ErrPasswordLong
	}
	plain := strings.ToLower(password)
	stem := strings.TrimRight(plain, "0123456789!@#$%^&*.-_+=? ")
	if commonPasswords()[plain] || commonPasswords()[stem] || stem == "" {
		return ErrPasswordCommon
	}
	first, _ := utf8.DecodeRuneInString(plain)
	if strings.Trim(plain, string(first)) == "" {
		return ErrPasswordCommon
	}
	for _, name := range names {
		if name = strings.ToLower(name); name != "" && (stem == name || plain == name+name) {
			return ErrPasswordCommon
		}
	}
	return nil
}

// ovens bounds how many passwords are hashed at once, and so their memory.
var ovens = make(chan struct{}, 2)

func argon(password string, salt []byte) []byte {
	ovens <- struct{}{}
	defer func() { <-ovens }()
	return argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonLanes, argonLen)
}

// hashPassword gives salt and hash, in base64, separated by a dollar sign.
func hashPassword(password string) string {
	salt := make([]byte, argonSalt)
	rand.Read(salt)
	return base64.RawStdEncoding.EncodeToString(salt) + "$" + base64.RawStdEncoding.EncodeToString(argon(password, salt))
}

// nobody is the stored form that costs the time of a real one and fits no password.
var nobody = strings.Repeat("A", 22) + "$" + strings.Repeat("A", 43)

// passwordFits takes as long for the stored form of nobody as for any other.
func passwordFits(stored, password string) bool {
	if len(password) > MaxPassword {
		password = ""
	}
	if stored == "" {
		stored = nobody
	}
	saltText, hashText, _ := strings.Cut(stored, "$")
	salt, err := base64.RawStdEncoding.DecodeString(saltText)
	want, err2 := base64.RawStdEncoding.DecodeString(hashText)
	if err != nil || err2 != nil {
		return false
	}
	return subtle.ConstantTimeCompare(argon(password, salt), want) == 1 && stored != nobody
}
