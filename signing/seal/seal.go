// Package seal closes what a phone and the service say to each other, so that whoever ends
// the connection between them, a CDN for one, sees that some phone called and nothing
// else. Every request is 2,168 bytes and every reply 560, whatever they hold.
//
//	request = key id (8) ‖ enc (1,120) ‖ ciphertext (1,024 + 16)
//	reply   = reply nonce (32) ‖ ciphertext (512 + 16)
//
// A request is HPKE (RFC 9180) in base mode, of the standard library, with
//
//	KEM   647a  X-Wing: ML-KEM-768 and X25519 (draft-ietf-hpke-pq); both must fall
//	KDF   0001  HKDF-SHA256
//	AEAD  0003  ChaCha20-Poly1305
//	info  "bluekey/v1 seal\n" origin "\n" key id;  aad empty
//
// A request can be recorded and sent again, and be answered differently. So a reply has a
// nonce of its own, from which its key derives together with the exported secret of the
// request, as in RFC 9458 (section 4.4):
//
//	secret = Export("bluekey/v1 reply", 32)
//	prk    = HKDF-Extract(SHA-256, salt = enc ‖ reply nonce, ikm = secret)
//	key    = HKDF-Expand(prk, "key", 32);  nonce = HKDF-Expand(prk, "nonce", 12)
//	ciphertext = ChaCha20-Poly1305(key, nonce, aad "", plaintext)
//
// The service has one sealing key a UTC day, drawn at random and destroyed 48 hours after
// its day began: a machine that is seized later opens nothing that was recorded. The
// public keys are announced in the keyring, a file of the transparency log, so that no
// phone can be given a key of its own. FORMAT-keyring.md has its grammar.
//
// What the plaintexts mean is package permit's business. This package has no clock and
// writes no file; private keys print redacted.
package seal

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// Lengths in bytes.
const (
	PlainRequestLen = 1024
	PlainReplyLen   = 512

	RequestLen = keyIDLen + encLen + PlainRequestLen + tagLen // on the wire
	ReplyLen   = replyNonceLen + PlainReplyLen + tagLen       // on the wire
	PublicLen  = 1216                                         // of a public sealing key

	keyIDLen      = 8
	encLen        = 1120 // X-Wing: ML-KEM-768 ciphertext and X25519 share
	tagLen        = chacha20poly1305.Overhead
	replyNonceLen = 32
)

const (
	labelKeyID = "bluekey/v1 seal key\n"
	labelInfo  = "bluekey/v1 seal\n"
	labelReply = "bluekey/v1 reply"
)

var (
	kem  = hpke.MLKEM768X25519()
	kdf  = hpke.HKDFSHA256()
	aead = hpke.ChaCha20Poly1305()
)

// KeyID names a sealing key of an origin: the first bytes of a hash of both.
type KeyID [keyIDLen]byte

func keyID(origin string, public []byte) KeyID {
	h := sha256.Sum256(append([]byte(labelKeyID+origin+"\n"), public...))
	return KeyID(h[:])
}

func info(origin string, id KeyID) []byte {
	return append([]byte(labelInfo+origin+"\n"), id[:]...)
}

// PublicKey seals requests. Goroutines may share it.
type PublicKey struct {
	origin string
	id     KeyID
	key    hpke.PublicKey
}

// ParsePublicKey reads a public sealing key of an origin, PublicLen bytes, as the keyring
// has it. It refuses an ML-KEM part that is not reduced.
func ParsePublicKey(origin string, b []byte) (*PublicKey, error) {
	if err := checkName(origin); err != nil {
		return nil, fmt.Errorf("sealing key: origin: %w", err)
	}
	key, err := kem.NewPublicKey(b)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	return &PublicKey{origin, keyID(origin, b), key}, nil
}

// ID is the name that requests call the key by.
func (k *PublicKey) ID() KeyID { return k.id }

// Bytes is the key in PublicLen bytes.
func (k *PublicKey) Bytes() []byte { return k.key.Bytes() }

