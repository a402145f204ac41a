package permit

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"sync"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/oprf"
)

// Issuer is the service's side: it evaluates what codes pay for and checks what uploads
// bring. Its keys, one an epoch, derive from a seed; a decoy key that was drawn when the
// Issuer was made, and that nothing is ever checked against for good, serves cover and
// refused requests at the same cost. Goroutines may share an Issuer.
type Issuer struct {
	redacted
	service Service
	seed    [32]byte
	decoy   *epochKey

	mu   sync.Mutex
	keys map[uint32]*epochKey
}

// epochKey is the key of one epoch, ready to use.
type epochKey struct {
	server oprf.PartialObliviousServer
	public [PublicKeyLen]byte
}

// keptKeys bounds the derived keys that an Issuer holds: those that are in use at any time
// (an epoch until lateDays have passed, the announced ones) fit several times over.
const keptKeys = 32

// NewIssuer makes the Issuer of a service. The seed is secret, is used for nothing else
// and outlives restarts and restores: published keys must come back.
func NewIssuer(s Service, seed [32]byte) (*Issuer, error) {
	if s == (Service{}) {
		return nil, fmt.Errorf("issuer of permits: no service")
	}
	var random [32]byte
	rand.Read(random[:]) // never fails: it ends the process instead
	return &Issuer{
		service: s,
		seed:    seed,
		decoy:   s.derive(random, 0),
		keys:    map[uint32]*epochKey{},
	}, nil
}

// derive gives the key of one epoch: DeriveKeyPair of RFC 9497, section 3.2.1.
func (s Service) derive(seed [32]byte, epoch uint32) *epochKey {
	private, err := oprf.DeriveKey(suite, oprf.PartialObliviousMode, seed[:], s.keyInfo(epoch))
	if err != nil {
		panic(fmt.Sprintf("deriving the key of an epoch: %v", err)) // 255 zero scalars in a row
	}
	k := &epochKey{server: oprf.NewPartialObliviousServer(suite, private)}
	// Public fills a cache without a lock; filled here, goroutines may share the key.
	public, err := private.Public().MarshalBinary()
	if err != nil {
		panic(fmt.Sprintf("encoding the key of an epoch: %v", err))
	}
	k.public = [PublicKeyLen]byte(public)
	return k
}

func (i *Issuer) key(epoch uint32) *epochKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	k := i.keys[epoch]
	if k == nil {
		if len(i.keys) >= keptKeys {
			clear(i.keys)
		}
		k = i.service.derive(i.seed, epoch)
		i.keys[epoch] = k
	}
	return k
}

// PublicKey is the public key of an epoch, as the keyring publishes it.
func (i *Issuer) PublicKey(epoch uint32) [PublicKeyLen]byte { return i.key(epoch).public }

// Evaluation is what a Redeem gets: the evaluated element, and the proof that the key of
// the epoch was used.
type Evaluation struct {
	redacted
	Element [ElementLen]byte
	Proof   [ProofLen]byte
}

// Evaluate evaluates one blinded element under the key of info.Epoch. The same element
// gives the same evaluated element, each time with another proof. The error is ErrElement.
//
// The caller decides which epoch is evaluated: today's, or the recorded one of a Redeem
// that is answered again.
func (i *Issuer) Evaluate(info Info, blinded [ElementLen]byte) (Evaluation, error) {
	return i.evaluate(i.key(info.Epoch), info, blinded)
}

// EvaluateDecoy does the same work as Evaluate under the decoy key. It answers cover and
// refused Redeems; what it gives finalizes nowhere. The error is ErrElement.
func (i *Issuer) EvaluateDecoy(info Info, blinded [ElementLen]byte) (Evaluation, error) {
	i.key(info.Epoch) // the first request of a day derives its key, whatever it carries
	return i.evaluate(i.decoy, info, blinded)
}

func (i *Issuer) evaluate(k *epochKey, info Info, blinded [ElementLen]byte) (Evaluation, error) {
	// circl would evaluate the identity. A bad element costs what a good one does.
	element := group.Ristretto255.NewElement()
	bad := element.UnmarshalBinary(blinded[:]) != nil || element.IsIdentity()
	if bad {
		element = group.Ristretto255.Generator()
	}
	out, err := k.server.Evaluate(&oprf.EvaluationRequest{Elements: []oprf.Blinded{element}}, i.service.bytes(info))
	if err != nil { // the key is the negative of the info's scalar: one chance in 2^252
		return Evaluation{}, fmt.Errorf("evaluating a blinded element: %w", err)
	}
	evaluated, err := out.Elements[0].MarshalBinaryCompress()
	if err != nil {
		return Evaluation{}, fmt.Errorf("evaluating a blinded element: %w", err)
	}
	proof, err := out.Proof.MarshalBinary()
	if err != nil {
		return Evaluation{}, fmt.Errorf("evaluating a blinded element: %w", err)
	}
	if bad {
		return Evaluation{}, ErrElement
	}
	return Evaluation{Element: [ElementLen]byte(evaluated), Proof: [ProofLen]byte(proof)}, nil
}

// Check reports whether an upload brings a permit of this service that may be used, for
// the first time or for late keys, on the day today, and is signed by the permit's E.
// Whether it was used before, and by whom, the store knows.
//
// Every upload costs the same: real and cover, good and bad are all put through both
// checks before anything is decided. A caller checks cover too and ignores the answer.
func (i *Issuer) Check(u *UploadRequest, today uint32) bool {
	p := &u.Permit
	key, inTime := i.decoy, LateUse(p.Epoch, today)
	if inTime { // only these, or strangers could make us derive and forget keys at will
		key = i.key(p.Epoch)
	}
	issued := key.server.VerifyFinalize(input(p.E, p.Nonce), i.service.bytes(p.Info), p.Output[:])
	signed := ed25519.Verify(p.E[:], i.service.signed(p, u.unsigned[:]), u.signature[:])
	return inTime && issued && signed
}
