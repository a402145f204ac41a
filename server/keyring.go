package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"bluekey/keystore"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

// KeysConfig says whose keys PhoneKeys are and where they are kept. All of it must be set.
type KeysConfig struct {
	Origin, Region string
	PermitSeed     [32]byte        // the permit keys derive from it
	Seeds          *keystore.Seeds // of the sealing keys
	// Published gives the keyring as it lies in the public tree; nil if there is none.
	Published func() ([]byte, error)
	// Announce publishes a keyring through the log.
	Announce func(ctx context.Context, keyring []byte) error
	// Retired reports that nothing is to be announced any more; what there is runs out.
	Retired func() bool
	Now     func() time.Time
	Logger  *slog.Logger
}

// PhoneKeys are the keys under which phones buy permits and seal what they say: they are
// announced in time, used on their day and destroyed after it. Safe for concurrent use, but
// for Run, which runs once.
type PhoneKeys struct {
	KeysConfig
	service permit.Service
	issuer  *permit.Issuer
	ring    seal.Ring

	mu     sync.Mutex
	epochs map[uint32]bool // whose permit keys are announced
	err    error           // why phones cannot be served well, nil if they can
}

// ahead is for how many days keys are announced: the log must have them 25 hours before
// their day, and an appliance may be down for a while. More would leave more seeds to lose.
const ahead = 3

// announcing is how long it may take until the log has what is announced: a publication
// that is being made comes first.
const announcing = 15 * time.Minute

var errNoKeyring = errors.New("phones cannot upload yet: the keyring is not published")

// OpenPhoneKeys opens the keys. Until Run has announced the first ones, no request opens.
func OpenPhoneKeys(c KeysConfig) (*PhoneKeys, error) {
	service, err := permit.NewService(c.Origin, c.Region)
	if err != nil {
		return nil, err
	}
	issuer, err := permit.NewIssuer(service, c.PermitSeed)
	if err != nil {
		return nil, err
	}
	k := &PhoneKeys{KeysConfig: c, service: service, issuer: issuer, err: errNoKeyring}
	text, err := c.Published()
	if err == nil && text != nil {
		err = k.take(text)
	}
	if err != nil {
		return nil, err
	}
	return k, nil
}

// Run announces and destroys keys until ctx ends.
func (k *PhoneKeys) Run(ctx context.Context) error {
	for {
		err := k.tend(ctx)
		k.note(err)
		if err != nil && ctx.Err() == nil {
			k.Logger.Error("tending the keys that phones use failed; trying again in a minute", "error", err)
		}
		wait := time.Until(k.Now().UTC().Truncate(time.Hour).Add(time.Hour))
		if err != nil {
			wait = time.Minute
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(wait, time.Second)):
		}
	}
}

// Ready is why phones cannot be served, nil if they can.
func (k *PhoneKeys) Ready() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

func (k *PhoneKeys) note(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
	if today := seal.DayAt(k.Now()); err == nil && !k.Retired() && !(k.epochs[today] && k.holds(today)) {
		k.err = fmt.Errorf("phones cannot upload today: no keys of this day were announced in time, or their seeds in %s are lost", "sealing/")
	}
}

// sells reports whether phones know the permit key of an epoch. A code must not be spent on
// an evaluation that no phone can check.
func (k *PhoneKeys) sells(epoch uint32) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.epochs[epoch]
}

func (k *PhoneKeys) holds(day uint32) bool {
	for _, s := range k.ring.Public() {
		if s.Day == day {
			return true
		}
	}
	return false
}

// tend destroys what is over and announces what is to come.
func (k *PhoneKeys) tend(ctx context.Context) error {
	if err := k.destroy(); err != nil {
		return err
	}
	published, err := k.Published()
	if err != nil || k.Retired() {
		return err
	}
	next, err := k.next(published)
	if err != nil {
		return err
	}
	// In use before anybody can know of them: the first phone may come at once.
	if err := k.take(next); err != nil {
		return err
	}
	if string(next) != string(published) {
		if err := k.Announce(ctx, next); err != nil {
			return fmt.Errorf("announcing keys: %w", err)
		}
	}
	return nil
}

// destroy overwrites the seeds whose time is over, of keys that were never on the ring, too.
func (k *PhoneKeys) destroy() error {
	now := k.Now()
	k.ring.Destroy(now)
	all, err := k.Seeds.All()
	if err != nil {
		return err
	}
	for d, seed := range all {
		key, err := seal.LoadPrivateKey(k.Origin, d, seed[:])
		seal.Wipe(seed[:])
		if err != nil {
			return err
		}
		if now.Before(key.DestroyBy()) {
			continue
		}
		if err := k.Seeds.Destroy(d); err != nil {
			return err
		}
	}
	return nil
}

