// Package drill rehearses the whole service with simulated phones: they meet, some become
// cases, cases get codes, buy permits and upload, others send cover beside, the appliance
// publishes, every phone downloads and matches. Whoever was near a case for as long as the
// rule says that warns where no other is published must be warned, and nobody else: not who
// only passed by. Where an appliance has doors for other protocols, some of the cases come
// through them, and nothing may be found afterwards of what only doors are told.
//
// It speaks to an appliance only as phones, apps and staff do, but that no phone waits for
// its scheduled time.
package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"bluekey/keystore/diagnosis"
	"bluekey/server/phone"
)

// Province is one appliance that takes part.
type Province struct {
	URL string
	// Issue gets n upload codes from staff.
	Issue func(ctx context.Context, n int) ([]string, error)
	// IssueDoor gets six digits for the Bluezone door; nil if there is no such door.
	IssueDoor func(ctx context.Context) (string, error)
	// Authority is whose certificates the GAEN door takes; nil if there is no such door.
	Authority *Authority
}

// Config of a drill.
type Config struct {
	Provinces []Province // at least one; phones live in them by turns, and meet across borders
	// Mirror, if there is one, is brought up to date by a call, which says in which trees
	// phones then read. Without it they read where they upload.
	Mirror func(ctx context.Context) ([]string, error)
	Phones int // simulated phones, half of each scheme
	Cases  int // how many of them become cases, at most a third; half of each scheme
	// Folder, if not "", holds the data of all provinces, and is searched for what may
	// not be kept.
	Folder string
	Seed   uint64 // the same seed gives the same phones and meetings
	// Progress hears what is going on, a line at a time.
	Progress func(string)
}

// ErrFailed means that a contact was not warned, or a stranger was.
var ErrFailed = errors.New("the drill failed")

const (
	days     = 3  // finished days that the phones have lived through
	meetings = 4  // of each phone, beside one with somebody who only passed by
	noise    = 40 // IDs of strangers that each phone heard
	lasting  = 4  // times that phones listen during a meeting: 20 minutes, and 15 warn
	passing  = 2  // and while somebody passes by
)

// actor is one simulated phone.
type actor struct {
	scheme  diagnosis.Scheme
	home    int // index of its province
	keys    []diagnosis.Key
	root    [32]byte // of Bluezone: the daily key of its first day
	heard   []phone.Sighting
	met     []int // other phones, whose sightings follow the strangers' in heard
	passed  []int // one more, or none, whose sightings follow those
	isCase  bool
	way     way     // of a case: how it hands its keys in
	told    []trace // of a case: what it told a door
	contact bool    // has met a case
	abroad  bool    // met cases of other provinces only
	warned  bool    // by the rule
	after   time.Duration
	found   map[int]bool // phones whose keys explain a sighting; stranger for strangers
}

// stranger is somebody of whom there are no keys.
const stranger = -1

// Run runs a drill, prints its table to out, and returns ErrFailed if it failed.
func Run(ctx context.Context, cfg Config, out io.Writer) error {
	if cfg.Phones < 6 || cfg.Cases < 1 || cfg.Cases > cfg.Phones/3 {
		return fmt.Errorf("%d phones and %d cases: want at least 6 phones and 1 case for every 3 of them at most", cfg.Phones, cfg.Cases)
	}
	// Only days whose keys are due now: they ended at least two hours ago.
	today := time.Now().UTC().Add(-2 * time.Hour)
	phones := meet(cfg, today)
	cfg.Progress(fmt.Sprintf("%d phones in %d provinces met over %d days; %d of them are cases now and upload", cfg.Phones, len(cfg.Provinces), days, cfg.Cases))
	uploaded := time.Now()
	promised, covers, err := upload(ctx, cfg, phones)
	if err != nil {
		return err
	}
	cfg.Progress(fmt.Sprintf("%d cases uploaded among %d requests of cover; every key is to be public by %s", cfg.Cases, covers, promised.Format(time.RFC3339)))
	if _, err := cfg.search(phones); err != nil {
		return err
	}
	trees, err := await(ctx, cfg, phones, promised)
	if err != nil {
		return err
	}
	public := time.Since(uploaded)
	cfg.Progress(fmt.Sprintf("every key is public after %.1f s; %d phones download and match", public.Seconds(), cfg.Phones))
	for _, a := range phones {
		if err := a.match(ctx, trees, uploaded); err != nil {
			return err
		}
	}
	traces, err := cfg.search(phones)
	if err != nil {
		return err
	}
	return report(out, phones, summary{covers, traces, public, promised.Sub(uploaded)})
}

