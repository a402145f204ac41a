package exportlog

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"bluekey/signing"
)

// What a caller can act on when a checkpoint is not accepted.
var (
	// ErrUnknownOrigin: the policy names no log of the checkpoint's origin.
	ErrUnknownOrigin = errors.New("the policy names no log of this origin")
	// ErrUnsigned: a signature that the log must give is missing, or one by a key of the
	// policy is wrong.
	ErrUnsigned = errors.New("not signed as the policy demands")
	// ErrQuorum: the log signed, but too few witnesses did.
	ErrQuorum = errors.New("the quorum of witnesses is not met")
)

// Policy says whose signatures make a checkpoint good (C2SP tlog-policy). Whoever pins
// one trusts nothing else. A Policy is safe for concurrent use.
type Policy struct {
	logs      []PolicyLog
	witnesses []policyWitness
	groups    []policyGroup // each after its members
	quorum    string        // name of a witness or group; empty for none
	members   []*Policy     // of a union, which has nothing else
}

// Union makes one policy of several, of which each judges the checkpoints of its own
// origins. Two that name the same origin are an error.
func Union(policies ...*Policy) (*Policy, error) {
	u := &Policy{members: policies}
	seen := map[string]bool{}
	for _, p := range policies {
		own := map[string]bool{}
		for _, l := range p.Logs() {
			own[l.Key.Name()] = true
		}
		for origin := range own {
			if seen[origin] {
				return nil, fmt.Errorf("two policies name the log %q", origin)
			}
			seen[origin] = true
		}
	}
	return u, nil
}

// PolicyLog is one log line. The name of the key is the origin of the log.
type PolicyLog struct {
	Key *signing.VKey
	URL string // may be empty
}

type policyWitness struct {
	name string
	key  *signing.VKey
}

type policyGroup struct {
	name    string
	need    int
	members []string
}

// ParsePolicy reads a policy. Comments, empty lines and space between items are free.
func ParsePolicy(text []byte) (*Policy, error) {
	if err := limit(text, MaxPolicy); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	p := &policyParser{Policy: new(Policy), members: map[string]bool{}, keys: map[string]bool{}}
	for i, line := range strings.Split(string(text), "\n") {
		if err := p.line(line); err != nil {
			return nil, fmt.Errorf("policy, line %d: %w", i+1, err)
		}
	}
	if len(p.logs) == 0 {
		return nil, errors.New("policy: no log line")
	}
	if !p.decided {
		return nil, errors.New("policy: no quorum line")
	}
	return p.Policy, nil
}

type policyParser struct {
	*Policy
	members map[string]bool // every witness and group; true once it is member of a group
	keys    map[string]bool // public keys of log lines and of witness lines
	decided bool            // the quorum line has been read
}

func (p *policyParser) line(line string) error {
	for i := range len(line) {
		if b := line[i]; b < 0x20 && b != '\t' || b == 0x7f {
			return fmt.Errorf("byte %#02x", b)
		}
	}
	items := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(items) == 0 || items[0][0] == '#' {
		return nil
	}
	switch args := items[1:]; {
	case items[0] == "log" && (len(args) == 1 || len(args) == 2):
		return p.log(args)
	case items[0] == "witness" && (len(args) == 2 || len(args) == 3):
		return p.witness(args)
	case items[0] == "group" && len(args) >= 3:
		return p.group(args)
	case items[0] == "quorum" && len(args) == 1:
		return p.setQuorum(args[0])
	}
	return fmt.Errorf("unknown or of wrong length: %.40q", line)
}

// key parses the key of a log or witness line and refuses one seen before on such a line.
func (p *policyParser) key(line, vkey string, kinds ...signing.Kind) (*signing.VKey, error) {
	k, err := signing.ParseVKey(vkey)
	if err != nil {
		return nil, err
	}
	if k.Kind() != kinds[0] && k.Kind() != kinds[1] {
		return nil, fmt.Errorf("%s key %s is of kind %v", line, k.Name(), k.Kind())
	}
	id := line + string(k.Public())
	if p.keys[id] {
		return nil, fmt.Errorf("two %s lines with one key", line)
	}
	p.keys[id] = true
	return k, nil
}

