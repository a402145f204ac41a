package desk

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/keystore/diagnosis"
)

// clerk is an office on a disk in memory with a clock that the test moves.
type clerk struct {
	*Office
	t   *testing.T
	fs  vfs.FS
	now time.Time
}

func newClerk(t *testing.T) *clerk {
	t.Helper()
	c := &clerk{t: t, fs: vfs.NewMem(), now: time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)}
	c.open()
	t.Cleanup(func() { c.desk.DB.Close() })
	return c
}

func (c *clerk) open() {
	c.t.Helper()
	db, err := pebble.Open("db", &pebble.Options{FS: c.fs, Logger: hush{}})
	if err != nil {
		c.t.Fatal(err)
	}
	d, err := Open(Config{DB: db, Key: [32]byte{1}, Cap: 20, Now: func() time.Time { return c.now }, Gate: new(sync.RWMutex)})
	if err != nil {
		c.t.Fatal(err)
	}
	if c.Office, err = OpenOffice(d); err != nil {
		c.t.Fatal(err)
	}
}

// reopen closes the database and opens it again.
func (c *clerk) reopen() {
	c.t.Helper()
	if err := c.desk.DB.Close(); err != nil {
		c.t.Fatal(err)
	}
	c.open()
}

type hush struct{}

func (hush) Infof(string, ...any)  {}
func (hush) Errorf(string, ...any) {}
func (hush) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...))
}

const goodPassword = "bốn con gà mái ghẹ"

func (c *clerk) admin() Account {
	c.t.Helper()
	token, err := c.SetUpLink()
	if err != nil {
		c.t.Fatal(err)
	}
	a, recovery, err := c.Join(token, "hoa", "Nguyễn Thị Hoa", goodPassword)
	if err != nil || len(recovery) != recoveryCodes {
		c.t.Fatal(err, len(recovery))
	}
	return a
}

