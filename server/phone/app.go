package phone

import (
	"context"
	"errors"
	"slices"
	"time"

	"bluekey/keystore/diagnosis"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

const (
	maxAge        = 15 * 24 * time.Hour // a key that ended longer ago is refused
	pendingFor    = 24 * time.Hour      // no code lives longer
	publishByKept = 24 * time.Hour      // after it has come, for the app to look its keys up
)

// App is the part of an app that talks to the service. One goroutine at a time uses it.
type App struct {
	Client *Client
	Scheme diagnosis.Scheme
	State  State // as stored by the last run
	// Save stores the State, durably, before it returns. It is called before a request is
	// sent, so that a lost reply can be asked for again, and after its reply.
	Save func(State) error
	// Keys gives the phone's own keys that may be handed in: with the owner's consent, and
	// at best those that are used no more. It is asked only when a real upload is due.
	Keys func() ([]diagnosis.Key, error)
}

// Redeem buys a permit with the code that the owner typed. The keys go at State.Next, which
// is drawn anew. Called again with the same code after a lost reply it asks for that reply.
// Errors are those of Client.Redeem.
func (a *App) Redeem(ctx context.Context, typed string) error {
	code, err := ParseCode(typed)
	if err != nil {
		return err
	}
	s, now := &a.State, a.Client.Now()
	s.forget(now)
	if s.Pending == nil || s.Code != code {
		p, err := permit.NewPending()
		if err != nil {
			return err
		}
		s.Code, s.Pending, s.Asked = code, p, whole(now)
	}
	s.Next = NextCover(now)
	if err := a.save(); err != nil {
		return err
	}
	held, onset, err := a.Client.Redeem(ctx, code, s.Pending)
	switch r := (permit.Refusal{}); {
	case err == nil:
		s.Held, s.Onset, s.Until = held, onset, time.Time{}
		s.dropPending()
	case errors.As(err, &r) && r.Reason.Status() == permit.Refused:
		s.dropPending()
	}
	return errors.Join(err, a.save())
}

// Visit sends the request that State.Next was drawn for, and draws the next one: an upload
// of the keys that the permit waits for, or of those that ended since; else cover. A failed
// upload is tried again at the next visit, for as long as the permit may be used.
func (a *App) Visit(ctx context.Context) error {
	s, now := &a.State, a.Client.Now()
	s.forget(now)
	s.Next = NextCover(now)
	if err := a.save(); err != nil {
		return err
	}
	keys, err := a.due(now)
	if len(keys) == 0 {
		return errors.Join(err, a.Client.Cover(ctx, a.Scheme), a.save())
	}
	publishBy, err := a.Client.Upload(ctx, s.Held, CoarseOnset(keys, s.Onset))
	if err == nil {
		s.PublishBy = publishBy
		for i := range keys {
			if end := keys[i].EndTime(); end.After(s.Until) {
				s.Until = end
			}
		}
	} else if ended(err) {
		s.dropHeld()
	}
	return errors.Join(err, a.save())
}

// Look finds out whether the owner was near a case: in the exports of the tree of its Client
// and of others that it follows, all of each, by the rule in force. It brings State.Notices
// up to date first, whose Warning and Announcements the app then shows. What could not be
// read is an error; the contacts that were found all the same, by the notices known, are
// true.
func (a *App) Look(ctx context.Context, heard []Sighting, others ...string) ([]Contact, error) {
	c := a.Client
	notices, stale := c.Notices(ctx, a.State.Notices)
	a.State.Notices = notices
	unsaved := a.save()
	o := MatchOptions{Policy: c.Policy, Note: c.Note}
	contacts, err := Contacts(ctx, heard, append([]string{c.Tree}, others...), o, notices.Matching())
	return contacts, errors.Join(err, stale, unsaved)
}

// due gives the keys that are to be handed in now.
func (a *App) due(now time.Time) (due []diagnosis.Key, err error) {
	if a.State.Held == nil {
		return nil, nil
	}
	keys, err := a.Keys()
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if end := k.EndTime(); end.After(a.State.Until) && !end.Before(now.Add(-maxAge)) {
			due = append(due, k)
		}
	}
	if most := maxKeys(a.Scheme); len(due) > most { // the newest matter most
		slices.SortFunc(due, func(x, y diagnosis.Key) int { return y.EndTime().Compare(x.EndTime()) })
		due = due[:most]
	}
	return due, nil
}

// ended reports whether a refusal means that nothing more can be handed in under a permit.
func ended(err error) bool {
	var r permit.Refusal
	if !errors.As(err, &r) || r.Reason.Status() != permit.Refused {
		return false
	}
	switch r.Reason {
	case permit.ReasonMalformed, permit.ReasonTooOld, permit.ReasonFuture, permit.ReasonOverlap:
		return false // about keys: others may be taken
	}
	return true
}

// save hands the State on, with the keyring that the client has by now.
func (a *App) save() error {
	a.Client.mu.Lock()
	a.State.Keyring = a.Client.keyring
	a.Client.mu.Unlock()
	return a.Save(a.State)
}

// forget drops what has no use any more.
func (s *State) forget(now time.Time) {
	if s.Pending != nil && now.After(s.Asked.Add(pendingFor)) {
		s.dropPending()
	}
	if s.Held != nil {
		usable := permit.LateUse
		if s.Until.IsZero() {
			usable = permit.FirstUse
		}
		if !usable(s.Held.Epoch, seal.DayAt(now)) {
			s.dropHeld()
		}
	}
	if now.After(s.PublishBy.Add(publishByKept)) {
		s.PublishBy = time.Time{}
	}
}

func (s *State) dropPending() { s.Code, s.Pending, s.Asked = "", nil, time.Time{} }
func (s *State) dropHeld()    { s.Held, s.Onset, s.Until = nil, 0, time.Time{} }

func whole(t time.Time) time.Time { return time.Unix(t.Unix(), 0).UTC() }
