package permit

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/oprf"
	"github.com/cloudflare/circl/zk/dleq"

	"bluekey/keystore/diagnosis"
)

// Pending is what a phone holds between sending a Redeem and its reply: the key e, the
// nonce and the blind. It is kept until the reply has come, so that a lost reply can be
// asked for again with the same blinded element.
type Pending struct {
	redacted
	private ed25519.PrivateKey
	nonce   [NonceLen]byte
	blind   group.Scalar
	blinded [ElementLen]byte
}

// PendingLen is the length of a Pending in bytes: seed of e, nonce, blind.
const PendingLen = 32 + NonceLen + 32

// NewPending draws e, nonce and blind for one case.
func NewPending() (*Pending, error) {
	var seed, nonce [32]byte
	rand.Read(seed[:])
	rand.Read(nonce[:])
	return newPending(seed, nonce, group.Ristretto255.RandomNonZeroScalar(rand.Reader))
}

// ParsePending reads what Bytes gave.
func ParsePending(b []byte) (*Pending, error) {
	if len(b) != PendingLen {
		return nil, fmt.Errorf("pending permit of %d bytes, want %d", len(b), PendingLen)
	}
	blind := group.Ristretto255.NewScalar()
	if err := blind.UnmarshalBinary(b[64:]); err != nil {
		return nil, fmt.Errorf("pending permit: blind: %w", err)
	}
	return newPending([32]byte(b), [NonceLen]byte(b[32:]), blind)
}

// Bytes is the Pending as a phone stores it between runs. It is secret.
func (p *Pending) Bytes() []byte {
	blind, err := p.blind.MarshalBinary()
	if err != nil {
		panic(fmt.Sprintf("encoding a scalar: %v", err))
	}
	return append(append(p.private.Seed(), p.nonce[:]...), blind...)
}

func newPending(seed [32]byte, nonce [NonceLen]byte, blind group.Scalar) (*Pending, error) {
	p := &Pending{private: ed25519.NewKeyFromSeed(seed[:]), nonce: nonce, blind: blind}
	// The blinded element does not depend on the service's key, which circl asks for here
	// and other libraries do not.
	_, request, err := p.blindFor(anyKey)
	if err != nil {
		return nil, fmt.Errorf("blinding: %w", err)
	}
	blinded, err := request.Elements[0].MarshalBinaryCompress()
	if err != nil {
		return nil, fmt.Errorf("blinding: %w", err)
	}
	p.blinded = [ElementLen]byte(blinded)
	return p, nil
}

// anyKey stands for a key where none is needed: that of the secret key 1.
var anyKey = func() *oprf.PublicKey {
	one := group.Ristretto255.NewScalar().SetUint64(1)
	private := new(oprf.PrivateKey)
	b, err := one.MarshalBinary()
	if err == nil {
		err = private.UnmarshalBinary(suite, b)
	}
	if err != nil {
		panic(fmt.Sprintf("permit: %v", err))
	}
	return private.Public()
}()

func (p *Pending) blindFor(key *oprf.PublicKey) (*oprf.FinalizeData, *oprf.EvaluationRequest, error) {
	return oprf.NewPartialObliviousClient(suite, key).
		DeterministicBlind([][]byte{input(p.e(), p.nonce)}, []oprf.Blind{p.blind})
}

func (p *Pending) e() [32]byte { return [32]byte(p.private.Public().(ed25519.PublicKey)) }

// Redeem is the request that buys the permit with a code in its canonical form.
func (p *Pending) Redeem(code string) RedeemRequest {
	return RedeemRequest{Code: code, Blinded: p.blinded}
}

// ErrTagged means that a Redeem reply names a report type, an epoch or a key that not
// every phone of this day would get. Taking it could mark the phone, so it stops.
var ErrTagged = errors.New("the reply does not fit the published keys of today and yesterday")

