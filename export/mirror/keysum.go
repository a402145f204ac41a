package mirror

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"math/bits"

	"bluekey/keystore/diagnosis"
)

// keySum tells sets of keys apart without holding them: the number of keys and the sum,
// modulo 2^128, of a keyed hash of each. The order of keys does not matter, so archives,
// sorted by secret, and a key set, sorted by metadata, are compared as they stream by.
//
// The hash is a CBC-MAC of fixed length under a key drawn for each run. Whoever made the
// files does not know it, so two different sets have one sum with probability 2^-128. An
// unkeyed sum would not do: with many terms to choose from, collisions are cheap.
type keySum struct {
	keys   int
	hi, lo uint64
}

func (s *keySum) add(other keySum) {
	var carry uint64
	s.keys += other.keys
	s.lo, carry = bits.Add64(s.lo, other.lo, 0)
	s.hi, _ = bits.Add64(s.hi, other.hi, carry)
}

// summer makes the sums of one run. A copy makes the same sums; each is for one goroutine.
type summer struct {
	block cipher.Block
	mac   [16]byte // scratch, kept here so that it is not allocated for every key
}

func newSummer() summer {
	var key [16]byte
	rand.Read(key[:]) // never fails: it ends the process instead
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the length is right
	}
	return summer{block: block}
}

// hash is the sum of one key.
func (s *summer) hash(k *diagnosis.Key) keySum {
	mac := s.mac[:]
	clear(mac)
	binary.BigEndian.PutUint32(mac, uint32(k.Start))
	mac[4], mac[5], mac[6], mac[7], mac[8] = byte(k.Scheme), k.Count, byte(k.Report), byte(k.Onset), k.Risk
	s.block.Encrypt(mac, mac)
	for secret := k.Bytes(); len(secret) > 0; secret = secret[len(mac):] {
		subtle.XORBytes(mac, mac, secret[:len(mac)])
		s.block.Encrypt(mac, mac)
	}
	return keySum{1, binary.BigEndian.Uint64(mac), binary.BigEndian.Uint64(mac[8:])}
}
