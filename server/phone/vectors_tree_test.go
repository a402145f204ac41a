package phone

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
)

type sightingVector struct {
	ID    string `json:"id"`
	Seen  int64  `json:"seen"`
	Match bool   `json:"match"`
	Why   string `json:"why"`
}

type proofVector struct {
	Name   string `json:"name"`
	Policy string `json:"policy"`
	Proof  string `json:"proof"`
	File   string `json:"file"` // path in tree/
	Good   bool   `json:"good"`
}

type treeFile struct {
	About     string           `json:"about"`
	Today     uint32           `json:"today"` // the phone's day
	Origin    string           `json:"origin"`
	Region    string           `json:"region"`
	Keyring   map[string]any   `json:"keyring"`
	Notices   map[string]any   `json:"notices"`
	Keys      []keyVector      `json:"keys"` // of all exports
	Sightings []sightingVector `json:"sightings"`
	Proofs    []proofVector    `json:"proofs"`
}

// treeVectors is a whole public tree, with what a phone finds in it, and its service.
func treeVectors(t *testing.T) (files map[string][]byte, f *treeFile, s *service) {
	t.Helper()
	p := newPlace(t)
	gaen, seeds := p.draw(diagnosis.GAEN, 6), p.draw(diagnosis.Bluezone, 6)
	paths := append(p.window(gaen, exportlog.KeySet), p.window(seeds, exportlog.KeySet)...)
	s = newServiceAt(t, p)
	p.post(goodNotices, day*86400+3600)
	p.index.Size = p.log.Size()
	p.writeIndex()
	p.write(exportlog.CheckpointPath, p.checkpoint())
	files = map[string][]byte{}
	for _, path := range append(paths, paths[0]+exportlog.ProofSuffix, paths[1]+exportlog.ProofSuffix, exportlog.IndexPath, exportlog.CheckpointPath, exportlog.PolicyPath, exportlog.KeyringPath, exportlog.KeyringPath+exportlog.ProofSuffix, noticesPath, noticesPath+exportlog.ProofSuffix) {
		files[path] = p.read(path)
	}
	f = &treeFile{About: "tree/ is a public tree: two windows, a keyring and notices. What its files say, what a phone that heard these IDs finds, and proofs that hold or do not", Today: day, Origin: origin, Region: region}
	ring := s.keyring()
	ids := map[uint32]hexes{}
	for _, k := range ring.Seals {
		public, err := ring.Seal(k.Day)
		if err != nil {
			t.Fatal(err)
		}
		id := public.ID()
		ids[k.Day] = id[:]
	}
	permits := map[uint32]hexes{}
	for _, k := range ring.Permits {
		permits[k.Day] = k.Key[:]
	}
	digest := sha256.Sum256(files[exportlog.KeyringPath])
	f.Keyring = map[string]any{"sha256": hexes(digest[:]), "size": len(files[exportlog.KeyringPath]), "permits": permits, "seal_key_ids": ids}
	f.Notices = map[string]any{"entry": p.log.Size() - 1, "time": day*86400 + 3600}
	for _, k := range slices.Concat(gaen, seeds) {
		f.Keys = append(f.Keys, keyVector{Secret: k.Bytes(), Start: uint32(k.Start), Count: k.Count, Risk: k.Risk, Onset: int8(k.Onset)})
	}
	f.Sightings = sightingVectors(t, p, gaen[2], seeds[4])
	f.Proofs = proofVectors(t, p, files, paths)
	return files, f, s
}

func sightingVectors(t *testing.T, p *place, gaen, seed diagnosis.Key) (list []sightingVector) {
	t.Helper()
	var sightings []Sighting
	add := func(k diagnosis.Key, interval int, offset int64, match bool, why string) {
		s := heard(k, interval)[0]
		s.Seen = k.Scheme.Time(k.Start+diagnosis.Interval(interval)).Unix() + offset
		sightings = append(sightings, s)
		list = append(list, sightingVector{hex.EncodeToString(s.ID[:k.Scheme.IDLen()]), s.Seen, match, why})
	}
	add(gaen, 70, 300, true, "in its interval")
	add(gaen, 71, -7200, true, "two hours early")
	add(gaen, 72, -7201, false, "a second earlier")
	add(gaen, 73, 7799, true, "just less than two hours after the interval's end")
	add(gaen, 74, 7800, false, "a second later")
	add(gaen, 143, 1, true, "last interval of the key")
	add(seed, 20, 450, true, "in its interval")
	add(seed, 21, -120, true, "two minutes early")
	add(seed, 22, -121, false, "a second earlier")
	add(seed, 23, 1019, true, "just less than two minutes after the interval's end")
	add(seed, 24, 1020, false, "a second later")
	add(diagnosis.Key{Scheme: diagnosis.GAEN, Start: gaen.Start, Count: 144}, 70, 300, false, "of a key that nobody published")
	found := map[int]bool{}
	err := Match(context.Background(), sightings, []string{p.dir}, MatchOptions{Policy: p.policy}, func(m Found) error {
		found[m.Sighting] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range list {
		if found[i] != row.Match {
			t.Errorf("sighting %q: match %v", row.Why, found[i])
		}
	}
	return list
}

func proofVectors(t *testing.T, p *place, files map[string][]byte, paths []string) (list []proofVector) {
	t.Helper()
	policy := string(files[exportlog.PolicyPath])
	foreign := string(newPlaceOf(t, origin, 9, exportlog.PolicyTerms{}).read(exportlog.PolicyPath))
	keyring := string(files[exportlog.KeyringPath+exportlog.ProofSuffix])
	lines := strings.SplitAfter(keyring, "\n")
	without := func(n int) string { return strings.Join(slices.Delete(slices.Clone(lines), n, n+1), "") }
	ed25519Line, mldsaLine := len(lines)-3, len(lines)-2
	extra, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(strings.TrimPrefix(lines[1], "extra "), "\n"))
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(extra), "path keyring", "path feeds.json", 1)
	for _, row := range []proofVector{
		{"the keyring's", policy, keyring, exportlog.KeyringPath, true},
		{"a window's", policy, string(files[paths[0]+exportlog.ProofSuffix]), paths[0], true},
		{"under keys that are not pinned", foreign, keyring, exportlog.KeyringPath, false},
		{"without the Ed25519 signature", policy, without(ed25519Line), exportlog.KeyringPath, false},
		{"without the ML-DSA-44 signature", policy, without(mldsaLine), exportlog.KeyringPath, false},
		{"another index", policy, strings.Replace(keyring, "index 2\n", "index 1\n", 1), exportlog.KeyringPath, false},
		{"a hash fewer", policy, without(3), exportlog.KeyringPath, false},
		{"another entry", policy, strings.Replace(keyring, lines[1], "extra "+base64.StdEncoding.EncodeToString([]byte(other))+"\n", 1), exportlog.KeyringPath, false},
		{"of another file", policy, string(files[paths[1]+exportlog.ProofSuffix]), exportlog.KeyringPath, false},
		{"a second spelling: CRLF", policy, strings.ReplaceAll(keyring, "\n", "\r\n"), exportlog.KeyringPath, false},
	} {
		pinned, err := exportlog.ParsePolicy([]byte(row.Policy))
		if err != nil {
			t.Fatal(err)
		}
		proved, err := exportlog.VerifyProof([]byte(row.Proof), pinned)
		if err == nil {
			data := files[row.File]
			_, err = proved.File(int64(len(data)), sha256.Sum256(data))
		}
		if (err == nil) != row.Good {
			t.Errorf("proof %q: %v", row.Name, err)
		}
		list = append(list, row)
	}
	return list
}
