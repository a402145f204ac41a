package console

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"bluekey/keystore/desk"
)

// Status is how the machine stands. Zero values are not known and shown as such.
type Status struct {
	LastExport time.Time     // end of the newest window that was published
	Delay      time.Duration // how long its oldest key had been due
	NextExport time.Time     // when the next window ends
	Problem    string        // what keeps it from publishing; empty: nothing
	WindowEnd  time.Time     // end of the newest closed window: a clock before it was set back
	// Held is how many keys of each scheme wait to be published, as counted when its last
	// window was sealed. One below HeldFloor is never shown: it would tell that a case has
	// just come in. 0 for HeldFloor: Held is not known.
	Held       map[string]int
	HeldFloor  int
	LogSize    uint64
	Checkpoint time.Time // when the newest one was signed
	Witnesses  []string  // who has cosigned it
	CertEnds   time.Time // end of the certificate with which this machine ends TLS itself
	DiskUsed   int64     // bytes of the disk that the data folder is on
	DiskFree   int64     // bytes left on it
	Version    string
}

// When something wants looking after.
const (
	lateExport  = 12 * time.Hour
	lateBackup  = 48 * time.Hour
	certSoon    = 14 * 24 * time.Hour
	clockSlack  = 5 * time.Second
	diskAlmost  = 2e9
	noCheckSoon = 24 * time.Hour
)

type statusData struct {
	Status
	Known        bool
	Cares        []string // keys of what wants looking after
	Now          time.Time
	Keys         []heldKeys
	Backup       time.Time
	Certificates []certificate
	Codes        desk.Status
	Retired      bool
	ClockKept    bool // a time service keeps it in step
	ClockKnown   bool // whether the system says so
}

func (c *Console) statusPage(v *visit) error {
	d := statusData{Now: c.Office.Now(), Certificates: c.certificates.get(), Codes: c.Office.CodeStatus(), Retired: c.retired()}
	var err error
	if d.Backup, err = c.Office.Backup(); err != nil {
		return err
	}
	if c.Status != nil {
		d.Status, d.Known = c.Status(), true
		d.Keys = d.Status.held()
		d.ClockKept, d.ClockKnown = clockKept()
		d.Cares = d.cares()
	}
	return v.show(http.StatusOK, "status", "status.title", d)
}

// heldKeys is what is shown of the keys of one scheme that wait.
type heldKeys struct {
	Scheme string
	Count  int // 0: fewer than the floor
}

func (s Status) held() (list []heldKeys) {
	if s.HeldFloor <= 0 {
		return nil
	}
	for _, scheme := range slices.Sorted(maps.Keys(s.Held)) {
		k := heldKeys{Scheme: scheme, Count: s.Held[scheme]}
		if k.Count < s.HeldFloor {
			k.Count = 0
		}
		list = append(list, k)
	}
	return list
}

// cares are the keys of what wants looking after.
func (d statusData) cares() (keys []string) {
	soon := func(ends time.Time) bool { return !ends.IsZero() && ends.Sub(d.Now) < certSoon }
	for _, care := range []struct {
		on  bool
		key string
	}{
		{d.Problem != "", "status.care.problem"},
		{d.Now.Before(d.WindowEnd.Add(-clockSlack)), "status.care.clock"},
		{!d.LastExport.IsZero() && d.Now.Sub(d.LastExport) > lateExport && !d.Retired, "status.care.export"},
		{d.DiskFree > 0 && d.DiskFree < diskAlmost, "status.care.disk"},
		{!d.Checkpoint.IsZero() && d.Now.Sub(d.Checkpoint) > noCheckSoon && !d.Retired, "status.care.checkpoint"},
		{d.Backup.IsZero(), "status.care.nobackup"},
		{!d.Backup.IsZero() && d.Now.Sub(d.Backup) > lateBackup, "status.care.backup"},
		{soon(d.CertEnds) || slices.ContainsFunc(d.Certificates, func(c certificate) bool { return soon(c.Ends) }), "status.care.cert"},
		{d.Codes.Paused, "status.care.guessing"},
		{d.Codes.Door.Paused, "status.care.door"},
		{d.Retired, "status.care.retired"},
	} {
		if care.on {
			keys = append(keys, care.key)
		}
	}
	return keys
}

// Age is how long ago something was.
func (d statusData) Age(t time.Time) time.Duration { return max(0, d.Now.Sub(t)) }

// Left is how long there is until something.
func (d statusData) Left(t time.Time) time.Duration { return max(0, t.Sub(d.Now)) }

// noteBackup records that a backup was just made.
func (c *Console) noteBackup(v *visit) error {
	if err := c.Office.NoteBackup(v.account.ID); err != nil {
		return err
	}
	return v.see("/status")
}
