package publish

import (
	"bytes"
	"cmp"
	"io"
	"iter"
	"maps"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"bluekey/export"
	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

const (
	outsiderCases  = 60 // of one window
	outsiderDays   = 14 // that onsets and keys spread over
	outsiderLast   = 20_000
	outsiderFirst  = outsiderLast - outsiderDays + 1
	outsiderRounds = 8 // windows drawn
)

// outsiderRisks are what apps choose for the transmission risk of a key, by days since
// onset. There are four, so that onset days times patterns fit the 64 bits of a hint.
var outsiderRisks = [4]func(diagnosis.DaysSinceOnset) uint8{
	func(diagnosis.DaysSinceOnset) uint8 { return 0 },
	func(diagnosis.DaysSinceOnset) uint8 { return 3 },
	func(d diagnosis.DaysSinceOnset) uint8 { return uint8(max(1, 8-max(d, -d))) },
	func(d diagnosis.DaysSinceOnset) uint8 {
		if d >= -2 && d <= 3 {
			return 6
		}
		return 2
	},
}

// outsiderKey is the key of a day as a phone hands it in, but for its secret.
func outsiderKey(day, onset uint32, pattern int) diagnosis.Key {
	k := diagnosis.Key{Scheme: diagnosis.GAEN, Start: diagnosis.Interval(day * 144), Count: 144, Report: diagnosis.ConfirmedTest}
	k.Onset = k.OnsetOn(onset)
	k.Risk = outsiderRisks[pattern](k.Onset)
	return k
}

// outsiderHint is all that a key's metadata says of its case: the set of (onset day,
// pattern) under which it would be published as it is. Bit 4 * onset day + pattern.
type outsiderHint uint64

// TestOutsiderGroupsByMetadata: how well an outsider sorts the published keys of one window
// into cases by nothing but their metadata. 60 cases of one report type hand in the keys of
// their last 8 to 14 whole days; each has its own onset day within 14 days, and an app that
// chose one of four risk patterns. The outsider has the decoded files, and knows which form
// is published and which patterns there are. It guesses pairs of keys of one case:
//
//   - "agree": the start day minus the days since onset is the same, one pattern explains
//     both risks, and the days differ.
//   - "likeliest": as many pairs, of different days, as there are true ones, those first
//     whose metadata speaks most for one case rather than two. Of the kind of pair among
//     which the cut falls, it gets the mean. This one makes use of the two coarse classes.
//
// Precision is the share of its guesses that are right, recall the share of the true pairs
// that it guessed. Chance is the precision of as many guesses drawn from all pairs of
// different days, which is about one in 60; the advantage is precision over chance.
//
// Coarse metadata still says the class of the onset, which rules some pairs out: by design
// that is worth little, not nothing. "agree" finds a key of class 0 and one of class 6 six
// days later, and if they are of one case the second could not be of another class; at
// least 8 of 14 onset days give that class to a key of any case, so what it gains is a
// factor of about 14/8 at most. No pair's metadata is more than 3.5 times likelier in one
// case than in two: that of keys of class 0 on the first two days, which leave 3 and 4 of
// the 14 onset days, 3 of them in common; over as many pairs as are guessed it is less. The
// bounds are 2 and 3, and a third class of onset exceeds them. Exact metadata names
// the onset day, of 14, and narrows the pattern: there both are to be 15 at least.
//
// All is drawn from a fixed seed: a score changes only with the code.
func TestOutsiderGroupsByMetadata(t *testing.T) {
	signer, err := signing.NewExportSigner(signing.SeedOf([32]byte{1, 2, 3}), "452", "v1", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	const start, end = (outsiderLast + 1) * 86400, (outsiderLast+1)*86400 + 4*3600
	type source = iter.Seq2[diagnosis.Key, error]
	files := []struct {
		name  string
		write func(io.Writer, source) (export.Info, error)
	}{
		{"archive", func(w io.Writer, keys source) (export.Info, error) {
			h := export.ArchiveHeader{Start: start, End: end, Region: "VN-HP"}
			return export.WriteArchive(w, h, []*signing.ExportSigner{signer}, keys)
		}},
		{"key set", func(w io.Writer, keys source) (export.Info, error) {
			return export.WriteKeySet(w, export.KeySetHeader{Scheme: diagnosis.GAEN, Start: start, End: end}, keys)
		}},
	}
	for _, form := range []struct {
		name     string
		of       func(diagnosis.Key) diagnosis.Key
		in       func(agree, likeliest float64) bool // advantages
		expected string
	}{
		{"coarse", keystore.Coarse, func(a, l float64) bool { return a <= 2 && l <= 3 }, "agree <= 2, likeliest <= 3"},
		{"exact", func(k diagnosis.Key) diagnosis.Key { return k }, func(a, l float64) bool { return a >= 15 && l >= 15 }, "both >= 15"},
	} {
		for _, file := range files {
			t.Run(form.name+"/"+file.name, func(t *testing.T) {
				random := rand.New(rand.NewPCG(4, 60))
				var agree, likeliest, chance outsiderScore
				for range outsiderRounds {
					keys, caseOf := outsiderWindow(random, form.of)
					var b bytes.Buffer
					if _, err := file.write(&b, func(yield func(diagnosis.Key, error) bool) {
						for _, k := range keys {
							if !yield(k, nil) {
								return
							}
						}
					}); err != nil {
						t.Fatal(err)
					}
					seen := outsiderReads(t, b.Bytes())
					if !slices.Equal(seen, keys) {
						t.Fatal("the file does not hold the keys")
					}
					a, l, c := outsiderGuesses(seen, caseOf, form.of)
					agree, likeliest, chance = agree.plus(a), likeliest.plus(l), chance.plus(c)
				}
				for _, s := range []struct {
					name string
					outsiderScore
				}{{"agree", agree}, {"likeliest", likeliest}} {
					t.Logf("%s, %s, %-9s: precision %.4f, recall %.4f, chance %.4f, advantage %.2f", form.name, file.name,
						s.name, s.precision(), s.right/chance.right, chance.precision(), s.precision()/chance.precision())
				}
				a, l := agree.precision()/chance.precision(), likeliest.precision()/chance.precision()
				if agree.guesses == 0 || !form.in(a, l) {
					t.Errorf("%.0f guesses; advantages %.2f and %.2f, want %s", agree.guesses, a, l, form.expected)
				}
			})
		}
	}
}

// outsiderWindow draws the keys of a window in the order of their bytes, and the case of
// each, which the outsider does not know.
func outsiderWindow(random *rand.Rand, form func(diagnosis.Key) diagnosis.Key) ([]diagnosis.Key, map[diagnosis.Secret]int) {
	var keys []diagnosis.Key
	caseOf := make(map[diagnosis.Secret]int)
	for c := range outsiderCases {
		onset, pattern := uint32(outsiderFirst+random.IntN(outsiderDays)), random.IntN(len(outsiderRisks))
		for back := range uint32(8 + random.IntN(7)) {
			k := outsiderKey(outsiderLast-back, onset, pattern)
			for i := range k.Bytes() {
				k.Secret[i] = byte(random.Uint32())
			}
			k = form(k)
			keys, caseOf[k.Secret] = append(keys, k), c
		}
	}
	slices.SortFunc(keys, func(a, b diagnosis.Key) int { return bytes.Compare(a.Secret[:], b.Secret[:]) })
	return keys, caseOf
}

// outsiderReads gives the keys of a file in the order of their bytes.
func outsiderReads(t *testing.T, file []byte) (keys []diagnosis.Key) {
	f, err := export.OpenFile(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	for k, err := range f.Keys() {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b diagnosis.Key) int { return bytes.Compare(a.Secret[:], b.Secret[:]) })
	return keys
}

// outsiderScore counts guessed pairs.
type outsiderScore struct{ guesses, right float64 }

func (s outsiderScore) precision() float64 { return s.right / s.guesses }
func (s outsiderScore) plus(o outsiderScore) outsiderScore {
	return outsiderScore{s.guesses + o.guesses, s.right + o.right}
}

// outsiderGuesses scores both strategies, and the guess that all pairs of different days
// are right, of which chance takes a sample.
func outsiderGuesses(keys []diagnosis.Key, caseOf map[diagnosis.Secret]int, form func(diagnosis.Key) diagnosis.Key) (agree, likeliest, chance outsiderScore) {
	type view struct {
		day, onset int64 // onset: the day that the days since onset name
		hint       outsiderHint
		patterns   uint8 // those of the hint
		is         int   // the case, for the score only
	}
	views := make([]view, len(keys))
	for i, k := range keys {
		day := k.Scheme.Day(k.Start)
		v := view{day: int64(day), onset: int64(day) - int64(k.Onset), is: caseOf[k.Secret]}
		for o := range uint32(outsiderDays) {
			for p := range outsiderRisks {
				if would := form(outsiderKey(day, outsiderFirst+o, p)); would.Onset == k.Onset && would.Risk == k.Risk {
					v.hint |= 1 << (4*o + uint32(p))
					v.patterns |= 1 << p
				}
			}
		}
		views[i] = v
	}
	ratios := make(map[[3]int]outsiderScore) // by the sizes that the likelihood follows from
	for i, a := range views {
		for _, b := range views[:i] {
			if a.day == b.day {
				continue
			}
			pair := outsiderScore{guesses: 1}
			if a.is == b.is {
				pair.right = 1
			}
			chance = chance.plus(pair)
			if a.onset == b.onset && a.patterns&b.patterns != 0 {
				agree = agree.plus(pair)
			}
			size := func(h outsiderHint) int { return bits.OnesCount64(uint64(h)) }
			r := [3]int{size(a.hint & b.hint), size(a.hint), size(b.hint)}
			ratios[r] = ratios[r].plus(pair)
		}
	}
	// P(both hints | one case) / P(both hints | two cases), but for a constant; the map's
	// order must not show where two are equal, so the sizes order those.
	order := slices.SortedFunc(maps.Keys(ratios), func(x, y [3]int) int {
		return cmp.Or(y[0]*x[1]*x[2]-x[0]*y[1]*y[2], slices.Compare(x[:], y[:]))
	})
	for _, r := range order {
		s := ratios[r]
		take := min(1, (chance.right-likeliest.guesses)/s.guesses)
		likeliest = likeliest.plus(outsiderScore{s.guesses * take, s.right * take})
	}
	return agree, likeliest, chance
}
