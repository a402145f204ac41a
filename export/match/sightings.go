package match

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"slices"

	"bluekey/keystore/diagnosis"
)

// sightingSet holds the sightings of one scheme: a filter that says "no" to nearly every
// ID that was not heard, and an exact table for the rest.
//
// The table is open addressing over the distinct IDs, at most half full. Its hash is
// keyed at random, because whoever broadcasts IDs chooses what goes in. A byte of each
// slot's hash lies apart from the rest: those bytes fit the cache beside the filter, and
// nearly all IDs that were not heard end there. A look-up costs the same for an ID that
// was heard once or a thousand times, at the right time or not.
type sightingSet struct {
	filter    filter
	interval  int64 // seconds
	tolerance int64 // seconds
	key       [2]uint64
	tags      []uint8  // of each slot; 0 if it is empty. A power of two of them
	slots     []uint32 // indices into ids
	ids       []heardID
	times     []heardTime // of each ID together, by time
}

type heardID struct {
	lo, hi      uint64 // the ID, little-endian
	first, last int64  // when it was heard first and last
	from, to    uint32 // times[from:to]
}

type heardTime struct {
	seen     int64
	sighting int
}

// newSightingSet collects the sightings of one scheme, nil if there are none.
func newSightingSet(scheme diagnosis.Scheme, all []Sighting, tolerance int64) *sightingSet {
	var own []int
	for i := range all {
		if all[i].Scheme == scheme {
			own = append(own, i)
		}
	}
	if len(own) == 0 {
		return nil
	}
	slices.SortFunc(own, func(i, j int) int {
		a, b := &all[i], &all[j]
		return cmp.Or(slices.Compare(a.ID[:], b.ID[:]), cmp.Compare(a.Seen, b.Seen), cmp.Compare(i, j))
	})
	s := &sightingSet{
		interval:  scheme.IntervalSeconds(),
		tolerance: tolerance,
		key:       [2]uint64{rand.Uint64(), rand.Uint64()},
		times:     make([]heardTime, len(own)),
	}
	for n, i := range own {
		seen := all[i].Seen
		if n == 0 || all[i].ID != all[own[n-1]].ID {
			lo, hi := idWords(&all[i].ID)
			s.ids = append(s.ids, heardID{lo: lo, hi: hi, first: seen, from: uint32(n)})
		}
		id := &s.ids[len(s.ids)-1]
		id.last, id.to = seen, uint32(n+1)
		s.times[n] = heardTime{seen, i}
	}
	s.filter = newFilter(len(s.ids))
	s.tags = make([]uint8, 2*ceilPow2(len(s.ids)))
	s.slots = make([]uint32, len(s.tags))
	for i := range s.ids {
		id := &s.ids[i]
		s.filter.add(uint32(id.lo), uint32(id.lo>>32))
		h := s.hash(id.lo, id.hi)
		at := s.home(h)
		for s.tags[at] != 0 {
			at = s.next(at)
		}
		s.tags[at], s.slots[at] = tag(h), uint32(i)
	}
	return s
}

func idWords(id *[16]byte) (lo, hi uint64) {
	return binary.LittleEndian.Uint64(id[:]), binary.LittleEndian.Uint64(id[8:])
}

// hash mixes an ID with the set's key, which no stranger ever learns.
func (s *sightingSet) hash(lo, hi uint64) uint64 {
	a, b := bits.Mul64(lo^s.key[0], hi^s.key[1])
	// One product leaves IDs that count up close together; a second one does not.
	a, b = bits.Mul64(a^b^s.key[0], 0x9E3779B97F4A7C15)
	return a ^ b
}

func (s *sightingSet) home(h uint64) int { return int(h) & (len(s.tags) - 1) }
func (s *sightingSet) next(at int) int   { return (at + 1) & (len(s.tags) - 1) }

func tag(h uint64) uint8 { return uint8(max(h>>56, 1)) }

// heard gives the sightings of id that fit interval i, none if it was not heard then.
func (s *sightingSet) heard(id *[16]byte, i diagnosis.Interval) []heardTime {
	lo, hi := idWords(id)
	h := s.hash(lo, hi)
	for at := s.home(h); s.tags[at] != 0; at = s.next(at) {
		if s.tags[at] != tag(h) {
			continue
		}
		e := &s.ids[s.slots[at]]
		if e.lo != lo || e.hi != hi {
			continue
		}
		start := int64(i) * s.interval
		from, until := start-s.tolerance, start+s.interval+s.tolerance
		if e.last < from || e.first >= until {
			return nil
		}
		return within(s.times[e.from:e.to], from, until)
	}
	return nil
}

// within cuts times, which are sorted, to those in [from, until).
func within(times []heardTime, from, until int64) []heardTime {
	before := func(h heardTime, t int64) int { return cmp.Compare(h.seen, t) }
	lo, _ := slices.BinarySearchFunc(times, from, before)
	n, _ := slices.BinarySearchFunc(times[lo:], until, before)
	return times[lo : lo+n]
}
