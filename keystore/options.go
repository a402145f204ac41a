package keystore

import (
	"errors"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/keystore/desk"
)

// Options configure a store. Dir, the two keys and Period must be set.
type Options struct {
	// Dir is the data folder: VERSION, lock and store/ lie in it. It is made if missing.
	Dir string
	// FS is the disk; nil means the real one. VERSION and lock go through it too.
	FS vfs.FS
	// CodeKey keys the hashes under which codes are kept, DedupeKey those by which a
	// known key is recognised. With a changed key a store no longer knows what it kept
	// under the old one.
	CodeKey, DedupeKey [32]byte
	// Period is the length of a window, in whole seconds. Hold is how long a due key may
	// wait for a crowd.
	Period, Hold time.Duration
	// Exact keeps metadata as uploaded instead of applying Coarse.
	Exact bool
	// CodeCap is how many codes one officer may issue in a UTC day; 0 means
	// desk.DefaultCodeCap.
	CodeCap int
	// CacheSize is the size of the block cache in bytes; 0 means 256 MB.
	CacheSize int64
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger hears what the database has to say; nil means slog.Default.
	Logger *slog.Logger

	// For tests.
	fatal        func(string) // instead of ending the process
	uncompressed bool         // tables in which a search for bytes finds them
}

func (o *Options) complete() error {
	if o.Dir == "" {
		return errors.New("no data folder given")
	}
	if o.Period < time.Second || o.Period%time.Second != 0 {
		return errors.New("the period must be a whole number of seconds")
	}
	if o.Hold < 0 {
		return errors.New("the hold must not be negative")
	}
	if o.CodeKey == [32]byte{} || o.DedupeKey == [32]byte{} {
		return errors.New("the keys for codes and known keys must be set")
	}
	if o.FS == nil {
		o.FS = vfs.Default
		dir, err := realPath(o.Dir)
		if err != nil {
			return err
		}
		o.Dir = dir
	}
	if o.CodeCap == 0 {
		o.CodeCap = desk.DefaultCodeCap
	}
	if o.CacheSize == 0 {
		o.CacheSize = defaultCache
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.fatal == nil {
		o.fatal = endProcess(o.Logger)
	}
	return nil
}
