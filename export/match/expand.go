package match

import "bluekey/keystore/diagnosis"

// Expander makes the IDs of keys, sixteen keys at a time: for building what others will
// match with. It is for one goroutine.
type Expander struct {
	kernels *kernels
	s       *scratch
	rows    [bluezoneMax][16]byte
}

// NewExpander makes an Expander of a tier, the fastest if tier is empty.
func NewExpander(tier string) (*Expander, error) {
	k, err := kernelsOf(tier)
	if err != nil {
		return nil, err
	}
	return &Expander{kernels: k, s: new(scratch)}, nil
}

// Each calls f once for each key, in order, with all its IDs as a Sighting spells them,
// that of the key's first interval first. The IDs are valid until f returns. All keys
// must be of one scheme. The error is that of a key without a valid shape, of which f is
// not told, nor of any other.
func (e *Expander) Each(keys []diagnosis.Key, f func(k *diagnosis.Key, ids [][16]byte)) error {
	if len(keys) == 0 {
		return nil
	}
	if err := checkCounts(keys); err != nil {
		return err
	}
	expand := e.gaen
	if keys[0].Scheme == diagnosis.Bluezone {
		expand = e.bluezone
	}
	for len(keys) > 0 {
		n := min(len(keys), lanes)
		expand(keys[:n], f)
		keys = keys[n:]
	}
	return nil
}

func (e *Expander) gaen(keys []diagnosis.Key, f func(*diagnosis.Key, [][16]byte)) {
	s := e.s
	s.loadTEKs(keys)
	e.kernels.rpiKeys(&s.rpik, &s.teks, len(keys))
	for g := 0; g < len(keys); g += groupKeys {
		group := keys[g:min(g+groupKeys, len(keys))]
		steps := s.loadStarts(group)
		e.kernels.expandGAEN(&s.gaen, s.group(g), &s.starts, len(group), steps)
		for lane := range group {
			f(&group[lane], s.gaen[lane][:group[lane].Count])
		}
	}
}

func (e *Expander) bluezone(keys []diagnosis.Key, f func(*diagnosis.Key, [][16]byte)) {
	s := e.s
	e.kernels.expandBluezone(&s.bluezone, &s.seeds, len(keys), s.loadSeeds(keys))
	for lane := range keys {
		ids := e.rows[:keys[lane].Count]
		for j := range ids {
			ids[j] = s.bluezone.id(lane, j)
		}
		f(&keys[lane], ids)
	}
}
