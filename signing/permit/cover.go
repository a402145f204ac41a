package permit

import (
	"crypto/rand"
	"fmt"

	"bluekey/keystore/diagnosis"
)

// coverCode is a code in canonical form that no cover request is ever charged for: the
// service does not look a cover's code up.
const coverCode = "000000000"

// coverKeys is how many records a cover Upload carries: a day each for two weeks, as most
// real ones do.
const coverKeys = 14

// CoverRedeem is a Redeem that asks for nothing. Its blinded element is a real one: an
// invalid one would be refused at another cost.
func CoverRedeem() ([]byte, error) {
	p, err := NewPending()
	if err != nil {
		return nil, err
	}
	r := p.Redeem(coverCode)
	r.Cover = true
	return r.Encode()
}

// CoverUpload is an Upload that hands in nothing: made-up records under a random output,
// validly signed by an e that is thrown away. It costs the service what a real one does.
func CoverUpload(s Service, scheme diagnosis.Scheme, today uint32) ([]byte, error) {
	if !scheme.Valid() || today < coverKeys {
		return nil, fmt.Errorf("cover upload of %v on day %d", scheme, today)
	}
	p, err := NewPending()
	if err != nil {
		return nil, err
	}
	h := Held{
		Permit:  Permit{Info: Info{diagnosis.ConfirmedTest, today}, E: p.e(), Nonce: p.nonce},
		private: p.private,
	}
	rand.Read(h.Output[:])
	keys := make([]diagnosis.Key, coverKeys)
	for i := range keys {
		secret := make([]byte, scheme.SecretLen())
		rand.Read(secret)
		start := diagnosis.Interval(today-uint32(i)-1) * scheme.PerDay()
		if keys[i], err = diagnosis.New(scheme, secret, start, int(scheme.PerDay())); err != nil {
			return nil, fmt.Errorf("cover upload: %w", err)
		}
	}
	return h.upload(s, keys, true)
}
