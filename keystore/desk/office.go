package desk

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Office is the written side of the desk: who works here, what they did, and what they
// report. Its rows begin with p, for paper, and a second letter:
//
//	pa | account            -> account
//	pb                      -> when the newest backup was made
//	pf | number u64         -> figure, never written again
//	pg | number u64         -> national goal, never written again
//	pj | number u64         -> line of the journal
//	pk | keyed hash         -> key of a laboratory system
//	pl | keyed hash         -> link: set-up or invitation
//	pn | number u64         -> notice
//	pq | number u64         -> quoted rate, never written again
//	ps | keyed hash         -> session
//	pt | team               -> field team
//	pv | team | submission  -> counts of one submission
//	px | name               -> text of a poster or loudspeaker, edited
//	pu | unit               -> administrative unit
//
// Values are JSON. What opens something (a link, a session) is kept as a keyed hash only:
// who reads the data folder without the seed cannot use it. Nothing here is about a
// patient, a phone or a diagnosis key.
//
// Writers are few and slow, so one lock serves them all, and every write is synced.
type Office struct {
	desk *Desk

	mu      sync.Mutex // held by every writer, from reading to commit
	paper   paper
	last    struct{ figure, goal, quote, notice uint64 }
	journal Head

	doors   doors
	noticed chan struct{} // holds one when NoticeFile may have changed
}

// paper is what pages read often, kept in memory beside its rows. A writer replaces what
// changed; readers take a snapshot.
type paper struct {
	sync.RWMutex
	units   map[string]Unit
	figures []Figure
	quotes  []Quote
	goals   []Goal
	ledger  *Ledger // made of the rest
}

const paperRow = 'p'

// Letters of the rows.
const (
	accountPaper = 'a'
	apiPaper     = 'k'
	backupPaper  = 'b'
	figurePaper  = 'f'
	goalPaper    = 'g'
	journalPaper = 'j'
	linkPaper    = 'l'
	noticePaper  = 'n'
	quotePaper   = 'q'
	sessionPaper = 's'
	teamPaper    = 't'
	countPaper   = 'v'
	textPaper    = 'x'
	unitPaper    = 'u'
)

// OpenOffice reads what the pages need at hand. It does not check the journal:
// VerifyJournal does.
func OpenOffice(d *Desk) (*Office, error) {
	o := &Office{desk: d, noticed: make(chan struct{}, 1)}
	o.paper.units = map[string]Unit{}
	for u, err := range scan[Unit](d.DB, unitPaper) {
		if err != nil {
			return nil, err
		}
		o.paper.units[u.Code] = u
	}
	var err error
	if o.paper.figures, err = all[Figure](d.DB, figurePaper); err != nil {
		return nil, err
	}
	if o.paper.quotes, err = all[Quote](d.DB, quotePaper); err != nil {
		return nil, err
	}
	if o.paper.goals, err = all[Goal](d.DB, goalPaper); err != nil {
		return nil, err
	}
	notices, err := all[Notice](d.DB, noticePaper)
	if err != nil {
		return nil, err
	}
	if n := len(notices); n > 0 {
		o.last.notice = notices[n-1].Number
	}
	if n := len(o.paper.figures); n > 0 {
		o.last.figure = o.paper.figures[n-1].Number
	}
	if n := len(o.paper.quotes); n > 0 {
		o.last.quote = o.paper.quotes[n-1].Number
	}
	if n := len(o.paper.goals); n > 0 {
		o.last.goal = o.paper.goals[n-1].Number
	}
	for line, err := range scan[Line](d.DB, journalPaper) {
		if err != nil {
			return nil, err
		}
		o.journal = Head{Number: line.Number, Hash: line.Hash}
	}
	o.relay()
	return o, nil
}

// Now is the office's clock, in UTC and whole seconds.
func (o *Office) Now() time.Time { return o.desk.Now().UTC().Truncate(time.Second) }

// write runs fill under the writers' lock and commits what it wrote, synced. The second
// function runs after the commit, still under the lock.
func (o *Office) write(fill func(*pebble.Batch) error, after func()) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.desk.DB.NewBatch()
	defer b.Close()
	before := o.journal
	if err := fill(b); err != nil {
		o.journal = before
		return err
	}
	o.desk.Gate.RLock()
	err := b.Commit(pebble.Sync)
	o.desk.Gate.RUnlock()
	if err != nil {
		o.journal = before
		return fmt.Errorf("write to the office: %w", err)
	}
	if after != nil {
		after()
	}
	return nil
}

func paperKey(kind byte, id string) []byte { return append([]byte{paperRow, kind}, id...) }

func numbered(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

func put(b *pebble.Batch, kind byte, id string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write row p%c: %w", kind, err)
	}
	return b.Set(paperKey(kind, id), data, nil)
}

// fetch reads one row. The second result is false if there is none.
func fetch[T any](db *pebble.DB, kind byte, id string) (v T, found bool, err error) {
	data, closer, err := db.Get(paperKey(kind, id))
	if errors.Is(err, pebble.ErrNotFound) {
		return v, false, nil
	}
	if err != nil {
		return v, false, fmt.Errorf("read row p%c: %w", kind, err)
	}
	defer closer.Close()
	if err := json.Unmarshal(data, &v); err != nil {
		return v, false, fmt.Errorf("row p%c is damaged: %w", kind, err)
	}
	return v, true, nil
}

// scan gives the rows of a kind in the order of their names. A prefix narrows it down.
func scan[T any](db *pebble.DB, kind byte, prefix ...byte) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		from := append([]byte{paperRow, kind}, prefix...)
		to := append([]byte{}, from...)
		to[len(to)-1]++
		it, err := db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
		if err != nil {
			yield(none, fmt.Errorf("read rows p%c: %w", kind, err))
			return
		}
		defer it.Close()
		for it.First(); it.Valid(); it.Next() {
			var v T
			if err := json.Unmarshal(it.Value(), &v); err != nil {
				yield(none, fmt.Errorf("row p%c is damaged: %w", kind, err))
				return
			}
			if !yield(v, nil) {
				return
			}
		}
		if err := it.Error(); err != nil {
			yield(none, fmt.Errorf("read rows p%c: %w", kind, err))
		}
	}
}

func all[T any](db *pebble.DB, kind byte) (rows []T, err error) {
	for v, err := range scan[T](db, kind) {
		if err != nil {
			return nil, err
		}
		rows = append(rows, v)
	}
	return rows, nil
}

// newToken is 256 random bits in a form that fits a URL.
func newToken() string {
	var b [32]byte
	rand.Read(b[:]) // never fails: the runtime ends the process instead
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// hidden is the keyed hash under which a token of a kind is kept.
func (o *Office) hidden(kind, token string) string { return string(o.desk.mac(kind, token)[:16]) }

// newID names an account, a team: 48 random bits.
func newID() string {
	var b [6]byte
	rand.Read(b[:])
	return fmt.Sprintf("%x", b)
}

func parseRow[T any](data []byte) (v T, err error) {
	if err := json.Unmarshal(data, &v); err != nil {
		return v, fmt.Errorf("a row is damaged: %w", err)
	}
	return v, nil
}