func (c *clerk) join(role Role, name string) Account {
	c.t.Helper()
	token, err := c.Invite(Local, role, "")
	if err != nil {
		c.t.Fatal(err)
	}
	a, _, err := c.Join(token, name, name, goodPassword)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

func TestLinksWorkOnce(t *testing.T) {
	c := newClerk(t)
	first, _ := c.SetUpLink()
	second, _ := c.SetUpLink()
	if _, _, err := c.Join(first, "hoa", "Hoa", goodPassword); !errors.Is(err, ErrLink) {
		t.Errorf("a set-up link replaced by another: %v", err)
	}
	c.now = c.now.Add(SetUpLife)
	if _, _, err := c.Join(second, "hoa", "Hoa", goodPassword); !errors.Is(err, ErrLink) {
		t.Errorf("an expired set-up link: %v", err)
	}
	admin := c.admin()
	if token, err := c.SetUpLink(); token != "" || err != nil {
		t.Errorf("a set-up link beside an account: %q, %v", token, err)
	}
	invited, err := c.Invite(admin.ID, Officer, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Join(invited, "hoa", "Another", goodPassword); !errors.Is(err, ErrTaken) {
		t.Errorf("a taken name: %v", err)
	}
	if _, _, err := c.Join(invited, "Lan!", "Another", goodPassword); !errors.Is(err, ErrName) {
		t.Errorf("a bad name: %v", err)
	}
	// Two at once: one gets it.
	var wg sync.WaitGroup
	got := make([]error, 4)
	for i := range got {
		wg.Go(func() { _, _, got[i] = c.Join(invited, fmt.Sprint("lan", i), "Lan", goodPassword) })
	}
	wg.Wait()
	won := 0
	for _, err := range got {
		if err == nil {
			won++
		} else if !errors.Is(err, ErrLink) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d accounts by one link", won)
	}
}

func TestPasswords(t *testing.T) {
	for password, want := range map[string]error{
		"short":                   ErrPasswordShort,
		"12345678901":             ErrPasswordShort,
		"Password1234":            ErrPasswordCommon,
		"haiphong2026!":           ErrPasswordCommon,
		"anhyeuemnhieulam":        ErrPasswordCommon,
		"aaaaaaaaaaaaaaaa":        ErrPasswordCommon,
		"1234 5678 90 12":         ErrPasswordCommon,
		"hoahoa123456":            nil,
		"nguyenhoa-12345678":      ErrPasswordCommon,
		strings.Repeat("xy", 200): ErrPasswordLong,
		goodPassword:              nil,
	} {
		if err := checkPassword(password, "nguyenhoa", "Nguyễn Hoa"); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%q: %v, want %v", password, err, want)
		}
	}
	stored := hashPassword(goodPassword)
	if !passwordFits(stored, goodPassword) || passwordFits(stored, goodPassword+" ") || passwordFits("", "") || passwordFits(nobody, "x") {
		t.Error("the wrong password fits, or the right one does not")
	}
	if strings.Contains(stored, goodPassword) || stored == hashPassword(goodPassword) {
		t.Error("stored without salt or hash")
	}
}

func TestSignInLocksOut(t *testing.T) {
	c := newClerk(t)
	a := c.admin()
	for _, name := range []string{"hoa", "nobody"} {
		var wait *WaitError
		for i := range freeTries {
			if _, err := c.SignIn(name, "wrong"); !errors.Is(err, ErrSignIn) {
				t.Fatalf("%s, attempt %d: %v", name, i, err)
			}
		}
		if _, err := c.SignIn(name, goodPassword); !errors.As(err, &wait) || wait.Wait != firstWait {
			t.Fatalf("%s after five: %v", name, err)
		}
		c.now = c.now.Add(firstWait)
		if _, err := c.SignIn(name, "wrong"); !errors.Is(err, ErrSignIn) {
			t.Fatal(err)
		}
		if _, err := c.SignIn(name, "wrong"); !errors.As(err, &wait) || wait.Wait != 2*firstWait {
			t.Fatalf("%s: the wait does not double: %v", name, err)
		}
		c.now = c.now.Add(2 * firstWait)
	}
	if got, err := c.SignIn("hoa", goodPassword); err != nil || got.ID != a.ID {
		t.Fatal(err)
	}
	if _, err := c.SignIn("hoa", "wrong"); !errors.Is(err, ErrSignIn) {
		t.Error("a good sign-in does not forgive the earlier ones")
	}
	// Many at once cannot outrun the counter.
	var wg sync.WaitGroup
	var mu sync.Mutex
	tried := 0
	for range 20 {
		wg.Go(func() {
			if _, err := c.SignIn("crowd", "wrong"); errors.Is(err, ErrSignIn) {
				mu.Lock()
				tried++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if tried != freeTries {
		t.Errorf("%d of 20 attempts at once were let through", tried)
	}
	// The clock set back by a day locks nobody out for a day.
	c.now = c.now.Add(-24 * time.Hour)
	if _, err := c.SignIn("crowd", "wrong"); !errors.Is(err, ErrSignIn) {
		t.Errorf("after the clock went back: %v", err)
	}
}

func TestSessions(t *testing.T) {
	c := newClerk(t)
	a := c.admin()
	token, err := c.Begin(a.ID)
	if err != nil {
		t.Fatal(err)
	}
	who := func(token string) error { _, err := c.Who(token); return err }
	for range 20 { // each request keeps it awake
		c.now = c.now.Add(29 * time.Minute)
		if err := who(token); err != nil {
			t.Fatal(err)
		}
	}
	c.reopen()
	if err := who(token); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	c.now = c.now.Add(SessionIdle)
	if err := who(token); !errors.Is(err, ErrSession) {
		t.Errorf("after half an hour without a request: %v", err)
	}
	token, _ = c.Begin(a.ID)
	for began := c.now; c.now.Sub(began) < SessionLife-time.Minute; c.now = c.now.Add(20 * time.Minute) {
		who(token)
	}
	if err := who(token); !errors.Is(err, ErrSession) {
		t.Errorf("after twelve hours: %v", err)
	}
	token, _ = c.Begin(a.ID)
	c.now = c.now.Add(-time.Hour)
	if err := who(token); !errors.Is(err, ErrSession) {
		t.Errorf("with the clock set back: %v", err)
	}
	c.now = c.now.Add(time.Hour)
	if err := who(strings.Repeat("A", 43)); !errors.Is(err, ErrSession) {
		t.Errorf("with a made-up token: %v", err)
	}
	other, _ := c.Begin(a.ID)
	if err := c.ChangePassword(a.ID, goodPassword, "con trâu là đầu cơ nghiệp", token); err != nil {
		t.Fatal(err)
	}
	if who(token) != nil || !errors.Is(who(other), ErrSession) {
		t.Error("a new password ends the other sessions and not this one")
	}
	if err := c.End(token); err != nil || !errors.Is(who(token), ErrSession) {
		t.Error("signed out and still in")
	}
	for range perAccount + 3 {
		token, _ = c.Begin(a.ID)
	}
	rows, _ := all[Session](c.desk.DB, sessionPaper)
	if len(rows) != perAccount || who(token) != nil {
		t.Errorf("%d sessions of one account", len(rows))
	}
}

func TestRecoveryAndEnding(t *testing.T) {
	c := newClerk(t)
	a := c.admin()
	codes, err := c.NewRecovery(a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Recover("hoa", strings.ToLower(codes[3])); err != nil || got.ID != a.ID {
		t.Fatal(err)
	}
	if _, err := c.Recover("hoa", codes[3]); !errors.Is(err, ErrSignIn) {
		t.Errorf("a recovery code a second time: %v", err)
	}
	if err := c.EndAccount(a.ID, a.ID); !errors.Is(err, ErrLastAdmin) {
		t.Errorf("ending the last admin: %v", err)
	}
	b := c.join(Admin, "lan")
	token, _ := c.Begin(a.ID)
	link, err := c.ResetLink(b.ID, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Join(link, "", "", "con trâu là đầu cơ nghiệp"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Who(token); !errors.Is(err, ErrSession) {
		t.Error("a new password by link leaves old sessions")
	}
	if _, err := c.SignIn("hoa", "con trâu là đầu cơ nghiệp"); err != nil {
		t.Error(err)
	}
	if err := c.EndAccount(b.ID, a.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SignIn("hoa", "con trâu là đầu cơ nghiệp"); !errors.Is(err, ErrSignIn) {
		t.Errorf("an ended account signs in: %v", err)
	}
}

func TestRoleChange(t *testing.T) {
	c := newClerk(t)
	a := c.admin()
	c.units(a, "31,,province,Hải Phòng,")
	b := c.join(Officer, "lan")
	token, err := c.Begin(b.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetRole(a.ID, a.ID, Auditor, ""); !errors.Is(err, ErrLastAdmin) {
		t.Errorf("the last admin becomes an auditor: %v", err)
	}
	for name, do := range map[string]error{
		"unknown role":    c.SetRole(a.ID, b.ID, "king", ""),
		"unknown unit":    c.SetRole(a.ID, b.ID, District, "99"),
		"unknown account": c.SetRole(a.ID, "nobody", District, ""),
	} {
		if do == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for range 2 { // the second time changes nothing
		if err := c.SetRole(a.ID, b.ID, District, "31"); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := c.Who(token); err != nil || got.Role != District || got.Unit != "31" {
		t.Errorf("the session goes on as %s %q: %v", got.Role, got.Unit, err)
	}
	lines, err := c.Journal(0, 2)
	if err != nil || lines[0].Act != "role" || lines[0].Detail != "lan district 31, was officer" || lines[0].Who != a.ID || lines[1].Act == "role" {
		t.Errorf("%+v %v", lines, err)
	}
	if err := c.SetRole(a.ID, b.ID, Admin, ""); err != nil {
		t.Fatal(err)
	}
	if err := c.SetRole(b.ID, a.ID, Auditor, ""); err != nil {
		t.Errorf("beside another admin: %v", err)
	}
	// An ended admin is none.
	if err := c.SetRole(b.ID, a.ID, Admin, ""); err != nil {
		t.Fatal(err)
	}
	if err := c.EndAccount(b.ID, a.ID); err != nil {
		t.Fatal(err)
	}
	if err := c.SetRole(b.ID, b.ID, Officer, ""); !errors.Is(err, ErrLastAdmin) {
		t.Errorf("the last admin beside an ended one: %v", err)
	}
}

// TestNobodyIsLeft: whoever owns the folder gets back in when no admin can.
func TestNobodyIsLeft(t *testing.T) {
	c := newClerk(t)
	c.admin()
	c.now = c.now.Add(365 * 24 * time.Hour)
	token, err := c.Invite(Local, Admin, "")
	if err != nil {
		t.Fatal(err)
	}
	if a, _, err := c.Join(token, "minh", "Minh", goodPassword); err != nil || a.Role != Admin {
		t.Error(a, err)
	}
}

func TestBackupIsNoted(t *testing.T) {
	c := newClerk(t)
	if at, err := c.Backup(); !at.IsZero() || err != nil {
		t.Error(at, err)
	}
	if err := c.NoteBackup(Local); err != nil {
		t.Fatal(err)
	}
	at := c.now
	c.now = c.now.Add(time.Hour)
	c.reopen()
	if got, err := c.Backup(); !got.Equal(at) || err != nil {
		t.Error(got, err)
	}
	if head := c.JournalHead(); head.Number != 1 {
		t.Error(head)
	}
}

func TestJournal(t *testing.T) {
	c := newClerk(t)
	a := c.admin()
	codes, err := c.Issue(t.Context(), Request{Officer: a.ID, Report: diagnosis.ConfirmedTest, Count: 3})
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := c.Revoke(t.Context(), a.ID, codes[0]); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := c.Issue(t.Context(), Request{Officer: a.ID, Report: diagnosis.ConfirmedTest, Count: 30}); !errors.Is(err, ErrOfficerCap) {
		t.Fatal(err)
	}
	if used, limit, err := c.IssuedToday(a.ID); used != 3 || limit != 20 || err != nil {
		t.Error(used, limit, err)
	}
	middle := c.JournalHead()
	c.reopen()
	c.join(Officer, "lan")
	var text bytes.Buffer
	if err := c.WriteJournal(&text); err != nil {
		t.Fatal(err)
	}
	for _, code := range codes {
		if strings.Contains(text.String(), code) {
			t.Error("the journal holds a code")
		}
	}
	head, met, err := VerifyJournal(bytes.NewReader(text.Bytes()), middle)
	if err != nil || !met || head != c.JournalHead() || head.Number != 5 {
		t.Fatalf("%v %v %v\n%s", head, met, err, &text)
	}
	if back, err := ParseHead(head.String()); err != nil || back != head {
		t.Error(back, err)
	}
	if !strings.Contains(text.String(), "issue\t3 short confirmed-test\t") {
		t.Error(text.String())
	}
	// Any byte changed, any line dropped or swapped is noticed.
	raw := text.Bytes()
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if h, met, err := VerifyJournal(bytes.NewReader(bad), head); err == nil && met {
			t.Fatalf("byte %d changed: %v", i, h)
		} else if err != nil && !errors.Is(err, ErrJournal) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	lines := bytes.SplitAfter(raw, []byte("\n"))
	for i := range len(lines) - 1 {
		bad := bytes.Join(append(append([][]byte{}, lines[:i]...), lines[i+1:]...), nil)
		if _, met, err := VerifyJournal(bytes.NewReader(bad), head); err == nil && met {
			t.Errorf("line %d dropped", i+1)
		}
	}
	page, err := c.Journal(0, 2)
	if err != nil || len(page) != 2 || page[0].Number != 5 {
		t.Fatal(page, err)
	}
	if page, err = c.Journal(page[1].Number, 10); err != nil || len(page) != 3 || page[0].Number != 3 {
		t.Fatal(page, err)
	}
}

func FuzzVerifyJournal(f *testing.F) {
	f.Add([]byte("1\t2026-11-23T03:00:00Z\tlocal\tinvite\tadmin\t00\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		VerifyJournal(bytes.NewReader(data), Head{})
	})
}

func (c *clerk) units(by Account, lines ...string) {
	c.t.Helper()
	units, err := ReadUnits(strings.NewReader(strings.Join(UnitHeader, ",") + "\n" + strings.Join(lines, "\n")))
	if err == nil {
		err = c.SetUnits(by, units)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}
