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

// guesses is a budget for wrong codes. The lock is held from asking whether there is any left
// until a wrong code is charged: many guesses at one instant get no more than the same number
// one after another, and right codes never use it up.
type guesses struct {
	sync.Mutex
	budget
}

// try reads the row of a code, and charges one that has none. Nothing is charged at a cost
// of 0.
func (d *Desk) try(g *guesses, cost int, id ID, now time.Time) (row, error) {
	g.Lock()
	defer g.Unlock()
	if cost > 0 && !g.pausedUntil(now, cost).IsZero() {
		return row{}, ErrPaused
	}
	r, known, err := d.read(id)
	if err != nil {
		return row{}, err
	}
	if !known {
		g.take(now, cost)
		return row{}, ErrUnknown
	}
	return r, nil
}
