package keystore

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"bluekey/keystore/diagnosis"
)

// What an upload may hold. The numbers are those of the GAEN reference key server, and
// for Bluezone one seed a day of the 15 days that count, and the day they ran into.
const (
	MaxAge       = 15 * 24 * time.Hour // since the end of a key's validity
	MaxKeys      = 30                  // GAEN; and of one permit, late ones included
	MaxSameStart = 3                   // GAEN: a phone may have rolled its key early
	MaxSeeds     = 16                  // Bluezone

	// PermitDays is for how many days after its epoch a permit is remembered; it can add
	// keys until the fourth.
	PermitDays = 5

	// ClockSkew is how long after its validity a key is held back still.
	ClockSkew = 2 * time.Hour
)

// check applies the accept policy to the keys of one upload at the time now.
func (s *Store) check(keys []diagnosis.Key, now time.Time) *Refusal {
	if len(keys) == 0 {
		return &Refusal{Reason: Malformed, Field: "keys", Index: -1, detail: "none"}
	}
	scheme := keys[0].Scheme
	most := MaxKeys
	if scheme == diagnosis.Bluezone {
		most = MaxSeeds
	}
	if len(keys) > most {
		return &Refusal{Reason: Malformed, Field: "keys", Index: -1, detail: fmt.Sprintf("%d, want at most %d", len(keys), most)}
	}
	for i := range keys {
		k := &keys[i]
		if r := s.checkOne(k, scheme, now); r != nil {
			r.Index = i
			return r
		}
		for j := range i {
			if keys[j].Secret == k.Secret {
				return &Refusal{Reason: Malformed, Field: "key", Index: i, detail: fmt.Sprintf("that of key %d again", j)}
			}
		}
	}
	return checkOverlap(keys)
}

func (s *Store) checkOne(k *diagnosis.Key, scheme diagnosis.Scheme, now time.Time) *Refusal {
	var shape *diagnosis.ShapeError
	if err := k.Check(); errors.As(err, &shape) {
		return &Refusal{Reason: Malformed, Field: shape.Field, detail: shape.Problem}
	}
	if k.Scheme != scheme {
		return &Refusal{Reason: Malformed, Field: "scheme", detail: "two schemes in one upload"}
	}
	if k.Scheme.Time(k.Start).After(now) {
		return &Refusal{Reason: Future, Field: "start"}
	}
	// The second condition holds back what is older than the known keys that are still
	// remembered, should the clock ever have been set back.
	if k.EndTime().Before(now.Add(-MaxAge)) || k.Scheme.Day(k.Start) < s.firstDay.Load() {
		return &Refusal{Reason: TooOld, Field: "start"}
	}
	return nil
}

// checkOverlap refuses keys that one phone cannot have used: Bluezone has one seed a day;
// GAEN keys follow one another, except that up to MaxSameStart may begin together.
func checkOverlap(keys []diagnosis.Key) *Refusal {
	order := make([]int, len(keys))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(keys[a].Start, keys[b].Start) })
	var same int
	var start, end diagnosis.Interval // of those that begin together last; end is the longest's
	for n, i := range order {
		k := &keys[i]
		if n > 0 && k.Start == start && k.Scheme == diagnosis.GAEN {
			if same++; same > MaxSameStart {
				return &Refusal{Reason: Overlap, Field: "start", Index: i, detail: fmt.Sprintf("more than %d of one start", MaxSameStart)}
			}
			end = max(end, k.End())
			continue
		}
		overlap := n > 0 && k.Start < end
		if k.Scheme == diagnosis.Bluezone {
			overlap = n > 0 && k.Scheme.Day(k.Start) == k.Scheme.Day(start)
		}
		if overlap {
			return &Refusal{Reason: Overlap, Field: "start", Index: i}
		}
		same, start, end = 1, k.Start, k.End()
	}
	return nil
}
