package phone

import (
	"cmp"
	"context"
	"slices"
	"time"

	"bluekey/keystore/diagnosis"
)

// soundsFor is how long, in seconds, a sighting stands for where no other follows. Phones
// listen about every five minutes: Bluezone for 40 seconds of each 300, GAEN as often.
const soundsFor = 300

// Contact is one day on which the owner was near one case for long enough.
type Contact struct {
	Day     uint32 // UTC, counted from the epoch
	Minutes int
}

// Contacts matches as Match does, and decides by the rule which matches warn. Only sightings
// within the rule's tolerance count, of keys on days within its onset range (or of unknown
// onset) that were not revoked. What is counted together is one key on one day: a case
// publishes one a day. What ID sets explain is counted together by day, since they do not
// tell keys apart.
//
// The contacts are in order of day, then the longest first. Besides an error there may be
// contacts: those of the files that were read before it.
func Contacts(ctx context.Context, heard []Sighting, targets []string, o MatchOptions, rule Matching) ([]Contact, error) {
	o.Tolerance = max(time.Second, time.Duration(rule.Tolerance)*time.Second) // 0 would be the scheme's own
	near := nearness{}
	err := Match(ctx, heard, targets, o, func(f Found) error {
		near.add(rule, heard[f.Sighting].Seen, f.Key, f.Interval)
		return nil
	})
	return near.contacts(rule), err
}

// nearness is when each key was heard.
type nearness map[caseDay][]int64

type caseDay struct {
	scheme diagnosis.Scheme
	secret diagnosis.Secret // of the key; zero if only an ID set is known
	day    uint32
}

// add takes a sighting, in Unix seconds, of a key's ID of an interval.
func (n nearness) add(rule Matching, seen int64, k diagnosis.Key, interval diagnosis.Interval) {
	begins, tolerance := k.Scheme.Time(interval).Unix(), int64(rule.Tolerance)
	switch {
	case seen < begins-tolerance || seen >= begins+k.Scheme.IntervalSeconds()+tolerance:
	case k.Onset != diagnosis.OnsetUnknown && (int(k.Onset) < rule.OnsetFrom || int(k.Onset) > rule.OnsetTo):
	case k.Report == diagnosis.Revoked:
	default:
		c := caseDay{k.Scheme, k.Secret, k.Scheme.Day(interval)}
		n[c] = append(n[c], seen)
	}
}

func (n nearness) contacts(rule Matching) (list []Contact) {
	for c, seen := range n {
		slices.Sort(seen)
		total := int64(soundsFor)
		for i := 1; i < len(seen); i++ {
			total += min(seen[i]-seen[i-1], soundsFor)
		}
		if minutes := int(total / 60); minutes >= rule.Minutes {
			list = append(list, Contact{c.day, minutes})
		}
	}
	slices.SortFunc(list, func(a, b Contact) int { return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(b.Minutes, a.Minutes)) })
	return list
}
