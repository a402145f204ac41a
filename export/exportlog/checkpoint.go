package exportlog

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"bluekey/signing"
)

// Checkpoint states the whole log in one hash (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin    string
	Size      uint64
	Root      [32]byte
	Extension string // extension lines of other logs, each with its LF; ours have none
}

// ParseCheckpoint reads the body of a checkpoint, without signatures, in the one form that
// Body writes.
func ParseCheckpoint(body []byte) (Checkpoint, error) {
	if err := limit(body, MaxCheckpoint); err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	l := &lines{rest: string(body)}
	c := Checkpoint{Origin: l.next(""), Size: uint64(l.number(""))}
	root, err := parseHash(l.next(""))
	if err == nil {
		err = checkOrigin(c.Origin)
	}
	if err == nil && c.Size > MaxSize {
		err = fmt.Errorf("size %d", c.Size)
	}
	if err == nil && l.rest != "" && (!strings.HasSuffix(l.rest, "\n") || strings.HasPrefix(l.rest, "\n") || strings.Contains(l.rest, "\n\n")) {
		err = errors.New("an extension line is empty or not ended")
	}
	if l.err != nil {
		err = l.err
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	c.Root, c.Extension = root, l.rest
	return c, nil
}

// Body is the text that ParseCheckpoint reads and that the keys of a log sign.
func (c Checkpoint) Body() []byte { return c.statement(time.Time{}).Body() }

func (c Checkpoint) statement(at time.Time) signing.Statement {
	return signing.Statement{Origin: c.Origin, Size: c.Size, Root: c.Root, Extension: c.Extension, Time: uint64(max(0, at.Unix()))}
}

// SignCheckpoint gives the checkpoint as published: its body and the two signatures of the
// log. The time, in whole seconds, goes into the ML-DSA-44 line. The same arguments always
// give the same bytes. The caller owns the rule of a log: never sign a checkpoint that is
// not consistent with every one signed before.
func SignCheckpoint(c Checkpoint, at time.Time, keys signing.LogKeys) ([]byte, error) {
	return cosign(c, at, keys.Sign, c.Body())
}

// Cosign gives the lines that a witness adds to a checkpoint.
func Cosign(c Checkpoint, at time.Time, keys signing.WitnessKeys) ([]byte, error) {
	return cosign(c, at, keys.Sign, nil)
}

func cosign(c Checkpoint, at time.Time, sign func(signing.Statement) ([2]signing.Signature, error), text []byte) ([]byte, error) {
	if _, err := ParseCheckpoint(c.Body()); err != nil {
		return nil, fmt.Errorf("signing a %w", err)
	}
	sigs, err := sign(c.statement(at))
	if err != nil {
		return nil, err
	}
	if text != nil {
		text = append(text, '\n')
	}
	for _, s := range sigs {
		text = append(text, s.Line()...)
	}
	return text, nil
}

// checkOrigin takes one line without control characters, at most as long as an ML-DSA-44
// cosignature can name.
func checkOrigin(origin string) error {
	if origin == "" || len(origin) > 255 || !utf8.ValidString(origin) || strings.ContainsFunc(origin, unicode.IsControl) {
		return fmt.Errorf("origin %.40q: want 1 to 255 bytes of UTF-8 without control characters", origin)
	}
	return nil
}