// next is the keyring that should be published now: what is published of yesterday and
// later, and the keys of days that can still be announced in time. A day that was missed
// stays without keys: two keyrings must never differ in a day.
func (k *PhoneKeys) next(published []byte) ([]byte, error) {
	old := &seal.Keyring{Origin: k.Origin, Region: k.Region}
	if published != nil {
		var err error
		if old, err = k.parse(published); err != nil {
			return nil, err
		}
	}
	now := k.Now()
	today := seal.DayAt(now)
	ring := &seal.Keyring{Origin: k.Origin, Region: k.Region}
	for d := today - 1; d <= today+ahead; d++ {
		inTime := published == nil && d >= today || !now.Add(announcing).After(seal.AnnounceBy(d))
		if key, ok := old.Permit(d); ok {
			ring.Permits = append(ring.Permits, seal.PermitKey{Day: d, Key: key})
		} else if inTime {
			ring.Permits = append(ring.Permits, seal.PermitKey{Day: d, Key: k.issuer.PublicKey(d)})
		}
		if key, ok := sealOf(old, d); ok {
			ring.Seals = append(ring.Seals, key)
		} else if inTime {
			key, err := k.sealKey(d)
			if err != nil {
				return nil, err
			}
			ring.Seals = append(ring.Seals, key)
		}
	}
	return ring.Format()
}

// sealKey is the public sealing key of a day: of the seed that is kept, or of a new one.
func (k *PhoneKeys) sealKey(d uint32) (seal.SealKey, error) {
	all, err := k.Seeds.All()
	if err != nil {
		return seal.SealKey{}, err
	}
	var key *seal.PrivateKey
	if seed, ok := all[d]; ok {
		key, err = seal.LoadPrivateKey(k.Origin, d, seed[:])
		seal.Wipe(seed[:])
	} else {
		key, err = k.newSealKey(d)
	}
	if err != nil {
		return seal.SealKey{}, err
	}
	return seal.SealKey{Day: d, Key: [seal.PublicLen]byte(key.Public().Bytes())}, nil
}

func (k *PhoneKeys) newSealKey(d uint32) (*seal.PrivateKey, error) {
	key, err := seal.NewPrivateKey(k.Origin, d)
	if err != nil {
		return nil, err
	}
	seed, err := key.Seed()
	if err != nil {
		return nil, err
	}
	defer seal.Wipe(seed)
	return key, k.Seeds.Put(d, [keystore.SeedLen]byte(seed))
}

func (k *PhoneKeys) parse(text []byte) (*seal.Keyring, error) {
	ring, err := seal.ParseKeyring(text)
	if err != nil {
		return nil, err
	}
	if ring.Origin != k.Origin || ring.Region != k.Region {
		return nil, fmt.Errorf("the keyring in the public tree is of %s, %s", ring.Origin, ring.Region)
	}
	return ring, nil
}

// take brings into use what a published keyring names and whose secrets are here.
func (k *PhoneKeys) take(published []byte) error {
	ring, err := k.parse(published)
	if err != nil {
		return err
	}
	epochs := map[uint32]bool{}
	for _, p := range ring.Permits {
		if p.Key != k.issuer.PublicKey(p.Day) {
			return fmt.Errorf("the published permit key of day %d is not of this seed: restore the seed", p.Day)
		}
		epochs[p.Day] = true
	}
	k.mu.Lock()
	k.epochs = epochs
	k.mu.Unlock()
	seeds, err := k.Seeds.All()
	if err != nil {
		return err
	}
	now := k.Now()
	for _, s := range ring.Seals {
		seed, ok := seeds[s.Day]
		if !ok || k.holds(s.Day) {
			continue
		}
		key, err := seal.LoadPrivateKey(k.Origin, s.Day, seed[:])
		seal.Wipe(seed[:])
		if err != nil {
			return err
		}
		if [seal.PublicLen]byte(key.Public().Bytes()) != s.Key {
			return fmt.Errorf("the seed kept for day %d is not the one of the published sealing key", s.Day)
		}
		if !now.Before(key.DestroyBy()) {
			continue
		}
		if err := k.ring.Add(key); err != nil {
			return err
		}
	}
	return nil
}

// sealOf gives the sealing key that a keyring has of a day.
func sealOf(ring *seal.Keyring, d uint32) (seal.SealKey, bool) {
	for _, s := range ring.Seals {
		if s.Day == d {
			return s, true
		}
	}
	return seal.SealKey{}, false
}