func (p *policyParser) log(args []string) error {
	k, err := p.key("log", args[0], signing.Ed25519Log, signing.MLDSA44Cosignature)
	if err != nil {
		return err
	}
	p.logs = append(p.logs, PolicyLog{Key: k, URL: strings.Join(args[1:], "")})
	return nil
}

func (p *policyParser) witness(args []string) error {
	k, err := p.key("witness", args[1], signing.Ed25519Cosignature, signing.MLDSA44Cosignature)
	if err != nil {
		return err
	}
	p.witnesses = append(p.witnesses, policyWitness{args[0], k})
	return p.define(args[0])
}

func (p *policyParser) group(args []string) error {
	g := policyGroup{name: args[0], members: args[2:]}
	switch args[1] {
	case "any":
		g.need = 1
	case "all":
		g.need = len(g.members)
	default:
		need, err := parseNumber(args[1])
		if err != nil || need < 1 || need > int64(len(g.members)) {
			return fmt.Errorf("group %q: want any, all or a number from 1 to %d", g.name, len(g.members))
		}
		g.need = int(need)
	}
	for _, m := range g.members {
		taken, defined := p.members[m]
		if !defined || taken {
			return fmt.Errorf("group %q: member %q is not defined above, or in a group already", g.name, m)
		}
		p.members[m] = true
	}
	p.groups = append(p.groups, g)
	return p.define(g.name)
}

func (p *policyParser) define(name string) error {
	if _, again := p.members[name]; again || name == "none" {
		return fmt.Errorf("name %q is taken", name)
	}
	p.members[name] = false
	return nil
}

func (p *policyParser) setQuorum(name string) error {
	if p.decided {
		return errors.New("a second quorum line")
	}
	p.decided = true
	if name == "none" {
		return nil
	}
	if _, ok := p.members[name]; !ok {
		return fmt.Errorf("quorum %q is not defined above", name)
	}
	p.quorum = name
	return nil
}

// Logs are the log lines.
func (p *Policy) Logs() []PolicyLog {
	logs := p.logs
	for _, m := range p.members {
		logs = append(logs[:len(logs):len(logs)], m.Logs()...)
	}
	return logs
}

// Opened is a checkpoint with what its signatures are worth under a policy.
type Opened struct {
	Checkpoint
	// Both tells that the log signed with Ed25519 and with ML-DSA-44. It is false only
	// where the policy does not name both keys.
	Both bool
	// Time is what the ML-DSA-44 signature of the log states; zero where there is none.
	Time time.Time
	// Cosigners are the witnesses whose cosignatures hold.
	Cosigners []Cosigner
	// Quorum tells whether they, and the log's own keys, are enough.
	Quorum bool
}

// Cosigner is one witness of a checkpoint.
type Cosigner struct {
	Name string // as the policy calls it
	Time time.Time
}

// Verify opens a checkpoint and demands the quorum: the error is then ErrQuorum.
func (p *Policy) Verify(signed []byte) (Opened, error) {
	o, err := p.Open(signed)
	if err == nil && !o.Quorum {
		err = fmt.Errorf("checkpoint: %w", ErrQuorum)
	}
	return o, err
}

// Open checks a signed checkpoint. It demands a signature by a log line of the policy, and
// whenever the policy names an Ed25519 and an ML-DSA-44 key of the origin, in whatever
// lines, one by each. Every line by a key of the policy must hold, others are ignored. It
// only reports the quorum, since the absence of witnesses delays no export.
//
// Errors are ErrUnknownOrigin, ErrUnsigned, or that of a text which is no checkpoint.
func (p *Policy) Open(signed []byte) (Opened, error) {
	if err := limit(signed, MaxCheckpoint); err != nil {
		return Opened{}, fmt.Errorf("checkpoint: %w", err)
	}
	split := bytes.LastIndex(signed, []byte("\n\n"))
	if split < 0 {
		return Opened{}, errors.New("checkpoint: no signatures")
	}
	c, err := ParseCheckpoint(signed[:split+1])
	if err != nil {
		return Opened{}, err
	}
	for _, m := range p.members {
		if slices.ContainsFunc(m.Logs(), func(l PolicyLog) bool { return l.Key.Name() == c.Origin }) {
			return m.Open(signed)
		}
	}
	t := &tally{checkpoint: c, keys: map[string]*verifier{}}
	for _, l := range p.logs {
		if l.Key.Name() == c.Origin {
			t.logs = append(t.logs, t.add(l.Key))
		}
	}
	if len(t.logs) == 0 {
		return Opened{}, fmt.Errorf("checkpoint of %q: %w", c.Origin, ErrUnknownOrigin)
	}
	for _, w := range p.witnesses {
		t.add(w.key)
	}
	if err := t.open(signed); err != nil {
		return Opened{}, fmt.Errorf("checkpoint of %q: %w", c.Origin, err)
	}
	return p.judge(t)
}

