package keystore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

// Publication is what one commit changes.
type Publication struct {
	Windows []Window // each closed, and following the one before of its scheme
	// Entries follow the log's last entry; First is the index of the first of them,
	// which must be LogSize.
	Entries [][]byte
	First   uint64
	// Hashes are the stored hashes that the entries add to the log's tree, in the order
	// of tlog.StoredHashes.
	Hashes     [][32]byte
	Checkpoint []byte // as signed; nil leaves the one there is
	// Plan says what is to be done outside the store. It is kept until Applied; an empty
	// one asks for nothing.
	Plan []byte
	// EraseThrough erases, by scheme, the windows that ended by a time and the published
	// keys in buckets below it. Keys not published yet stay.
	EraseThrough map[diagnosis.Scheme]time.Time
	// VoidCodes ends every code that was issued and not used. A store that was put back from
	// a backup cannot know which of them were used since.
	VoidCodes bool
}

// ErrOutstanding means that the last publication is not applied yet.
var ErrOutstanding = errors.New("the last publication is not applied yet")

// Commit makes a publication happen, in one synced batch: after it returns nil, and after
// a crash, all of it holds or none. It also removes what has become useless: expired
// codes, and the memory of keys too old to be accepted again.
func (s *Store) Commit(p Publication) error {
	if _, outstanding, err := s.Outstanding(); err != nil || outstanding {
		return errors.Join(err, ErrOutstanding)
	}
	if p.VoidCodes { // no upload may be between looking at a code and spending it
		s.gate.Lock()
		defer s.gate.Unlock()
	} else {
		s.gate.RLock()
		defer s.gate.RUnlock()
	}
	b := s.db.NewBatch()
	defer b.Close()
	w := &commitWriter{s: s, b: b, chains: s.allChains(), size: s.LogSize(), firstDay: s.firstDay.Load()}
	w.log(&p)
	w.windows(p.Windows)
	w.erase(p.EraseThrough)
	w.forgetOldKeys()
	w.forgetPermits()
	voided := func() {}
	if p.VoidCodes {
		var err error
		voided, err = s.desk.RevokeAll(b)
		w.try(err)
	}
	w.try(s.desk.Sweep(b)) // last: what expired long ago goes, revoked or not
	for _, scheme := range diagnosis.Schemes {
		w.set(chainKey(scheme), w.chains[scheme].encode())
	}
	if len(p.Plan) > 0 {
		w.set(planState, p.Plan)
	}
	if w.err == nil {
		w.err = b.Commit(pebble.Sync)
	}
	if w.err != nil {
		return fmt.Errorf("commit publication: %w", w.err)
	}
	s.mu.Lock()
	s.chains = w.chains
	s.mu.Unlock()
	s.logSize.Store(w.size)
	s.firstDay.Store(w.firstDay)
	voided()
	return nil
}

func (s *Store) allChains() [len(schemes)]chain {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chains
}

// commitWriter builds the batch of a publication, and the state that holds after it. It
// stops at the first error.
type commitWriter struct {
	s        *Store
	b        *pebble.Batch
	err      error
	chains   [len(schemes)]chain
	size     uint64
	firstDay uint32
}

func (w *commitWriter) try(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *commitWriter) fail(format string, args ...any) { w.try(fmt.Errorf(format, args...)) }

func (w *commitWriter) set(key, value []byte) { w.try(w.b.Set(key, value, nil)) }

func (w *commitWriter) log(p *Publication) {
	if p.First != w.size {
		w.fail("first entry %d, but the log has %d", p.First, w.size)
		return
	}
	firstHash := storedHashes(w.size)
	for i, e := range p.Entries {
		w.set(indexRow(entryRow, w.size+uint64(i)), e)
	}
	w.size += uint64(len(p.Entries))
	if want := storedHashes(w.size) - firstHash; uint64(len(p.Hashes)) != want {
		w.fail("%d hashes for %d entries, want %d", len(p.Hashes), len(p.Entries), want)
		return
	}
	for i, h := range p.Hashes {
		w.set(indexRow(hashRow, firstHash+uint64(i)), h[:])
	}
	w.set(logState, binary.BigEndian.AppendUint64(nil, w.size))
	if p.Checkpoint != nil {
		w.set(noteState, p.Checkpoint)
	}
}

