package publish

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"bluekey/export/exportlog"
	"bluekey/export/match/idset"
	"bluekey/keystore/diagnosis"
)

// DefaultProfiles are the files of a window: what GAEN phones need, and the compact form.
var DefaultProfiles = map[diagnosis.Scheme][]exportlog.FileKind{
	diagnosis.GAEN:     {exportlog.Archive, exportlog.KeySet},
	diagnosis.Bluezone: {exportlog.KeySet},
}

// idsOnly is how people write a profile that publishes no key.
const idsOnly = "ids-only"

// profileWords are the files of a profile as people write them, in the order of manifests.
var profileWords = []struct {
	word string
	kind exportlog.FileKind
}{
	{"archive", exportlog.Archive},
	{"keys", exportlog.KeySet},
	{"ids", exportlog.IDSet},
}

// ParseProfiles reads profiles as people write them:
//
//	gaen=archive+keys+ids,bluezone=ids-only
//
// A scheme that is left out keeps its default. The word "ids" adds ID sets to keys; that a
// scheme publishes no key at all has a word of its own, so that nobody does it by leaving
// out another.
func ParseProfiles(text string) (map[diagnosis.Scheme][]exportlog.FileKind, error) {
	profiles := map[diagnosis.Scheme][]exportlog.FileKind{}
	if text == "" {
		return profiles, nil
	}
	for item := range strings.SplitSeq(text, ",") {
		name, words, _ := strings.Cut(strings.TrimSpace(item), "=")
		scheme, err := diagnosis.ParseScheme(name)
		if err != nil {
			return nil, fmt.Errorf("profiles: %q: want SCHEME=FILES, as gaen=archive+keys or bluezone=ids-only", item)
		}
		if profiles[scheme] != nil {
			return nil, fmt.Errorf("profiles: %s stands there twice", scheme)
		}
		kinds, err := parseProfile(words)
		if err == nil {
			err = checkProfile(scheme, kinds)
		}
		if err != nil {
			return nil, fmt.Errorf("profiles: %s: %w", scheme, err)
		}
		profiles[scheme] = kinds
	}
	return profiles, nil
}

func parseProfile(text string) ([]exportlog.FileKind, error) {
	if text == idsOnly {
		return []exportlog.FileKind{exportlog.IDSet}, nil
	}
	words := strings.Split(text, "+")
	var kinds []exportlog.FileKind
	for _, w := range profileWords {
		if slices.Contains(words, w.word) {
			kinds = append(kinds, w.kind)
		}
	}
	if len(kinds) != len(words) {
		return nil, fmt.Errorf("%q: want archive, keys and ids, those you choose joined by +, or %s", text, idsOnly)
	}
	if !publishesKeys(kinds) {
		return nil, fmt.Errorf("ids are for beside keys: write keys+ids, or %s to publish no key", idsOnly)
	}
	return kinds, nil
}

// checkProfile refuses a profile that phones of the scheme could not use.
func checkProfile(s diagnosis.Scheme, kinds []exportlog.FileKind) error {
	if len(kinds) == 0 {
		return errors.New("a profile without files publishes nothing")
	}
	for i, kind := range kinds {
		switch {
		case kind != exportlog.Archive && kind != exportlog.KeySet && kind != exportlog.IDSet:
			return fmt.Errorf("there is no kind of file %q", kind)
		case slices.Contains(kinds[:i], kind):
			return fmt.Errorf(".%s stands there twice", kind)
		case kind == exportlog.Archive && s != diagnosis.GAEN:
			return errors.New("an archive holds GAEN keys only")
		}
	}
	if s == diagnosis.GAEN && !publishesKeys(kinds) {
		return errors.New("it cannot be ids-only: phones with Exposure Notifications take keys and nothing else")
	}
	return nil
}

func publishesKeys(kinds []exportlog.FileKind) bool {
	return slices.Contains(kinds, exportlog.Archive) || slices.Contains(kinds, exportlog.KeySet)
}

// profile is what a window of a scheme gets.
func (c *Config) profile(s diagnosis.Scheme) []exportlog.FileKind {
	if kinds, ok := c.Profiles[s]; ok {
		return kinds
	}
	return DefaultProfiles[s]
}

func (c *Config) checkProfiles() error {
	for s, kinds := range c.Profiles {
		if err := checkProfile(s, kinds); err != nil {
			return fmt.Errorf("profile of %s: %w", s, err)
		}
	}
	// Kernels that this machine lacks are found out now, by a set of nothing, and not when
	// the first window is due.
	nothing := func(func(diagnosis.Key, error) bool) {}
	params := idset.Params{Scheme: diagnosis.Bluezone, End: 1}
	if _, err := idset.Write(io.Discard, params, nothing, idset.Options{Tier: c.Tier}); err != nil {
		return fmt.Errorf("match_tier %q: %w", c.Tier, err)
	}
	return nil
}

// billKeys is the size of the window that a bill is made out for, of keys of billDays days:
// the more keys of a day, the smaller each in a key set.
const (
	billKeys = 10_000
	billDays = 14
)

// Bill says what ID sets cost, one line for each scheme that publishes them. Every phone
// fetches every byte.
func (c *Config) Bill() []string {
	var lines []string
	for _, s := range diagnosis.Schemes {
		kinds := c.profile(s)
		if !slices.Contains(kinds, exportlog.IDSet) {
			continue
		}
		ids, keys := bytesPerKey(s, cmp.Or(c.IDSetBits, idset.DefaultF), billKeys/billDays)
		how := "beside"
		if !publishesKeys(kinds) {
			how = "instead of"
		}
		lines = append(lines, fmt.Sprintf("%s ID sets: %.0f bytes a key, %s %.0f in a key set: %.0f times as much for every phone to fetch",
			s, ids, how, keys, ids/keys))
	}
	return lines
}

// bytesPerKey is what a key that is valid for a whole day takes in an ID set of f bits, and in
// a key set that has n of that day: f + 1.62 bits for each of its IDs, against what a random
// secret among n sorted ones cannot do without. Headers are left out.
func bytesPerKey(s diagnosis.Scheme, f, n int) (ids, keys float64) {
	const overhead, entropy = 1.62, 1.44 // bits; FORMAT.md
	ids = float64(s.PerDay()) * (float64(f) + overhead) / 8
	keys = (float64(8*s.SecretLen()) - math.Log2(float64(n)) + entropy) / 8
	return ids, keys
}
