package mirror

import (
	"bytes"
	"slices"
	"time"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
)

// ledger follows the entries of a log in order and applies every rule that they can break
// by themselves. It keeps what the tree is to be held against afterwards: the windows whose
// files should be there, those whose files should be gone, signers and small files.
type ledger struct {
	*Report
	now time.Time

	chains  map[chainID]*chain
	signers map[string]*signer
	small   map[string]smallFiles
	live    []*publication // windows with files, by entry
	gone    []*publication // erased not long ago
	listed  []*publication // windows that no erasure covers; those without files within retention
	tidyAt  int            // length of listed at which forget looks at it again
	erased  map[diagnosis.Scheme]int64

	floor    int64        // Unix seconds; the next entry was made then at the earliest
	seenSize uint64       // of a checkpoint seen before, 0 if there is none
	seenTime time.Time    // when it was signed
	seenKeys *keyringSeen // of a keyring seen before, nil if there is none
}

// chainID names a chain of windows.
type chainID struct {
	region string
	scheme diagnosis.Scheme
}

// chain is the newest window of a chain.
type chain struct {
	manifest exportlog.Manifest
	entry    uint64
}

// publication is a window with files.
type publication struct {
	exportlog.Manifest
	entry uint64
}

// signer is a signer of archives as the log knows it.
type signer struct {
	exportlog.SignerChange
	entry   uint64
	retired bool
	until   int64 // Unix seconds; signs no window that ends after it, if retired
}

// smallFile is an entry that names a small file.
type smallFile struct {
	exportlog.SmallFile
	entry uint64
	// logged is the earliest at which the entry can have been made, whatever it says itself:
	// not before those that it follows.
	logged int64
}

// smallFiles are the entries that name one path.
type smallFiles struct {
	newest smallFile
	before *smallFile // the last but one
	unread *smallFile // the first after the one whose file an earlier audit has read
}

func newLedger(r *Report, now time.Time) *ledger {
	return &ledger{Report: r, now: now, chains: map[chainID]*chain{}, signers: map[string]*signer{}, small: map[string]smallFiles{}, erased: map[diagnosis.Scheme]int64{}}
}

// remember tells what an earlier audit saw: a checkpoint of this size and time, and a
// keyring. Entries beyond that size were made after that time.
func (l *ledger) remember(size uint64, at time.Time, keys *keyringSeen) {
	l.seenSize, l.seenTime, l.seenKeys = size, at, keys
}

// No term of a log is longer than maxTerm, and no window ends after maxTime, the last second
// of the year 9999: with longer ones sums would overflow and nothing would ever be due.
const (
	maxTerm = 366 * 24 * time.Hour
	maxTime = 253402300799
)

// term is a period, hold or retention of a manifest.
func term(seconds int64) time.Duration {
	return time.Duration(min(seconds, int64(maxTerm/time.Second))) * time.Second
}

// keptUntil is when the retention of a window ends, in Unix seconds.
func keptUntil(m *exportlog.Manifest) int64 {
	return min(m.End, maxTime) + int64(term(m.Retain)/time.Second)
}

// goneBy is when the files of a window must be gone, whatever the log says: a period later.
func goneBy(m *exportlog.Manifest) int64 { return keptUntil(m) + int64(term(m.Period)/time.Second) }

// skew is how far clocks may differ before a time counts as in the future.
const skew = 5 * time.Minute

func (l *ledger) future(at int64) bool { return at > l.now.Add(skew).Unix() }

