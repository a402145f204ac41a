package publish

import (
	"slices"
	"time"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
)

// expire lets windows go whose retention is over: their files leave the tree with this
// commit, their keys leave the store, and the log says so.
func (p *Publisher) expire(r *round, end time.Time) error {
	limit := end.Add(-p.Retention)
	for _, scheme := range diagnosis.Schemes {
		windows, err := p.store.Windows(scheme)
		if err != nil {
			return err
		}
		last := time.Time{}
		for _, w := range windows {
			if w.End.After(limit) {
				break
			}
			if !w.Published {
				continue // keys held back in it were published by a later window
			}
			last = w.End
			m, err := p.manifest(w.Entry)
			if err != nil {
				return err
			}
			for _, f := range m.Files {
				r.plan.Remove = append(r.plan.Remove, f.Path, f.Path+exportlog.ProofSuffix)
			}
		}
		if last.IsZero() {
			continue
		}
		if r.erase == nil {
			r.erase = map[diagnosis.Scheme]time.Time{}
		}
		r.erase[scheme] = last
		statement, err := exportlog.Erasure{Time: end.Unix(), Scheme: scheme, Through: last.Unix()}.Format()
		if err != nil {
			return err
		}
		r.entries = append(r.entries, statement)
	}
	slices.Sort(r.plan.Remove)
	return nil
}
