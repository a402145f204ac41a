// Package keystore holds all durable state of the appliance in one Pebble database: the
// diagnosis keys that phones hand over, the codes that buy an upload (package desk), the
// chain of publication windows, and the rows of the transparency log. No other tree knows
// the database.
//
// An upload is one synced batch: it is acknowledged after the disk has it, whole, and a
// crash leaves it whole or absent. A key is stored in a bucket: the time from which it may
// be published, never finer than a window, and never the time it came in. It is stored
// with the metadata under which it will be published, and so is never stored in any finer
// form. A key that is known already is accepted and changes nothing.
//
// Publishing is one goroutine's work, in this order: CloseWindow, AddPadding, Ungroup,
// DueKeys, then Commit, the one batch by which a publication happens or does not, and,
// after what it asks for was done outside, Applied and Scrub. A crash in between leaves
// either the window as open as before or an outstanding publication to apply again.
//
// While a window is open its log and fresh tables show which keys came together. Ungroup
// ends that: it rewrites every row without its sequence number, removes the logs and
// renews the MANIFEST, and checks all three. Scrub does the same for what was erased. Both
// work on the files themselves: what they promise can be searched for with grep.
//
// The store never holds a Bluezone daily key, an address, the time of an upload, or a
// code's text.
package keystore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
)

// Store is an open data folder. All methods are safe for concurrent use, except that the
// publishing ones (CloseWindow to Scrub) belong to one goroutine at a time.
type Store struct {
	opt    Options
	lock   io.Closer
	db     *pebble.DB
	dir    string // of the database
	desk   *desk.Desk
	health *health

	// gate is held for reading around every write, so that whoever holds it for writing
	// sees no write in progress.
	gate sync.RWMutex
	// closed is, by scheme, the end of the window closed last, committed or not. Uploads
	// go into buckets from there on. The gate guards it.
	closed [len(schemes)]uint32

	slots    chan struct{} // one for each upload being stored
	waiting  atomic.Int64  // uploads that wait for a slot
	reserved reservations
	firstDay atomic.Uint32 // keys that start on an earlier day are too old for ever

	mu     sync.Mutex
	chains [len(schemes)]chain // by scheme

	retired atomic.Pointer[string] // what Retire was told; nil before. The gate guards it too
	logSize atomic.Uint64
	open    counters // since the start of the process
	sealed  counters // as they stood when a window was closed last
}

// schemes has a place for every scheme number.
var schemes [diagnosis.Bluezone + 1]struct{}

// Open opens the data folder, making it if it is empty. It refuses a folder of a newer
// layout and one that another process has open.
func Open(o Options) (*Store, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	lock, err := openFolder(o.FS, o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		opt: o, lock: lock, dir: o.FS.PathJoin(o.Dir, "store"),
		health: &health{log: o.Logger},
		slots:  make(chan struct{}, maxCommits),
	}
	if err := s.openDatabase(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", err), lock.Close())
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", err), s.db.Close(), lock.Close())
	}
	return s, nil
}

func (s *Store) openDatabase() error {
	if err := mkdirSynced(s.opt.FS, s.dir); err != nil {
		return err
	}
	p := engineOptions(&s.opt, s.health)
	p.Cache = pebble.NewCache(s.opt.CacheSize)
	defer p.Cache.Unref()
	db, err := pebble.Open(s.dir, p)
	s.db = db
	return err
}

// load reads the state that is kept in memory, and writes what a new folder starts with.
func (s *Store) load() (err error) {
	s.desk, err = desk.Open(desk.Config{
		DB: s.db, Key: s.opt.CodeKey, Cap: s.opt.CodeCap, Now: s.opt.Now, Gate: &s.gate,
	})
	if err != nil {
		return err
	}
	for _, scheme := range diagnosis.Schemes {
		v, err := s.get(chainKey(scheme))
		if err != nil {
			return err
		}
		if v == nil {
			// The chain begins with the period of the first start, and stays there
			// should the next start come before its first window.
			start := uint32(s.opt.Now().Unix() / s.period() * s.period())
			v = chain{end: start, through: start}.encode()
			if err := s.db.Set(chainKey(scheme), v, pebble.Sync); err != nil {
				return err
			}
		}
		c, err := parseChain(v)
		if err != nil {
			return err
		}
		s.chains[scheme], s.closed[scheme] = c, c.end
	}
	if err := s.loadRetired(); err != nil {
		return err
	}
	size, err := s.getNumber(logState, 8)
	if err != nil {
		return err
	}
	s.logSize.Store(size)
	first, err := s.getNumber(firstState, 4)
	if err != nil {
		return err
	}
	s.firstDay.Store(uint32(first))
	return nil
}

// Close writes everything into tables, so that the next start has no log to read, and
// gives the folder free. No call of another method may be in progress or follow.
func (s *Store) Close() error {
	err := s.db.Flush()
	return errors.Join(err, s.db.Close(), s.lock.Close())
}

// Desk is the staff's side of the store.
func (s *Store) Desk() *desk.Desk { return s.desk }

// Fix settles a setting at the first start: it stores value under name unless there is one
// already, and returns the one that holds.
func (s *Store) Fix(name, value string) (string, error) {
	key := append([]byte{fixedRow}, name...)
	s.gate.Lock()
	defer s.gate.Unlock()
	v, err := s.get(key)
	if err != nil || v != nil {
		return string(v), err
	}
	if err := s.db.Set(key, []byte(value), pebble.Sync); err != nil {
		return "", fmt.Errorf("fix setting %s: %w", name, err)
	}
	return value, nil
}

// Fixed is the setting that Fix stored under name; ok tells whether there is one.
func (s *Store) Fixed(name string) (value string, ok bool, err error) {
	v, err := s.get(append([]byte{fixedRow}, name...))
	return string(v), v != nil, err
}

// FixedOr is the setting under name if the first start has fixed one: it is an error if
// another is chosen. Before that it is what is chosen, or else the preset.
func (s *Store) FixedOr(name, chosen, preset string) (string, error) {
	stored, ok, err := s.Fixed(name)
	switch {
	case err != nil:
		return "", err
	case ok && chosen != "" && stored != chosen:
		return "", fmt.Errorf("%s is %q since the first start of this data folder and cannot become %q", name, stored, chosen)
	case ok:
		return stored, nil
	case chosen != "":
		return chosen, nil
	}
	return preset, nil
}

// get is the value of a row, nil if there is none.
func (s *Store) get(key []byte) ([]byte, error) {
	v, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read a %c row: %w", key[0], err)
	}
	defer closer.Close()
	return append([]byte{}, v...), nil
}

// getNumber is the number in a row of n bytes, 0 if there is no row.
func (s *Store) getNumber(key []byte, n int) (uint64, error) {
	v, err := s.get(key)
	if v == nil || err != nil {
		return 0, err
	}
	if len(v) != n {
		return 0, errDamaged
	}
	var b [8]byte
	copy(b[8-n:], v)
	return binary.BigEndian.Uint64(b[:]), nil
}

// has reports whether there is a row.
func (s *Store) has(key []byte) (bool, error) {
	_, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read a %c row: %w", key[0], err)
	}
	return true, closer.Close()
}

func (s *Store) period() int64 { return int64(s.opt.Period / time.Second) }

func instant(seconds uint32) time.Time { return time.Unix(int64(seconds), 0).UTC() }

func seconds(t time.Time) uint32 { return uint32(t.Unix()) }
