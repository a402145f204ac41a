package phone

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
	"bluekey/signing/seal"
)

// TestKeyringIsNotBelieved: no key is taken that the log does not vouch for, and then not a
// byte is sent.
func TestKeyringIsNotBelieved(t *testing.T) {
	proof := exportlog.KeyringPath + exportlog.ProofSuffix
	for _, row := range []struct {
		name   string
		tamper func(s *service)
		says   string
	}{
		{"missing", func(s *service) { s.place.remove(exportlog.KeyringPath) }, "keyring"},
		{"without its proof", func(s *service) { s.place.remove(proof) }, "tlog-proof is missing"},
		{"altered", func(s *service) {
			k := s.keyring()
			k.Permits[0].Key[0] ^= 1
			text, err := k.Format()
			if err != nil {
				t.Fatal(err)
			}
			s.place.write(exportlog.KeyringPath, text)
		}, "not the file of its entry"},
		{"proof altered", func(s *service) {
			b := s.place.read(proof)
			at := strings.Index(string(b), "\n\n") - 5
			b[at] ^= 1
			s.place.write(proof, b)
		}, "proof"},
		{"of another log", func(s *service) {
			foreign := newServiceAt(t, newPlaceOf(t, "other.example", 9, exportlog.PolicyTerms{}))
			s.place.write(exportlog.KeyringPath, foreign.place.read(exportlog.KeyringPath))
			s.place.write(proof, foreign.place.read(proof))
		}, "no log of this origin"},
		{"of another service, in this log", func(s *service) {
			k := s.keyring()
			k.Origin = "other.example"
			s.announce(k)
		}, "it is of other.example"},
		{"proof of another file", func(s *service) {
			text := s.place.read(exportlog.KeyringPath)
			s.place.proveFile(exportlog.SmallFile{Path: exportlog.FeedsPath, Size: int64(len(text)), SHA256: sha256.Sum256(text)}, exportlog.KeyringPath)
		}, "of another file"},
		{"not a keyring", func(s *service) {
			text := append(s.place.read(exportlog.KeyringPath), '\n')
			s.place.write(exportlog.KeyringPath, text)
			s.place.proveFile(exportlog.SmallFile{Path: exportlog.KeyringPath, Size: int64(len(text)), SHA256: sha256.Sum256(text)}, exportlog.KeyringPath)
		}, "keyring"},
		{"of last week", func(s *service) {
			k := s.keyring()
			for i := range k.Permits {
				k.Permits[i].Day -= 7
			}
			for i := range k.Seals {
				k.Seals[i].Day -= 7
			}
			s.announce(k)
		}, "check the phone's clock"},
	} {
		s := newService(t)
		row.tamper(s)
		err := s.client().Cover(context.Background(), diagnosis.GAEN)
		if err == nil || !strings.Contains(err.Error(), row.says) || len(s.sealed) > 0 {
			t.Errorf("%s: %v, %d requests; want %q and none", row.name, err, len(s.sealed), row.says)
		}
	}
	s := newService(t)
	s.place.remove(exportlog.KeyringPath)
	if _, err := s.client().Keyring(context.Background()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing keyring: %v", err)
	}
}

// TestQuorumOfTheKeyring: a pinned policy that wants a witness gets no keys without it; the
// tree's own policy is no better for it.
func TestQuorumOfTheKeyring(t *testing.T) {
	w, err := signing.NewWitnessKeys("witness.example", [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	p := newPlaceOf(t, origin, 1, exportlog.PolicyTerms{Quorum: 1, Witnesses: []exportlog.PolicyWitness{{Name: "w", Ed25519: w.VKeys()[0], MLDSA44: w.VKeys()[1]}}})
	s, ctx := newServiceAt(t, p), context.Background()
	if _, err := s.client().Keyring(ctx); !errors.Is(err, exportlog.ErrQuorum) {
		t.Errorf("without its witness: %v", err)
	}
	c := s.client()
	c.Policy = nil
	var notes []string
	c.Note = func(n string) { notes = append(notes, n) }
	if _, err := c.Keyring(ctx); err != nil || len(notes) != 1 {
		t.Errorf("%v, notes %q", err, notes)
	}
}

// TestTwoKeysForADay: the phone that knew the first one uses neither, also after a restart.
func TestTwoKeysForADay(t *testing.T) {
	for name, exchange := range map[string]func(k *seal.Keyring, other *service){
		"permit": func(k *seal.Keyring, _ *service) { k.Permits[2].Key = k.Permits[3].Key },
		"seal":   func(k *seal.Keyring, other *service) { k.Seals[1] = other.keyring().Seals[1] },
	} {
		s, ctx := newService(t), context.Background()
		known, err := s.client().Keyring(ctx)
		if err != nil {
			t.Fatal(err)
		}
		k := s.keyring()
		k.Permits, k.Seals = slices.Clone(k.Permits), slices.Clone(k.Seals)
		exchange(k, newService(t))
		s.announce(k)
		if _, err := s.client().Keyring(ctx); err != nil {
			t.Errorf("%s: a phone that knew nothing: %v", name, err)
		}
		again, err := NewClient(Options{URL: s.url, Policy: s.place.policy, Known: known, Now: s.clock})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.current(ctx, known); !errors.Is(err, ErrTwoKeys) {
			t.Errorf("%s: %v, want ErrTwoKeys", name, err)
		}
	}
}
