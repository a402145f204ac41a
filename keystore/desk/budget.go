package desk

import (
	"sync"
	"time"
)

// shortCodes is how many short codes there can be.
const shortCodes = 100_000_000

// guessBudget is what wrong short codes may cost together in an hour. One wrong code
// costs as many units as short codes are alive, which is 10,000 / (codes alive) guesses:
// at 10^8 possible codes less than one false hit a year is expected.
const guessBudget = 10_000

// span is how many minutes an hour touches: it begins and ends within one.
const span = 61

// budget counts the cost of wrong short codes over the last hour, by minutes. It lives in
// memory only: a restart forgets the guesses, and nobody outside can cause one.
type budget struct {
	mu      sync.Mutex
	minutes [span]struct {
		at   int64 // minute since the epoch
		cost int
	}
}

// take spends cost if the hour's budget allows it.
func (b *budget) take(now time.Time, cost int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	minute := now.Unix() / 60
	if b.spent(minute)+cost > guessBudget {
		return false
	}
	slot := &b.minutes[minute%span]
	if slot.at != minute {
		slot.at, slot.cost = minute, 0
	}
	slot.cost += cost
	return true
}

// refund gives back what take spent at the same now, for a code that was right.
func (b *budget) refund(now time.Time, cost int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	minute := now.Unix() / 60
	if slot := &b.minutes[minute%span]; slot.at == minute {
		slot.cost -= cost
	}
}

// pausedUntil is when a guess of that cost is possible again; zero if it is now.
func (b *budget) pausedUntil(now time.Time, cost int) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	minute := now.Unix() / 60
	until := minute
	for b.spent(until)+cost > guessBudget && until < minute+span {
		until++
	}
	if until == minute {
		return time.Time{}
	}
	return time.Unix(until*60, 0).UTC()
}

// spent sums the minutes of the hour that ends with the given one. b.mu is held.
func (b *budget) spent(minute int64) (sum int) {
	for _, m := range b.minutes {
		if m.at > minute-span {
			sum += m.cost
		}
	}
	return sum
}
