package gaen

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep objects and lists may lie in one another. Our own formats need
// three levels; what other members of a certificate hold is not looked at, but walked over.
const maxDepth = 16

// readJSON reads text, one JSON value, into v. It refuses what encoding/json lets pass and
// two readers may read differently: a name that stands twice in an object, a name in other
// letters than the contract's, and bytes that are no UTF-8. names lists the contract's
// names; nil allows any, and then v must not be a struct.
func readJSON(text []byte, names []string, v any) error {
	if !utf8.Valid(text) {
		return errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return fmt.Errorf("%s: want %s", kind.Field, kind.Type)
		}
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return fmt.Errorf("unknown field %.40s", name)
		}
		return errors.New("malformed JSON")
	}
	end := dec.InputOffset()
	if len(bytes.Trim(text[end:], "\t\n\r ")) > 0 {
		return errors.New("more than one JSON value")
	}
	return checkNames(text[:end], names)
}

// open is an object or list whose end has not come.
type open struct {
	object  bool
	isValue bool     // what comes next in the object is a value
	seen    []string // names of the object so far
}

// checkNames checks the names in text, one valid JSON value, and how deep it goes.
func checkNames(text []byte, names []string) error {
	stack := make([]open, 1, maxDepth+1)
	for i := 0; i < len(text); i++ {
		top := &stack[len(stack)-1]
		switch text[i] {
		case '{', '[':
			if len(stack) > maxDepth {
				return errors.New("nested too deep")
			}
			stack = append(stack, open{object: text[i] == '{'})
		case '}', ']':
			stack = stack[:len(stack)-1]
		case ':':
			top.isValue = true
		case ',':
			top.isValue = false
		case '"':
			begin := i
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			if !top.object || top.isValue {
				continue
			}
			name := string(text[begin+1 : i])
			if strings.ContainsRune(name, '\\') {
				if err := json.Unmarshal(text[begin:i+1], &name); err != nil {
					return errors.New("malformed JSON")
				}
			}
			if err := checkName(name, top.seen, names); err != nil {
				return err
			}
			top.seen = append(top.seen, name)
		}
	}
	return nil
}

// checkName refuses a name that the contract does not have, and one that stands a second
// time. hmacKey has two spellings there, and is one name.
func checkName(name string, seen, names []string) error {
	if names != nil && !slices.Contains(names, name) {
		return fmt.Errorf("unknown field %.40q", name)
	}
	for _, before := range seen {
		if before == name || names != nil && strings.EqualFold(before, name) {
			return fmt.Errorf("field %.40q twice", name)
		}
	}
	return nil
}

// decode64 reads base64 in the spellings that phones use: either alphabet, padded or not.
// Line breaks and stray bits at the end are refused.
func decode64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("base64 with a line break")
	}
	e := base64.RawStdEncoding
	if strings.ContainsAny(text, "-_") {
		e = base64.RawURLEncoding
	}
	if strings.HasSuffix(text, "=") {
		e = e.WithPadding(base64.StdPadding)
	}
	return e.Strict().DecodeString(text)
}