func (w *commitWriter) windows(list []Window) {
	for _, win := range list {
		if !win.Scheme.Valid() || !whole(win.Start) || !whole(win.End) {
			w.fail("a window without a scheme, or not in whole seconds")
			return
		}
		c := &w.chains[win.Scheme]
		start, end := seconds(win.Start), seconds(win.End)
		if start != c.end || end <= start {
			w.fail("%s window from %v to %v, but the last one ended at %v", win.Scheme, win.Start, win.End, instant(c.end))
		}
		if end > w.s.closed[win.Scheme] {
			w.fail("%s window to %v is not closed", win.Scheme, win.End)
		}
		if win.Entry >= w.size {
			w.fail("%s window with log entry %d of %d", win.Scheme, win.Entry, w.size)
		}
		if !win.Published {
			win.Through = instant(c.through)
		}
		if !whole(win.Through) || win.Through.After(win.End) || seconds(win.Through) < c.through {
			w.fail("%s window to %v publishes through %v, after %v", win.Scheme, win.End, win.Through, instant(c.through))
			return
		}
		c.end, c.through = end, seconds(win.Through)
		w.set(win.encode())
	}
}

func (w *commitWriter) erase(through map[diagnosis.Scheme]time.Time) {
	for _, scheme := range diagnosis.Schemes {
		t, ok := through[scheme]
		if !ok {
			continue
		}
		c := &w.chains[scheme]
		if !whole(t) || seconds(t) > c.end {
			w.fail("erase %s windows to %v, but the last one ended at %v", scheme, t, instant(c.end))
			return
		}
		w.try(w.b.DeleteRange(schemeRow(windowRow, scheme, 0), schemeRow(windowRow, scheme, seconds(t)+1), nil))
		if below := min(seconds(t), c.through); below > c.erased {
			c.erased = below
			w.eraseRange(schemeRow(keyRow, scheme, 0), schemeRow(keyRow, scheme, below))
		}
	}
}

// forgetOldKeys drops the memory of keys that started so early that they cannot be
// accepted any more. One that starts on day d ends before day d+2 begins.
func (w *commitWriter) forgetOldKeys() {
	oldest := w.s.opt.Now().Add(-MaxAge).Unix()/86400 - 1
	if oldest <= int64(w.firstDay) {
		return
	}
	w.firstDay = uint32(oldest)
	w.set(firstState, binary.BigEndian.AppendUint32(nil, w.firstDay))
	for _, scheme := range diagnosis.Schemes {
		w.eraseRange(schemeRow(dedupeRow, scheme, 0), schemeRow(dedupeRow, scheme, w.firstDay))
	}
}

// forgetPermits drops the permits that can add no more keys, and what cover and refusals
// left.
func (w *commitWriter) forgetPermits() {
	today := uint32(w.s.opt.Now().Unix() / 86400)
	if today > PermitDays {
		w.try(w.b.DeleteRange([]byte{permitRow}, permitRowKey(&Permit{Epoch: today - PermitDays}), nil))
	}
	w.try(w.b.DeleteRange([]byte{junkRow}, []byte{junkRow + 1}, nil))
}

// eraseRange erases rows of keys. They lie in files until Scrub, which the mark reminds of.
func (w *commitWriter) eraseRange(from, to []byte) {
	w.try(w.b.DeleteRange(from, to, nil))
	w.set(eraseState, nil)
}

func whole(t time.Time) bool {
	return t.Nanosecond() == 0 && t.Unix() >= 0 && t.Unix() <= math.MaxUint32
}

// Outstanding is the plan of a publication that was committed and not yet applied.
func (s *Store) Outstanding() (plan []byte, ok bool, err error) {
	plan, err = s.get(planState)
	return plan, plan != nil, err
}

// Applied says that the outstanding publication's plan is carried out.
func (s *Store) Applied() error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if err := s.db.Delete(planState, pebble.Sync); err != nil {
		return fmt.Errorf("note that the publication is applied: %w", err)
	}
	return nil
}

// Windows are the windows of the scheme that are not erased, oldest first.
func (s *Store) Windows(scheme diagnosis.Scheme) (list []Window, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: schemeRow(windowRow, scheme, 0), UpperBound: schemeRow(windowRow, scheme+1, 0),
	})
	if err != nil {
		return nil, fmt.Errorf("read windows: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for it.First(); it.Valid(); it.Next() {
		w, err := parseWindow(it.Key(), it.Value())
		if err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	return list, it.Error()
}
