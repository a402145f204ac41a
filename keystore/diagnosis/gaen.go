package diagnosis

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
)

// TEK is a GAEN temporary exposure key.
type TEK = [16]byte

// RPIKey derives the rolling proximity identifier key: HKDF-SHA256(TEK, no salt,
// "EN-RPIK", 16).
func RPIKey(tek TEK) [16]byte { return deriveGAEN(tek, "EN-RPIK") }

// AEMKey derives the associated encrypted metadata key: HKDF-SHA256(TEK, no salt,
// "EN-AEMK", 16).
func AEMKey(tek TEK) [16]byte { return deriveGAEN(tek, "EN-AEMK") }

func deriveGAEN(tek TEK, info string) (out [16]byte) {
	b, err := hkdf.Key(sha256.New, tek[:], nil, info, len(out))
	if err != nil {
		panic(err) // only for lengths HKDF cannot give
	}
	copy(out[:], b)
	return out
}

// RPI is the rolling proximity identifier of interval i (ENIN): AES-128 of
// "EN-RPI" ‖ six zero bytes ‖ i in little-endian.
func RPI(rpik [16]byte, i Interval) (id [16]byte) {
	rpiBlock(&id, i)
	newAES(rpik).Encrypt(id[:], id[:])
	return id
}

// AEM encrypts the metadata broadcast beside rpi: AES-128-CTR with rpi as the counter.
// Applied to an AEM it gives the metadata back.
func AEM(aemk, rpi [16]byte, metadata []byte) []byte {
	out := make([]byte, len(metadata))
	cipher.NewCTR(newAES(aemk), rpi[:]).XORKeyStream(out, metadata)
	return out
}

func newAES(key [16]byte) cipher.Block {
	b, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key length is fixed
	}
	return b
}

func rpiBlock(b *[16]byte, i Interval) {
	*b = [16]byte{'E', 'N', '-', 'R', 'P', 'I'}
	binary.LittleEndian.PutUint32(b[12:], uint32(i))
}

func expandGAEN(dst []byte, k *Key) []byte {
	block := newAES(RPIKey(TEK(k.Secret[:16])))
	for i := k.Start; i < k.End(); i++ {
		var id [16]byte
		rpiBlock(&id, i)
		block.Encrypt(id[:], id[:])
		dst = append(dst, id[:]...)
	}
	return dst
}
