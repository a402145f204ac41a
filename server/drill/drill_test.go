package drill

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bluekey/keystore/diagnosis"
	"bluekey/server/phone"
)

// Where there are doors, four cases are enough for every way, wherever the draw falls.
func TestWays(t *testing.T) {
	doors := Province{Authority: &Authority{}, IssueDoor: func(context.Context) (string, error) { return "", nil }}
	for _, row := range []struct {
		name      string
		cases     int
		provinces []Province
		want      [len(ways)]int
	}{
		{"one case", 1, []Province{doors}, [...]int{1, 0, 0}},
		{"four", 4, []Province{doors}, [...]int{2, 1, 1}},
		{"as a drill has by itself", 5, []Province{doors}, [...]int{3, 1, 1}},
		{"a dozen in two provinces", 12, []Province{doors, doors}, [...]int{8, 2, 2}},
		{"no doors", 12, []Province{{}}, [...]int{12, 0, 0}},
		{"one door", 12, []Province{{Authority: &Authority{}}}, [...]int{10, 2, 0}},
	} {
		for seed := range uint64(20) {
			var got [len(ways)]int
			for _, a := range meet(Config{Provinces: row.provinces, Phones: 40, Cases: row.cases, Seed: seed}, time.Now()) {
				if a.isCase {
					got[a.way]++
				}
			}
			if got != row.want {
				t.Errorf("%s, seed %d: %v, want %v", row.name, seed, got, row.want)
			}
		}
	}
}

// A contact of two cases is warned and finds both, and nobody else is warned: not who only
// passed a case.
func TestReport(t *testing.T) {
	for _, row := range []struct {
		name   string
		met    []int
		found  []int
		warned bool
		good   bool
	}{
		{"both", []int{1, 2, 3}, []int{1, 2}, true, true},
		{"both, but not warned", []int{1, 2, 3}, []int{1, 2}, false, false},
		{"one of two", []int{1, 2, 3}, []int{1}, true, false},
		{"one too many", []int{1, 2, 3}, []int{1, 2, 3}, true, false},
		{"a stranger", []int{1, 2, 3}, []int{1, 2, stranger}, true, false},
		{"passed a case", []int{3}, []int{1}, false, true},
		{"warned of one who passed", []int{3}, []int{1}, true, false},
	} {
		phones := []*actor{
			{met: row.met, passed: []int{1}, contact: len(row.met) > 1, warned: row.warned, found: map[int]bool{}},
			{isCase: true}, {isCase: true, way: byGAEN}, {},
		}
		for _, a := range phones {
			a.scheme = diagnosis.GAEN
		}
		for _, who := range row.found {
			phones[0].found[who] = true
		}
		err := report(new(bytes.Buffer), phones, summary{})
		if (err == nil) != row.good || err != nil && !errors.Is(err, ErrFailed) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// TestStays: what a drill's phones hear of a meeting warns by the rule that is built in, and
// of somebody who passed it does not.
func TestStays(t *testing.T) {
	var none *phone.Notices
	minutes := none.Matching().Minutes
	if lasting*listens < minutes*60 || passing*listens >= minutes*60 {
		t.Errorf("meetings of %d minutes and %d, where %d warn", lasting*listens/60, passing*listens/60, minutes)
	}
	sim := NewSimulation(5)
	for _, scheme := range diagnosis.Schemes {
		keys := sim.Phone(scheme, time.Now(), days)
		for range 200 {
			heard := sim.stay(keys, lasting)
			for _, h := range heard {
				if k := keys[slices.IndexFunc(keys, func(k diagnosis.Key) bool { return !k.EndTime().Before(time.Unix(h.Seen+1, 0)) })]; !holdsAt(&k, h) {
					t.Fatalf("%s: heard %x at %d", scheme, h.ID, h.Seen)
				}
			}
		}
	}
}

// holdsAt reports whether a sighting is of the ID that a key has then.
func holdsAt(k *diagnosis.Key, h phone.Sighting) bool {
	n := k.Scheme.IDLen()
	at := int(k.Scheme.IntervalAt(time.Unix(h.Seen, 0)) - k.Start)
	return bytes.Equal(k.Expand(nil)[at*n:][:n], h.ID[:n])
}

func TestSearch(t *testing.T) {
	a := newActor(diagnosis.Bluezone)
	a.way = byBluezone
	a.tell("root key", a.root[:])
	a.tell("door code", []byte("904512"))
	a.tell("phone number", []byte("0904512387"))
	seed := string(a.keys[1].Bytes())
	for _, row := range []struct{ name, data, want string }{
		{"nothing but a seed", seed, ""},
		{"a digest with the digits in it", seed + " 00aa904512ff00aa904512ff", ""},
		{"a time with the digits in it", seed + ` "at":1790451299`, ""},
		{"no seed either", "nothing", "finds not even"},
		{"the root key", seed + string(a.root[:]), "root key"},
		{"the root key in hex", seed + hex.EncodeToString(a.root[:]), "root key"},
		{"the root key as the app writes it", seed + strings.ToUpper(hex.EncodeToString(a.root[:])), "root key"},
		{"the code", seed + "\x00c904512\x00", "door code"},
		{"the code after a digest", seed + " 00aa904512ff00aa OTP=904512", "door code"},
		{"the phone number", seed + "+84 0904512387", "phone number"},
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "province-1", "store"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "province-1", "store", "000004.log"), []byte(row.data), 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := search(dir, []*actor{a})
		switch {
		case row.want == "" && (err != nil || n != 3):
			t.Errorf("%s: %d, %v", row.name, n, err)
		case row.want != "" && (!errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), row.want)):
			t.Errorf("%s: %v", row.name, err)
		}
	}
}