// meet lets phones live through some days.
func meet(cfg Config, today time.Time) []*actor {
	sim := NewSimulation(cfg.Seed)
	random := rand.New(rand.NewPCG(cfg.Seed, 1))
	phones := make([]*actor, cfg.Phones)
	for i := range phones {
		scheme := diagnosis.Schemes[i%len(diagnosis.Schemes)]
		a := &actor{scheme: scheme, home: i / len(diagnosis.Schemes) % len(cfg.Provinces), found: map[int]bool{}}
		a.keys, a.root = sim.phone(scheme, today, days)
		a.heard = sim.Noise(scheme, today, days, noise)
		phones[i] = a
	}
	for i, a := range phones {
		for meeting := range meetings + 1 {
			// Only phones of one scheme hear each other: same remainder.
			other := i%len(diagnosis.Schemes) + len(diagnosis.Schemes)*random.IntN(cfg.Phones/len(diagnosis.Schemes))
			switch {
			case other == i:
			case meeting < meetings:
				a.heard = append(a.heard, sim.stay(phones[other].keys, lasting)...)
				a.met = append(a.met, other)
			default:
				a.heard = append(a.heard, sim.stay(phones[other].keys, passing)...)
				a.passed = append(a.passed, other)
			}
		}
	}
	cases := map[diagnosis.Scheme]int{}
	for _, i := range random.Perm(cfg.Phones) {
		// The first scheme has the odd one, as it has of the phones.
		a, schemes := phones[i], len(diagnosis.Schemes)
		if cases[a.scheme] < (cfg.Cases+schemes-1-i%schemes)/schemes {
			cases[a.scheme]++
			a.isCase = true
		}
	}
	assign(cfg, phones)
	for _, a := range phones {
		atHome := false
		for _, other := range a.met {
			if phones[other].isCase {
				a.contact = true
				atHome = atHome || phones[other].home == a.home
			}
		}
		a.abroad = a.contact && !atHome
	}
	return phones
}

// await waits until every key of every case is public, as its phone sees it, and a little
// beyond the promised time at most. It says where phones read.
func await(ctx context.Context, cfg Config, phones []*actor, promised time.Time) ([]string, error) {
	const grace = 10 * time.Second
	var keys []diagnosis.Key
	for _, a := range phones {
		if a.isCase {
			keys = append(keys, a.keys...)
		}
	}
	trees := make([]string, len(cfg.Provinces))
	for i, p := range cfg.Provinces {
		trees[i] = p.URL
	}
	for {
		if cfg.Mirror != nil {
			var err error
			if trees, err = cfg.Mirror(ctx); err != nil {
				return nil, err
			}
		}
		n, err := phone.Published(ctx, trees, keys)
		if err != nil {
			return nil, fmt.Errorf("looking for the keys of the cases: %w", err)
		}
		if n == len(keys) {
			return trees, nil
		}
		if time.Now().After(promised.Add(grace)) {
			return nil, fmt.Errorf("%w: %d of %d keys are not public though promised for %s", ErrFailed, len(keys)-n, len(keys), promised.Format(time.RFC3339))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(min(time.Second, max(100*time.Millisecond, time.Until(promised)/20))):
		}
	}
}

// match downloads and matches as the owner's phone does, and decides as it does who warns.
func (a *actor) match(ctx context.Context, trees []string, uploaded time.Time) error {
	err := phone.Match(ctx, a.heard, trees, phone.MatchOptions{}, func(f phone.Found) error {
		a.found[a.whose(f.Sighting)] = true
		return nil
	})
	if err != nil {
		return err
	}
	var none *phone.Notices
	contacts, err := phone.Contacts(ctx, a.heard, trees, phone.MatchOptions{}, none.Matching())
	a.warned, a.after = len(contacts) > 0, time.Since(uploaded)
	return err
}

// whose gives the phone that a sighting is of.
func (a *actor) whose(sighting int) int {
	switch meeting := (sighting - noise) / lasting; {
	case sighting < noise:
		return stranger
	case meeting < len(a.met):
		return a.met[meeting]
	default:
		return a.passed[0]
	}
}
