package keystore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"bluekey/keystore/diagnosis"
)

// handIn does what a phone does: it redeems the code for a permit, and uploads the keys with
// it. The same keys come with the same blinded element, and so with the same permit.
func handIn(ctx context.Context, s *Store, code string, keys []diagnosis.Key) (Receipt, error) {
	blinded := digest(keys)
	p, err := s.Redeem(ctx, Redemption{code, blinded, uint32(s.opt.Now().Unix() / 86400)})
	if err != nil {
		return Receipt{}, err
	}
	u := Upload{permitFor(code, blinded, p.Epoch), slices.Clone(keys)}
	for i := range u.Keys {
		k := &u.Keys[i]
		k.Report, k.Onset = p.Report, k.OnsetOn(p.OnsetDay)
	}
	return s.Upload(ctx, u)
}

// permitFor stands for the permit that a phone gets for a code and a blinded element.
func permitFor(code string, blinded [32]byte, epoch uint32) Permit {
	return Permit{
		Spent: sha256.Sum256(append([]byte("spent"+code), blinded[:]...)),
		E:     sha256.Sum256(append([]byte("e"+code), blinded[:]...)),
		Epoch: epoch, First: true,
	}
}

// digest identifies an upload's keys, whatever their order.
func digest(keys []diagnosis.Key) [32]byte {
	rows := make([]string, len(keys))
	for i := range keys {
		k := &keys[i]
		b := append(make([]byte, 0, 39), byte(k.Scheme))
		b = append(b, k.Secret[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(k.Start))
		rows[i] = string(append(b, k.Count, k.Risk))
	}
	slices.Sort(rows)
	h := sha256.New()
	for _, r := range rows {
		h.Write([]byte(r))
	}
	return [32]byte(h.Sum(nil))
}
