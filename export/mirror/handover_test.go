package mirror

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

const origin2 = "bluekey.example/hai-phong-2"

// handed is a log of three windows and the one that follows it, hand-over complete.
type handed struct {
	old, next *site
	now       int64
}

// handOver makes them, with what the test changes of the entries.
func handOver(t *testing.T, change func(o *exportlog.Opening, c *exportlog.Closing)) handed {
	t.Helper()
	old, now := history(t, 3)
	next := newSiteOf(t, origin2)
	o := exportlog.Opening{Time: now, Origin: origin, Size: old.log.Size(), Root: old.log.Root()}
	c, err := exportlog.NewClosing(time.Unix(now+120, 0), next.policy)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&o, &c)
	}
	if o.Size > 0 {
		next.add(o)
	}
	next.signer("v2", now)
	next.publish(now)
	old.add(c)
	now += 120
	old.publish(now)
	return handed{old, next, now}
}

// audit audits both, compares them, and gives the reports, the old log's first.
func (h handed) audit(t *testing.T, policy *exportlog.Policy, now int64) (old, next *Report) {
	t.Helper()
	old, next = auditAt(t, h.old.copy(), policy, nil, now), auditAt(t, h.next.copy(), policy, nil, now)
	if err := Handovers(context.Background(), []*Report{next, old}, policy); err != nil {
		t.Fatal(err)
	}
	return old, next
}

