package desk

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

func mustIssueDoor(t *testing.T, d *Desk) string {
	t.Helper()
	code, err := d.IssueDoor(context.Background(), "lan", diagnosis.ConfirmedTest, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseDoor(code); err != nil || len(code) != 6 {
		t.Fatalf("%d characters, %v", len(code), err)
	}
	return code
}

// spendDoor does what the store does for a case.
func spendDoor(t *testing.T, d *Desk, code string, content [32]byte) (Claim, error) {
	t.Helper()
	c, err := d.RedeemDoor(code, content)
	if err != nil || c.Replay {
		return c, err
	}
	b := d.DB.NewBatch()
	defer b.Close()
	if err := c.Spend(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(pebble.Sync); err != nil {
		t.Fatal(err)
	}
	d.Spent(c)
	return c, nil
}

// wrongDoorCode is one that nobody issued.
func wrongDoorCode(t *testing.T, d *Desk) string {
	t.Helper()
	code, _, err := d.newDoorCode()
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func TestDoorCodeOneCase(t *testing.T) {
	d, now := newDesk(t, 100)
	code := mustIssueDoor(t, d)
	first, other := [32]byte{1}, [32]byte{2}
	c, err := spendDoor(t, d, code, first)
	if err != nil || c.Report != diagnosis.ConfirmedTest || c.OnsetDay != uint32(now.Unix()/day)-DefaultOnset {
		t.Fatalf("%+v, %v", c, err)
	}
	if c, err := spendDoor(t, d, code, first); err != nil || !c.Replay {
		t.Errorf("the same case again: %+v, %v", c, err)
	}
	if _, err := spendDoor(t, d, code, other); !errors.Is(err, ErrSpent) {
		t.Errorf("another case: %v", err)
	}
	// A reply that was lost may be asked for after the code's time.
	*now = now.Add(DoorTTL)
	if c, err := spendDoor(t, d, code, first); err != nil || !c.Replay {
		t.Errorf("the same case after the code's time: %+v, %v", c, err)
	}
	if n := d.Status().Door.Alive; n != 0 {
		t.Errorf("%d codes alive", n)
	}
}

func TestDoorCodeRefusals(t *testing.T) {
	d, now := newDesk(t, 100)
	ctx := context.Background()
	gone, late := mustIssueDoor(t, d), mustIssueDoor(t, d)
	if ok, err := d.RevokeDoor(ctx, gone); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, err := d.RevokeDoor(ctx, gone); ok || err != nil {
		t.Errorf("revoked twice: %v, %v", ok, err)
	}
	if _, err := d.RedeemDoor(gone, [32]byte{}); !errors.Is(err, ErrUnknown) {
		t.Errorf("a revoked code: %v", err)
	}
	*now = now.Add(DoorTTL - time.Second)
	if _, err := d.RedeemDoor(late, [32]byte{}); err != nil {
		t.Errorf("in its last second: %v", err)
	}
	*now = now.Add(time.Second)
	if _, err := d.RedeemDoor(late, [32]byte{}); !errors.Is(err, ErrExpired) {
		t.Errorf("after its time: %v", err)
	}
	for _, typed := range []string{"", "12345", "1234567", "12345a", " 123456", "12 456", "１２３４５６", strings.Repeat("1", 1000)} {
		if _, err := ParseDoor(typed); !errors.Is(err, ErrForm) {
			t.Errorf("%q: %v", typed, err)
		}
	}
}

// A code of the door opens nothing else, and the other way round.
func TestDoorCodeStaysAtTheDoor(t *testing.T) {
	d, _ := newDesk(t, 100)
	code := mustIssueDoor(t, d)
	if d.ID(code) == d.DoorID(code) {
		t.Error("both kinds have the same hash")
	}
	if _, _, err := Parse(code); err == nil {
		t.Error("a door code is taken for an upload code")
	}
	if s := d.Status(); s.ShortAlive != 0 || s.LongAlive != 0 || s.Door.Alive != 1 {
		t.Errorf("%+v", s)
	}
}

func TestDoorCodesAlive(t *testing.T) {
	d, now := newDesk(t, 7)
	codes := map[string]bool{}
	for range MaxDoorAlive {
		codes[mustIssueDoor(t, d)] = true
	}
	issue := func() error {
		_, err := d.IssueDoor(context.Background(), "lan", diagnosis.ConfirmedTest, 0)
		return err
	}
	if err := issue(); !errors.Is(err, ErrDoorFull) || len(codes) != MaxDoorAlive {
		t.Errorf("a sixth code: %v; %d different before", err, len(codes))
	}
	// Opened again, the desk knows.
	again := openDesk(t, d.DB, 7, now)
	if n := again.Status().Door.Alive; n != MaxDoorAlive {
		t.Errorf("%d alive after a restart", n)
	}
	for code := range codes {
		if _, err := spendDoor(t, d, code, [32]byte{1}); err != nil {
			t.Fatal(err)
		}
		break
	}
	if err := issue(); err != nil {
		t.Errorf("after one was used: %v", err)
	}
	*now = now.Add(DoorTTL)
	if err := issue(); err != nil {
		t.Errorf("after their time: %v", err)
	}
	if err := issue(); !errors.Is(err, ErrOfficerCap) {
		t.Errorf("beyond the officer's cap: %v", err)
	}
}

func TestDoorPauses(t *testing.T) {
	d, now := newDesk(t, 100)
	code := mustIssueDoor(t, d)
	for i := range MaxDoorGuesses {
		if d.Status().Door.Paused {
			t.Fatalf("it pauses after %d wrong codes", i)
		}
		if _, err := d.RedeemDoor(wrongDoorCode(t, d), [32]byte{}); !errors.Is(err, ErrUnknown) {
			t.Fatalf("wrong code %d: %v", i, err)
		}
	}
	s := d.Status()
	if !s.Door.Paused || s.Door.PausedUntil.Sub(*now) > time.Hour+time.Minute || s.Paused {
		t.Errorf("staff are told %+v", s)
	}
	if _, err := d.RedeemDoor(code, [32]byte{}); !errors.Is(err, ErrPaused) {
		t.Errorf("the right code while it pauses: %v", err)
	}
	*now = s.Door.PausedUntil
	if d.Status().Door.Paused {
		t.Error("it pauses longer than it said")
	}
	fresh := mustIssueDoor(t, d)
	for range 100 { // right ones cost nothing
		if _, err := d.RedeemDoor(fresh, [32]byte{}); err != nil {
			t.Fatal(err)
		}
	}
}

// Guesses at one instant get no more than the same number one after another.
func TestDoorGuessesAtOnce(t *testing.T) {
	d, _ := newDesk(t, 100)
	wrong := wrongDoorCode(t, d)
	var looked atomic.Int32
	var group sync.WaitGroup
	for range 200 {
		group.Go(func() {
			if _, err := d.RedeemDoor(wrong, [32]byte{}); errors.Is(err, ErrUnknown) {
				looked.Add(1)
			}
		})
	}
	group.Wait()
	if n := looked.Load(); n != MaxDoorGuesses {
		t.Errorf("%d guesses got an answer, want %d", n, MaxDoorGuesses)
	}
}

func TestDoorCodesAreSweptAndVoided(t *testing.T) {
	d, now := newDesk(t, 100)
	code := mustIssueDoor(t, d)
	b := d.DB.NewBatch()
	done, err := d.RevokeAll(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(pebble.Sync); err != nil {
		t.Fatal(err)
	}
	done()
	if _, err := d.RedeemDoor(code, [32]byte{}); !errors.Is(err, ErrUnknown) || d.Status().Door.Alive != 0 {
		t.Errorf("after a restore: %v, %+v", err, d.Status())
	}
	*now = now.Add(DoorTTL + keepExpired + time.Second)
	b = d.DB.NewBatch()
	if err := d.Sweep(b); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if _, known, err := d.read(d.DoorID(code)); known || err != nil {
		t.Errorf("the row is still there: %v", err)
	}
}

// The journal says that a door code was issued or revoked, and never which.
func TestDoorJournal(t *testing.T) {
	d, _ := newDesk(t, 100)
	o, err := OpenOffice(d)
	if err != nil {
		t.Fatal(err)
	}
	code, err := o.IssueDoor(context.Background(), "lan", diagnosis.ConfirmedTest, 0)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := o.RevokeDoor(context.Background(), "lan", code); !ok || err != nil {
		t.Fatal(ok, err)
	}
	var text strings.Builder
	if err := o.WriteJournal(&text); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "lan\tissue\t1 door confirmed-test\t") || !strings.Contains(text.String(), "lan\trevoke\t1 door\t") {
		t.Errorf("journal:\n%s", text.String())
	}
	columns := strings.FieldsFunc(text.String(), func(r rune) bool { return r == '\t' || r == '\n' })
	for _, c := range columns {
		if c == code {
			t.Error("the journal holds the code")
		}
	}
}
