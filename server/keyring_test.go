package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bluekey/keystore"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

// keeper is an appliance as far as its keys go: a folder of seeds, a keyring that is
// published, and a clock that is set.
type keeper struct {
	t       *testing.T
	dir     string
	file    publicFile
	now     time.Time
	seed    byte
	retired bool
	keys    *PhoneKeys
	at      []time.Time // when each keyring was announced
}

// firstDay is an arbitrary day.
const firstDay = 20_600

func dayTime(day uint32, after time.Duration) time.Time {
	return time.Unix(int64(day)*86400, 0).UTC().Add(after)
}

func newKeeper(t *testing.T) *keeper {
	k := &keeper{t: t, dir: filepath.Join(t.TempDir(), "sealing"), now: dayTime(firstDay, 10*time.Hour), seed: 3}
	k.open()
	return k
}

func (k *keeper) config() KeysConfig {
	k.t.Helper()
	seeds, err := keystore.OpenSeeds(k.dir)
	if err != nil {
		k.t.Fatal(err)
	}
	return KeysConfig{
		Origin: testOrigin, Region: testRegion, PermitSeed: [32]byte{k.seed}, Seeds: seeds, Published: k.file.read,
		Announce: func(ctx context.Context, text []byte) error {
			err := k.file.announce(ctx, text)
			if err == nil {
				k.at = append(k.at, k.now)
			}
			return err
		},
		Retired: func() bool { return k.retired }, Now: func() time.Time { return k.now }, Logger: slog.New(slog.DiscardHandler),
	}
}

// open is a start of the process.
func (k *keeper) open() {
	k.t.Helper()
	var err error
	if k.keys, err = OpenPhoneKeys(k.config()); err != nil {
		k.t.Fatal(err)
	}
}

// tend is one round of Run.
func (k *keeper) tend() error {
	err := k.keys.tend(context.Background())
	k.keys.note(err)
	return err
}

func (k *keeper) mustTend() {
	k.t.Helper()
	if err := k.tend(); err != nil {
		k.t.Fatal(err)
	}
}

// days are those of which the published keyring has keys; the two kinds must agree.
func (k *keeper) days() (days []uint32) {
	k.t.Helper()
	ring := k.file.ring(k.t)
	for _, p := range ring.Permits {
		days = append(days, p.Day)
	}
	var sealing []uint32
	for _, s := range ring.Seals {
		sealing = append(sealing, s.Day)
	}
	if !slices.Equal(days, sealing) {
		k.t.Errorf("permit keys of %v, sealing keys of %v", days, sealing)
	}
	return days
}

func (k *keeper) wantDays(name string, want ...uint32) {
	k.t.Helper()
	got := k.days()
	for i := range want {
		want[i] += firstDay
	}
	if !slices.Equal(got, want) {
		k.t.Errorf("%s: keys of %v, want %v", name, got, want)
	}
}

// check looks at everything that was ever announced, as an auditor does: two keyrings never
// differ in a day, and no key came later than a day before it could be used, but for those
// of the first.
func (k *keeper) check() {
	k.t.Helper()
	known := &seal.Keyring{Origin: testOrigin, Region: testRegion}
	var before *seal.Keyring
	for i, text := range k.file.all {
		ring, err := seal.ParseKeyring(text)
		if err != nil {
			k.t.Fatal(err)
		}
		if err := ring.Contradicts(known); err != nil {
			k.t.Error(err)
		}
		for _, p := range ring.Permits {
			if _, ok := known.Permit(p.Day); ok {
				continue
			}
			known.Permits = append(known.Permits, p)
			if i > 0 && k.at[i].After(seal.AnnounceBy(p.Day)) {
				k.t.Errorf("the permit key of day %d was announced at %v", p.Day, k.at[i])
			}
		}
		for _, s := range ring.Seals {
			if _, ok := sealOf(known, s.Day); ok {
				continue
			}
			known.Seals = append(known.Seals, s)
			if i > 0 && k.at[i].After(seal.AnnounceBy(s.Day)) {
				k.t.Errorf("the sealing key of day %d was announced at %v", s.Day, k.at[i])
			}
		}
		if before != nil && ring.Contradicts(before) != nil {
			k.t.Error("a keyring contradicts the one before it")
		}
		before = ring
	}
}

func TestFirstKeyring(t *testing.T) {
	k := newKeeper(t)
	if err := k.keys.Ready(); !errors.Is(err, errNoKeyring) {
		t.Errorf("before the first keyring: %v", err)
	}
	k.mustTend()
	k.wantDays("at the first start", 0, 1, 2, 3)
	if err := k.keys.Ready(); err != nil {
		t.Error(err)
	}
	for range 14 { // to the end of the day
		k.mustTend()
		k.open()
		k.mustTend()
		k.now = k.now.Add(time.Hour - time.Second)
	}
	if len(k.file.all) != 1 {
		t.Errorf("%d keyrings within a day", len(k.file.all))
	}
	k.now = dayTime(firstDay+1, 0)
	k.mustTend()
	k.wantDays("on the next day", 0, 1, 2, 3, 4)
	k.now = dayTime(firstDay+2, 0)
	k.mustTend()
	k.wantDays("two days later", 1, 2, 3, 4, 5)
	k.check()
}

