package phone

import (
	"context"

	"bluekey/keystore/diagnosis"
)

// Published counts how many of a phone's own keys the exports of targets hold. A phone asks
// when publish_by has come: a server that accepts keys and keeps them back is found out.
//
// It looks for the last ID of each key, because coarse metadata may move the start of a
// Bluezone seed.
func Published(ctx context.Context, targets []string, keys []diagnosis.Key) (int, error) {
	own := make([]Sighting, len(keys))
	for i := range keys {
		k := &keys[i]
		ids := k.Expand(nil)
		own[i] = Sighting{Scheme: k.Scheme, Seen: k.Scheme.Time(k.End() - 1).Unix()}
		copy(own[i].ID[:], ids[len(ids)-k.Scheme.IDLen():])
	}
	there := map[int]bool{}
	err := Match(ctx, own, targets, MatchOptions{}, func(f Found) error {
		there[f.Sighting] = true
		return nil
	})
	return len(there), err
}