func (h handed) policy(t *testing.T) *exportlog.Policy {
	t.Helper()
	p, err := exportlog.Union(h.old.pinned(), h.next.pinned())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestHandoverIsClean(t *testing.T) {
	h := handOver(t, nil)
	old, next := h.audit(t, h.policy(t), h.now)
	found(t, old, "")
	found(t, next, "")
	if notes := strings.Join(old.Notes, "\n"); !strings.Contains(notes, "closes this log") || !strings.Contains(notes, origin2+" follows it") {
		t.Errorf("notes: %s", notes)
	}
	if notes := strings.Join(next.Notes, "\n"); !strings.Contains(notes, "this log follows "+origin+", which had") {
		t.Errorf("notes: %s", notes)
	}

	// Silence is what a closed log promises; its files expire by its rules all the same.
	late := h.now + retain + period
	for _, scheme := range diagnosis.Schemes {
		h.old.erase(start0+3*period+retain, scheme, start0+3*period)
	}
	h.old.publish(late)
	old, _ = h.audit(t, h.policy(t), late)
	for _, f := range old.Findings {
		if f.Code == CodeSilence || f.Code == CodeHandover {
			t.Error(f)
		}
	}
	// Its successor promises nothing of the kind once it has spoken.
	h = handOver(t, nil)
	if _, next = h.audit(t, h.policy(t), h.now+10*period); !strings.Contains(strings.Join(next.Notes, "\n"), "silence cannot be seen") {
		t.Errorf("notes: %q", next.Notes)
	}
}

func TestHandoverBeforeTheEnd(t *testing.T) {
	old, now := history(t, 3)
	next := newSiteOf(t, origin2)
	next.add(exportlog.Opening{Time: now, Origin: origin, Size: 2, Root: rootAt(t, old, 2)})
	next.publish(now)
	h := handed{old, next, now}
	oldReport, nextReport := h.audit(t, h.policy(t), now)
	found(t, oldReport, "")
	found(t, nextReport, "")
	if !strings.Contains(strings.Join(nextReport.Notes, "\n"), "is not closed yet") {
		t.Errorf("notes: %q", nextReport.Notes)
	}
}

func rootAt(t *testing.T, s *site, size uint64) [32]byte {
	t.Helper()
	root, err := exportlog.Root(size, &s.log)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestHandoverContradictions(t *testing.T) {
	foreign := newSiteOf(t, "bluekey.example/foreign")
	usurper, err := signing.NewLogKeys(origin2, [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name      string
		change    func(o *exportlog.Opening, c *exportlog.Closing)
		old, next string
		words     string
	}{
		{"another root", func(o *exportlog.Opening, _ *exportlog.Closing) { o.Root[7]++ }, "", "handover", "one of the two is a fork"},
		{"a larger log", func(o *exportlog.Opening, _ *exportlog.Closing) { o.Size += 50 }, "", "handover", "look at a newer copy"},
		{"no opening", func(o *exportlog.Opening, _ *exportlog.Closing) { o.Size = 0 }, "handover", "", "which does not say so itself"},
		{"an opening after another log", func(o *exportlog.Opening, _ *exportlog.Closing) { o.Origin = foreign.origin }, "handover", "", "which does not say so itself"},
		{"a closing for another log", func(_ *exportlog.Opening, c *exportlog.Closing) {
			other, err := exportlog.NewClosing(time.Unix(c.Time, 0), foreign.policy)
			if err != nil {
				t.Fatal(err)
			}
			*c = other
		}, "", "handover", "whose closing entry names " + foreign.origin},
		{"other keys", func(_ *exportlog.Opening, c *exportlog.Closing) {
			c.Ed25519, c.MLDSA44 = usurper.VKeys()[0].String(), usurper.VKeys()[1].String()
		}, "handover", "", "other keys of " + origin2},
		{"an opening after itself", func(o *exportlog.Opening, _ *exportlog.Closing) { o.Origin = origin2 }, "handover", "handover", "itself as its predecessor"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := handOver(t, row.change)
			old, next := h.audit(t, h.policy(t), h.now)
			found(t, old, row.old)
			found(t, next, row.next)
			if all := findings(old) + findings(next); !strings.Contains(all, row.words) {
				t.Errorf("nothing says %q:\n%s", row.words, all)
			}
		})
	}
}

// What stands in one log alone, out of place.
func TestHandoverMisconduct(t *testing.T) {
	for _, row := range []struct {
		name  string
		after func(h handed)
		codes string
		words string
	}{
		{"an erasure", func(h handed) {
			h.old.add(exportlog.Erasure{Time: h.now, Scheme: diagnosis.GAEN, Through: start0})
		}, "", ""},
		{"an incident", func(h handed) { h.old.add(exportlog.Incident{Time: h.now, Text: "x"}) }, "handover", "only erasures may follow"},
		{"a window", func(h handed) {
			h.old.window(window{scheme: diagnosis.GAEN, start: start0 + 3*period, end: h.now})
		}, "handover", "only erasures may follow"},
		{"a second closing", func(h handed) {
			c, _ := exportlog.NewClosing(time.Unix(h.now, 0), h.next.policy)
			h.old.add(c)
		}, "handover", "was closed by entry"},
		{"an opening in the middle", func(h handed) {
			h.old.add(exportlog.Opening{Time: h.now, Origin: origin2, Size: 1})
		}, "handover", "which only the first may be"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := handOver(t, nil)
			row.after(h)
			h.old.publish(h.now)
			found(t, auditAt(t, h.old.copy(), h.old.pinned(), nil, h.now), row.codes, row.words)
		})
	}
	t.Run("its own successor", func(t *testing.T) {
		s, now := history(t, 3)
		c, err := exportlog.NewClosing(time.Unix(now, 0), s.policy)
		if err != nil {
			t.Fatal(err)
		}
		s.add(c)
		s.publish(now)
		found(t, auditAt(t, s.copy(), s.pinned(), nil, now), "handover", "itself as its successor")
	})
	t.Run("silence before the closing", func(t *testing.T) {
		h := handOver(t, func(_ *exportlog.Opening, c *exportlog.Closing) { c.Time += 3 * period })
		found(t, auditAt(t, h.old.copy(), h.old.pinned(), nil, h.now+3*period+60), "silence", "no gaen window")
	})
}

// Who has one policy only, or one key of the log, audits one log as ever.
func TestHandoverWithHalfThePolicy(t *testing.T) {
	h := handOver(t, nil)
	plain := exportlog.PolicyEd25519Path
	halfOf := func(s *site) *exportlog.Policy {
		p, err := exportlog.ParsePolicy(s.files[plain])
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	both, err := exportlog.Union(halfOf(h.old), halfOf(h.next))
	if err != nil {
		t.Fatal(err)
	}
	old, next := h.audit(t, both, h.now)
	found(t, old, "")
	found(t, next, "")
	if !strings.Contains(strings.Join(old.Notes, "\n"), "were not compared") {
		t.Errorf("notes: %q", old.Notes)
	}
}

func TestOpeningProof(t *testing.T) {
	ctx := context.Background()
	h := handOver(t, nil)
	for what, pinned := range map[string][]byte{"as served": h.next.policy, "as printed": exportlog.AnnotatePolicy(h.next.policy)} {
		proof, err := OpeningProof(ctx, h.next.copy(), pinned)
		if err != nil {
			t.Fatal(what, err)
		}
		p, err := exportlog.VerifyProof(proof, h.next.pinned())
		if o, ok := p.Entry.(exportlog.Opening); err != nil || !ok || p.Index != 0 || o.Origin != origin {
			t.Errorf("%s: %+v, %v", what, p, err)
		}
	}
	bad := h.next.copy()
	bundle := h.next.partial("tile/entries/")
	bad.files[bundle] = bytes.Clone(bad.files[bundle])
	bad.files[bundle][40] ^= 1
	for what, row := range map[string]struct {
		source tree.Source
		policy []byte
		words  string
	}{
		"a log without an opening":    {h.old.copy(), h.old.policy, "not started as a successor"},
		"another's policy":            {h.next.copy(), h.old.policy, "not the one that was pinned"},
		"no policy":                   {h.next.copy(), []byte("x"), "policy, line 1"},
		"an entry with a bit flipped": {bad, h.next.policy, "proof"},
		"nothing there":               {memory{}, h.next.policy, "not exist"},
	} {
		if _, err := OpeningProof(ctx, row.source, row.policy); err == nil || !strings.Contains(err.Error(), row.words) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