// judge turns verified signatures into what they are worth.
func (p *Policy) judge(t *tally) (Opened, error) {
	o := Opened{Checkpoint: t.checkpoint}
	logSigned := false
	for _, v := range t.logs {
		logSigned = logSigned || v.signed()
	}
	named, gave := map[signing.Kind]bool{}, map[signing.Kind]bool{}
	for _, v := range t.keys {
		if v.key.Name() != o.Origin || v.key.Kind() == signing.Ed25519Cosignature {
			continue
		}
		named[v.key.Kind()] = true
		if v.signed() {
			gave[v.key.Kind()] = true
			if v.key.Kind() == signing.MLDSA44Cosignature {
				o.Time = time.Unix(int64(v.at), 0).UTC()
			}
		}
	}
	if !logSigned || len(gave) < len(named) {
		return Opened{}, fmt.Errorf("checkpoint of %q: a signature of the log is missing: %w", o.Origin, ErrUnsigned)
	}
	o.Both = len(gave) == 2
	holds := map[string]bool{"": true} // by name of witness or group; no quorum always holds
	for _, w := range p.witnesses {
		v := t.keys[w.key.String()]
		holds[w.name] = v.signed()
		if v.signed() && w.key.Name() != o.Origin {
			o.Cosigners = append(o.Cosigners, Cosigner{w.name, time.Unix(int64(v.at), 0).UTC()})
		}
	}
	for _, g := range p.groups {
		have := 0
		for _, m := range g.members {
			if holds[m] {
				have++
			}
		}
		holds[g.name] = have >= g.need
	}
	o.Quorum = holds[p.quorum]
	return o, nil
}

// tally collects the signatures of one checkpoint by the keys of a policy.
type tally struct {
	checkpoint Checkpoint
	logs       []*verifier
	keys       map[string]*verifier // by vkey: a key may have a log line and a witness line
}

func (t *tally) add(key *signing.VKey) *verifier {
	id := key.String()
	if t.keys[id] == nil {
		t.keys[id] = &verifier{key: key, of: t.checkpoint}
	}
	return t.keys[id]
}

func (t *tally) open(signed []byte) error {
	var known []note.Verifier
	for _, v := range t.keys {
		known = append(known, v)
	}
	_, err := note.Open(signed, note.VerifierList(known...))
	var unverified *note.UnverifiedNoteError
	var invalid *note.InvalidSignatureError
	if errors.As(err, &unverified) || errors.As(err, &invalid) {
		return fmt.Errorf("%w: %w", ErrUnsigned, err)
	}
	return err
}

// verifier checks one key's line for package note and remembers the outcome.
type verifier struct {
	key  *signing.VKey
	of   Checkpoint
	at   uint64 // Unix seconds
	good bool
}

func (v *verifier) Name() string    { return v.key.Name() }
func (v *verifier) KeyHash() uint32 { return v.key.ID() }

func (v *verifier) Verify(msg, sig []byte) bool {
	if !bytes.Equal(msg, v.of.Body()) { // should package note ever divide a note elsewhere than Open
		return false
	}
	v.at, v.good = v.key.Verify(v.of.statement(time.Time{}), sig)
	return v.good
}

// signed tells whether the signature counts. A cosignature of time 0 is valid but claims
// nothing about the newest tree (C2SP tlog-cosignature), so it counts for nothing.
func (v *verifier) signed() bool {
	return v.good && (v.at > 0 || v.key.Kind() == signing.Ed25519Log)
}
