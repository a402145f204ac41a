package witness

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"bluekey/export/exportlog"
	"bluekey/signing"
)

// State keeps the record of each log: a signed checkpoint with the cosignatures of this
// witness.
type State interface {
	// Load gives the record of a log, nil if there is none.
	Load(origin string) ([]byte, error)
	// Store replaces it in one step. The record is durable when Store returns; after an
	// error it is the old one or the new one.
	Store(origin string, record []byte) error
}

// MaxRecord is the largest record in bytes: the body of a checkpoint, and two lines each of
// the log and of the witness.
const MaxRecord = 16 << 10

// RecordName is the name of a log's record: the path of the monitoring address of C2SP
// tlog-witness, so that any web server can serve a folder of records.
func RecordName(origin string) string {
	return fmt.Sprintf("%x/checkpoint", sha256.Sum256([]byte(origin)))
}

// Files is a State in files named by RecordName. read gives a file, or fs.ErrNotExist.
// write replaces one in one step (temporary file, sync, rename, sync of the folder) and
// makes its folder; it is never called twice at once.
func Files(read func(name string) ([]byte, error), write func(name string, data []byte) error) State {
	return &files{read: read, write: write}
}

type files struct {
	mu    sync.Mutex
	read  func(name string) ([]byte, error)
	write func(name string, data []byte) error
}

func (f *files) Load(origin string) ([]byte, error) {
	text, err := f.read(RecordName(origin))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the record: %w", err)
	}
	return text, nil
}

func (f *files) Store(origin string, record []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.write(RecordName(origin), record); err != nil {
		return fmt.Errorf("storing the record: %w", err)
	}
	return nil
}

// record is the newest checkpoint of a log that the witness cosigned. The zero record, but
// for its tree, is that of a log never cosigned.
type record struct {
	tree exportlog.Checkpoint
	at   time.Time // of the cosignatures
	text []byte    // the checkpoint, the lines of the log, those of the witness
	own  []byte    // the lines of the witness
}

// newRecord cosigns a checkpoint whose signatures by the keys of its log are verified. Its
// other lines are dropped: nobody has verified them.
func newRecord(req request, log []*signing.VKey, own signing.WitnessKeys, at time.Time) (record, error) {
	r := record{tree: req.tree, at: at}
	var err error
	if r.own, err = exportlog.Cosign(req.tree, at, own); err != nil {
		return record{}, err
	}
	_, lines, err := splitCheckpoint(req.checkpoint)
	if err != nil {
		return record{}, err
	}
	r.text = append(req.tree.Body(), '\n')
	for _, key := range log {
		if s, ok := signatureBy(key, lines); ok {
			r.text = append(r.text, s.Line()...)
		}
	}
	r.text = append(r.text, r.own...)
	if len(r.text) > MaxRecord {
		return record{}, fmt.Errorf("a record of %d bytes", len(r.text))
	}
	return r, nil
}

// parseRecord reads a record and checks that this witness made it, and that the lines of
// the log hold. Lines of keys that the log has no more are let be.
func parseRecord(text []byte, log []*signing.VKey, own signing.WitnessKeys) (record, error) {
	tree, lines, err := splitCheckpoint(text)
	if err != nil {
		return record{}, err
	}
	r := record{tree: tree, text: text}
	for _, key := range log {
		if _, found := signatureBy(key, lines); !found {
			continue
		}
		if _, _, err := verified(key, tree, lines); err != nil {
			return record{}, err
		}
	}
	for _, key := range own.VKeys() {
		s, at, err := verified(key, tree, lines)
		if err != nil {
			return record{}, err
		}
		r.at, r.own = time.Unix(int64(at), 0), append(r.own, s.Line()...)
	}
	return r, nil
}
