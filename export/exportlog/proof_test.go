package exportlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"
)

// proofOf is the proof of entry index of a log of entries, signed by the log alone.
func proofOf(t testing.TB, index uint64, entries ...[]byte) []byte {
	t.Helper()
	var tree Tree
	for _, e := range entries {
		tree.Append(e)
	}
	keys := keysOf(t)
	signed, err := SignCheckpoint(Checkpoint{Origin: keys.log.Name(), Size: tree.Size(), Root: tree.Root()}, time.Unix(1767225600, 0), keys.log)
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := ProveEntry(tree.Size(), index, &tree)
	if err != nil {
		t.Fatal(err)
	}
	return FormatProof(Proof{Index: index, Hashes: hashes, Extra: entries[index], Checkpoint: signed})
}

func texts(t testing.TB, entries ...Entry) (all [][]byte) {
	t.Helper()
	for _, e := range entries {
		text, err := e.Format()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text)
	}
	return all
}

func logPolicy(t testing.TB) *Policy {
	t.Helper()
	full, _, err := FormatPolicies(PolicyTerms{Log: keysOf(t).log.VKeys()})
	if err != nil {
		t.Fatal(err)
	}
	return mustPolicy(t, full)
}

func TestVerifyProof(t *testing.T) {
	all := texts(t, signer(t), window(), SmallFile{Path: KeyringPath, Size: 1, SHA256: sha256.Sum256([]byte("k"))})
	policy := logPolicy(t)
	for index, file := range [][]byte{signer(t).PEM(), []byte("key set"), []byte("k")} {
		p, err := VerifyProof(proofOf(t, uint64(index), all...), policy)
		if err != nil {
			t.Fatal(err)
		}
		f, err := p.File(int64(len(file)), sha256.Sum256(file))
		if err != nil || !f.Matches(file) || p.Index != uint64(index) || !p.Both {
			t.Errorf("entry %d: %+v, %v", index, f, err)
		}
		if _, err := p.File(int64(len(file)), sha256.Sum256([]byte("other"))); err == nil {
			t.Errorf("entry %d names a file it does not", index)
		}
	}
	good := proofOf(t, 1, all...)
	p, err := VerifyProof(good, mustPolicy(t, file(t, "policy.txt")))
	if !errors.Is(err, ErrQuorum) || p.Entry == nil || p.Quorum {
		t.Errorf("without the quorum: %+v, %v", p, err)
	}
}

func TestVerifyProofRefuses(t *testing.T) {
	stranger := window()
	stranger.Origin = "elsewhere.example"
	all := texts(t, window(), emptyWindow(), stranger)
	all = append(all, []byte("not an entry\n"))
	good := string(proofOf(t, 0, all...))
	policy := logPolicy(t)
	if _, err := VerifyProof([]byte(good), policy); err != nil {
		t.Fatal(err)
	}
	extra := func(e []byte) string { return "extra " + base64.StdEncoding.EncodeToString(e) + "\n" }
	hash := strings.Split(good, "\n")[3] + "\n"
	for what, text := range map[string]string{
		"another entry as extra":     strings.Replace(good, extra(all[0]), extra(all[1]), 1),
		"no extra":                   strings.Replace(good, extra(all[0]), "", 1),
		"empty extra":                strings.Replace(good, extra(all[0]), "extra \n", 1),
		"extra twice":                strings.Replace(good, extra(all[0]), extra(all[0])+extra(all[0]), 1),
		"another index":              strings.Replace(good, "index 0", "index 1", 1),
		"index beyond the log":       strings.Replace(good, "index 0", "index 4", 1),
		"index with leading zero":    strings.Replace(good, "index 0", "index 00", 1),
		"negative index":             strings.Replace(good, "index 0", "index -1", 1),
		"hash missing":               strings.Replace(good, hash, "", 1),
		"hash twice":                 strings.Replace(good, hash, hash+hash, 1),
		"64 hashes":                  strings.Replace(good, hash, strings.Repeat(hash, 64), 1),
		"hash without padding":       strings.Replace(good, hash, strings.Replace(hash, "=", "", 1), 1),
		"header of v2":               strings.Replace(good, "@v1", "@v2", 1),
		"words after the header":     strings.Replace(good, "@v1", "@v1 x", 1),
		"no empty line":              strings.Replace(good, "\n\n", "\n", 1),
		"CRLF":                       strings.ReplaceAll(good, "\n", "\r\n"),
		"checkpoint with wrong root": strings.Replace(good, "\n4\n", "\n3\n", 1),
		"no last LF":                 good[:len(good)-1],
		"manifest of another origin": string(proofOf(t, 2, all...)),
		"leaf that is no entry":      string(proofOf(t, 3, all...)),
		"too long":                   good + strings.Repeat("x", MaxProof),
		"empty":                      "",
	} {
		if text == good {
			t.Fatalf("%s: nothing changed", what)
		}
		if p, err := VerifyProof([]byte(text), policy); err == nil {
			t.Errorf("%s: accepted, %+v", what, p.Entry)
		}
	}
}

// One flipped bit anywhere in a proof is found.
func TestVerifyProofFindsEveryFlippedByte(t *testing.T) {
	good, policy := proofOf(t, 1, texts(t, window(), emptyWindow())...), logPolicy(t)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := VerifyProof(bad, policy); err == nil {
			t.Errorf("byte %d, %q, may be %q", i, good[i], bad[i])
		}
	}
}

func FuzzParseProof(f *testing.F) {
	f.Add(proofOf(f, 0, texts(f, emptyWindow(), emptyWindow())...))
	f.Add(file(f, "size1.tlog-proof"))
	f.Add([]byte(proofHeader + "\nextra \nindex 0\n\nx")) // refused
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := ParseProof(data); err == nil && !bytes.Equal(FormatProof(p), data) {
			t.Errorf("%q is a second spelling of %q", data, FormatProof(p))
		}
	})
}

// BenchmarkVerifyProof is what verifying one file costs besides hashing it.
func BenchmarkVerifyProof(b *testing.B) {
	proof, policy := proofOf(b, 1, texts(b, window(), emptyWindow())...), logPolicy(b)
	for b.Loop() {
		if _, err := VerifyProof(proof, policy); err != nil {
			b.Fatal(err)
		}
	}
}
