package desk

import (
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// NoteBackup records that a backup was just made, so that the status page can tell how old
// the newest one is. Whatever makes backups calls it when it has succeeded.
func (o *Office) NoteBackup(by string) error {
	return o.write(func(b *pebble.Batch) error {
		if err := put(b, backupPaper, "", o.Now()); err != nil {
			return err
		}
		return o.note(b, by, "backup", "")
	}, nil)
}

// Backup is when the newest backup was recorded; zero if none ever was.
func (o *Office) Backup() (time.Time, error) {
	at, _, err := fetch[time.Time](o.desk.DB, backupPaper, "")
	return at, err
}
