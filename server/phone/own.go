package phone

import (
	"context"

	"bluekey/keystore/diagnosis"
)

// Published counts how many of a phone's own keys the exports of targets hold, the ID sets
// of windows without keys included. A phone asks when publish_by has come: a server that
// accepts keys and keeps them back is found out.
//
// It looks for the last ID of each key, because coarse metadata may move the start of a
// Bluezone seed. Of an ID set one answer is enough for an ID of one's own. Each tree is
// judged by its own policy: the question is what a server shows, not who runs it.
func Published(ctx context.Context, targets []string, keys []diagnosis.Key) (int, error) {
	own := make([]Sighting, len(keys))
	for i := range keys {
		k := &keys[i]
		ids := k.Expand(nil)
		own[i] = Sighting{Scheme: k.Scheme, Seen: k.Scheme.Time(k.End() - 1).Unix()}
		copy(own[i].ID[:], ids[len(ids)-k.Scheme.IDLen():])
	}
	there := map[int]bool{}
	m, err := newMatching(own, MatchOptions{}, func(f Found) error {
		there[f.Sighting] = true
		return nil
	})
	if err != nil {
		return 0, err
	}
	m.own = true
	err = m.run(ctx, targets)
	return len(there), err
}
