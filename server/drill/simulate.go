package drill

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"bluekey/keystore/diagnosis"
	"bluekey/server/phone"
)

// Simulation draws phones and meetings from one seed: the same seed, day and calls give
// the same phones. Its secrets are for trying things and worth nothing.
type Simulation struct{ random *rand.ChaCha8 }

// NewSimulation starts a simulation from a seed.
func NewSimulation(seed uint64) *Simulation {
	var s [32]byte
	binary.BigEndian.PutUint64(s[:], seed)
	return &Simulation{rand.NewChaCha8(s)}
}

// Phone gives the keys of a phone for the days days before today (a UTC day that has not
// ended): finished days only, so that every key is due at once.
//
// GAEN keys are independent. Bluezone day seeds come out of one ratchet of daily keys,
// which ends with this call.
func (s *Simulation) Phone(scheme diagnosis.Scheme, today time.Time, days int) []diagnosis.Key {
	keys, _ := s.phone(scheme, today, days)
	return keys
}

// phone is Phone, and gives also the daily key of the first day, from which all seeds of a
// Bluezone phone derive. A GAEN phone has none.
func (s *Simulation) phone(scheme diagnosis.Scheme, today time.Time, days int) (keys []diagnosis.Key, root [32]byte) {
	perDay := scheme.PerDay()
	first := scheme.IntervalAt(today.UTC().Truncate(24*time.Hour)) - diagnosis.Interval(days)*perDay
	keys = make([]diagnosis.Key, days)
	s.random.Read(root[:])
	daily := root
	for d := range keys {
		secret := daily[:16]
		switch scheme {
		case diagnosis.GAEN:
			s.random.Read(secret)
		case diagnosis.Bluezone:
			seed := diagnosis.DaySeed(daily)
			secret = seed[:]
			daily = diagnosis.NextDailyKey(daily)
		}
		k, err := diagnosis.New(scheme, secret, first+diagnosis.Interval(d)*perDay, int(perDay))
		if err != nil {
			panic(err) // whole days always have a valid shape
		}
		keys[d] = k
	}
	return keys, root
}

// Meet lets somebody stand near the phone of keys for one meeting: the IDs heard during
// consecutive intervals of one random day, one sighting each.
func (s *Simulation) Meet(keys []diagnosis.Key, intervals int) []phone.Sighting {
	random := rand.New(s.random)
	k := &keys[random.IntN(len(keys))]
	ids, idLen := k.Expand(nil), k.Scheme.IDLen()
	first := random.IntN(int(k.Count) - intervals + 1)
	heard := make([]phone.Sighting, intervals)
	for i := range heard {
		at := first + i
		heard[i] = phone.Sighting{
			Scheme: k.Scheme,
			Seen:   k.Scheme.Time(k.Start+diagnosis.Interval(at)).Unix() + random.Int64N(k.Scheme.IntervalSeconds()),
		}
		copy(heard[i].ID[:], ids[at*idLen:][:idLen])
	}
	return heard
}

// listens is how many seconds pass from one time that a phone listens to the next.
const listens = 300

// stay lets somebody be near the phone of keys on one random day, for n times that phones
// listen.
func (s *Simulation) stay(keys []diagnosis.Key, n int) []phone.Sighting {
	random := rand.New(s.random)
	k := &keys[random.IntN(len(keys))]
	ids, idLen := k.Expand(nil), int64(k.Scheme.IDLen())
	began := k.Scheme.Time(k.Start).Unix()
	from := random.Int64N(k.EndTime().Unix() - began - int64(n)*listens)
	heard := make([]phone.Sighting, n)
	for i := range heard {
		after := from + int64(i)*listens
		heard[i] = phone.Sighting{Scheme: k.Scheme, Seen: began + after}
		copy(heard[i].ID[:], ids[after/k.Scheme.IntervalSeconds()*idLen:][:idLen])
	}
	return heard
}

// Noise gives sightings of phones that belong to no case, spread over the days before
// today.
func (s *Simulation) Noise(scheme diagnosis.Scheme, today time.Time, days, n int) []phone.Sighting {
	random := rand.New(s.random)
	end := today.UTC().Truncate(24 * time.Hour).Unix()
	heard := make([]phone.Sighting, n)
	for i := range heard {
		heard[i] = phone.Sighting{Scheme: scheme, Seen: end - 1 - random.Int64N(int64(days)*86400)}
		s.random.Read(heard[i].ID[:scheme.IDLen()])
	}
	return heard
}

// MaxDays is how many finished days a simulated phone may have: older keys are refused.
const MaxDays = 14

// Neighbours simulates a phone of the days days that have ended two hours before now or
// earlier, and what a neighbour heard: three intervals of it, among passers-by.
func Neighbours(scheme diagnosis.Scheme, now time.Time, days int, seed uint64) ([]diagnosis.Key, []phone.Sighting, error) {
	if days < 1 || days > MaxDays {
		return nil, nil, fmt.Errorf("%d days: want 1 to %d", days, MaxDays)
	}
	const met, passersBy = 3, 40
	today := now.UTC().Add(-2 * time.Hour)
	s := NewSimulation(seed)
	keys := s.Phone(scheme, today, days)
	heard := append(s.Meet(keys, met), s.Noise(scheme, today, days, passersBy)...)
	slices.SortFunc(heard, func(a, b phone.Sighting) int { return int(a.Seen - b.Seen) })
	return keys, heard, nil
}
