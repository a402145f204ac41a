package publish

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
)

// TestCheckRendersAgain: what was published comes out of the store again, byte for byte,
// after restarts, rotation and erasure of older windows; and a window whose log entry says
// otherwise is found.
func TestCheckRendersAgain(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.conf.Retention, f.conf.Split, f.conf.MinKeys = 12*time.Hour, 10, 40
		f.conf.Profiles = map[diagnosis.Scheme][]exportlog.FileKind{diagnosis.Bluezone: {exportlog.KeySet, exportlog.IDSet}}
	})
	random := rand.New(rand.NewPCG(12, 12))
	for range 6 {
		f.upload(f.phone(random, diagnosis.GAEN, 14))
		f.upload(f.phone(random, diagnosis.Bluezone, 5))
		f.after(4 * time.Hour)
		f.reopen()
	}
	before := f.public()
	var lines []string
	ok, err := f.pub.Check(context.Background(), func(l string) { lines = append(lines, l) })
	if err != nil || !ok || len(lines) < 3 {
		t.Fatalf("%v, %v:\n%s", ok, err, strings.Join(lines, "\n"))
	}
	for _, l := range lines {
		if !strings.Contains(l, "byte for byte") {
			t.Error(l)
		}
	}
	for path, data := range f.public() {
		if before[path] != data {
			t.Errorf("the check changed %s", path)
		}
	}
	// Another split gives other archives: the check must see it.
	f.pub.Split = 9
	if ok, err := f.pub.Check(context.Background(), func(string) {}); ok || err != nil {
		t.Errorf("other archives: %v, %v", ok, err)
	}
	// Of a window by another encoder only the keys can be compared.
	windows, err := f.store.Windows(diagnosis.GAEN)
	if err != nil {
		t.Fatal(err)
	}
	from := time.Unix(0, 0)
	for _, held := range windows {
		if !held.Published {
			continue
		}
		m, err := f.pub.manifest(held.Entry)
		if err != nil {
			t.Fatal(err)
		}
		m.Encoder = "older"
		w := window{Window: held, walk: f.store.PublishedKeys(diagnosis.GAEN, from, held.Through)}
		from = held.Through
		if how, err := f.pub.checkWindow(context.Background(), &w, m); err != nil || !strings.Contains(how, "older") {
			t.Errorf("%q, %v", how, err)
		}
	}
}
