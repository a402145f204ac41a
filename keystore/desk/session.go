package desk

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// SessionIdle and SessionLife end a session: so long after its last request, and so
	// long after it began.
	SessionIdle = 30 * time.Minute
	SessionLife = 12 * time.Hour

	touchEvery = time.Minute     // how exact the time of the last request is kept
	maxAhead   = 5 * time.Minute // a session from the future: the clock was set back
	perAccount = 10              // sessions; the oldest makes room
)

// Session is one browser signed in.
type Session struct {
	Account string    `json:"account"`
	Began   time.Time `json:"began"`
	Seen    time.Time `json:"seen"`
	ID      []byte    `json:"id"` // keyed hash of the token: the name of the row
}

// ErrSession means that nobody is signed in with the token, any more or ever.
var ErrSession = errors.New("not signed in")

// Begin starts a session and returns its token.
func (o *Office) Begin(account string) (token string, err error) {
	token = newToken()
	return token, o.write(func(b *pebble.Batch) error {
		if _, err := o.account(account); err != nil {
			return err
		}
		now := o.Now()
		var own []Session
		for s, err := range scan[Session](o.desk.DB, sessionPaper) {
			switch {
			case err != nil:
				return err
			case s.over(now):
				err = b.Delete(paperKey(sessionPaper, string(s.ID)), nil)
			case s.Account == account:
				own = append(own, s)
			}
			if err != nil {
				return err
			}
		}
		slices.SortFunc(own, func(a, b Session) int { return a.Began.Compare(b.Began) })
		for _, s := range own[:max(0, len(own)-perAccount+1)] {
			if err := b.Delete(paperKey(sessionPaper, string(s.ID)), nil); err != nil {
				return err
			}
		}
		id := o.hidden("session", token)
		return put(b, sessionPaper, id, Session{Account: account, Began: now, Seen: now, ID: []byte(id)})
	}, nil)
}

func (s Session) over(now time.Time) bool {
	return now.Sub(s.Seen) >= SessionIdle || now.Sub(s.Began) >= SessionLife || s.Seen.Sub(now) > maxAhead
}

// Who is the account of a session, which thereby stays awake. The error is ErrSession or
// one of the disk.
func (o *Office) Who(token string) (Account, error) {
	id := o.hidden("session", token)
	s, found, err := fetch[Session](o.desk.DB, sessionPaper, id)
	if err != nil {
		return Account{}, err
	}
	now := o.Now()
	if !found || s.over(now) {
		return Account{}, ErrSession
	}
	a, err := o.account(s.Account)
	if errors.Is(err, ErrNoAccount) {
		return a, ErrSession
	}
	if err != nil || now.Sub(s.Seen).Abs() < touchEvery {
		return a, err
	}
	return a, o.write(func(b *pebble.Batch) error {
		s, found, err := fetch[Session](o.desk.DB, sessionPaper, id)
		if err != nil || !found { // signed out meanwhile
			return err
		}
		s.Seen = now
		return put(b, sessionPaper, id, s)
	}, nil)
}

// End ends the session of a token.
func (o *Office) End(token string) error {
	return o.write(func(b *pebble.Batch) error {
		return b.Delete(paperKey(sessionPaper, o.hidden("session", token)), nil)
	}, nil)
}

// endSessions adds to b the end of an account's sessions, but for the one of a token.
func (o *Office) endSessions(b *pebble.Batch, account, keep string) error {
	kept := o.hidden("session", keep)
	for s, err := range scan[Session](o.desk.DB, sessionPaper) {
		if err != nil {
			return err
		}
		if s.Account == account && string(s.ID) != kept {
			if err := b.Delete(paperKey(sessionPaper, string(s.ID)), nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// doors counts failed attempts to sign in by name, in memory only: a restart forgets
// them, and nobody outside can cause one. Names that no account has are counted like the
// others, so that waiting tells nothing.
type doors struct {
	mu    sync.Mutex
	tries map[string]*tries
}

type tries struct {
	failed int
	until  time.Time // no attempt before
	last   time.Time
}

const (
	freeTries  = 5
	firstWait  = 30 * time.Second
	longestTry = time.Hour
	maxDoors   = 10_000
)

// WaitError means that there were too many failed attempts.
type WaitError struct{ Wait time.Duration }

func (e *WaitError) Error() string {
	return fmt.Sprintf("too many failed attempts: wait %v", e.Wait.Round(time.Second))
}

// try counts an attempt as failed until forgive says otherwise, so that many at once
// cannot outrun the counter. From the fifth on each one doubles the wait.
func (d *doors) try(name string, now time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tries == nil {
		d.tries = map[string]*tries{}
	}
	t := d.tries[name]
	if t == nil {
		d.makeRoom(now)
		t = &tries{}
		d.tries[name] = t
	}
	if wait := t.until.Sub(now); wait > 0 && wait <= longestTry { // longer: the clock was set back
		return &WaitError{Wait: wait}
	}
	t.failed++
	t.last = now
	if over := t.failed - freeTries; over >= 0 {
		t.until = now.Add(min(firstWait<<min(over, 10), longestTry))
	}
	return nil
}

// makeRoom drops what was quiet for a day, and then the quietest.
func (d *doors) makeRoom(now time.Time) {
	if len(d.tries) < maxDoors {
		return
	}
	quietest := ""
	for name, t := range d.tries {
		if now.Sub(t.last) > 24*time.Hour {
			delete(d.tries, name)
		} else if quietest == "" || t.last.Before(d.tries[quietest].last) {
			quietest = name
		}
	}
	if len(d.tries) >= maxDoors {
		delete(d.tries, quietest)
	}
}

func (d *doors) forgive(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.tries, name)
}
