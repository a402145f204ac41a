package mirror

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/export/exportlog"
	"bluekey/export/publish"
	"bluekey/export/tree"
	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
	"bluekey/signing/seal"
)

// realTerms are the period and the hold of realPublisher.
const realTerms = 4 * time.Hour

// realPublisher is a publisher on a store in memory whose tree is in the folder public of
// root, recovered and ready for its first round.
func realPublisher(t *testing.T, disk vfs.FS, public tree.FS, root string, clock func() time.Time, profiles ...string) (*publish.Publisher, *keystore.Store, *exportlog.Policy) {
	t.Helper()
	seed := signing.SeedOf([32]byte{7})
	keys, err := signing.NewLogKeys(origin, seed.Derive32("ed"), seed.Derive32("mldsa"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signing.NewExportSigner(seed, "452", "v1", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	store, err := keystore.Open(keystore.Options{
		Dir: "/data", FS: disk, CodeKey: [32]byte{1}, DedupeKey: [32]byte{2}, Period: realTerms, Hold: realTerms, CacheSize: 8 << 20, CodeCap: 1 << 20,
		Now: clock, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	folder, err := tree.NewFolder(public, root+"/public")
	if err != nil {
		t.Fatal(err)
	}
	staging, err := tree.NewStaging(public, root+"/staging")
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := publish.ParseProfiles(strings.Join(profiles, ","))
	if err != nil {
		t.Fatal(err)
	}
	p, err := publish.New(publish.Config{
		Profiles: kinds,
		Origin:   origin, Region: "VN-HP", Period: realTerms, Hold: realTerms, Retention: 24 * time.Hour, MinKeys: 20, Split: 30,
		Signers: []*signing.ExportSigner{signer}, LogKeys: keys, Now: clock, Log: slog.New(slog.DiscardHandler),
	}, store, folder, staging)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, _, err := exportlog.FormatPolicies(exportlog.PolicyTerms{Log: keys.VKeys()})
	if err != nil {
		t.Fatal(err)
	}
	policy, err := exportlog.ParsePolicy(text)
	if err != nil {
		t.Fatal(err)
	}
	return p, store, policy
}

// uploadCase uploads the keys of a made-up case of so many days, by a permit made up for it.
func uploadCase(t *testing.T, store *keystore.Store, random *rand.Rand, now time.Time, scheme diagnosis.Scheme, days int) {
	t.Helper()
	permit := keystore.Permit{Epoch: uint32(now.Unix() / 86400), First: true}
	for i := range permit.Spent {
		permit.Spent[i], permit.E[i] = byte(random.Uint32()), byte(random.Uint32())
	}
	var list []diagnosis.Key
	today := diagnosis.Interval(now.Add(-2*time.Hour).Unix()/86400) * scheme.PerDay()
	for d := range days {
		secret := make([]byte, scheme.SecretLen())
		for i := range secret {
			secret[i] = byte(random.Uint32())
		}
		k, err := diagnosis.New(scheme, secret, today-diagnosis.Interval(d+1)*scheme.PerDay(), int(scheme.PerDay()))
		if err != nil {
			t.Fatal(err)
		}
		k.Report, k.Onset = diagnosis.ConfirmedTest, k.OnsetOn(permit.Epoch-3)
		list = append(list, k)
	}
	if _, err := store.Upload(t.Context(), keystore.Upload{Permit: permit, Keys: list}); err != nil {
		t.Fatal(err)
	}
}

// putSmall publishes a small file, with the publisher running for as long as that takes.
func putSmall(t *testing.T, p *publish.Publisher, path string, data []byte) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	err := p.PutSmallFile(ctx, path, data)
	cancel()
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
}

// What the real publisher publishes, from the first entry to long after the first erasure,
// is clean at every instant, and so is the mirror that follows it.
func TestRealPublisherIsClean(t *testing.T) {
	t.Run("keys", func(t *testing.T) { publisherIsClean(t, "") })
	t.Run("ids", func(t *testing.T) { publisherIsClean(t, "gaen=archive+ids,bluezone=ids-only") })
}

func publisherIsClean(t *testing.T, profiles string) {
	ctx := context.Background()
	now := time.Date(2026, 11, 23, 13, 30, 0, 0, time.UTC) // in the middle of a period
	clock := func() time.Time { return now }
	disk := vfs.NewMem()
	public := memDisk{disk}
	p, store, policy := realPublisher(t, disk, public, "/data", clock, profiles)

	random := rand.New(rand.NewPCG(1, 2))
	source, state, copied := diskSource{public, "/data/public"}, new(State), Place{Disk: public, Root: "/mirror", Temp: t.TempDir()}
	check := func() {
		t.Helper()
		r := auditAt(t, source, policy, state, now.Unix())
		found(t, r, "")
		c, err := Mirror(ctx, source, copied, options(policy, now.Unix()))
		if err != nil || !c.Moved {
			t.Fatal(err, findings(c.Report))
		}
		found(t, auditAt(t, diskSource{public, "/mirror"}, policy, nil, now.Unix()), "")
		if line := verifyLog(t, diskSource{public, "/mirror"}, VerifyOptions{Policy: policy}); !line.OK() {
			t.Fatal(line)
		}
	}
	// Keyrings come once a day, as the service announces its keys.
	rings, announced := newSite(t), uint32(0)
	announce := func() {
		t.Helper()
		if today := seal.DayAt(now); today > announced {
			putSmall(t, p, exportlog.KeyringPath, rings.keyring(0, today, today+1, today+2, today+3))
			announced = today
		}
	}
	check()
	announce()
	check()
	opened := 0
	for round := range 20 {
		for range round % 4 * 2 { // none, a thin crowd that is held and padded, enough
			uploadCase(t, store, random, now, diagnosis.GAEN, 14)
			uploadCase(t, store, random, now, diagnosis.Bluezone, 1+round%14)
		}
		now = p.NextEnd().Add(time.Second)
		if err := p.Round(ctx); err != nil {
			t.Fatal(err)
		}
		announce()
		check()
		r := auditAt(t, source, policy, nil, now.Unix())
		opened = max(opened, r.Files)
	}
	if announced != seal.DayAt(now) {
		t.Error("no keyring was published")
	}
	if opened < 10 {
		t.Errorf("at most %d files at a time: nothing was tested", opened)
	}
}
