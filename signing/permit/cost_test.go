package permit

import (
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"bluekey/keystore/diagnosis"
)

// equalCost are the requests of each operation that nobody may tell apart by what they
// cost the service. Each func is the service's whole work of this package.
func equalCost(t testing.TB) map[string]map[string]func() {
	i, s := testIssuer(t), testService(t)
	info := Info{diagnosis.ConfirmedTest, today}
	held := buy(t, i, info)
	genuine, err := held.Upload(s, someKeys(t, diagnosis.GAEN, coverKeys))
	if err != nil {
		t.Fatal(err)
	}
	cover, err := CoverUpload(s, diagnosis.GAEN, today)
	if err != nil {
		t.Fatal(err)
	}
	wrong := *held
	wrong.Output[0] ^= 1
	badPermit, err := wrong.Upload(s, someKeys(t, diagnosis.GAEN, coverKeys))
	if err != nil {
		t.Fatal(err)
	}
	badSignature := slices.Clone(genuine)
	badSignature[unsignedLen] ^= 1
	old := *held
	old.Epoch -= 10
	tooOld, err := old.Upload(s, someKeys(t, diagnosis.GAEN, coverKeys))
	if err != nil {
		t.Fatal(err)
	}
	check := func(b []byte) func() {
		return func() {
			i.Check(decode(t, b).(*UploadRequest), today)
			if _, err := (UploadReply{PublishBy: 1}).Encode(); err != nil {
				t.Fatal(err)
			}
		}
	}

	p, err := NewPending()
	if err != nil {
		t.Fatal(err)
	}
	realRedeem := p.Redeem("123456789")
	redeem, err := realRedeem.Encode()
	if err != nil {
		t.Fatal(err)
	}
	coverRedeem, err := CoverRedeem()
	if err != nil {
		t.Fatal(err)
	}
	evaluate := func(b []byte, evaluate func(Info, [32]byte) (Evaluation, error)) func() {
		return func() {
			e, err := evaluate(info, decode(t, b).(*RedeemRequest).Blinded)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := (RedeemReply{Info: info, Evaluation: e}).Encode(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return map[string]map[string]func(){
		"upload": {"real": check(genuine), "cover": check(cover), "bad permit": check(badPermit), "bad signature": check(badSignature), "too old": check(tooOld)},
		"redeem": {"real": evaluate(redeem, i.Evaluate), "cover": evaluate(coverRedeem, i.EvaluateDecoy), "refused": evaluate(redeem, i.EvaluateDecoy)},
	}
}

// TestCoverCostsTheSame compares what every kind of request makes the service do. The
// count of allocations is a fingerprint of the calls made that no load on the machine
// blurs; with BLUEKEY_EXHAUSTIVE set the time is compared as well.
func TestCoverCostsTheSame(t *testing.T) {
	for op, kinds := range equalCost(t) {
		want := testing.AllocsPerRun(20, kinds["real"])
		for kind, work := range kinds {
			// crypto/ed25519 makes an error where it fails, and pools may be emptied: one more
			// or less. A check left out is 6 (Ed25519) or 44 (the permit).
			if got := testing.AllocsPerRun(20, work); math.Abs(got-want) > 2 {
				t.Errorf("%s %s: %v allocations, a real one %v", kind, op, got, want)
			}
		}
		if os.Getenv("BLUEKEY_EXHAUSTIVE") == "" {
			continue
		}
		names := make([]string, 0, len(kinds))
		times := map[string][]time.Duration{}
		for kind := range kinds {
			names = append(names, kind)
		}
		for range 2000 { // in turn and shuffled, so that a load on the machine meets all alike
			rand.Shuffle(len(names), func(a, b int) { names[a], names[b] = names[b], names[a] })
			for _, kind := range names {
				start := time.Now()
				kinds[kind]()
				times[kind] = append(times[kind], time.Since(start))
			}
		}
		median := func(kind string) float64 { slices.Sort(times[kind]); return float64(times[kind][1000]) / 1e3 }
		for _, kind := range names {
			t.Logf("%s %s: median %.1f µs", op, kind, median(kind))
			if r := median(kind) / median("real"); r < 0.95 || r > 1.05 {
				t.Errorf("%s %s takes %.2f times a real one", op, kind, r)
			}
		}
	}
}

func BenchmarkIssuerEvaluate(b *testing.B) {
	i := testIssuer(b)
	p, err := NewPending()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := i.Evaluate(Info{diagnosis.ConfirmedTest, today}, p.blinded); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssuerCheck(b *testing.B) {
	i := testIssuer(b)
	u := upload(b, buy(b, i, Info{diagnosis.ConfirmedTest, today}))
	for b.Loop() {
		if !i.Check(u, today) {
			b.Fatal("refused")
		}
	}
}

func BenchmarkFinalize(b *testing.B) {
	i, s, info := testIssuer(b), testService(b), Info{diagnosis.ConfirmedTest, today}
	p, err := NewPending()
	if err != nil {
		b.Fatal(err)
	}
	e, err := i.Evaluate(info, p.blinded)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := p.Finalize(s, RedeemReply{Info: info, Evaluation: e}, today, keyring(i, today)); err != nil {
			b.Fatal(err)
		}
	}
}