// Finalize turns the reply into a permit. today is the phone's own UTC day; published
// gives the public key of an epoch from the phone's verified keyring and from nowhere
// else. The report type must be of the closed list, the epoch today or the day before, and
// the proof must be by that day's published key. The error wraps ErrTagged otherwise.
func (p *Pending) Finalize(s Service, reply RedeemReply, today uint32, published func(epoch uint32) ([PublicKeyLen]byte, bool)) (*Held, error) {
	info := reply.Info
	if !info.Report.Issuable() || !within(info.Epoch, today, 1) {
		return nil, fmt.Errorf("redeem reply of report type %d, epoch %d on day %d: %w", info.Report, info.Epoch, today, ErrTagged)
	}
	listed, ok := published(info.Epoch)
	if !ok {
		return nil, fmt.Errorf("redeem reply: the keyring has no key for day %d: %w", info.Epoch, ErrTagged)
	}
	key, err := parsePublic(listed)
	if err != nil {
		return nil, fmt.Errorf("redeem reply: %w", err)
	}
	output, err := p.finalize(key, s.bytes(info), reply.Evaluation)
	if err != nil {
		return nil, fmt.Errorf("redeem reply of epoch %d: %v: %w", info.Epoch, err, ErrTagged)
	}
	return &Held{
		Permit:  Permit{Info: info, E: p.e(), Nonce: p.nonce, Output: output},
		private: p.private,
	}, nil
}

func (p *Pending) finalize(key *oprf.PublicKey, info []byte, reply Evaluation) (output [OutputLen]byte, err error) {
	data, _, err := p.blindFor(key)
	if err != nil {
		return output, err
	}
	evaluated, proof := group.Ristretto255.NewElement(), new(dleq.Proof)
	if err := evaluated.UnmarshalBinary(reply.Element[:]); err != nil {
		return output, fmt.Errorf("evaluated element: %w", err)
	}
	if err := proof.UnmarshalBinary(group.Ristretto255, reply.Proof[:]); err != nil {
		return output, fmt.Errorf("proof: %w", err)
	}
	outputs, err := oprf.NewPartialObliviousClient(suite, key).
		Finalize(data, &oprf.Evaluation{Elements: []oprf.Evaluated{evaluated}, Proof: proof}, info)
	if err != nil {
		return output, err
	}
	return [OutputLen]byte(outputs[0]), nil
}

// Held is a permit in the hands of the phone that bought it, with the private half of E.
// The phone keeps it until LateUse ends, for keys that come late, and then forgets it.
type Held struct {
	Permit
	private ed25519.PrivateKey
}

// HeldLen is the length of a Held in bytes: seed of e, nonce, output, report type, epoch.
const HeldLen = 32 + NonceLen + OutputLen + 1 + 4

// Bytes is the Held as a phone stores it between runs. It is secret.
func (h *Held) Bytes() []byte {
	b := append(h.private.Seed(), h.Nonce[:]...)
	b = append(append(b, h.Output[:]...), byte(h.Report))
	return appendU32(b, h.Epoch)
}

// ParseHeld reads what Bytes gave.
func ParseHeld(b []byte) (*Held, error) {
	if len(b) != HeldLen {
		return nil, fmt.Errorf("permit of %d bytes, want %d", len(b), HeldLen)
	}
	h := &Held{private: ed25519.NewKeyFromSeed(b[:32])}
	h.E = [32]byte(h.private.Public().(ed25519.PublicKey))
	h.Nonce, h.Output = [NonceLen]byte(b[32:]), [OutputLen]byte(b[64:])
	h.Info = Info{Report: diagnosis.ReportType(b[128]), Epoch: readU32(b[129:])}
	if !h.Report.Issuable() {
		return nil, fmt.Errorf("permit of report type %d", h.Report)
	}
	return h, nil
}

// Upload is the request that hands in keys of one scheme, in any order, signed by E: 1 to
// 30 GAEN keys or 1 to 16 Bluezone seeds, with a known day since onset. Their report type
// is the permit's, whatever they say.
func (h *Held) Upload(s Service, keys []diagnosis.Key) ([]byte, error) {
	return h.upload(s, keys, false)
}

func (h *Held) upload(s Service, keys []diagnosis.Key, cover bool) ([]byte, error) {
	if len(keys) == 0 {
		return nil, errors.New("an upload without keys")
	}
	u := UploadRequest{Cover: cover, Scheme: keys[0].Scheme, Permit: h.Permit, Keys: sorted(keys)}
	if err := u.check(); err != nil {
		return nil, err
	}
	unsigned := u.encode()
	return append(unsigned, ed25519.Sign(h.private, s.signed(&h.Permit, unsigned))...), nil
}
