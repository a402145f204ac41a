// Package match finds out which diagnosis keys belong to IDs that were heard.
//
// A Matcher is made from sightings: an ID and the time it was heard at. Run then takes
// keys from wherever they come (an archive, a key set, the network), expands each into
// every ID it stands for and reports those that were heard at a fitting time. It is what
// a phone does with a published export, what an auditor does with two logs, and what the
// command "bluekey match" does for the sightings of one phone whose owner asks.
//
// The work is the expansion: 144 IDs a GAEN key, up to 96 a Bluezone seed, nearly all of
// them of no interest. So keys go sixteen at a time through one of three tiers of kernels
// (see Tiers), which probe a small filter of the sightings in the same pass; only what
// gets through the filter, about one ID in a thousand, is looked up exactly. Every tier
// gives the same hits, and each is compared with the plain derivations of package
// diagnosis.
//
// Both inputs come from strangers: anybody may broadcast IDs, and a province may publish
// what it likes. The filter bounds what an ID costs, the exact table is keyed by a random
// seed so that its chains cannot be made long, and the sightings of one ID are sorted by
// time so that those at the wrong time cost a search and no walk.
//
// A Matcher holds sightings, never keys: what Run reads it forgets, but for the copies of
// keys that it hands out in hits.
package match

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"sync"
	"time"

	"bluekey/keystore/diagnosis"
)

// Sighting is an ID that a phone heard, and when.
type Sighting struct {
	Scheme diagnosis.Scheme
	ID     [16]byte // a Bluezone ID is the first 12 bytes, the rest zero
	Seen   int64    // Unix seconds
}

// Default tolerances: how far outside its interval a sighting of an ID still counts.
const (
	// GAENTolerance is that of the GAEN cryptography specification, v1.2, "Matching".
	GAENTolerance = 2 * time.Hour
	// BluezoneTolerance allows for clocks that differ and for the half minute by which
	// the app's advertising may lag behind its interval.
	BluezoneTolerance = 2 * time.Minute
)

// Options of a Matcher. The zero value is what most callers want.
type Options struct {
	// Workers is the number of goroutines that expand keys; 0 means one for each core.
	// The caller's is one of them.
	Workers int
	// Tier names the kernels to use, one of Tiers. Empty means the fastest.
	Tier string
	// GAENTolerance and BluezoneTolerance replace the defaults if not zero, in whole
	// seconds. A sighting counts from this long before the start of its ID's interval
	// until this long after its end, the end itself not included.
	GAENTolerance, BluezoneTolerance time.Duration
	// Progress, if set, is told now and then how many keys have been matched so far. It
	// is never called twice at once, nor at once with Run's found.
	Progress func(keys int)
}

// Hit says that a key explains a sighting.
type Hit struct {
	Sighting int // index into the sightings given to New
	Key      diagnosis.Key
	Interval diagnosis.Interval // the interval of the ID that was heard
}

// Matcher matches keys against a fixed set of sightings. It may be used by several
// goroutines at once.
type Matcher struct {
	kernels  *kernels
	workers  int
	progress func(int)
	sets     [diagnosis.Bluezone + 1]*sightingSet // by scheme; nil where nothing was heard
}

// New prepares sightings for matching. Several may be of one ID; the slice is not kept.
func New(sightings []Sighting, o Options) (*Matcher, error) {
	k, err := kernelsOf(o.Tier)
	if err != nil {
		return nil, err
	}
	m := &Matcher{kernels: k, workers: o.Workers, progress: o.Progress}
	if m.workers == 0 {
		m.workers = runtime.GOMAXPROCS(0)
	}
	if m.workers < 0 || o.GAENTolerance < 0 || o.BluezoneTolerance < 0 {
		return nil, fmt.Errorf("match: workers and tolerances cannot be negative")
	}
	tolerance := map[diagnosis.Scheme]time.Duration{
		diagnosis.GAEN:     orDefault(o.GAENTolerance, GAENTolerance),
		diagnosis.Bluezone: orDefault(o.BluezoneTolerance, BluezoneTolerance),
	}
	for i, s := range sightings {
		if !s.Scheme.Valid() {
			return nil, fmt.Errorf("match: sighting %d: unknown scheme", i)
		}
		for _, b := range s.ID[s.Scheme.IDLen():] {
			if b != 0 {
				return nil, fmt.Errorf("match: sighting %d: ID is longer than %d bytes", i, s.Scheme.IDLen())
			}
		}
	}
	for _, scheme := range diagnosis.Schemes {
		m.sets[scheme] = newSightingSet(scheme, sightings, int64(tolerance[scheme]/time.Second))
	}
	return m, nil
}

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// Tier is the name of the kernels in use.
func (m *Matcher) Tier() string { return m.kernels.name }

