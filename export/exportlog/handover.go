package exportlog

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"bluekey/signing"
)

// The keys and the name of a log never change. Who needs others starts another log, whose
// first entry, the opening, names the old one as it was, and ends the old one with a
// closing entry that names the new one. Either log signs what it says of the other, and
// the two together are a hand-over that nobody can make up who has the keys of one only.

// Opening is the first entry of a log that follows another.
type Opening struct {
	Time   int64    // Unix seconds at which the entry was made
	Origin string   // of the log that it follows, the predecessor
	Size   uint64   // entries of that log when this one was opened, at least 1
	Root   [32]byte // of its tree at that size
}

// Format: see Entry.
func (o Opening) Format() ([]byte, error) { return format("opening", o) }

func (o Opening) check() error {
	if err := signing.CheckName(o.Origin); err != nil {
		return err
	}
	if o.Size < 1 || o.Size > MaxSize {
		return fmt.Errorf("size %d", o.Size)
	}
	return checkTime(o.Time)
}

func (o Opening) append(b []byte) []byte {
	return appendHash(fmt.Appendf(b, "time %d\norigin %s\nsize %d\nroot ", o.Time, o.Origin, o.Size), o.Root)
}

func parseOpening(l *lines) Entry {
	o := Opening{Time: l.number("time "), Origin: l.next("origin "), Size: uint64(l.number("size "))}
	var err error
	if o.Root, err = parseHash(l.next("root ")); err != nil {
		l.fail("root: %w", err)
	}
	return o
}

// Closing is the last entry of a log but for erasures: whoever follows the log goes on with
// its successor.
type Closing struct {
	Time    int64    // Unix seconds at which the entry was made
	Origin  string   // of the log that follows, the successor
	Policy  [32]byte // SHA-256 of its /policy
	Ed25519 string   // vkeys of its checkpoints: of kind 0x01
	MLDSA44 string   // and of kind 0x06
}

// NewClosing makes the closing entry that names the log of a policy, the text of which is
// as pinned.
func NewClosing(at time.Time, pinned []byte) (Closing, error) {
	text := PolicyText(pinned)
	policy, err := ParsePolicy(text)
	if err != nil {
		return Closing{}, err
	}
	keys, err := policy.LogKeys()
	if err != nil {
		return Closing{}, err
	}
	return Closing{
		Time: at.Unix(), Origin: keys[0].Name(), Policy: sha256.Sum256(text),
		Ed25519: keys[0].String(), MLDSA44: keys[1].String(),
	}, nil
}

// Format: see Entry.
func (c Closing) Format() ([]byte, error) { return format("closing", c) }

func (c Closing) check() error {
	for _, vkey := range []struct {
		text string
		kind signing.Kind
	}{{c.Ed25519, signing.Ed25519Log}, {c.MLDSA44, signing.MLDSA44Cosignature}} {
		k, err := signing.ParseVKey(vkey.text)
		if err != nil {
			return err
		}
		if k.Kind() != vkey.kind || k.Name() != c.Origin {
			return fmt.Errorf("a key of %s, of kind %v: want %s and %v", k.Name(), k.Kind(), c.Origin, vkey.kind)
		}
	}
	return checkTime(c.Time)
}

func (c Closing) append(b []byte) []byte {
	return fmt.Appendf(b, "time %d\norigin %s\npolicy %x\ned25519 %s\nmldsa44 %s\n", c.Time, c.Origin, c.Policy, c.Ed25519, c.MLDSA44)
}

func parseClosing(l *lines) Entry {
	return Closing{
		Time: l.number("time "), Origin: l.next("origin "), Policy: l.digest("policy "),
		Ed25519: l.next("ed25519 "), MLDSA44: l.next("mldsa44 "),
	}
}

// Names reports whether the entry names the log that has these keys.
func (c Closing) Names(keys [2]*signing.VKey) bool {
	return c.Ed25519 == keys[0].String() && c.MLDSA44 == keys[1].String()
}

// Of is the policy, of those in a union, that judges the log of this origin. It is an empty
// one, which accepts nothing, where there is none.
func (p *Policy) Of(origin string) *Policy {
	for _, m := range p.members {
		if of := m.Of(origin); len(of.logs) > 0 {
			return of
		}
	}
	if slices.ContainsFunc(p.logs, func(l PolicyLog) bool { return l.Key.Name() == origin }) {
		return p
	}
	return new(Policy)
}

// LogKeys are the two keys of the one log that a policy is for, Ed25519 first.
func (p *Policy) LogKeys() ([2]*signing.VKey, error) {
	var keys [2]*signing.VKey
	if len(p.logs) != 1 || p.logs[0].Key.Kind() != signing.Ed25519Log {
		return keys, errors.New("policy: want one log line, with an Ed25519 key")
	}
	keys[0] = p.logs[0].Key
	for _, w := range p.witnesses {
		if w.key.Name() != keys[0].Name() || w.key.Kind() != signing.MLDSA44Cosignature {
			continue
		}
		if keys[1] != nil {
			return keys, errors.New("policy: two ML-DSA-44 keys of the log")
		}
		keys[1] = w.key
	}
	if keys[1] == nil {
		return keys, errors.New("policy: no ML-DSA-44 key of the log")
	}
	return keys, nil
}

// PolicyText gives the text of /policy out of a policy as people keep it: bluekey prints
// its digest behind it, as a comment. Any other text stays as it is.
func PolicyText(pinned []byte) []byte {
	text, _, ok := bytes.Cut(pinned, []byte(policyDigest))
	if ok && bytes.Equal(AnnotatePolicy(text), pinned) {
		return text
	}
	return pinned
}

// AnnotatePolicy is the text of /policy with its digest behind it.
func AnnotatePolicy(text []byte) []byte {
	return fmt.Appendf(bytes.Clone(text), "%s%x\n", policyDigest, sha256.Sum256(text))
}

const policyDigest = "# SHA-256 of this policy: "
