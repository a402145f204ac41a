package export

import (
	"bytes"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

// someDay is a UTC day, 2020-08-26, from which test keys start backwards.
const someDay = 18500

// someWindow is a window of 4 h on that day.
var someWindow = ArchiveHeader{Start: someDay * 86400, End: someDay*86400 + 4*3600, Region: "VN-HP"}

// like draws the metadata of a key; its secret is drawn by draw.
type like func(*rand.Rand) diagnosis.Key

// The metadata of four kinds of sets, all starting within 14 days.
var (
	followsDay like = func(r *rand.Rand) diagnosis.Key { // 14 tuples: onset and risk are functions of the day
		day := r.IntN(14)
		return gaen(someDay-day, diagnosis.ConfirmedTest, 5-day, 3)
	}
	coarse like = func(r *rand.Rand) diagnosis.Key { // what is published by default: two classes of onset
		day := r.IntN(14)
		if onset := r.IntN(10) - day; onset >= -2 && onset <= 3 {
			return gaen(someDay-day, diagnosis.ConfirmedTest, 0, 6)
		}
		return gaen(someDay-day, diagnosis.ConfirmedTest, 6, 2)
	}
	exact like = func(r *rand.Rand) diagnosis.Key { // onset drawn for each case, two report types, risk by onset
		day, report := r.IntN(14), diagnosis.ConfirmedTest
		if r.IntN(4) == 0 {
			report = diagnosis.ConfirmedClinical
		}
		onset := 4 + r.IntN(10) - day
		return gaen(someDay-day, report, onset, min(8, max(1, 8-max(onset, -onset)/2)))
	}
	seeds like = func(r *rand.Rand) diagnosis.Key { // Bluezone, mostly whole days
		start := 0
		if r.IntN(10) == 0 {
			start = 16 * r.IntN(6)
		}
		k := diagnosis.Key{Scheme: diagnosis.Bluezone, Start: diagnosis.Interval((someDay-r.IntN(14))*96 + start)}
		k.Count, k.Report, k.Risk = uint8(96-start), diagnosis.ConfirmedTest, 6
		return k
	}
)

func gaen(day int, report diagnosis.ReportType, onset, risk int) diagnosis.Key {
	return diagnosis.Key{Scheme: diagnosis.GAEN, Start: diagnosis.Interval(day * 144), Count: 144,
		Report: report, Onset: diagnosis.DaysSinceOnset(onset), Risk: uint8(risk)}
}

// draw makes n sorted keys, always the same.
func draw(n int, kind like) []diagnosis.Key {
	source := rand.NewChaCha8([32]byte{'b', 'l', 'u', 'e'})
	r := rand.New(source)
	keys := make([]diagnosis.Key, n)
	for i := range keys {
		keys[i] = kind(r)
		source.Read(keys[i].Secret[:keys[i].Scheme.SecretLen()])
	}
	slices.SortFunc(keys, func(a, b diagnosis.Key) int { return bytes.Compare(a.Secret[:], b.Secret[:]) })
	return keys
}

// odd makes keys in every shape that the formats treat differently.
func odd() []diagnosis.Key {
	tail := func(b ...byte) (s diagnosis.Secret) { copy(s[16-len(b):], b); return s }
	k := gaen(someDay, diagnosis.ConfirmedTest, 0, 0)
	keys := make([]diagnosis.Key, 8)
	for i := range keys {
		keys[i] = k
		keys[i].Secret = tail(byte(i)) // the first 8 bytes of all are equal
	}
	keys[1].Start, keys[1].Count = 0, 1
	keys[2].Count, keys[2].Onset = 143, diagnosis.OnsetUnknown
	keys[3].Onset, keys[3].Report = -14, diagnosis.Revoked
	keys[4].Onset, keys[4].Risk = 14, 8
	keys[5].Report = diagnosis.ReportUnknown
	keys[6].Secret, keys[6].Start = keys[5].Secret, keys[5].Start+1 // one secret, two starts
	for i := range keys[7].Secret[:16] {
		keys[7].Secret[i] = 0xff
	}
	return keys
}

func all(keys []diagnosis.Key) iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		for _, k := range keys {
			if !yield(k, nil) {
				return
			}
		}
	}
}

func collect(keys iter.Seq2[diagnosis.Key, error]) (list []diagnosis.Key, err error) {
	for k, err := range keys {
		if err != nil {
			return list, err
		}
		list = append(list, k)
	}
	return list, nil
}

// signer is always the same for one version.
func signer(t testing.TB, version string) *signing.ExportSigner {
	t.Helper()
	s, err := signing.NewExportSigner(signing.SeedOf([32]byte{1, 2, 3}), "452", version, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func archive(t testing.TB, keys []diagnosis.Key, versions ...string) []byte {
	t.Helper()
	if versions == nil {
		versions = []string{"v1"}
	}
	var signers []*signing.ExportSigner
	for _, v := range versions {
		signers = append(signers, signer(t, v))
	}
	var b bytes.Buffer
	if _, err := WriteArchive(&b, someWindow, signers, all(keys)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func openArchive(b []byte) (*Archive, error) { return OpenArchive(bytes.NewReader(b), int64(len(b))) }

func keySet(t testing.TB, s diagnosis.Scheme, keys []diagnosis.Key) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := WriteKeySet(&b, KeySetHeader{s, someWindow.Start, someWindow.End}, all(keys)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
