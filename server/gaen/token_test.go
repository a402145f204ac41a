package gaen

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"bluekey/keystore/diagnosis"
)

func TestRevision(t *testing.T) {
	s := newSite(t)
	keys := appKeys(s.now(), 6)
	first := s.publish("user-report", keys, "")
	want(t, first, 200, "")

	a := s.publish("confirmed", keys, "")
	want(t, a, 400, codeNeedsToken)
	if !strings.Contains(a.Error, "key 0 cannot be imported") {
		t.Error(a)
	}
	// Tokens of others, and for other keys.
	other := s.publish("user-report", appKeys(s.now(), 2), "")
	want(t, s.publish("confirmed", keys, other.RevisionToken), 400, codeBadToken)
	flipped := []byte(first.RevisionToken)
	flipped[100] ^= 1
	want(t, s.publish("confirmed", keys, string(flipped)), 400, codeBadToken)
	moved := append([]appKey{}, keys...)
	moved[0].Period = 100
	want(t, s.publish("confirmed", moved, first.RevisionToken), 400, codeBadToken)
	if got := s.due(); got[diagnosis.SelfReport] != 8 || len(got) != 1 {
		t.Fatalf("due are %v", got)
	}

	// A token covers the keys that came with it and those of the token sent along.
	late := append(appKeys(s.now().Add(24*time.Hour), 1), keys[:2]...)
	late[0].Period = 70 // today's, not over yet
	second := s.publish("user-report", late, first.RevisionToken)
	want(t, second, 200, "")
	all := append(late[:1:1], keys...)
	third := s.publish("confirmed", all, second.RevisionToken)
	want(t, third, 200, "")
	if got := s.due(); got[diagnosis.ConfirmedTest] != 6 || got[diagnosis.SelfReport] != 2 {
		t.Fatalf("due are %v", got)
	}
	// Again, with the old token: it is done.
	want(t, s.publish("confirmed", all, second.RevisionToken), 200, "")
	want(t, s.publish("user-report", all, third.RevisionToken), 400, codeTransition)
	want(t, s.publish("negative", all, third.RevisionToken), 400, codeTransition)

	// Once the window is closed, what lies in it stays.
	s.advance(testPeriod)
	s.seal()
	want(t, s.publish("confirmed", all, second.RevisionToken), 200, "") // it was revised in time
	fresh := appKeys(s.now(), 2)
	self := s.publish("user-report", fresh, "")
	s.advance(testPeriod)
	s.seal()
	want(t, s.publish("user-report", fresh, ""), 200, "")
	want(t, s.publish("confirmed", fresh, self.RevisionToken), 400, codePublished)
	want(t, s.publish("negative", fresh, self.RevisionToken), 400, codePublished)
	want(t, s.publish("negative", fresh, ""), 400, codePublished)
	more := append(appKeys(s.now().Add(-5*24*time.Hour), 1), fresh...)
	a = s.publish("confirmed", more, self.RevisionToken)
	want(t, a, 200, codePartial)
	if strings.Contains(a.Error, "key 0") || strings.Count(a.Error, "published already") != 2 {
		t.Error(a)
	}
	if got := s.due(); got[diagnosis.ConfirmedTest] != 7 || got[diagnosis.SelfReport] != 4 {
		t.Fatalf("due are %v", got)
	}
}

func TestNegative(t *testing.T) {
	s := newSite(t)
	keys := appKeys(s.now(), 6)
	want(t, s.publish("negative", keys, ""), 200, "")
	if got := s.due(); len(got) != 0 {
		t.Fatalf("due are %v", got)
	}
	first := s.publish("likely", keys, "")
	want(t, first, 200, "")
	want(t, s.publish("negative", keys, ""), 400, codeNeedsToken)
	back := s.publish("negative", keys[:4], first.RevisionToken)
	want(t, back, 200, "")
	if got := s.due(); got[diagnosis.ConfirmedTest] != 2 {
		t.Fatalf("due are %v", got)
	}
	// The token goes on without them.
	p, err := s.door.tokens.open(back.RevisionToken, 0)
	if err != nil || len(p.order) != 2 {
		t.Fatal(err, len(p.order))
	}
	// And a test that finds something later brings them back.
	want(t, s.publish("confirmed", keys, back.RevisionToken), 200, "")
	if got := s.due(); got[diagnosis.ConfirmedTest] != 6 {
		t.Fatalf("due are %v", got)
	}
}

// TestConfirmedStays: no way of other certificates leads an app to take back what a test has
// confirmed.
func TestConfirmedStays(t *testing.T) {
	s := newSite(t)
	keys := appKeys(s.now(), 6)
	likely := s.publish("likely", keys, "")
	want(t, likely, 200, "")
	confirmed := s.publish("confirmed", keys, likely.RevisionToken)
	want(t, confirmed, 200, "")
	again := s.publish("confirmed", keys, confirmed.RevisionToken)
	want(t, again, 200, "")
	late := append(appKeys(s.now().Add(-7*24*time.Hour), 1), keys...)
	for _, token := range []string{confirmed.RevisionToken, again.RevisionToken} {
		want(t, s.publish("likely", keys, token), 400, codeTransition)
		a := s.publish("likely", late, token)
		want(t, a, 400, codeTransition)
		if !strings.Contains(a.Error, "key 1 cannot be imported") || strings.Contains(a.Error, "key 0") {
			t.Error(a)
		}
		want(t, s.publish("user-report", keys, token), 400, codeTransition)
		want(t, s.publish("negative", keys, token), 400, codeTransition)
	}
	if got := s.due(); got[diagnosis.ConfirmedTest] != 6 || len(got) != 1 {
		t.Fatalf("due are %v", got)
	}
}

func TestTokens(t *testing.T) {
	a, err := newTokens([32]byte{1}, "VN-HP")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := newTokens([32]byte{1}, "VN-HN")
	c, _ := newTokens([32]byte{2}, "VN-HP")
	var p proofs
	for i := range 100 {
		p.add(proofHash{byte(i), 1}, proof{diagnosis.Interval(1000 - i), diagnosis.SelfReport})
	}
	full, empty := a.seal(&p), a.seal(new(proofs))
	if len(full) != len(empty) || len(full) != 1400 {
		t.Errorf("tokens of %d and %d bytes", len(full), len(empty))
	}
	got, err := a.open(full, 960)
	if err != nil || len(got.order) != 41 || got.of[proofHash{40, 1}] != (proof{960, diagnosis.SelfReport}) {
		t.Errorf("%v, %d keys", err, len(got.order))
	}
	if got, err := a.open(empty, 0); err != nil || len(got.order) != 0 {
		t.Error(err)
	}
	for _, others := range []*tokens{b, c} {
		if _, err := others.open(full, 0); err == nil {
			t.Error("a token of another region or key opens")
		}
	}
	if bytes.Contains([]byte(full), []byte(a.seal(&p)[:16])) {
		t.Error("two tokens begin alike")
	}
}
