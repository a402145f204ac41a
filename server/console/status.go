package console

import (
	"net/http"
	"time"
)

// Status is how the machine stands. Zero values are not known and shown as such.
type Status struct {
	LastExport time.Time     // when the last publication was made
	Delay      time.Duration // how long its oldest key had been due
	NextExport time.Time     // when the next window ends
	Problem    string        // what keeps it from publishing; empty: nothing
	Held       int           // keys that wait for a crowd; shown only from HeldFloor on
	HeldFloor  int
	LogSize    uint64
	Checkpoint time.Time // when the newest one was signed
	Witnesses  []string  // who has cosigned it
	DiskUsed   int64     // bytes of the data folder
	DiskFree   int64     // bytes left on its disk
	Backup     time.Time // the newest one
	CertEnds   time.Time // of the public certificate
	ClockOff   time.Duration
	ClockKnown bool // whether ClockOff was measured
	Version    string
}

// When something wants looking after.
const (
	lateExport  = 12 * time.Hour
	lateBackup  = 48 * time.Hour
	certSoon    = 14 * 24 * time.Hour
	clockWrong  = 30 * time.Second
	diskAlmost  = 2e9
	noCheckSoon = 24 * time.Hour
)

type statusData struct {
	Status
	Known     bool
	Cares     []string // keys of what wants looking after
	Now       time.Time
	HeldShown bool
}

func (c *Console) statusPage(v *visit) error {
	d := statusData{Now: c.Office.Now()}
	if c.Status != nil {
		d.Status, d.Known = c.Status(), true
		d.HeldShown = d.Held >= max(d.HeldFloor, 1)
		for _, care := range []struct {
			on  bool
			key string
		}{
			{d.Problem != "", "status.care.problem"},
			{!d.LastExport.IsZero() && d.Now.Sub(d.LastExport) > lateExport, "status.care.export"},
			{d.Backup.IsZero() || d.Now.Sub(d.Backup) > lateBackup, "status.care.backup"},
			{!d.CertEnds.IsZero() && d.CertEnds.Sub(d.Now) < certSoon, "status.care.cert"},
			{d.ClockKnown && d.ClockOff.Abs() > clockWrong, "status.care.clock"},
			{d.DiskFree > 0 && d.DiskFree < diskAlmost, "status.care.disk"},
			{!d.Checkpoint.IsZero() && d.Now.Sub(d.Checkpoint) > noCheckSoon, "status.care.checkpoint"},
		} {
			if care.on {
				d.Cares = append(d.Cares, care.key)
			}
		}
	}
	return v.show(http.StatusOK, "status", "status.title", d)
}

// Age is how long ago something was.
func (d statusData) Age(t time.Time) time.Duration { return max(0, d.Now.Sub(t)) }

// Left is how long there is until something.
func (d statusData) Left(t time.Time) time.Duration { return max(0, t.Sub(d.Now)) }
