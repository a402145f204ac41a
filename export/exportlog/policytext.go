package exportlog

import (
	"errors"
	"fmt"
	"strings"

	"bluekey/signing"
)

// PolicyTerms is what the policy files of one log are rendered from.
type PolicyTerms struct {
	Log       [2]*signing.VKey // LogKeys.VKeys
	URL       string           // of the public tree; may be empty
	Witnesses []PolicyWitness
	Quorum    int // witnesses that must cosign, 0 to len(Witnesses)
}

// PolicyWitness is one witness, known by one key or two.
type PolicyWitness struct {
	Name    string        // local to the policy
	Ed25519 *signing.VKey // 0x04; may be nil
	MLDSA44 *signing.VKey // 0x06; may be nil
	URL     string        // may be empty
}

// FormatPolicies renders /policy and /policy-ed25519. In the first the log's ML-DSA-44 key
// is a witness that every quorum contains, because log lines cannot demand two keys, and a
// witness counts by its ML-DSA-44 key if it has one. The second is for tools without
// ML-DSA: one log line, and Ed25519 cosignatures only.
func FormatPolicies(t PolicyTerms) (full, ed25519 []byte, err error) {
	if t.Quorum < 0 || t.Quorum > len(t.Witnesses) {
		return nil, nil, fmt.Errorf("policy: a quorum of %d among %d witnesses", t.Quorum, len(t.Witnesses))
	}
	var strong, plain []policyLine
	for _, w := range t.Witnesses {
		best := w.MLDSA44
		if best == nil {
			best = w.Ed25519
		}
		if best == nil {
			return nil, nil, fmt.Errorf("policy: witness %q has no key", w.Name)
		}
		strong = append(strong, policyLine{w.Name, best, w.URL})
		if w.Ed25519 != nil {
			plain = append(plain, policyLine{w.Name, w.Ed25519, w.URL})
		}
	}
	if t.Quorum > len(plain) {
		return nil, nil, errors.New("policy: fewer witnesses with an Ed25519 key than the quorum wants: /policy-ed25519 could never be met")
	}
	own := policyLine{"log-mldsa", t.Log[1], ""}
	for _, out := range []struct {
		text      *[]byte
		witnesses []policyLine
		own       []policyLine
	}{{&full, strong, []policyLine{own}}, {&ed25519, plain, nil}} {
		*out.text = renderPolicy(policyLine{"", t.Log[0], t.URL}, out.own, out.witnesses, t.Quorum)
		if _, err := ParsePolicy(*out.text); err != nil {
			return nil, nil, fmt.Errorf("rendering a policy: %w", err)
		}
	}
	return full, ed25519, nil
}

// groupOutside names the witnesses of a quorum.
const groupOutside = "outside"

type policyLine struct {
	name string
	key  *signing.VKey
	url  string
}

func renderPolicy(log policyLine, own, outside []policyLine, quorum int) []byte {
	var b strings.Builder
	line := func(items ...string) {
		b.WriteString(strings.TrimRight(strings.Join(items, " "), " ") + "\n")
	}
	line("log", log.key.String(), log.url)
	var names []string
	for _, w := range own {
		line("witness", w.name, w.key.String(), w.url)
	}
	for _, w := range outside {
		line("witness", w.name, w.key.String(), w.url)
		names = append(names, w.name)
	}
	required := "none"
	if quorum > 0 {
		required = groupOutside
		line("group", required, fmt.Sprint(quorum), strings.Join(names, " "))
	}
	if len(own) > 0 {
		if quorum > 0 {
			line("group", "required", "all", own[0].name, required)
			required = "required"
		} else {
			required = own[0].name
		}
	}
	line("quorum", required)
	return []byte(b.String())
}
