package keystore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// The files of the database and what lingers in them: a log until its rows are in tables,
// a replaced table until nobody reads it, and in a MANIFEST the smallest and largest row
// of every table since the snapshot it begins with. One earlier MANIFEST is always kept.

// maxWait bounds the wait for the database to remove what it has done with.
const maxWait = time.Minute

func isLog(name string) bool      { return strings.HasSuffix(name, ".log") }
func isTable(name string) bool    { return strings.HasSuffix(name, ".sst") }
func isManifest(name string) bool { return strings.HasPrefix(name, "MANIFEST-") }

// files lists files of the database.
func (s *Store) files(wanted func(string) bool) ([]string, error) {
	names, err := s.opt.FS.List(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list the store's files: %w", err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !wanted(name) }), nil
}

// settle makes the files hold nothing but the rows there are: it renews the MANIFEST and
// waits until that before, the given logs and all replaced tables are gone, so that a power
// loss does not bring them back either.
func (s *Store) settle(ctx context.Context, logs []string) error {
	manifests, err := s.renewManifest(ctx)
	if err != nil {
		return err
	}
	tables, err := s.files(isTable)
	if err != nil {
		return err
	}
	gone := append(append(tables, logs...), manifests...)
	wait, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	for {
		if gone, err = s.lingering(gone); err != nil {
			return err
		}
		if len(gone) == 0 {
			return syncDir(s.opt.FS, s.dir)
		}
		select {
		case <-time.After(time.Millisecond):
		case <-wait.Done():
			return fmt.Errorf("the database does not remove %s: %w", strings.Join(gone, ", "), wait.Err())
		}
	}
}

// lingering is which of the named files are still there though the database is done with
// them. A table that is just being written passes for one until it is in use.
func (s *Store) lingering(names []string) ([]string, error) {
	levels, err := s.db.SSTables()
	if err != nil {
		return nil, err
	}
	live := map[string]bool{}
	for _, level := range levels {
		for _, t := range level {
			live[fmt.Sprintf("%s.sst", t.BackingSSTNum)] = true
		}
	}
	present, err := s.files(func(name string) bool { return !live[name] })
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(names, func(name string) bool { return !slices.Contains(present, name) }), nil
}

// renewManifest makes the database start a new MANIFEST twice, and returns the names of
// those that were there before. It starts one when the tables that came and went since the
// last start outnumber those there are, so small tables are written until then.
func (s *Store) renewManifest(ctx context.Context) (before []string, err error) {
	if before, err = s.files(isManifest); err != nil {
		return nil, err
	}
	levels, err := s.db.SSTables()
	if err != nil {
		return nil, err
	}
	limit := 64
	for _, level := range levels {
		limit += 4 * len(level)
	}
	seen := map[string]bool{}
	for range limit {
		if err := s.db.Set(moveKey, nil, pebble.NoSync); err != nil {
			return nil, err
		}
		if err := s.flush(ctx); err != nil {
			return nil, err
		}
		names, err := s.files(isManifest)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if !slices.Contains(before, name) {
				seen[name] = true
			}
		}
		if len(seen) >= 2 {
			return before, nil
		}
	}
	return nil, errors.New("the database does not renew its MANIFEST")
}
