// Package signing holds the keys that sign what bluekey publishes, and how each signature
// is checked: ECDSA P-256 for export.sig (what GAEN phones expect), Ed25519 and ML-DSA-44
// for the checkpoints of the transparency log. It is the only tree that knows circl.
//
// Every key derives from one seed file by HKDF with a label of its own, so a backup of the
// seed is a backup of them all, and no key serves two purposes. Keys print redacted.
package signing

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// SeedLen is the length of a seed in bytes.
const SeedLen = 32

// seedPrefix opens the seed file: it says what the file is, and which version.
const seedPrefix = "bluekey-seed-v1 "

// Seed is the secret from which the keys of one appliance derive. It prints redacted.
type Seed struct{ b [SeedLen]byte }

// NewSeed draws a seed.
func NewSeed() Seed {
	var s Seed
	rand.Read(s.b[:]) // never fails: it ends the process instead
	return s
}

// SeedOf makes a seed of given bytes, for tests and simulations that must repeat.
func SeedOf(b [SeedLen]byte) Seed { return Seed{b} }

func (Seed) String() string                   { return "[seed]" }
func (Seed) LogValue() slog.Value             { return slog.StringValue("[seed]") }
func (Seed) Format(f fmt.State, _ rune)       { fmt.Fprint(f, "[seed]") }
func (s Seed) Derive32(label string) [32]byte { return [32]byte(s.Derive(label, 32)) }

// Derive gives n bytes (at most 8,160) that nobody without the seed can tell from random:
// HKDF-SHA256 with "bluekey/v1 " and the label as info. Two labels give unrelated bytes.
func (s Seed) Derive(label string, n int) []byte {
	b, err := hkdf.Key(sha256.New, s.b[:], nil, "bluekey/v1 "+label, n)
	if err != nil {
		panic(fmt.Sprintf("deriving %d bytes: %v", n, err))
	}
	return b
}

// LoadSeed reads a seed file. A file that others than its owner can read is refused: who
// reads it can sign in the appliance's name.
func LoadSeed(path string) (Seed, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Seed{}, fmt.Errorf("reading the seed: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return Seed{}, fmt.Errorf("seed %s is readable by others (mode %04o): run chmod 600 on it", path, info.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Seed{}, fmt.Errorf("reading the seed: %w", err)
	}
	return parseSeed(string(b), path)
}

func parseSeed(text, path string) (Seed, error) {
	rest, ok := strings.CutPrefix(text, seedPrefix)
	digits, end := strings.CutSuffix(rest, "\n")
	raw, err := hex.DecodeString(digits)
	if !ok || !end || err != nil || len(raw) != SeedLen || hex.EncodeToString(raw) != digits {
		return Seed{}, fmt.Errorf("seed %s is damaged or not a seed file: restore it from a backup", path)
	}
	return Seed{[SeedLen]byte(raw)}, nil
}

// LoadOrCreateSeed reads the seed file, or draws a seed and writes it (mode 0600, synced
// with its folder before it returns: keys that were published must not be lost to a power
// cut). made reports which.
func LoadOrCreateSeed(path string) (seed Seed, made bool, err error) {
	seed, err = LoadSeed(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return seed, false, err
	}
	seed = NewSeed()
	switch err := writeSeed(path, seed); {
	case errors.Is(err, fs.ErrExist): // another process was faster
		seed, err = LoadSeed(path)
		return seed, false, err
	case err != nil:
		return Seed{}, false, fmt.Errorf("writing the seed: %w", err)
	}
	return seed, true, nil
}

// writeSeed never writes over a file: of two processes that start in one empty folder,
// one makes the seed and both use it.
func writeSeed(path string, seed Seed) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".seed-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(seedPrefix + hex.EncodeToString(seed.b[:]) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
