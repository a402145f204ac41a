package desk

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// RevokeAll adds to b that no code issued so far is good any more. A store that was put back
// from a backup does not know which of its codes were used since. The caller holds Gate for
// writing until b is committed, and then calls done.
func (d *Desk) RevokeAll(b *pebble.Batch) (done func(), err error) {
	it, err := d.DB.NewIter(&pebble.IterOptions{LowerBound: []byte{codeRow}, UpperBound: []byte{codeRow + 1}})
	if err != nil {
		return nil, fmt.Errorf("revoke all codes: %w", err)
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		_, r, err := parseCodeRow(it.Key(), it.Value())
		if err != nil {
			return nil, fmt.Errorf("revoke all codes: %w", err)
		}
		if r.state != issued {
			continue
		}
		r.state = revoked
		if err := b.Set(it.Key(), r.encode(), nil); err != nil {
			return nil, fmt.Errorf("revoke all codes: %w", err)
		}
	}
	if err := it.Error(); err != nil {
		return nil, fmt.Errorf("revoke all codes: %w", err)
	}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, alive := range d.alive {
			clear(alive)
		}
	}, nil
}
