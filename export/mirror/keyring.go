package mirror

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"bluekey/export/exportlog"
	"bluekey/signing/seal"
)

// The log has the digest of every keyring and the tree has the newest one only. So what an
// audit can say of a key of the service is what it has read in keyrings itself: each audit
// remembers the keys it saw, for the next.

// serviceKey names a key of the service.
type serviceKey struct {
	kind string // "permit" or "seal"
	day  uint32 // UTC day since the epoch
}

func (k serviceKey) String() string {
	return fmt.Sprintf("%s key of %s", k.kind, time.Unix(int64(k.day)*86400, 0).UTC().Format(time.DateOnly))
}

// serviceKeys are the keys of a keyring by their digests.
type serviceKeys map[serviceKey][32]byte

func serviceKeysOf(r *seal.Keyring) serviceKeys {
	keys := serviceKeys{}
	for _, k := range r.Permits {
		keys[serviceKey{"permit", k.Day}] = sha256.Sum256(k.Key[:])
	}
	for _, k := range r.Seals {
		keys[serviceKey{"seal", k.Day}] = sha256.Sum256(k.Key[:])
	}
	return keys
}

// ordered are the names of the keys, permits first, by day.
func (k serviceKeys) ordered() []serviceKey {
	return slices.SortedFunc(maps.Keys(k), func(a, b serviceKey) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.day, b.day))
	})
}

// keyringSeen is what is remembered of a log's keyrings.
type keyringSeen struct {
	entry uint64 // that named the last one
	keys  serviceKeys
}

// rememberDays is for how many days before and after its own a key is remembered. Keys are
// announced a few days ahead and forgotten by phones a few days later.
const rememberDays = 30

// read takes the keys of a keyring into memory. Of two for one day the first stays.
func (s *keyringSeen) read(entry uint64, keys serviceKeys, now time.Time) *keyringSeen {
	next := &keyringSeen{entry: entry, keys: serviceKeys{}}
	if s != nil {
		next.entry = max(entry, s.entry)
		maps.Copy(keys, s.keys)
	}
	today := int64(seal.DayAt(now))
	for k, digest := range keys {
		if day := int64(k.day); day >= today-rememberDays && day <= today+rememberDays {
			next.keys[k] = digest
		}
	}
	return next
}

// keyring checks the keyring that an entry names: what it says of itself, and its keys
// against those of earlier ones.
func (a *audit) keyring(text []byte, of smallFile) {
	r, err := seal.ParseKeyring(text)
	if err != nil {
		a.report.findEntry(CodeKeyring, of.entry, exportlog.KeyringPath, "%v", err)
		return
	}
	if r.Origin != a.checkpoint.Origin {
		a.report.findEntry(CodeKeyring, of.entry, exportlog.KeyringPath, "it is of %s", r.Origin)
		return
	}
	if !a.ledger.serves(r.Region) {
		a.report.findEntry(CodeKeyring, of.entry, exportlog.KeyringPath, "it is of region %s, of which the log has no window", r.Region)
	}
	keys := serviceKeysOf(r)
	a.report.ServiceKeys = len(keys)
	before := a.ledger.seenKeys
	if before == nil {
		a.report.unsee("when the service's keys were announced, and whether there were others for their days: this audit remembers no keyring")
	} else {
		a.report.unsee("keyrings that came and went since the last audit: the log has only their digests")
	}
	a.againstSeen(keys, before, of)
	if a.kept {
		a.State.readKeyring(a.checkpoint.Origin, of.entry, keys, a.now)
	}
}

// againstSeen holds the keys of a keyring against those that were seen before.
func (a *audit) againstSeen(keys serviceKeys, before *keyringSeen, of smallFile) {
	if before == nil {
		return
	}
	late := a.ledger.small[exportlog.KeyringPath].unread
	if late == nil && of.entry > before.entry {
		late = &of
	}
	for _, k := range keys.ordered() {
		was, known := before.keys[k]
		switch {
		case known && was != keys[k]:
			a.report.findEntry(CodeServiceKeySecond, of.entry, exportlog.KeyringPath,
				"the %s is another than one seen before: phones with different keys can be told apart (SHA-256 %x, before %x)", k, keys[k], was)
		case known || late == nil:
		case late.logged > seal.AnnounceBy(k.day).Unix():
			a.report.findEntry(CodeServiceKeyLate, of.entry, exportlog.KeyringPath,
				"the %s was announced at %s at the earliest, after %s", k, at(late.logged), at(seal.AnnounceBy(k.day).Unix()))
		}
	}
	if of.entry <= before.entry {
		return
	}
	for _, k := range before.keys.ordered() {
		if _, there := keys[k]; !there && k.day >= seal.DayAt(time.Unix(of.logged, 0)) {
			a.report.findEntry(CodeServiceKeyDropped, of.entry, exportlog.KeyringPath, "the %s, which was announced before, is left out though its day has not passed", k)
		}
	}
}

// serves reports whether the log has windows of a region. One without windows may be of any.
func (l *ledger) serves(region string) bool {
	for id := range l.chains {
		if id.region == region {
			return true
		}
	}
	return len(l.chains) == 0
}

// readKeyring remembers the keys of a log's keyring.
func (s *State) readKeyring(origin string, entry uint64, keys serviceKeys, now time.Time) {
	if s.keyrings == nil {
		s.keyrings = map[string]*keyringSeen{}
	}
	s.keyrings[origin] = s.keyrings[origin].read(entry, maps.Clone(keys), now)
}

// keyringFile is the JSON form of a keyringSeen. Its keys are lines of kind, day and SHA-256
// in lower-case hex, permits first, days ascending.
type keyringFile struct {
	Origin string   `json:"origin"`
	Entry  uint64   `json:"entry"`
	Keys   []string `json:"keys"`
}

func (s *keyringSeen) format(origin string) keyringFile {
	f := keyringFile{Origin: origin, Entry: s.entry, Keys: []string{}}
	for _, k := range s.keys.ordered() {
		f.Keys = append(f.Keys, fmt.Sprintf("%s %d %x", k.kind, k.day, s.keys[k]))
	}
	return f
}

// parse reads what format writes; that it is the one form of it is seen by the caller.
func (f keyringFile) parse() (*keyringSeen, error) {
	s := &keyringSeen{entry: f.Entry, keys: serviceKeys{}}
	for _, line := range f.Keys {
		part := strings.Split(line, " ")
		if len(part) != 3 || part[0] != "permit" && part[0] != "seal" {
			return nil, fmt.Errorf("key %.40q", line)
		}
		day, err := strconv.ParseUint(part[1], 10, 32)
		digest, err2 := hex.DecodeString(part[2])
		if err = errors.Join(err, err2); err != nil || len(digest) != sha256.Size {
			return nil, fmt.Errorf("key %.40q: %w", line, cmp.Or(err, errors.New("want a SHA-256")))
		}
		s.keys[serviceKey{part[0], uint32(day)}] = [32]byte(digest)
	}
	return s, nil
}
