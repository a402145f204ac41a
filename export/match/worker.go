package match

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"bluekey/keystore/diagnosis"
)

// worker is what one goroutine needs to match: constant memory, whatever the number of
// keys and sightings.
type worker struct {
	*run
	s    *scratch
	hits []Hit // not yet handed out, at most hitsKept
	err  error // what handing them out gave
}

// hitsKept bounds the hits a worker holds: one ID can have been heard any number of times.
const hitsKept = 256

func newWorker(r *run) *worker {
	return &worker{run: r, s: new(scratch), hits: make([]Hit, 0, hitsKept)}
}

// match expands a chunk and hands out its hits.
func (w *worker) match(c *chunk) error {
	keys := c.keys[:c.n]
	if err := checkCounts(keys); err != nil {
		return err
	}
	if set := w.sets[c.scheme()]; set != nil {
		for len(keys) > 0 && w.err == nil {
			n := min(len(keys), lanes)
			switch c.scheme() {
			case diagnosis.GAEN:
				w.gaen(keys[:n], set)
			case diagnosis.Bluezone:
				w.bluezone(keys[:n], set)
			}
			keys = keys[n:]
		}
	}
	w.flush(c.n)
	return w.err
}

// flush hands out the hits in hand and counts n keys as done.
func (w *worker) flush(n int) {
	if w.err == nil {
		w.err = w.deliver(w.hits, n)
	}
	clear(w.hits) // the keys in them are not held longer than needed
	w.hits = w.hits[:0]
}

// checkCounts refuses keys that would run past the end of a kernel's buffers. Keys that
// come from a parser have passed Key.Check; this is the part of it that must never fail.
func checkCounts(keys []diagnosis.Key) error {
	for i := range keys {
		k := &keys[i]
		if k.Scheme != keys[0].Scheme {
			return fmt.Errorf("match: keys of two schemes at once")
		}
		if !k.Scheme.Valid() || k.Count == 0 || int(k.Count) > k.Scheme.MaxCount() {
			return fmt.Errorf("match: %w", k.Check())
		}
	}
	return nil
}

// gaen matches up to sixteen GAEN keys.
func (w *worker) gaen(keys []diagnosis.Key, set *sightingSet) {
	s := w.s
	s.loadTEKs(keys)
	w.kernels.rpiKeys(&s.rpik, &s.teks, len(keys))
	for g := 0; g < len(keys); g += groupKeys {
		group := keys[g:min(g+groupKeys, len(keys))]
		steps := s.loadStarts(group)
		w.kernels.probeGAEN(&s.gaen, s.group(g), &s.starts, len(group), steps, &set.filter, &s.gaenMasks)
		for word := range (steps + 15) / 16 {
			// Sixteen intervals of four keys: bit 16*i + 4*key + j is interval 4*i + j.
			m := binary.LittleEndian.Uint64(s.gaenMasks[8*word:])
			for ; m != 0; m &= m - 1 {
				bit := bits.TrailingZeros64(m)
				lane, step := bit/4%4, 16*word+bit/16*4+bit%4
				if lane < len(group) && step < int(group[lane].Count) {
					w.confirm(&s.gaen[lane][step], &group[lane], step, set)
				}
			}
		}
	}
}

// bluezone matches up to sixteen Bluezone seeds.
func (w *worker) bluezone(keys []diagnosis.Key, set *sightingSet) {
	s := w.s
	steps := s.loadSeeds(keys)
	w.kernels.probeBluezone(&s.bluezone, &s.seeds, len(keys), steps, &set.filter, &s.bluezoneMasks)
	for word := range (steps + 3) / 4 {
		// Four intervals of sixteen keys: bit 16*i + key is interval i.
		m := binary.LittleEndian.Uint64(s.bluezoneMasks[8*word:])
		for ; m != 0; m &= m - 1 {
			bit := bits.TrailingZeros64(m)
			lane, step := bit%16, 4*word+bit/16
			if lane < len(keys) && step < int(keys[lane].Count) {
				id := s.bluezone.id(lane, step)
				w.confirm(&id, &keys[lane], step, set)
			}
		}
	}
}

// confirm looks up an ID that got through the filter.
func (w *worker) confirm(id *[16]byte, k *diagnosis.Key, step int, set *sightingSet) {
	i := k.Start + diagnosis.Interval(step)
	for _, h := range set.heard(id, i) {
		if len(w.hits) == hitsKept {
			w.flush(0)
		}
		w.hits = append(w.hits, Hit{Sighting: h.sighting, Key: *k, Interval: i})
	}
}
