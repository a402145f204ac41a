package desk

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Places are the kinds of place where a field team stands.
var Places = [...]string{"checkpoint", "one_stop", "school", "market", "boarding", "door", "office", "other"}

// Tally is what a field team counts. It names nobody. Helped is never added to installs:
// who was helped may well be in a count of subscribers too.
type Tally struct {
	Households int64 `json:"households"` // visited
	Had        int64 `json:"had"`        // had the app already
	Helped     int64 `json:"helped"`     // to install it
	Refused    int64 `json:"refused"`
	NoPhone    int64 `json:"no_phone"` // no smartphone
}

// Fields of a tally in the order of pages.
var TallyFields = [...]string{"households", "had", "helped", "refused", "no_phone"}

// Field is the count with the given name.
func (t *Tally) Field(name string) *int64 {
	switch name {
	case "households":
		return &t.Households
	case "had":
		return &t.Had
	case "helped":
		return &t.Helped
	case "refused":
		return &t.Refused
	case "no_phone":
		return &t.NoPhone
	}
	return nil
}

// Team is a field team on one day.
type Team struct {
	ID      string    `json:"id"`
	Place   string    `json:"place"`
	Unit    string    `json:"unit"`
	Day     string    `json:"day"`
	Label   string    `json:"label"` // which of several teams: a number, a street; no names
	By      string    `json:"by"`
	Link    []byte    `json:"link,omitempty"` // keyed hash of the token of its page
	Expires time.Time `json:"expires"`
	Total   Tally     `json:"total"`
	Entries int       `json:"entries"`
}

const (
	// TeamLife is how long the link of a team lasts.
	TeamLife = 24 * time.Hour
	// MaxTap bounds each count of one submission, MaxEntries the submissions of a team.
	MaxTap     = 500
	MaxEntries = 5000
)

// NewTeam makes a team and the token of its page.
func (o *Office) NewTeam(by Account, t Team) (made Team, token string, err error) {
	token = newToken()
	err = o.write(func(b *pebble.Batch) error {
		l := o.Ledger()
		if _, known := l.Units[t.Unit]; !known {
			return &FieldError{Field: "unit", Problem: "unknown"}
		}
		if !l.Within(t.Unit, by.Unit) {
			return ErrNotYours
		}
		if !slices.Contains(Places[:], t.Place) {
			return &FieldError{Field: "place", Problem: "unknown"}
		}
		if err := cleanField("label", &t.Label, 40, false); err != nil {
			return err
		}
		t.ID, t.By, t.Day = newID(), by.ID, o.Today()
		t.Expires, t.Link = o.Now().Add(TeamLife), []byte(o.hidden("team", token))
		t.Total, t.Entries = Tally{}, 0
		if err := put(b, teamPaper, t.ID, t); err != nil {
			return err
		}
		return o.note(b, by.ID, "team", t.Unit+" "+t.Place)
	}, nil)
	return t, token, err
}

// Teams lists the teams, the newest day first.
func (o *Office) Teams() ([]Team, error) {
	teams, err := all[Team](o.desk.DB, teamPaper)
	slices.SortStableFunc(teams, func(a, b Team) int { return b.Expires.Compare(a.Expires) })
	return teams, err
}

// Team is the team of a token. The error is ErrLink if its day is over.
func (o *Office) Team(token string) (Team, error) {
	hidden := o.hidden("team", token)
	for t, err := range scan[Team](o.desk.DB, teamPaper) {
		if err != nil {
			return t, err
		}
		if string(t.Link) == hidden && o.Now().Before(t.Expires) {
			return t, nil
		}
	}
	return Team{}, ErrLink
}

// ErrTally refuses a submission that adds nothing, or too much.
var ErrTally = fmt.Errorf("each count is 0 to %d, and one is not 0", MaxTap)

// Count adds a submission to a team. once is what the page was made with: what is sent
// with it a second time, however late, is not counted again. It reports whether it was
// counted now.
func (o *Office) Count(token, once string, add Tally) (Team, bool, error) {
	counted := false
	var t Team
	err := o.write(func(b *pebble.Batch) (err error) {
		if t, err = o.Team(token); err != nil {
			return err
		}
		sum := int64(0)
		for _, name := range TallyFields {
			v := *add.Field(name)
			if v < 0 || v > MaxTap {
				return ErrTally
			}
			sum += v
			*t.Total.Field(name) += v
		}
		if sum == 0 || len(once) != len(newToken()) {
			return ErrTally
		}
		row := t.ID + string(o.desk.mac("submission", once)[:16])
		if _, known, err := fetch[Tally](o.desk.DB, countPaper, row); err != nil || known {
			t, _ = o.Team(token)
			return err
		}
		if t.Entries++; t.Entries > MaxEntries {
			return ErrTally
		}
		counted = true
		return errors.Join(put(b, teamPaper, t.ID, t), put(b, countPaper, row, add))
	}, nil)
	return t, counted && err == nil, err
}

// EndTeam ends the link of a team before its time.
func (o *Office) EndTeam(by Account, id string) error {
	return o.write(func(b *pebble.Batch) error {
		t, found, err := fetch[Team](o.desk.DB, teamPaper, id)
		if err != nil {
			return err
		}
		if !found || !o.Ledger().Within(t.Unit, by.Unit) {
			return ErrNotYours
		}
		t.Link, t.Expires = nil, o.Now()
		if err := put(b, teamPaper, id, t); err != nil {
			return err
		}
		return o.note(b, by.ID, "end team", t.Unit+" "+t.Place)
	}, nil)
}

// NewOnce is what a page is made with so that it counts once.
func NewOnce() string { return newToken() }
