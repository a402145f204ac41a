package idset

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"bluekey/export/match"
	"bluekey/keystore/diagnosis"
)

// Hit says that the set holds the ID of a sighting for an interval; of Match also, that it
// holds another for the interval before or after.
type Hit struct {
	Sighting int // index into the sightings
	Interval diagnosis.Interval
}

// Match finds the sightings that the set confirms: two different IDs in neighbouring
// intervals, for each of which the set says "yes". A sighting is tried for every interval
// within the tolerance of its time, as match.Matcher does; 0 means that scheme's default,
// and other schemes' sightings are passed over. Hits come by interval, then by sighting.
//
// Who was near a case for less than two intervals, or heard it in one only, is not found;
// and of a case whose intervals lie in two windows, the two at the seam do not confirm
// each other.
func (s *Set) Match(ctx context.Context, sightings []match.Sighting, tolerance time.Duration) ([]Hit, error) {
	hits, err := s.Ask(ctx, sightings, tolerance)
	if err != nil {
		return nil, err
	}
	return neighbours(hits, sightings), nil
}

// Ask is Match without the confirmation: it gives every "yes", of which each that should be
// a "no" comes with probability 2^-f. It is for who knows what the set should hold, as a
// phone knows its own keys, and never for warning anybody.
func (s *Set) Ask(ctx context.Context, sightings []match.Sighting, tolerance time.Duration) ([]Hit, error) {
	if tolerance < 0 {
		return nil, fmt.Errorf("ID set: tolerance cannot be negative")
	}
	if tolerance == 0 {
		tolerance = match.GAENTolerance
		if s.Scheme == diagnosis.Bluezone {
			tolerance = match.BluezoneTolerance
		}
	}
	var hits []Hit
	seconds := int64(tolerance / time.Second)
	for i := range s.shards {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		found, err := s.matchShard(&s.shards[i], sightings, seconds)
		if err != nil {
			return nil, err
		}
		hits = append(hits, found...)
	}
	slices.SortFunc(hits, func(a, b Hit) int {
		return cmp.Or(cmp.Compare(a.Interval, b.Interval), cmp.Compare(a.Sighting, b.Sighting))
	})
	return hits, nil
}

// question asks a shard for one value.
type question struct {
	value    uint64
	sighting uint32
	interval uint32
}

// matchShard gives the sightings for which one shard says "yes".
func (s *Set) matchShard(h *shard, sightings []match.Sighting, tolerance int64) ([]Hit, error) {
	per, length := int64(perShard(s.Scheme)), s.Scheme.IntervalSeconds()
	low, high := int64(h.number)*per, (int64(h.number)+1)*per
	var ask []question
	for n := range sightings {
		heard := &sightings[n]
		if heard.Scheme != s.Scheme {
			continue
		}
		// Interval i fits if i*length - tolerance <= seen < (i+1)*length + tolerance.
		first := max(floorDiv(heard.Seen-tolerance, length), low)
		last := min(floorDiv(heard.Seen+tolerance, length), high-1)
		for i := first; i <= last; i++ {
			hash := s.key.sum(s.Scheme, &heard.ID, uint32(i))
			ask = append(ask, question{place(hash, h.n, s.F), uint32(n), uint32(i)})
		}
	}
	if len(ask) == 0 {
		return nil, nil
	}
	slices.SortFunc(ask, func(a, b question) int { return cmp.Compare(a.value, b.value) })
	r, err := s.open(h)
	if err != nil {
		return nil, err
	}
	var hits []Hit
	var values []uint64 // of block current, those not below the last question
	current := -1
	for _, q := range ask {
		if b := int(q.value >> (s.F + blockBits)); b != current {
			if values, err = r.block(b); err != nil {
				return nil, err
			}
			current = b
		}
		for len(values) > 0 && values[0] < q.value {
			values = values[1:]
		}
		if len(values) > 0 && values[0] == q.value {
			hits = append(hits, Hit{int(q.sighting), diagnosis.Interval(q.interval)})
		}
	}
	return hits, nil
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// neighbours keeps the hits, sorted by interval, that another one confirms: one of a
// different ID in the interval before or after.
func neighbours(hits []Hit, sightings []match.Sighting) (kept []Hit) {
	// before and after are runs of one interval each around the run in hand.
	var before []Hit
	for len(hits) > 0 {
		run := sameInterval(hits)
		after := sameInterval(hits[len(run):])
		for _, h := range run {
			if confirms(before, h, sightings) || confirms(after, h, sightings) {
				kept = append(kept, h)
			}
		}
		before, hits = run, hits[len(run):]
	}
	return kept
}

// sameInterval is the first hits, all of one interval.
func sameInterval(hits []Hit) []Hit {
	n := 0
	for n < len(hits) && hits[n].Interval == hits[0].Interval {
		n++
	}
	return hits[:n]
}

// confirms reports whether run, of one interval, confirms h.
func confirms(run []Hit, h Hit, sightings []match.Sighting) bool {
	if len(run) == 0 || run[0].Interval != h.Interval+1 && run[0].Interval+1 != h.Interval {
		return false
	}
	// Most runs repeat a few IDs: it is enough to find one that differs.
	for _, other := range run {
		if sightings[other.Sighting].ID != sightings[h.Sighting].ID {
			return true
		}
	}
	return false
}
