package keystore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Seeds keeps secrets that are to be destroyed on a day known beforehand: one file a day of
// use, which is overwritten in place before it is removed. They lie beside the database, of
// whose files nobody can say where a value was copied to. They belong in no backup. (A disk
// that writes elsewhere than it is told, as flash does, keeps what it keeps.)
type Seeds struct{ dir string }

// SeedLen is the length of a seed in bytes.
const SeedLen = 32

// OpenSeeds opens the folder, making it if it is missing.
func OpenSeeds(dir string) (*Seeds, error) {
	if err := MakeDir(dir); err != nil {
		return nil, err
	}
	return &Seeds{dir}, nil
}

func (s *Seeds) path(day uint32) string {
	return filepath.Join(s.dir, strconv.FormatUint(uint64(day), 10))
}

// Put keeps the seed of a day, on the disk when it returns. It refuses a second one.
func (s *Seeds) Put(day uint32, seed [SeedLen]byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("keep the seed of day %d: %w", day, err)
		}
	}()
	f, err := os.OpenFile(s.path(day), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(seed[:])
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return s.sync()
}

// All are the seeds by day. What a crash left of one that was being kept is removed: nobody
// was told of it.
func (s *Seeds) All() (map[uint32][SeedLen]byte, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("read seeds: %w", err)
	}
	all := map[uint32][SeedLen]byte{}
	for _, e := range entries {
		day, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil || s.path(uint32(day)) != filepath.Join(s.dir, e.Name()) {
			return nil, fmt.Errorf("read seeds: %s does not belong in %s", e.Name(), s.dir)
		}
		data, err := os.ReadFile(s.path(uint32(day)))
		if err != nil {
			return nil, fmt.Errorf("read seeds: %w", err)
		}
		// A seed that was overwritten and not yet removed is none either.
		if len(data) != SeedLen || [SeedLen]byte(data) == [SeedLen]byte{} {
			if err := s.Destroy(uint32(day)); err != nil {
				return nil, err
			}
			continue
		}
		all[uint32(day)] = [SeedLen]byte(data)
		clear(data)
	}
	return all, nil
}

// Destroy overwrites the seed of a day and removes it. There may be none.
func (s *Seeds) Destroy(day uint32) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("destroy the seed of day %d: %w", day, err)
		}
	}()
	f, err := os.OpenFile(s.path(day), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, SeedLen))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Remove(s.path(day)); err != nil {
		return err
	}
	return s.sync()
}

func (s *Seeds) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
