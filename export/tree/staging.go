package tree

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"path/filepath"
)

// Staging is the folder in which files are written before the commit that publishes them.
// A finished file is named by its digest, durable, and not yet visible to anybody.
type Staging struct {
	disk FS
	root string
	next int
}

// NewStaging opens the staging folder, making it if it is missing.
func NewStaging(disk FS, root string) (*Staging, error) {
	root = filepath.Clean(root)
	if err := makeDir(disk, root, root); err != nil {
		return nil, fmt.Errorf("opening the staging folder %s: %w", root, err)
	}
	return &Staging{disk: disk, root: root}, nil
}

func (s *Staging) name(staged string) string { return filepath.Join(s.root, staged) }

// Sweep removes every file whose name keep does not hold: leftovers of a crash.
func (s *Staging) Sweep(keep map[string]bool) error {
	names, err := s.disk.List(s.root)
	if err != nil {
		return fmt.Errorf("sweeping the staging folder: %w", err)
	}
	for _, n := range names {
		if keep[n] {
			continue
		}
		if err := s.disk.Remove(s.name(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweeping the staging folder: %w", err)
		}
	}
	return s.disk.SyncDir(s.root)
}

// Create begins a staged file.
func (s *Staging) Create() (*StagedFile, error) {
	s.next++
	temp := fmt.Sprintf("%d%s", s.next, tempSuffix)
	f, err := s.disk.Create(s.name(temp))
	if err != nil {
		return nil, fmt.Errorf("staging a file: %w", err)
	}
	return &StagedFile{staging: s, temp: temp, file: f, hash: sha256.New()}, nil
}

// StagedFile is an io.Writer that counts and hashes what it passes on. It ends with
// Finish or Discard.
type StagedFile struct {
	staging *Staging
	temp    string
	file    File
	hash    hash.Hash
	size    int64
}

func (f *StagedFile) Write(p []byte) (int, error) {
	n, err := f.file.Write(p)
	f.hash.Write(p[:n])
	f.size += int64(n)
	return n, err
}

// Finish makes the file durable under the name of its digest.
func (f *StagedFile) Finish() (Staged, error) {
	err := f.file.Sync()
	if err = errors.Join(err, f.file.Close()); err != nil {
		return Staged{}, errors.Join(fmt.Errorf("staging a file: %w", err), f.staging.disk.Remove(f.staging.name(f.temp)))
	}
	done := Staged{Size: f.size, SHA256: [32]byte(f.hash.Sum(nil))}
	if err := f.staging.disk.Rename(f.staging.name(f.temp), f.staging.name(done.Name())); err != nil {
		return Staged{}, fmt.Errorf("staging a file: %w", err)
	}
	if err := f.staging.disk.SyncDir(f.staging.root); err != nil {
		return Staged{}, fmt.Errorf("staging a file: %w", err)
	}
	return done, nil
}

// Discard gives the file up.
func (f *StagedFile) Discard() error {
	return errors.Join(f.file.Close(), f.staging.disk.Remove(f.staging.name(f.temp)))
}

// Staged says what was staged.
type Staged struct {
	Size   int64 // bytes
	SHA256 [32]byte
}

// Name is the file's name in the staging folder: its digest in lower-case hex.
func (s Staged) Name() string { return hex.EncodeToString(s.SHA256[:]) }
