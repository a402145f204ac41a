package desk

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/text/unicode/norm"
)

// Role says what an account may do.
type Role string

const (
	Admin    Role = "admin"    // everything
	Officer  Role = "officer"  // codes, field teams, outreach
	District Role = "district" // adoption, field teams, outreach, notices
	Auditor  Role = "auditor"  // reads, and changes nothing but its own password
)

// Roles lists every role, in the order in which pages show them.
var Roles = [...]Role{Admin, Officer, District, Auditor}

// Valid reports whether r is a role.
func (r Role) Valid() bool { return slices.Contains(Roles[:], r) }

// Account is a member of staff.
type Account struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`    // to sign in with
	Display string    `json:"display"` // as colleagues know the person
	Role    Role      `json:"role"`
	Unit    string    `json:"unit,omitempty"` // a district account writes figures within it; empty: everywhere
	Made    time.Time `json:"made"`
	Ended   bool      `json:"ended,omitempty"`

	Password string            `json:"password,omitempty"` // as hashPassword stores it
	Recovery [][]byte          `json:"recovery,omitempty"` // keyed hashes of unused recovery codes
	Passkeys []json.RawMessage `json:"passkeys,omitempty"` // meaning set by the console
}

// String hides what opens the account.
func (a Account) String() string { return a.Name }

var (
	// ErrName and ErrDisplay refuse a name; ErrTaken means that another account has it.
	ErrName    = errors.New("a name to sign in with has 2 to 32 of the characters a-z 0-9 . _ -")
	ErrDisplay = errors.New("a person's name has 1 to 60 characters")
	ErrTaken   = errors.New("another account has this name")
	// ErrLink means that a link was used, withdrawn, has expired, or never was.
	ErrLink = errors.New("the link is no longer valid")
	// ErrSignIn means that name and password do not fit. It does not say which.
	ErrSignIn = errors.New("name or password is wrong")
	// ErrBusy means that more people sign in at this instant than passwords can be hashed.
	ErrBusy = errors.New("too many people sign in at once: try again")
	// ErrNoAccount means that the account is not there, or has ended.
	ErrNoAccount = errors.New("no such account")
	// ErrLastAdmin keeps an office from locking itself out.
	ErrLastAdmin = errors.New("this is the last admin: make another one first")
)

func checkName(name string) error {
	if len(name) < 2 || len(name) > 32 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
		return ErrName
	}
	return nil
}

// CleanText brings a typed line into one form: NFC, no control or invisible characters,
// single spaces. The second result is false if it is longer than limit characters.
func CleanText(s string, limit int) (string, bool) {
	if len(s) > 8*limit || !utf8.ValidString(s) {
		return "", false
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r):
			return -1
		}
		return r
	}, norm.NFC.String(s))
	s = strings.Join(strings.Fields(s), " ")
	return s, utf8.RuneCountInString(s) <= limit
}

// Link lets whoever holds it do one thing once: make an account, or set a new password
// for one.
type Link struct {
	Role    Role      `json:"role"`
	Unit    string    `json:"unit,omitempty"`
	For     string    `json:"for,omitempty"` // account whose password is set anew; empty: a new account
	By      string    `json:"by"`
	Expires time.Time `json:"expires"`
	SetUp   bool      `json:"set_up,omitempty"`
}

// How long links last.
const (
	SetUpLife  = 24 * time.Hour
	InviteLife = 7 * 24 * time.Hour
)

// SetUpLink makes the link of the first start, for an admin, and ends any earlier one. It
// gives an empty token if there is an account already.
func (o *Office) SetUpLink() (token string, err error) {
	err = o.write(func(b *pebble.Batch) error {
		accounts, err := all[Account](o.desk.DB, accountPaper)
		if err != nil || len(accounts) > 0 {
			return err
		}
		if err := b.DeleteRange([]byte{paperRow, linkPaper}, []byte{paperRow, linkPaper + 1}, nil); err != nil {
			return err
		}
		token = newToken()
		l := Link{Role: Admin, By: Local, Expires: o.Now().Add(SetUpLife), SetUp: true}
		return put(b, linkPaper, o.hidden("link", token), l)
	}, nil)
	return token, err
}

// Invite makes a link for a new account.
func (o *Office) Invite(by string, role Role, unit string) (token string, err error) {
	if !role.Valid() {
		return "", errRole(role)
	}
	if _, known := o.Unit(unit); unit != "" && !known {
		return "", ErrNoUnit
	}
	token = newToken()
	return token, o.write(func(b *pebble.Batch) error {
		l := Link{Role: role, Unit: unit, By: by, Expires: o.Now().Add(InviteLife)}
		if err := put(b, linkPaper, o.hidden("link", token), l); err != nil {
			return err
		}
		return o.note(b, by, "invite", strings.TrimSpace(string(role)+" "+unit))
	}, nil)
}

func errRole(role Role) error {
	return fmt.Errorf("unknown role %q: want admin, officer, district or auditor", role)
}

// ResetLink makes a link that sets a new password for an account.
func (o *Office) ResetLink(by, id string) (token string, err error) {
	token = newToken()
	return token, o.write(func(b *pebble.Batch) error {
		a, err := o.account(id)
		if err != nil {
			return err
		}
		l := Link{Role: a.Role, For: id, By: by, Expires: o.Now().Add(SetUpLife)}
		if err := put(b, linkPaper, o.hidden("link", token), l); err != nil {
			return err
		}
		return o.note(b, by, "reset", a.Name)
	}, nil)
}

// OpenLink looks at a link without using it up.
func (o *Office) OpenLink(token string) (Link, error) {
	l, found, err := fetch[Link](o.desk.DB, linkPaper, o.hidden("link", token))
	if err != nil {
		return Link{}, err
	}
	if !found || !o.Now().Before(l.Expires) {
		return Link{}, ErrLink
	}
	return l, nil
}

// Join uses a link up: it makes the account, or sets the password of the one the link is
// for, and ends that one's sessions. recovery are codes to be written down, shown once.
func (o *Office) Join(token, name, display, password string) (a Account, recovery []string, err error) {
	display, fits := CleanText(display, 60)
	hashed := ""
	if _, err := o.OpenLink(token); err != nil {
		return a, nil, err
	}
	if err := checkPassword(password, name, display); err != nil {
		return a, nil, err
	}
	hashed = hashPassword(password) // before the lock: it takes its time
	err = o.write(func(b *pebble.Batch) error {
		l, err := o.OpenLink(token)
		if err != nil {
			return err
		}
		act := "join"
		if l.For != "" {
			if a, err = o.account(l.For); err != nil {
				return err
			}
			if err := o.endSessions(b, a.ID, ""); err != nil {
				return err
			}
			act = "password"
		} else {
			if err := checkName(name); err != nil {
				return err
			}
			if !fits || display == "" {
				return ErrDisplay
			}
			if _, err := o.byName(name); !errors.Is(err, ErrNoAccount) {
				return errors.Join(err, ErrTaken)
			}
			a = Account{ID: newID(), Name: name, Display: display, Role: l.Role, Unit: l.Unit, Made: o.Now()}
		}
		a.Password = hashed
		a.Recovery, recovery = o.newRecovery()
		if err := errors.Join(put(b, accountPaper, a.ID, a), b.Delete(paperKey(linkPaper, o.hidden("link", token)), nil)); err != nil {
			return err
		}
		return o.note(b, a.ID, act, fmt.Sprintf("%s %s, link by %s", a.Name, a.Role, l.By))
	}, func() { o.doors.forgive(a.Name) })
	return a, recovery, err
}

// account reads an account that has not ended.
func (o *Office) account(id string) (Account, error) {
	a, found, err := fetch[Account](o.desk.DB, accountPaper, id)
	if err == nil && (!found || a.Ended) {
		err = ErrNoAccount
	}
	return a, err
}

// byName finds an account by what it signs in with, ended ones included: a name is never
// given twice.
func (o *Office) byName(name string) (Account, error) {
	for a, err := range scan[Account](o.desk.DB, accountPaper) {
		if err != nil || a.Name == name {
			return a, err
		}
	}
	return Account{}, ErrNoAccount
}

// Accounts lists all accounts, ended ones last.
func (o *Office) Accounts() ([]Account, error) {
	accounts, err := all[Account](o.desk.DB, accountPaper)
	slices.SortFunc(accounts, func(a, b Account) int {
		if a.Ended != b.Ended {
			if a.Ended {
				return 1
			}
			return -1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return accounts, err
}

// EndAccount closes an account and its sessions for good.
func (o *Office) EndAccount(by, id string) error {
	return o.write(func(b *pebble.Batch) error {
		a, err := o.account(id)
		if err != nil {
			return err
		}
		if err := o.notLast(a); err != nil {
			return err
		}
		a.Ended, a.Password, a.Recovery, a.Passkeys = true, "", nil, nil
		if err := errors.Join(put(b, accountPaper, a.ID, a), o.endSessions(b, a.ID, "")); err != nil {
			return err
		}
		return o.note(b, by, "end", a.Name)
	}, nil)
}

// SetRole changes what an account may do, and where it writes figures. It holds from the
// account's next request on. The error is ErrNoAccount, ErrLastAdmin, ErrNoUnit or one of
// the disk.
func (o *Office) SetRole(by, id string, role Role, unit string) error {
	if !role.Valid() {
		return errRole(role)
	}
	if _, known := o.Unit(unit); unit != "" && !known {
		return ErrNoUnit
	}
	return o.write(func(b *pebble.Batch) error {
		a, err := o.account(id)
		if err != nil || a.Role == role && a.Unit == unit {
			return err
		}
		if role != Admin {
			if err := o.notLast(a); err != nil {
				return err
			}
		}
		before := a.post()
		a.Role, a.Unit = role, unit
		if err := put(b, accountPaper, a.ID, a); err != nil {
			return err
		}
		return o.note(b, by, "role", fmt.Sprintf("%s %s, was %s", a.Name, a.post(), before))
	}, nil)
}

// post is role and unit of an account, for the journal.
func (a Account) post() string { return strings.TrimSpace(string(a.Role) + " " + a.Unit) }

// notLast is ErrLastAdmin if a is the only admin.
func (o *Office) notLast(a Account) error {
	if a.Role != Admin {
		return nil
	}
	for other, err := range scan[Account](o.desk.DB, accountPaper) {
		if err != nil {
			return err
		}
		if other.Role == Admin && !other.Ended && other.ID != a.ID {
			return nil
		}
	}
	return ErrLastAdmin
}

// ChangePassword sets a new password for who knows the old one, and ends all sessions of
// the account but the one with the given token.
func (o *Office) ChangePassword(id, old, password, keep string) error {
	a, err := o.account(id)
	if err != nil {
		return err
	}
	if err := o.doors.try(a.Name, o.Now()); err != nil {
		return err
	}
	if !passwordFits(a.Password, old) {
		return ErrSignIn
	}
	if err := checkPassword(password, a.Name, a.Display); err != nil {
		return err
	}
	hashed := hashPassword(password)
	return o.write(func(b *pebble.Batch) error {
		a, err := o.account(id)
		if err != nil {
			return err
		}
		a.Password = hashed
		if err := errors.Join(put(b, accountPaper, a.ID, a), o.endSessions(b, a.ID, keep)); err != nil {
			return err
		}
		return o.note(b, id, "password", a.Name)
	}, func() { o.doors.forgive(a.Name) })
}

// SetPasskeys replaces the passkeys of an account by what change makes of them.
func (o *Office) SetPasskeys(id, act string, change func([]json.RawMessage) []json.RawMessage) error {
	return o.write(func(b *pebble.Batch) error {
		a, err := o.account(id)
		if err != nil {
			return err
		}
		a.Passkeys = change(a.Passkeys)
		if err := put(b, accountPaper, a.ID, a); err != nil || act == "" {
			return err
		}
		return o.note(b, id, act, a.Name)
	}, nil)
}

// Recovery codes are 10 of 16 Crockford characters: 80 bits need no slow hash.
const recoveryCodes = 10

func (o *Office) newRecovery() (kept [][]byte, codes []string) {
	crock := base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)
	for range recoveryCodes {
		var b [10]byte
		rand.Read(b[:])
		code := crock.EncodeToString(b[:])
		kept = append(kept, o.desk.mac("recovery", code))
		codes = append(codes, code)
	}
	return kept, codes
}

// NewRecovery replaces the recovery codes of an account.
func (o *Office) NewRecovery(id string) (codes []string, err error) {
	return codes, o.write(func(b *pebble.Batch) error {
		a, err := o.account(id)
		if err != nil {
			return err
		}
		a.Recovery, codes = o.newRecovery()
		if err := put(b, accountPaper, a.ID, a); err != nil {
			return err
		}
		return o.note(b, id, "recovery codes", a.Name)
	}, nil)
}

// Recover signs in with a recovery code, which is used up.
func (o *Office) Recover(name, typed string) (Account, error) {
	if err := o.doors.try(name, o.Now()); err != nil {
		return Account{}, err
	}
	code, kind, err := Parse(typed)
	if err != nil || kind != Long {
		return Account{}, ErrSignIn
	}
	mac := o.desk.mac("recovery", code)
	var a Account
	err = o.write(func(b *pebble.Batch) error {
		found, err := o.byName(name)
		if errors.Is(err, ErrNoAccount) || found.Ended {
			return ErrSignIn
		}
		if err != nil {
			return err
		}
		i := slices.IndexFunc(found.Recovery, func(k []byte) bool { return subtle.ConstantTimeCompare(k, mac) == 1 })
		if i < 0 {
			return ErrSignIn
		}
		a = found
		a.Recovery = slices.Delete(slices.Clone(a.Recovery), i, i+1)
		if err := put(b, accountPaper, a.ID, a); err != nil {
			return err
		}
		return o.note(b, a.ID, "recover", fmt.Sprintf("%s, %d codes left", a.Name, len(a.Recovery)))
	}, func() { o.doors.forgive(name) })
	return a, err
}

// lobby bounds how many wait for their password to be hashed: anybody can make it work.
var lobby = make(chan struct{}, 32)

// SignIn checks name and password. The error is ErrSignIn, ErrBusy, a *WaitError, or one of
// the disk. An unknown name costs the same time and is locked out in the same way.
func (o *Office) SignIn(name, password string) (Account, error) {
	select {
	case lobby <- struct{}{}:
		defer func() { <-lobby }()
	default:
		return Account{}, ErrBusy
	}
	if err := o.doors.try(name, o.Now()); err != nil {
		return Account{}, err
	}
	a, err := o.byName(name)
	if err != nil && !errors.Is(err, ErrNoAccount) {
		return Account{}, err
	}
	if !passwordFits(a.Password, password) || a.Ended {
		return Account{}, ErrSignIn
	}
	o.doors.forgive(name)
	return a, nil
}
