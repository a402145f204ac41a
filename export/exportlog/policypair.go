package exportlog

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"bluekey/signing"
)

// CheckPolicies demands that two texts are /policy and /policy-ed25519 of one log, as
// FormatPolicies renders them. Only the Ed25519 key of a witness that stands in the first by
// its ML-DSA-44 key is taken on the second's word: nothing else names it.
func CheckPolicies(full, ed25519 []byte) error {
	t, err := policyTerms(full, ed25519)
	if err != nil {
		return err
	}
	wantFull, wantEd25519, err := FormatPolicies(t)
	switch {
	case err != nil:
		return err
	case !bytes.Equal(wantFull, full):
		return fmt.Errorf("%s is not in the form in which policies are published", PolicyPath)
	case !bytes.Equal(wantEd25519, ed25519):
		return fmt.Errorf("%s does not say what %s says", PolicyEd25519Path, PolicyPath)
	}
	return nil
}

// policyTerms reads from two policies what they may have been rendered from.
func policyTerms(full, ed25519 []byte) (t PolicyTerms, err error) {
	p, err := ParsePolicy(full)
	if err != nil {
		return t, err
	}
	if t.Log, err = p.LogKeys(); err != nil {
		return t, err
	}
	if _, err := ParsePolicy(ed25519); err != nil {
		return t, fmt.Errorf("%s: %w", PolicyEd25519Path, err)
	}
	t.URL = p.logs[0].URL
	plain := map[string]*signing.VKey{}
	for items := range policyItems(ed25519, "witness") {
		if plain[items[1]], err = signing.ParseVKey(items[2]); err != nil {
			return t, err // ParsePolicy has parsed it
		}
	}
	for items := range policyItems(full, "witness") {
		key, err := signing.ParseVKey(items[2])
		if err != nil {
			return t, err // ParsePolicy has parsed it
		}
		w := PolicyWitness{Name: items[1], URL: strings.Join(items[3:], "")}
		switch {
		case key.String() == t.Log[1].String():
			continue
		case key.Kind() == signing.Ed25519Cosignature:
			w.Ed25519 = key
		default:
			w.MLDSA44, w.Ed25519 = key, plain[w.Name]
			if w.Ed25519 != nil && w.Ed25519.Kind() != signing.Ed25519Cosignature {
				return t, fmt.Errorf("%s: the key of witness %q is not Ed25519", PolicyEd25519Path, w.Name)
			}
		}
		t.Witnesses = append(t.Witnesses, w)
	}
	for items := range policyItems(full, "group") {
		if items[1] == groupOutside {
			if t.Quorum, err = strconv.Atoi(items[2]); err != nil {
				return t, errors.New("policy: the quorum is not a number")
			}
		}
	}
	return t, nil
}

// policyItems walks the lines of one kind of a policy that was parsed.
func policyItems(text []byte, kind string) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range strings.Lines(string(text)) {
			if items := strings.Fields(line); len(items) > 0 && items[0] == kind && !yield(items) {
				return
			}
		}
	}
}
