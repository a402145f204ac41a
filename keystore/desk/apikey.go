package desk

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// APIKey lets a laboratory system issue codes as an officer does: within the same cap, and
// with a line in the journal. The key itself is shown once and kept as a keyed hash.
type APIKey struct {
	ID     string    `json:"id"`
	Label  string    `json:"label"` // which system: no person
	By     string    `json:"by"`
	Made   time.Time `json:"made"`
	Ended  time.Time `json:"ended,omitzero"`
	Hidden []byte    `json:"hidden"` // keyed hash: the name of the row
}

// Officer is the name under which the system issues codes, in caps and journal.
func (k APIKey) Officer() string { return "key-" + k.ID }

// apiPrefix tells people who find a key what it is.
const apiPrefix = "bluekey-"

// MakeAPIKey makes a key and returns it: nothing else will ever show it.
func (o *Office) MakeAPIKey(by Account, label string) (key string, err error) {
	key = apiPrefix + newToken()
	return key, o.write(func(b *pebble.Batch) error {
		if err := cleanField("label", &label, 40, true); err != nil {
			return err
		}
		hidden := o.hidden("api key", key)
		k := APIKey{ID: newID(), Label: label, By: by.ID, Made: o.Now(), Hidden: []byte(hidden)}
		if err := put(b, apiPaper, hidden, k); err != nil {
			return err
		}
		return o.note(b, by.ID, "api key", fmt.Sprintf("%s %s", k.Officer(), label))
	}, nil)
}

// APIKeys lists all keys, the newest first.
func (o *Office) APIKeys() ([]APIKey, error) {
	keys, err := all[APIKey](o.desk.DB, apiPaper)
	slices.SortFunc(keys, func(a, b APIKey) int { return b.Made.Compare(a.Made) })
	return keys, err
}

// EndAPIKey ends a key for good.
func (o *Office) EndAPIKey(by Account, id string) error {
	return o.write(func(b *pebble.Batch) error {
		keys, err := o.APIKeys()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(keys, func(k APIKey) bool { return k.ID == id && k.Ended.IsZero() })
		if i < 0 {
			return ErrNoAccount
		}
		k := keys[i]
		k.Ended = o.Now()
		if err := put(b, apiPaper, string(k.Hidden), k); err != nil {
			return err
		}
		return o.note(b, by.ID, "end api key", fmt.Sprintf("%s %s", k.Officer(), k.Label))
	}, nil)
}

// OpenAPIKey is who holds a key. The error is ErrSession if nobody does, or one of the
// disk.
func (o *Office) OpenAPIKey(key string) (APIKey, error) {
	if !strings.HasPrefix(key, apiPrefix) {
		return APIKey{}, ErrSession
	}
	k, found, err := fetch[APIKey](o.desk.DB, apiPaper, o.hidden("api key", key))
	if err == nil && (!found || !k.Ended.IsZero()) {
		err = ErrSession
	}
	return k, err
}
