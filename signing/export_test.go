package signing

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var testSeed = SeedOf([SeedLen]byte{1, 2, 3})

// RFC 6979, A.2.5: P-256, SHA-256, message "sample".
func TestExportSignerFollowsRFC6979(t *testing.T) {
	scalar, _ := hex.DecodeString("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721")
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		t.Fatal(err)
	}
	s := &ExportSigner{private: private}
	sig, err := s.Sign(sha256.Sum256([]byte("sample")))
	if err != nil {
		t.Fatal(err)
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(sig, &rs); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%X %X", rs.R, rs.S); got != "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716 F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8" {
		t.Fatalf("signature %s", got)
	}
}

func TestExportSignerIsDerived(t *testing.T) {
	a, err := NewExportSigner(testSeed, "452", "v1", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	again, _ := NewExportSigner(testSeed, "452", "v1", time.Time{})
	other, _ := NewExportSigner(testSeed, "452", "v2", time.Time{})
	elsewhere, _ := NewExportSigner(SeedOf([SeedLen]byte{9}), "452", "v1", time.Time{})
	if !a.Public().Equal(again.Public()) {
		t.Error("the same seed and name gave two keys")
	}
	if a.Public().Equal(other.Public()) || a.Public().Equal(elsewhere.Public()) {
		t.Error("another version or seed gave the same key")
	}
	pub, err := ParsePublicPEM(a.PublicPEM())
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("export.bin"))
	sig, err := a.Sign(digest)
	if err != nil {
		t.Fatal(err)
	}
	if !VerifyExport(pub, digest, sig) {
		t.Error("a signature does not verify under the published PEM")
	}
	if VerifyExport(other.Public(), digest, sig) {
		t.Error("a signature verifies under another key")
	}
	digest[0] ^= 1
	if VerifyExport(pub, digest, sig) {
		t.Error("a signature verifies for another digest")
	}
}

func TestExportSignerNames(t *testing.T) {
	for _, bad := range [][2]string{{"", "v1"}, {"452", ""}, {"45 2", "v1"}, {"452", "v-1"}, {"452", "v\n"}, {strings.Repeat("4", 65), "v1"}} {
		if _, err := NewExportSigner(testSeed, bad[0], bad[1], time.Time{}); err == nil {
			t.Errorf("key id %q version %q was accepted", bad[0], bad[1])
		}
	}
}

func TestActiveSigners(t *testing.T) {
	at := func(hour int) time.Time { return time.Unix(int64(hour)*3600, 0) }
	signer := func(version string, hour int) *ExportSigner {
		s, err := NewExportSigner(testSeed, "452", version, at(hour))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	all := []*ExportSigner{signer("v1", 0), signer("v2", 10)}
	for _, row := range []struct {
		end  int
		want string
	}{{5, "v1"}, {10, "v1"}, {11, "v2 v1"}} {
		active, err := ActiveSigners(all, at(row.end))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range active {
			names = append(names, s.Version)
		}
		if got := strings.Join(names, " "); got != row.want {
			t.Errorf("a window ending at %d h is signed by %q, want %q", row.end, got, row.want)
		}
	}
	if _, err := ActiveSigners(all, at(0)); err == nil {
		t.Error("a window before any signer found one")
	}
	for i := range 10 {
		all = append(all, signer(fmt.Sprintf("w%d", i), 1))
	}
	if _, err := ActiveSigners(all, at(20)); err == nil {
		t.Error("more than ten signers were accepted")
	}
}

func TestParsePublicPEM(t *testing.T) {
	s, _ := NewExportSigner(testSeed, "452", "v1", time.Time{})
	good := s.PublicPEM()
	for name, bad := range map[string][]byte{
		"empty":         nil,
		"not PEM":       []byte("hello"),
		"trailing data": append(bytes.Clone(good), "x"...),
		"other type":    bytes.ReplaceAll(good, []byte("PUBLIC KEY"), []byte("EC PUBLIC KEY")),
		"damaged":       bytes.Replace(good, []byte("M"), []byte("N"), 1),
	} {
		if _, err := ParsePublicPEM(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	reference, err := os.ReadFile("../testdata/vectors/gaen/signer.pub.pem")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParsePublicPEM(reference); err != nil {
		t.Errorf("the reference server's key: %v", err)
	}
}

func TestSeedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed")
	if _, err := LoadSeed(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("no seed: %v", err)
	}
	var wg sync.WaitGroup
	seeds := make([]Seed, 8)
	made := make([]bool, len(seeds))
	for i := range seeds {
		wg.Go(func() {
			var err error
			if seeds[i], made[i], err = LoadOrCreateSeed(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	makers := 0
	for i := range seeds {
		if seeds[i] != seeds[0] {
			t.Error("processes that start together use different seeds")
		}
		if made[i] {
			makers++
		}
	}
	if makers != 1 {
		t.Errorf("%d processes made the seed", makers)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("making the seed left %d files", len(entries))
	}
	text, _ := os.ReadFile(path)
	for name, damaged := range map[string]string{
		"empty":     "",
		"cut":       string(text[:len(text)-2]),
		"no end":    string(text[:len(text)-1]),
		"more":      string(text) + "\n",
		"uppercase": strings.ToUpper(string(text)),
	} {
		os.WriteFile(path, []byte(damaged), 0o600)
		if _, _, err := LoadOrCreateSeed(path); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), string(text[20:40])) {
			t.Errorf("%s: the error shows the seed", name)
		}
	}
	os.WriteFile(path, text, 0o644)
	os.Chmod(path, 0o644)
	if _, err := LoadSeed(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a seed that others can read: %v", err)
	}
}

func TestSecretsPrintRedacted(t *testing.T) {
	seed := SeedOf([SeedLen]byte([]byte("canary-canary-canary-canary-32by")))
	s, _ := NewExportSigner(seed, "452", "v1", time.Time{})
	scalar, _ := s.private.Bytes()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		for _, v := range []any{seed, &seed, s, *s} {
			got := fmt.Sprintf(verb, v)
			if strings.Contains(got, "canary") || strings.Contains(got, hex.EncodeToString([]byte("canary"))) || strings.Contains(got, hex.EncodeToString(scalar)) || strings.Contains(got, new(big.Int).SetBytes(scalar).String()) {
				t.Errorf("%s of %T shows a secret", verb, v)
			}
		}
	}
}
