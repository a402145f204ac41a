package seal

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// What is decided before opening, and so in clear.
var (
	ErrLength = errors.New("a sealed request has 2,168 bytes")
	ErrKey    = errors.New("unknown sealing key: fetch the keyring again")
)

// Ring holds the sealing keys of the service, one a day, and picks the one that a request
// names. Goroutines may share a Ring. The zero Ring is empty.
type Ring struct {
	redacted
	mu   sync.RWMutex
	keys map[KeyID]*PrivateKey
}

// Add adds a key. It refuses a second key for one day: phones that were given different
// keys could be told apart, and an auditor would find it.
func (r *Ring) Add(k *PrivateKey) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, other := range r.keys {
		if other.day == k.day {
			return fmt.Errorf("there is a sealing key for day %d already", k.day)
		}
		if other.origin != k.origin {
			return fmt.Errorf("sealing keys of %s and %s on one ring", other.origin, k.origin)
		}
	}
	if r.keys == nil {
		r.keys = map[KeyID]*PrivateKey{}
	}
	r.keys[k.public.id] = k
	return nil
}

// Open opens a request that arrived at the time now. The error is ErrLength, ErrKey (a key
// that the ring has not, or not at this time) or ErrSealed.
func (r *Ring) Open(request []byte, now time.Time) (*Opened, error) {
	if len(request) != RequestLen {
		return nil, ErrLength
	}
	r.mu.RLock()
	k := r.keys[KeyID(request[:keyIDLen])]
	r.mu.RUnlock()
	if k == nil || !k.Accepts(now) {
		return nil, ErrKey
	}
	return k.open(request)
}

// Public gives the public keys on the ring, the earliest day first.
func (r *Ring) Public() []SealKey {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var keys []SealKey
	for _, k := range r.keys {
		keys = append(keys, SealKey{k.day, [PublicLen]byte(k.public.Bytes())})
	}
	slices.SortFunc(keys, func(a, b SealKey) int { return int(int64(a.Day) - int64(b.Day)) })
	return keys
}

// Destroy takes the keys off the ring whose time is over and wipes their seeds. It gives
// their days, earliest first, so that the caller overwrites what it has stored of them.
func (r *Ring) Destroy(now time.Time) []uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var days []uint32
	for id, k := range r.keys {
		if !now.Before(k.DestroyBy()) {
			delete(r.keys, id)
			k.destroy()
			days = append(days, k.day)
		}
	}
	slices.Sort(days)
	return days
}
