package keystore

import "sync/atomic"

// Metrics are figures for the operator. Uploads and Keys stand as they did when a window
// was closed last, so that reading them often does not tell when an upload came.
type Metrics struct {
	Codes   uint64 // redeemed since the start of the process
	Uploads uint64 // accepted, sent again ones included
	Keys    uint64 // stored by them: those not known before

	DiskBytes   uint64 // all files of the database
	LogBytes    uint64 // of that, what a restart after a crash would read again
	Tables      int
	WriteStalls uint64 // times the database held up writing since the start

	ShortCodes, LongCodes int  // alive
	ShortCodesPaused      bool // too many wrong ones this hour
}

// Metrics reads the figures.
func (s *Store) Metrics() Metrics {
	db, codes := s.db.Metrics(), s.desk.Status()
	m := Metrics{
		Codes: s.sealed.codes.Load(), Uploads: s.sealed.uploads.Load(), Keys: s.sealed.keys.Load(),
		DiskBytes: db.DiskSpaceUsage(), LogBytes: db.WAL.Size,
		WriteStalls: s.health.writeStalls(),
		ShortCodes:  codes.ShortAlive, LongCodes: codes.LongAlive, ShortCodesPaused: codes.Paused,
	}
	for i := range db.Levels {
		m.Tables += int(db.Levels[i].TablesCount)
	}
	return m
}

// Healthy is nil while the store can be relied on. A write that fails ends the process, so
// what it reports is work in the background and damage found on the disk.
func (s *Store) Healthy() error { return s.health.check() }

type counters struct{ codes, uploads, keys atomic.Uint64 }

func (c *counters) set(from *counters) {
	c.codes.Store(from.codes.Load())
	c.uploads.Store(from.uploads.Load())
	c.keys.Store(from.keys.Load())
}
