package keystore

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func seedsIn(t *testing.T) (*Seeds, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data", "sealing")
	s, err := OpenSeeds(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func allSeeds(t *testing.T, s *Seeds) map[uint32][SeedLen]byte {
	t.Helper()
	all, err := s.All()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestSeeds(t *testing.T) {
	s, dir := seedsIn(t)
	one, two := [SeedLen]byte{1, 31: 1}, [SeedLen]byte{2, 31: 2}
	for day, seed := range map[uint32][SeedLen]byte{20600: one, 4294967295: two} {
		if err := s.Put(day, seed); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put(20600, two); err == nil {
		t.Error("a second seed of a day is taken")
	}
	again, err := OpenSeeds(dir) // as after a restart
	if err != nil {
		t.Fatal(err)
	}
	if all := allSeeds(t, again); len(all) != 2 || all[20600] != one || all[4294967295] != two {
		t.Errorf("%d seeds", len(all))
	}
	if info, err := os.Stat(filepath.Join(dir, "20600")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for range 2 {
		if err := s.Destroy(20600); err != nil {
			t.Error(err)
		}
	}
	if all := allSeeds(t, s); len(all) != 1 || all[4294967295] != two {
		t.Errorf("%d seeds after one is destroyed", len(all))
	}
}

// TestSeedIsOverwritten looks at the file's own blocks, which a second name holds on to.
func TestSeedIsOverwritten(t *testing.T) {
	s, dir := seedsIn(t)
	seed := [SeedLen]byte{1, 2, 3, 31: 9}
	if err := s.Put(7, seed); err != nil {
		t.Fatal(err)
	}
	held := filepath.Join(t.TempDir(), "held")
	if err := os.Link(filepath.Join(dir, "7"), held); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(held); err != nil || !bytes.Equal(b, seed[:]) {
		t.Fatalf("the test is blind: %x, %v", b, err)
	}
	if err := s.Destroy(7); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(held); err != nil || !bytes.Equal(b, make([]byte, SeedLen)) {
		t.Errorf("left in the file: %x, %v", b, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
}

// TestSeedsAfterACrash: what a crash left of a seed that was being kept, or destroyed, is
// none, and the day can have one.
func TestSeedsAfterACrash(t *testing.T) {
	for name, left := range map[string][]byte{
		"an empty file":                          {},
		"half a seed":                            bytes.Repeat([]byte{7}, SeedLen/2),
		"more than a seed":                       bytes.Repeat([]byte{7}, SeedLen+1),
		"an overwritten one, not yet taken away": make([]byte, SeedLen),
	} {
		s, dir := seedsIn(t)
		if err := os.WriteFile(filepath.Join(dir, "7"), left, 0o600); err != nil {
			t.Fatal(err)
		}
		if all := allSeeds(t, s); len(all) != 0 {
			t.Errorf("%s is a seed", name)
		}
		if err := s.Put(7, [SeedLen]byte{1}); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
		if all := allSeeds(t, s); all[7] != [SeedLen]byte{1} {
			t.Errorf("after %s: %v", name, all)
		}
	}
}

func TestSeedsRefuseStrangers(t *testing.T) {
	for _, name := range []string{"notes.txt", "07", "+7", "4294967296", "7.bak", "-1"} {
		s, dir := seedsIn(t)
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, SeedLen), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.All(); err == nil {
			t.Errorf("%s is read", name)
		}
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