// Seal seals a request of PlainRequestLen bytes. Sent is what opens its reply. The same
// plaintext never gives the same request.
func (k *PublicKey) Seal(plain []byte) (request []byte, sent *Sent, err error) {
	if len(plain) != PlainRequestLen {
		return nil, nil, fmt.Errorf("sealing a request of %d bytes, want %d", len(plain), PlainRequestLen)
	}
	enc, sender, err := hpke.NewSender(k.key, kdf, aead, info(k.origin, k.id))
	if err != nil {
		return nil, nil, fmt.Errorf("sealing a request: %w", err)
	}
	ciphertext, err := sender.Seal(nil, plain)
	if err != nil {
		return nil, nil, fmt.Errorf("sealing a request: %w", err)
	}
	secret, err := sender.Export(labelReply, sha256.Size)
	if err != nil {
		return nil, nil, fmt.Errorf("sealing a request: %w", err)
	}
	request = make([]byte, 0, RequestLen)
	request = append(append(append(request, k.id[:]...), enc...), ciphertext...)
	return request, &Sent{replyKeys{secret: secret, enc: enc}}, nil
}

// ErrReply means that a reply is not one to this request, or was altered. It is also what
// a phone gets whose request arrived altered.
var ErrReply = errors.New("not a reply to this request")

// Sent opens the replies to one request. It prints redacted.
type Sent struct{ replyKeys }

// Open opens a reply; it gives PlainReplyLen bytes. The error is ErrReply. A reply can be
// opened more than once: that it is new must follow from what it says.
func (s *Sent) Open(reply []byte) ([]byte, error) {
	if len(reply) != ReplyLen {
		return nil, ErrReply
	}
	c, nonce, err := s.cipher(reply[:replyNonceLen])
	if err != nil {
		return nil, fmt.Errorf("opening a reply: %w", err)
	}
	plain, err := c.Open(nil, nonce, reply[replyNonceLen:], nil)
	if err != nil {
		return nil, ErrReply
	}
	return plain, nil
}

// Opened is a request that was opened, and what seals its replies. It prints redacted.
type Opened struct {
	replyKeys
	Plain []byte // PlainRequestLen bytes
}

// Seal seals a reply of PlainReplyLen bytes under a fresh nonce.
func (o *Opened) Seal(plain []byte) ([]byte, error) {
	var nonce [replyNonceLen]byte
	rand.Read(nonce[:]) // never fails: it ends the process instead
	return o.seal(nonce, plain)
}

func (o *Opened) seal(replyNonce [replyNonceLen]byte, plain []byte) ([]byte, error) {
	if len(plain) != PlainReplyLen {
		return nil, fmt.Errorf("sealing a reply of %d bytes, want %d", len(plain), PlainReplyLen)
	}
	c, nonce, err := o.cipher(replyNonce[:])
	if err != nil {
		return nil, fmt.Errorf("sealing a reply: %w", err)
	}
	reply := append(make([]byte, 0, ReplyLen), replyNonce[:]...)
	return c.Seal(reply, nonce, plain, nil), nil
}

// NoReply is what answers a request that could not be opened: random bytes, which nobody
// but the sender can tell from a reply.
func NoReply() []byte {
	b := make([]byte, ReplyLen)
	rand.Read(b)
	return b
}

// replyKeys are what both sides know once a request was opened.
type replyKeys struct {
	redacted
	secret []byte
	enc    []byte
}

func (r *replyKeys) cipher(replyNonce []byte) (c cipher.AEAD, nonce []byte, err error) {
	salt := append(append(make([]byte, 0, encLen+replyNonceLen), r.enc...), replyNonce...)
	prk, err := hkdf.Extract(sha256.New, r.secret, salt)
	if err != nil {
		return nil, nil, err
	}
	key, err := hkdf.Expand(sha256.New, prk, "key", chacha20poly1305.KeySize)
	if err != nil {
		return nil, nil, err
	}
	if nonce, err = hkdf.Expand(sha256.New, prk, "nonce", chacha20poly1305.NonceSize); err != nil {
		return nil, nil, err
	}
	c, err = chacha20poly1305.New(key)
	return c, nonce, err
}
