package gaen

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"

	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
)

// A revision token proves that whoever has it uploaded some keys, and as what:
//
//	token = base64(AES-256-GCM(random nonce ‖ sealed ‖ tag)), additional data naming the
//	        format and the region
//	plain = 60 times: hash (12) ‖ end of the key (4, interval) ‖ report type (1)
//	hash  = the first 12 bytes of SHA-256(secret ‖ start (4) ‖ count (1))
//
// Places that are not used are zero, so all tokens are of one length. The phone keeps it;
// here nothing is kept but the key that opens it.
const (
	tokenPlaces = 2 * keystore.MaxKeys // those of a request, and as many from before
	hashLen     = 12
	placeLen    = hashLen + 4 + 1
	tokenLabel  = "bluekey/v1 gaen revision token\n"
)

var errToken = errors.New("not a revision token of this service")

// proof is what a token says of one key.
type proof struct {
	end    diagnosis.Interval
	report diagnosis.ReportType
}

type proofHash [hashLen]byte

// proofs are what a token says, by a hash of secret, start and count as they were sent.
type proofs struct {
	order []proofHash // newest first
	of    map[proofHash]proof
}

func hashKey(k *diagnosis.Key) proofHash {
	b := append(make([]byte, 0, 21), k.Bytes()...)
	b = binary.BigEndian.AppendUint32(b, uint32(k.Start))
	sum := sha256.Sum256(append(b, k.Count))
	return proofHash(sum[:hashLen])
}

// add notes what is proven of a key behind those that are there, unless it is there.
func (p *proofs) add(h proofHash, what proof) {
	if p.of == nil {
		p.of = map[proofHash]proof{}
	}
	if _, there := p.of[h]; there {
		return
	}
	p.order = append(p.order, h)
	p.of[h] = what
}

// tokens seals and opens revision tokens.
type tokens struct {
	aead  cipher.AEAD
	label []byte
}

func newTokens(key [32]byte, region string) (*tokens, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &tokens{aead, []byte(tokenLabel + region)}, nil
}

// seal makes a token of as many proofs as it holds, the first of them first.
func (t *tokens) seal(p *proofs) string {
	plain := make([]byte, 0, tokenPlaces*placeLen)
	for _, h := range p.order[:min(len(p.order), tokenPlaces)] {
		plain = append(plain, h[:]...)
		plain = binary.BigEndian.AppendUint32(plain, uint32(p.of[h].end))
		plain = append(plain, byte(p.of[h].report))
	}
	return base64.StdEncoding.EncodeToString(t.aead.Seal(nil, nil, plain[:cap(plain)], t.label))
}

// open reads a token and leaves out keys that ended before oldest.
func (t *tokens) open(token string, oldest diagnosis.Interval) (*proofs, error) {
	sealed, err := decode64(token)
	if err != nil {
		return nil, errToken
	}
	plain, err := t.aead.Open(nil, nil, sealed, t.label)
	if err != nil || len(plain) != tokenPlaces*placeLen {
		return nil, errToken
	}
	p := new(proofs)
	for ; len(plain) > 0; plain = plain[placeLen:] {
		h := proofHash(plain)
		end := diagnosis.Interval(binary.BigEndian.Uint32(plain[hashLen:]))
		if end == 0 || end < oldest {
			continue
		}
		p.add(h, proof{end, diagnosis.ReportType(plain[hashLen+4])})
	}
	return p, nil
}
