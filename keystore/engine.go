package keystore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

const (
	// formatVersion is pebble.FormatValueSeparation. It is a number so that a newer
	// library does not convert a folder that an older program must still open.
	formatVersion pebble.FormatMajorVersion = 24

	defaultCache = 256 << 20

	// memtableSize bounds the log that is replayed after a kill: at most
	// memtables of them are not yet in tables.
	memtableSize = 16 << 20
	memtables    = 4
)

// keep marks a Cleaner as one that keeps files, which makes the database believe that it
// must not recycle logs. A recycled log holds old keys in its unwritten rest, out of reach.
type keep struct{ pebble.ArchiveCleaner }

// eraser removes files at once. Clean comes from DeleteCleaner, being less deep than
// ArchiveCleaner's.
type eraser struct {
	pebble.DeleteCleaner
	keep
}

// engineOptions are those of the database; health hears its events.
func engineOptions(o *Options, health *health) *pebble.Options {
	comparer := *pebble.DefaultComparer
	comparer.FormatKey = func(key []byte) fmt.Formatter { return redactedRow(key) }
	p := &pebble.Options{
		Comparer:                    &comparer,
		FS:                          orderedFS{o.FS},
		FormatMajorVersion:          formatVersion,
		MemTableSize:                memtableSize,
		MemTableStopWritesThreshold: memtables,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       64,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		BytesPerSync:                1 << 20,
		WALBytesPerSync:             512 << 10,
		Cleaner:                     eraser{},
		// Every edit may start a new MANIFEST, because an old one keeps the smallest
		// and largest row of tables long gone; see (*Store).renewManifest.
		MaxManifestFileSize: 1,
		Logger:              engineLog{o.Logger, o.fatal},
		EventListener:       health.listener(),
	}
	// Few, larger tables keep the MANIFEST short.
	p.TargetFileSizes[0] = 4 << 20
	for i := range p.Levels {
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	p.ApplyCompressionSettings(func() pebble.DBCompressionSettings {
		if o.uncompressed {
			return pebble.DBCompressionNone
		}
		return pebble.DBCompressionFastest
	})
	return p
}

// redactedRow keeps the database's messages from showing what a row is named after.
type redactedRow []byte

func (r redactedRow) Format(f fmt.State, _ rune) {
	if len(r) == 0 {
		fmt.Fprint(f, "[no row]")
		return
	}
	fmt.Fprintf(f, "[%q row]", r[0])
}

// engineLog hands the database's messages on. After a fatal one, a failed fsync of the log
// among them, nobody knows what the disk holds: the process ends, and the next start reads
// what is really there.
type engineLog struct {
	log   *slog.Logger
	fatal func(string)
}

func (l engineLog) Infof(format string, args ...any)  { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l engineLog) Errorf(format string, args ...any) { l.log.Error(fmt.Sprintf(format, args...)) }
func (l engineLog) Fatalf(format string, args ...any) { l.fatal(fmt.Sprintf(format, args...)) }

func endProcess(log *slog.Logger) func(string) {
	return func(message string) {
		log.Error("the store cannot go on: " + message)
		os.Exit(2)
	}
}

// health remembers whether the database's background work goes well.
type health struct {
	log *slog.Logger

	mu      sync.Mutex
	problem error // the last one; cleared when the same kind of work succeeds
	corrupt error
	stalls  uint64
}

func (h *health) listener() *pebble.EventListener {
	clear := func(err error) {
		if err == nil {
			h.set(&h.problem, nil)
		}
	}
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			if errors.Is(err, pebble.ErrCancelledCompaction) || errors.Is(err, context.Canceled) {
				return
			}
			h.log.Error("store: background work failed", "error", err)
			h.set(&h.problem, err)
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			h.log.Error("store: data is corrupt", "path", info.Path, "error", info.Details)
			h.set(&h.corrupt, info.Details)
		},
		FlushEnd:      func(info pebble.FlushInfo) { clear(info.Err) },
		CompactionEnd: func(info pebble.CompactionInfo) { clear(info.Err) },
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.stalls++
		},
	}
}

func (h *health) writeStalls() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stalls
}

func (h *health) set(field *error, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*field = err
}

func (h *health) check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.corrupt != nil {
		return fmt.Errorf("the store's data is corrupt: %w", h.corrupt)
	}
	if h.problem != nil {
		return fmt.Errorf("the store's background work fails: %w", h.problem)
	}
	return nil
}