// at prints a time of the log.
func at(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

// add takes the next entry.
func (l *ledger) add(i uint64, e exportlog.Entry) {
	made := int64(0)
	if i >= l.seenSize {
		l.floor = max(l.floor, l.seenTime.Unix())
	}
	l.afterClosing(i, e)
	switch e := e.(type) {
	case exportlog.Manifest:
		made = e.End
		l.window(i, e)
	case exportlog.SignerChange:
		made = e.Time
		l.signer(i, e)
	case exportlog.SmallFile:
		made = e.Time
		l.smallFile(i, e)
	case exportlog.Erasure:
		made = e.Time
		l.erasure(i, e)
	case exportlog.Incident:
		made = e.Time
		l.note("entry %d, incident of %s: %s", i, at(e.Time), e.Text)
	case exportlog.Opening:
		made = e.Time
		l.opening(i, e)
	case exportlog.Closing:
		made = e.Time
		l.closing(i, e)
	}
	if l.future(made) {
		l.findEntry(CodeFuture, i, "", "made at %s, which has not come yet", at(made))
		return
	}
	l.floor = max(l.floor, made)
}

func (l *ledger) smallFile(i uint64, e exportlog.SmallFile) {
	f := smallFile{e, i, max(l.floor, e.Time)}
	history, again := l.small[e.Path]
	if again {
		before := history.newest
		history.before = &before
	}
	if history.newest = f; history.unread == nil && (l.seenKeys == nil || i > l.seenKeys.entry) {
		history.unread = &f
	}
	l.small[e.Path] = history
}

func (l *ledger) window(i uint64, m exportlog.Manifest) {
	l.Windows++
	if m.Origin != l.Origin {
		l.findEntry(CodeEntry, i, "", "the manifest of another log, %s", m.Origin)
	}
	id := chainID{m.Region, m.Scheme}
	if last := l.chains[id]; last != nil {
		l.follows(i, m, last)
	}
	if max(m.Period, m.Hold, m.Retain) > int64(maxTerm/time.Second) {
		l.findEntry(CodeTerms, i, "", "period %d, hold %d and retention %d seconds: no term may be longer than %s", m.Period, m.Hold, m.Retain, maxTerm)
	}
	if m.End-m.Start > 2*int64(term(m.Period)/time.Second) {
		l.findEntry(CodeSilence, i, "", "the %s window from %s to %s is longer than two periods", m.Scheme, at(m.Start), at(m.End))
	}
	l.chains[id] = &chain{m, i}
	for _, name := range m.Signers {
		s := l.signers[name]
		switch {
		case s == nil:
			l.findEntry(CodeSigner, i, "", "archives signed by %s, which the log has not introduced", name)
		case s.From >= m.End:
			l.findEntry(CodeSigner, i, "", "archives signed by %s, which may sign from %s only", name, at(s.From))
		case s.retired && m.End > s.until:
			l.findEntry(CodeSigner, i, "", "archives signed by %s, which was retired at %s", name, at(s.until))
		}
	}
	w := &publication{m, i}
	if m.Origin == l.Origin { // no index may list another log's
		l.listed = append(l.listed, w)
		l.forget()
	}
	if len(m.Files) > 0 {
		l.live = append(l.live, w)
	}
}

// forget drops windows without files whose retention is over: no index need list them, and
// no erasure need come that would drop them.
func (l *ledger) forget() {
	if len(l.listed) < l.tidyAt {
		return
	}
	l.listed = slices.DeleteFunc(l.listed, func(w *publication) bool {
		newest := l.chains[chainID{w.Region, w.Scheme}].manifest.End
		return len(w.Files) == 0 && keptUntil(&w.Manifest) < newest
	})
	l.tidyAt = 2*len(l.listed) + exportlog.TileWidth
}

// follows holds a window against the one before it in its chain.
func (l *ledger) follows(i uint64, m exportlog.Manifest, last *chain) {
	switch before := last.manifest; {
	case m.Start > before.End:
		l.findEntry(CodeGap, i, "", "the %s window starts at %s, the one before (entry %d) ended at %s", m.Scheme, at(m.Start), last.entry, at(before.End))
	case m.Start < before.End:
		l.findEntry(CodeOverlap, i, "", "the %s window starts at %s, the one before (entry %d) ended at %s", m.Scheme, at(m.Start), last.entry, at(before.End))
	}
	if b := last.manifest; b.Period != m.Period || b.Hold != m.Hold || b.Retain != m.Retain || b.Metadata != m.Metadata {
		l.note("entry %d changes the %s terms: period %ds, hold %ds, retention %ds, metadata %s; before: %ds, %ds, %ds, %s",
			i, m.Scheme, m.Period, m.Hold, m.Retain, m.Metadata, b.Period, b.Hold, b.Retain, b.Metadata)
	}
}

func (l *ledger) signer(i uint64, s exportlog.SignerChange) {
	old := l.signers[s.Name()]
	switch {
	case old != nil && !bytes.Equal(old.SPKI, s.SPKI):
		l.findEntry(CodeSigner, i, "", "another key as %s than entry %d", s.Name(), old.entry)
	case s.Retires && old == nil:
		l.findEntry(CodeSigner, i, "", "%s is retired but was never introduced", s.Name())
	case s.Retires:
		old.retired, old.until = true, s.From
		l.note("entry %d retires signer %s at %s", i, s.Name(), at(s.From))
	case old != nil:
		l.findEntry(CodeSigner, i, "", "%s is introduced again, after entry %d", s.Name(), old.entry)
	default:
		l.signers[s.Name()] = &signer{SignerChange: s, entry: i}
		l.note("entry %d introduces signer %s, from %s", i, s.Name(), at(s.From))
	}
}

// erasure moves the windows it covers out of those whose files should be there.
func (l *ledger) erasure(i uint64, e exportlog.Erasure) {
	kept := l.live[:0]
	for _, w := range l.live {
		if w.Scheme != e.Scheme || w.End > e.Through {
			kept = append(kept, w)
			continue
		}
		over := keptUntil(&w.Manifest)
		if e.Time < over {
			l.findEntry(CodeErasureEarly, i, "", "erases entry %d at %s, before its retention ends at %s", w.entry, at(e.Time), at(over))
		}
		if made := max(e.Time, l.floor); made > goneBy(&w.Manifest) {
			l.findEntry(CodeErasureLate, i, "", "erases entry %d at %s, more than a period after its retention ended at %s", w.entry, at(made), at(over))
		}
		if l.now.Unix() < goneBy(&w.Manifest)+int64(term(w.Retain)/time.Second) {
			l.gone = append(l.gone, w)
		}
	}
	l.erased[e.Scheme] = max(l.erased[e.Scheme], e.Through)
	clear(l.live[len(kept):])
	l.live = kept
	l.listed = slices.DeleteFunc(l.listed, func(w *publication) bool { return w.Scheme == e.Scheme && w.End <= e.Through })
}

// end applies the rules that compare the whole log with the time of the audit.
func (l *ledger) end() {
	spoken := l.now // until when it should have
	if l.closed != nil {
		spoken = time.Unix(l.closed.Time, 0)
	}
	for id, c := range l.chains {
		if m := c.manifest; spoken.Sub(time.Unix(m.End, 0)) > 2*term(m.Period) {
			l.findEntry(CodeSilence, c.entry, "", "no %s window of %s was closed since %s: more than two periods of %s", id.scheme, id.region, at(m.End), term(m.Period))
		}
	}
	for _, w := range l.live {
		if l.now.Unix() > goneBy(&w.Manifest) {
			l.findEntry(CodeErasureLate, w.entry, "", "its retention ended at %s and no entry says that its files are gone", at(keptUntil(&w.Manifest)))
		}
	}
	if len(l.chains) == 0 {
		l.note("the log holds no window yet: silence cannot be seen")
	}
}
