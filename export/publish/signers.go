package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"bluekey/export/exportlog"
	"bluekey/signing"
)

// term is one signer of export.sig and the time in which it signs: windows that end after
// From and, if it was retired, not after until.
type term struct {
	*signing.ExportSigner
	until time.Time // zero: not retired
}

// introduce learns from the log which keys sign, and gives every configured one that the
// log does not know yet an entry of its own: an auditor refuses a signature by a key that
// the log has not introduced. Before them comes the opening entry of a log that follows
// another. A closed log introduces nothing.
func (p *Publisher) introduce(ctx context.Context) error {
	terms, err := p.logSigners()
	if err != nil {
		return err
	}
	if p.closed {
		p.terms = terms
		return nil
	}
	var r round
	if err := p.openAfter(ctx, &r); err != nil {
		return fmt.Errorf("following another log: %w", err)
	}
	for _, s := range p.Signers {
		if i := slices.IndexFunc(terms, func(t term) bool { return t.Name() == s.Name() }); i >= 0 {
			if !terms[i].Public().Equal(s.Public()) {
				return fmt.Errorf("the log knows another key as %s: give the new key another version", s.Name())
			}
			continue
		}
		terms = append(terms, term{ExportSigner: s})
		if err := r.addSigner(s, false, p.Now(), s.From); err != nil {
			return err
		}
	}
	p.terms = terms
	if len(r.entries) == 0 {
		return nil
	}
	return p.commit(ctx, &r)
}

// logSigners reads the signers that the log has introduced and derives their keys again.
func (p *Publisher) logSigners() ([]term, error) {
	var terms []term
	for i := range p.store.LogSize() {
		text, err := p.store.Entry(i)
		if err != nil {
			return nil, err
		}
		e, err := exportlog.ParseEntry(text)
		if err != nil {
			return nil, fmt.Errorf("log entry %d: %w", i, err)
		}
		change, ok := e.(exportlog.SignerChange)
		if !ok {
			continue
		}
		from := time.Unix(change.From, 0).UTC()
		if change.Retires {
			for j := range terms {
				if terms[j].Name() == change.Name() {
					terms[j].until = from
				}
			}
			continue
		}
		s, err := signing.NewExportSigner(p.Seed, change.KeyID, change.Version, from)
		if err != nil {
			return nil, fmt.Errorf("log entry %d: %w", i, err)
		}
		if !bytes.Equal(s.SPKI(), change.SPKI) {
			return nil, fmt.Errorf("log entry %d introduces %s, and the seed gives another key: restore the seed", i, change.Name())
		}
		terms = append(terms, term{ExportSigner: s})
	}
	return terms, nil
}

func (r *round) addSigner(s *signing.ExportSigner, retires bool, now, from time.Time) error {
	text, err := exportlog.SignerChange{Time: now.Unix(), Retires: retires, KeyID: s.KeyID, Version: s.Version, From: max(0, from.Unix()), SPKI: s.SPKI()}.Format()
	r.entries = append(r.entries, text)
	return err
}

// activeSigners are those that sign a window ending at end, newest first.
func (p *Publisher) activeSigners(end time.Time) ([]*signing.ExportSigner, error) {
	var all []*signing.ExportSigner
	for _, t := range p.terms {
		if t.until.IsZero() || !end.After(t.until) {
			all = append(all, t.ExportSigner)
		}
	}
	return signing.ActiveSigners(all, end)
}

// RotateSigner introduces a new key for export.sig under the key id of the newest one, and
// retires every present key. Both sign the windows that end between from and retire, so
// that phones can learn of the new key meanwhile. Run must be running.
func (p *Publisher) RotateSigner(ctx context.Context, version string, from, retire time.Time) error {
	return p.do(ctx, func(ctx context.Context) error {
		from, retire = from.UTC().Truncate(time.Second), retire.UTC().Truncate(time.Second)
		if !retire.After(from) || from.Before(floor(p.Now(), p.Period)) {
			return fmt.Errorf("from %s, retiring at %s: want from not before the open window, and retire after it", from.Format(time.RFC3339), retire.Format(time.RFC3339))
		}
		newest := p.terms[len(p.terms)-1]
		s, err := signing.NewExportSigner(p.Seed, newest.KeyID, version, from)
		if err != nil {
			return err
		}
		present := 0
		var r round
		for i := range p.terms {
			t := &p.terms[i]
			if t.Name() == s.Name() {
				return fmt.Errorf("%s has been a signer already: choose another version", s.Name())
			}
			if t.until.IsZero() {
				present++
				if err := r.addSigner(t.ExportSigner, true, p.Now(), retire); err != nil {
					return err
				}
			}
		}
		if present >= signing.MaxSigners {
			return fmt.Errorf("%d keys sign already: wait until some are retired", present)
		}
		if err := r.addSigner(s, false, p.Now(), from); err != nil {
			return err
		}
		p.pending = append(p.pending, term{ExportSigner: s}) // its PEM goes out with the commit
		size := p.store.LogSize()
		err = p.commit(ctx, &r)
		p.pending = nil
		if p.store.LogSize() == size {
			return err
		}
		// What is in the log holds, whatever became of the files: the next window is signed
		// by these keys, and finish writes the PEM with them.
		terms, learnt := p.logSigners()
		if learnt != nil {
			return errors.Join(err, learnt)
		}
		p.terms = terms
		if err != nil {
			return fmt.Errorf("%s is in the log, and its files follow as soon as they can be written: %w", s.Name(), err)
		}
		p.grown()
		return nil
	})
}

// do runs f on the goroutine of Run, between two rounds.
func (p *Publisher) do(ctx context.Context, f func(context.Context) error) error {
	done := make(chan error, 1)
	select {
	case p.calls <- func(ctx context.Context) { done <- f(ctx) }:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