// TestAway: an appliance that was down announces no key too late; days it missed stay
// without.
func TestAway(t *testing.T) {
	for _, row := range []struct {
		away  time.Duration // from 10:00 of the first day
		days  []uint32
		ready bool
	}{
		{24 * time.Hour, []uint32{0, 1, 2, 3, 4}, true},
		{48 * time.Hour, []uint32{1, 2, 3, 4, 5}, true},
		{61*time.Hour - announcing, []uint32{1, 2, 3, 4, 5}, true}, // before 23:00 of day 2: the last instant for day 4
		{61*time.Hour - announcing + time.Second, []uint32{1, 2, 3, 5}, true},
		{3 * 24 * time.Hour, []uint32{2, 3, 5, 6}, true},
		{4 * 24 * time.Hour, []uint32{3, 6, 7}, false},
		{5 * 24 * time.Hour, []uint32{7, 8}, false},
	} {
		k := newKeeper(t)
		k.mustTend()
		began := k.now
		k.now = began.Add(row.away)
		k.open()
		k.mustTend()
		k.wantDays("after "+row.away.String(), slices.Clone(row.days)...)
		if err := k.keys.Ready(); (err == nil) != row.ready {
			t.Errorf("after %v: ready: %v", row.away, err)
		}
		k.check()
		// It goes on by itself.
		for range 3 * 24 {
			k.now = k.now.Add(time.Hour)
			k.mustTend()
		}
		if err := k.keys.Ready(); err != nil {
			t.Errorf("three days after %v: %v", row.away, err)
		}
		k.check()
	}
}

// TestLostSeeds: no second key is made for a day that has one; operators are told, and new
// days have keys again.
func TestLostSeeds(t *testing.T) {
	k := newKeeper(t)
	k.mustTend()
	if err := os.RemoveAll(k.dir); err != nil {
		t.Fatal(err)
	}
	k.open()
	k.mustTend()
	if err := k.keys.Ready(); err == nil || !strings.Contains(err.Error(), "sealing/") {
		t.Errorf("%v", err)
	}
	for day := uint32(1); day <= 4; day++ {
		if err := k.keys.Ready(); err == nil {
			t.Errorf("day %d: ready without a seed", day-1)
		}
		k.now = dayTime(firstDay+day, time.Minute)
		k.mustTend()
	}
	if err := k.keys.Ready(); err != nil {
		t.Errorf("on the first day announced since: %v", err)
	}
	k.check()
}

