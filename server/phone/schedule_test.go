package phone

import (
	"math"
	"slices"
	"testing"
	"time"
)

// TestNextCover: the waits are exponential with mean 1 h, cut at 4 h. With 20,000 draws the
// largest distance between two such distributions stays below 0.0138 but for one run in a
// thousand.
func TestNextCover(t *testing.T) {
	const n = 20000
	now := time.Unix(day*86400, 0)
	waits := make([]float64, n)
	for i := range waits {
		w := NextCover(now).Sub(now)
		if w <= 0 || w > coverMost+time.Second {
			t.Fatalf("a wait of %v", w)
		}
		waits[i] = w.Hours()
	}
	slices.Sort(waits)
	worst := 0.0
	for i, w := range waits {
		if w < 4 {
			worst = max(worst, math.Abs(1-math.Exp(-w)-float64(i)/n))
		}
	}
	if worst > 0.02 {
		t.Errorf("distance %.4f from an exponential distribution", worst)
	}
}