// Run matches keys until they end, ctx is done, or keys or found give an error, which it
// returns. It calls found for every pair of a sighting and a key that explains it, in no
// fixed order and from any goroutine, but never twice at once, and not after returning.
// The keys are drawn on the caller's goroutine; all others have ended when Run returns.
//
// The hits of a run that ends with an error are not to be believed: a file's digest comes
// last.
func (m *Matcher) Run(ctx context.Context, keys iter.Seq2[diagnosis.Key, error], found func(Hit) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{Matcher: m, ctx: ctx, found: found}

	// The caller's goroutine is one of the workers: it draws keys, hands them over while
	// the others have room, and matches them itself when they have not.
	others := m.workers - 1
	full := make(chan *chunk, 2*others)
	empty := make(chan *chunk, 2*others+m.workers)
	for range cap(empty) {
		empty <- new(chunk)
	}
	var wg sync.WaitGroup
	for range others {
		wg.Go(func() {
			w := newWorker(r)
			for c := range full {
				if context.Cause(ctx) == nil {
					if err := w.match(c); err != nil {
						cancel(err)
					}
				}
				empty <- c
			}
		})
	}
	own := newWorker(r)
	err := r.feed(keys, <-empty, func(c *chunk) (*chunk, error) {
		select {
		case full <- c:
			return <-empty, nil
		default:
			return c, own.match(c)
		}
	})
	close(full)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause // a worker's error comes before what feed made of it
	}
	return err
}

// chunkKeys is how many keys a worker takes at a time: a quarter of a millisecond's work
// or more, so that handing over costs nothing, and 23 kB.
const chunkKeys = 512

// chunk is a run of keys of one scheme.
type chunk struct {
	n    int
	keys [chunkKeys]diagnosis.Key
}

func (c *chunk) scheme() diagnosis.Scheme { return c.keys[0].Scheme }

// run is one call of Run.
type run struct {
	*Matcher
	ctx   context.Context
	found func(Hit) error

	mu   sync.Mutex // serialises found and progress
	done int
	err  error // found's
}

// feed cuts keys into chunks of one scheme, starting with c. A full chunk goes to next,
// which gives an empty one for it.
func (r *run) feed(keys iter.Seq2[diagnosis.Key, error], c *chunk, next func(*chunk) (*chunk, error)) error {
	c.n = 0
	pass := func() (err error) {
		if c.n == 0 {
			return nil
		}
		if err = context.Cause(r.ctx); err == nil {
			c, err = next(c)
		}
		if err == nil {
			c.n = 0
		}
		return err
	}
	for key, err := range keys {
		if err != nil {
			return err
		}
		if c.n == chunkKeys || c.n > 0 && c.scheme() != key.Scheme {
			if err := pass(); err != nil {
				return err
			}
		}
		c.keys[c.n] = key
		c.n++
	}
	if err := pass(); err != nil {
		return err
	}
	return context.Cause(r.ctx)
}

// deliver hands hits to the caller and counts n keys as matched.
func (r *run) deliver(hits []Hit, n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err // found has ended the run
	}
	for _, h := range hits {
		if r.err = r.found(h); r.err != nil {
			return r.err
		}
	}
	r.done += n
	if n > 0 && r.progress != nil {
		r.progress(r.done)
	}
	return nil
}
