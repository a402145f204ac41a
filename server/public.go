package server

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"bluekey/export/exportlog"
)

// Public is the folder of an appliance's own public tree, as pages and status show it. What
// cannot be read is not shown.
type Public string

// ExportFile is one file of a window.
type ExportFile struct {
	Path       string // in the public tree, without a slash before it
	Start, End time.Time
	Size       int64
}

func (p Public) read(path string) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(p), path))
}

// Keyring is the keyring as it lies in the tree, nil if there is none yet.
func (p Public) Keyring() ([]byte, error) {
	text, err := p.read(exportlog.KeyringPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

// PolicyDigest is the SHA-256 of the policy in hex, empty before there is one.
func (p Public) PolicyDigest() string {
	text, err := p.read(exportlog.PolicyPath)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))
}

// CheckpointTime is when the newest checkpoint was signed; zero before the first.
func (p Public) CheckpointTime() time.Time {
	text, err := p.read(exportlog.PolicyPath)
	if err != nil {
		return time.Time{}
	}
	policy, err := exportlog.ParsePolicy(text)
	if err != nil {
		return time.Time{}
	}
	note, err := p.read(exportlog.CheckpointPath)
	if err != nil {
		return time.Time{}
	}
	opened, err := policy.Open(note)
	if err != nil {
		return time.Time{}
	}
	return opened.Time
}

// Newest are at most n files of the newest windows, newest first.
func (p Public) Newest(n int) (list []ExportFile) {
	text, err := p.read(exportlog.IndexPath)
	if err != nil {
		return nil
	}
	index, err := exportlog.ParseIndex(text)
	if err != nil {
		return nil
	}
	for _, e := range slices.Backward(index.Exports) {
		entry, err := exportlog.ParseEntry([]byte(e.Manifest))
		window, ok := entry.(exportlog.Manifest)
		if err != nil || !ok {
			continue
		}
		for _, f := range window.Files {
			if len(list) == n {
				return list
			}
			list = append(list, ExportFile{Path: f.Path, Start: time.Unix(window.Start, 0), End: time.Unix(window.End, 0), Size: f.Size})
		}
	}
	return list
}