// TestWrongSeeds: an appliance put back with another seed must not go on.
func TestWrongSeeds(t *testing.T) {
	k := newKeeper(t)
	k.mustTend()
	k.seed++
	if _, err := OpenPhoneKeys(k.config()); err == nil || !strings.Contains(err.Error(), "restore the seed") {
		t.Errorf("another permit seed: %v", err)
	}
	k.seed--
	name := filepath.Join(k.dir, strconv.Itoa(firstDay+1))
	own, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, bytes.Repeat([]byte{5}, keystore.SeedLen), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPhoneKeys(k.config()); err == nil || !strings.Contains(err.Error(), "is not the one of the published") {
		t.Errorf("another sealing seed: %v", err)
	}
	if err := os.WriteFile(name, own, 0o600); err != nil {
		t.Fatal(err)
	}
	k.open()
	k.mustTend()
	if err := k.keys.Ready(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*KeysConfig){
		"another origin": func(c *KeysConfig) { c.Origin = "other.example/bluekey" },
		"another region": func(c *KeysConfig) { c.Region = "VN-HN" },
		"no keyring":     func(c *KeysConfig) { c.Published = func() ([]byte, error) { return []byte("keys\n"), nil } },
		"no tree":        func(c *KeysConfig) { c.Published = func() ([]byte, error) { return nil, os.ErrPermission } },
	} {
		c := k.config()
		change(&c)
		if _, err := OpenPhoneKeys(c); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// TestKeyringYear: every keyring of a year, with restarts and days off, goes with every
// other.
func TestKeyringYear(t *testing.T) {
	k := newKeeper(t)
	var b [1]byte
	for k.now.Before(dayTime(firstDay+366, 0)) {
		k.mustTend()
		rand.Read(b[:])
		if b[0] < 16 {
			k.now = k.now.Add(time.Duration(b[0]) * 12 * time.Hour) // down for up to a week
		}
		if b[0] < 64 {
			k.open()
		}
		k.now = k.now.Add(8 * time.Hour)
	}
	k.check()
	if n := len(filesIn(t, k.dir)); n > 5 {
		t.Errorf("%d seeds are left", n)
	}
	rings := make([]*seal.Keyring, len(k.file.all))
	for i, text := range k.file.all {
		var err error
		if rings[i], err = seal.ParseKeyring(text); err != nil {
			t.Fatal(err)
		}
		for _, other := range rings[:i] {
			if err := rings[i].Contradicts(other); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(rings) < 200 {
		t.Errorf("%d keyrings", len(rings))
	}
}

// TestSeedsAreDestroyed: 48 hours after its day began a seed is in no file, and what was
// sealed to it cannot be opened, whoever took the machine.
func TestSeedsAreDestroyed(t *testing.T) {
	k := newKeeper(t)
	k.mustTend()
	name := filepath.Join(k.dir, strconv.Itoa(firstDay))
	seed, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	held := filepath.Join(t.TempDir(), "held") // the same blocks
	if err := os.Link(name, held); err != nil {
		t.Fatal(err)
	}
	request, _, err := sealTo(k.file.ring(t), firstDay, make([]byte, seal.PlainRequestLen))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.keys.ring.Open(request, k.now); err != nil {
		t.Fatal(err)
	}
	k.now = dayTime(firstDay+2, -time.Second)
	k.mustTend()
	if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, seed) {
		t.Errorf("before its time: %x, %v", b, err)
	}
	k.now = dayTime(firstDay+2, 0)
	k.mustTend()
	if b, err := os.ReadFile(held); err != nil || !bytes.Equal(b, make([]byte, keystore.SeedLen)) {
		t.Errorf("left on the disk: %x, %v", b, err)
	}
	for file, b := range filesIn(t, k.dir) {
		if file == strconv.Itoa(firstDay) || bytes.Contains(b, seed) {
			t.Errorf("the seed lies in %s", file)
		}
	}
	if _, err := k.keys.ring.Open(request, dayTime(firstDay, time.Hour)); !errors.Is(err, seal.ErrKey) {
		t.Errorf("a recorded request: %v", err)
	}

	// One that was down over the time destroys at its start, and a closed service too.
	for _, retired := range []bool{false, true} {
		k := newKeeper(t)
		k.mustTend()
		k.retired = retired
		k.now = dayTime(firstDay+5, time.Hour)
		k.open()
		k.mustTend()
		for file := range filesIn(t, k.dir) {
			if day, err := strconv.Atoi(file); err != nil || day <= firstDay+3 {
				t.Errorf("retired %v: the seed of day %s is left", retired, file)
			}
		}
	}
}

// TestCrashBeforeAnnouncing: seeds that were kept for a keyring that was never published
// are those of the next one.
func TestCrashBeforeAnnouncing(t *testing.T) {
	k := newKeeper(t)
	k.file.fail = errors.New("the disk is full")
	if err := k.tend(); err == nil {
		t.Fatal("nothing failed")
	}
	if err := k.keys.Ready(); err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("%v", err)
	}
	kept := filesIn(t, k.dir)
	if len(kept) != 4 {
		t.Errorf("%d seeds are kept", len(kept))
	}
	k.file.fail = nil
	k.open()
	k.mustTend()
	again := filesIn(t, k.dir)
	for file, seed := range kept {
		if !bytes.Equal(again[file], seed) {
			t.Errorf("day %s has another seed", file)
		}
	}
	if err := k.keys.Ready(); err != nil {
		t.Error(err)
	}

	// And after the keyring was published, before it was taken: as at every start.
	k.now = dayTime(firstDay+1, 0)
	next, err := k.keys.next(k.file.text)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.file.announce(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	k.at = append(k.at, k.now)
	k.open()
	k.mustTend()
	k.wantDays("after the second crash", 0, 1, 2, 3, 4)
	k.check()
	if len(k.file.all) != 2 {
		t.Errorf("%d keyrings", len(k.file.all))
	}
}

// TestRunTends lets Run do it for six days, with a log that fails for a while.
func TestRunTends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &keeper{t: t, dir: filepath.Join(t.TempDir(), "sealing"), seed: 3}
		c := k.config()
		c.Now = time.Now
		announce := c.Announce
		c.Announce = func(ctx context.Context, text []byte) error { k.now = time.Now(); return announce(ctx, text) }
		keys, err := OpenPhoneKeys(c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- keys.Run(ctx) }()
		for hour := range 6 * 24 {
			synctest.Wait()
			if fails := hour/24 == 2; (keys.Ready() == nil) == fails {
				t.Errorf("hour %d: %v", hour, keys.Ready())
			}
			switch hour {
			case 2*24 - 1:
				k.file.failWith(errors.New("the disk is full"))
			case 3*24 - 1:
				k.file.failWith(nil)
			}
			time.Sleep(time.Hour)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		k.check()
		if len(k.file.all) != 7 { // the third one at the end of its day
			t.Errorf("%d keyrings on seven days", len(k.file.all))
		}
		if !keys.sells(permit.EpochAt(time.Now())) {
			t.Error("today's permits are not sold")
		}
	})
}
