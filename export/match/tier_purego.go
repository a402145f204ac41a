package match

import (
	"crypto/aes"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"hash"

	"bluekey/keystore/diagnosis"
)

// pureGo is the tier for every machine. "Pure" means without assembly of our own: the
// standard library uses the processor's AES and SHA-256 where it has them, one block at
// a time.
var pureGo = kernels{
	name:           PureGo,
	rpiKeys:        rpiKeysGo,
	expandGAEN:     expandGAENGo,
	probeGAEN:      probeGAENGo,
	expandBluezone: expandBluezoneGo,
	probeBluezone:  probeBluezoneGo,
}

// HKDF's extraction has no salt, so both halves of its HMAC start from a state that is
// the same for every key: that after one block of 0x36 or 0x5c.
var innerState, outerState = padState(0x36), padState(0x5c)

func padState(pad byte) []byte {
	h := sha256.New()
	for range h.BlockSize() {
		h.Write([]byte{pad})
	}
	state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		panic(err) // crypto/sha256 documents that it does not fail
	}
	return state
}

// rpiInfo is HKDF's last input: the label and the number of the output block.
const rpiInfo = "EN-RPIK\x01"

func rpiKeysGo(rpik, teks *secrets16, n int) {
	h := sha256.New()
	var sum [32]byte
	for i := range n {
		prk := resume(h, innerState, teks[i][:], sum[:0])
		prk = resume(h, outerState, prk, prk[:0])
		var inner [64 + len(rpiInfo)]byte
		var outer [64 + 32]byte
		for j := range 64 {
			inner[j], outer[j] = 0x36, 0x5c
		}
		for j, b := range prk {
			inner[j] ^= b
			outer[j] ^= b
		}
		copy(inner[64:], rpiInfo)
		mid := sha256.Sum256(inner[:])
		copy(outer[64:], mid[:])
		okm := sha256.Sum256(outer[:])
		rpik[i] = [16]byte(okm[:16])
	}
}

// resume hashes block after a saved state.
func resume(h hash.Hash, state, block, sum []byte) []byte {
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
		panic(err) // the state is one that h gave
	}
	h.Write(block)
	return h.Sum(sum)
}

func expandGAENGo(ids *gaenIDs, rpik *[groupKeys][16]byte, starts *[groupKeys]uint32, n, steps int) {
	for lane := range n {
		block, err := aes.NewCipher(rpik[lane][:])
		if err != nil {
			panic(err) // the key length is fixed
		}
		for j := range steps {
			id := &ids[lane][j]
			*id = [16]byte{'E', 'N', '-', 'R', 'P', 'I'}
			binary.LittleEndian.PutUint32(id[12:], starts[lane]+uint32(j))
			block.Encrypt(id[:], id[:])
		}
	}
}

func probeGAENGo(ids *gaenIDs, rpik *[groupKeys][16]byte, starts *[groupKeys]uint32, n, steps int, f *filter, masks *gaenMasks) {
	expandGAENGo(ids, rpik, starts, n, steps)
	clear(masks[:])
	for lane := range n {
		for j := range steps {
			id := &ids[lane][j]
			if f.has(binary.LittleEndian.Uint32(id[:]), binary.LittleEndian.Uint32(id[4:])) {
				bit := 4*lane + j%4
				masks[j/4*2+bit/8] |= 1 << (bit % 8)
			}
		}
	}
}

func expandBluezoneGo(ids *bluezoneIDs, seeds *secrets32, n, steps int) {
	for lane := range n {
		sub := seeds[lane]
		for j := range steps {
			if j > 0 {
				sub = sha256.Sum256(sub[:])
			}
			id := diagnosis.BluezoneID(sub)
			for w := range 3 {
				ids[j][w][lane] = binary.LittleEndian.Uint32(id[4*w:])
			}
		}
	}
}

func probeBluezoneGo(ids *bluezoneIDs, seeds *secrets32, n, steps int, f *filter, masks *bluezoneMasks) {
	expandBluezoneGo(ids, seeds, n, steps)
	probeBluezoneIDs(ids, n, steps, f, masks)
}

// probeBluezoneIDs tests IDs that have been made.
func probeBluezoneIDs(ids *bluezoneIDs, n, steps int, f *filter, masks *bluezoneMasks) {
	for j := range steps {
		var m uint16
		for lane := range n {
			if f.has(ids[j][0][lane], ids[j][1][lane]) {
				m |= 1 << lane
			}
		}
		binary.LittleEndian.PutUint16(masks[2*j:], m)
	}
}
