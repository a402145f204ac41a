package desk

import "slices"

// SmallCell is the count below which a cell of the public table is hidden.
const SmallCell = 10

// PublicRow is a unit in the public table.
type PublicRow struct {
	Standing
	Depth int
	// Hidden tells, for installs, smartphones and people, that the cell may not be shown.
	// A rate is shown only if neither of its counts is hidden.
	Hidden [3]bool
}

// RateHidden reports whether the rate would give a hidden count away.
func (r PublicRow) RateHidden() bool { return r.Hidden[0] || r.Hidden[1] }

// Public is the table that anybody may see, each unit followed by those below it. Counts
// below SmallCell are hidden. So is a further cell wherever the total above and the other
// cells beside would give a hidden one away, and the total itself where no cell is left.
func (l *Ledger) Public(day string) (table []PublicRow) {
	var walk func(string, int)
	walk = func(code string, depth int) {
		for _, u := range l.Below(code, day) {
			table = append(table, PublicRow{Standing: l.At(u.Code, day), Depth: depth})
			walk(u.Code, depth+1)
		}
	}
	walk("", 0)
	index := map[string]int{}
	below := map[string][]int{}
	for i, r := range table {
		index[r.Unit.Code] = i
		below[r.Unit.Parent] = append(below[r.Unit.Parent], i)
	}
	for kind := range 3 {
		count := func(i int) Count {
			r := table[i]
			return []Count{r.Installs, r.Smartphones, r.People}[kind]
		}
		hide(len(table), count, func(i int) []int { return below[table[i].Unit.Code] }, func(i int) { table[i].Hidden[kind] = true })
	}
	// A rate is made of counts that need not be those of the row: where a sum leaves
	// units out, the rate counts as a cell of its own and goes with any hidden one below.
	for i := range slices.Backward(table) {
		r := &table[i]
		if r.Hidden[0] || r.Hidden[1] {
			if p, ok := index[r.Unit.Parent]; ok && (table[p].Installs.Sum || table[p].Smartphones.Sum) && table[p].RateInstalls != table[p].Installs.Value {
				table[p].RateKnown = false
			}
		}
	}
	return table
}

// hide marks the cells of one column. Parents come before what is below them.
func hide(n int, count func(int) Count, below func(int) []int, mark func(int)) {
	hidden := make([]bool, n)
	set := func(i int) { hidden[i] = true; mark(i) }
	for i := range n {
		if c := count(i); c.Known && c.Value < SmallCell {
			set(i)
		}
	}
	for again := true; again; {
		again = false
		for i := n - 1; i >= 0; i-- {
			again = protect(i, count, below(i), hidden, set) || again
		}
	}
}

// protect hides what would give a hidden cell among those below unit i, or unit i itself,
// away. It reports whether it hid anything.
func protect(i int, count func(int) Count, group []int, hidden []bool, set func(int)) (did bool) {
	for {
		secret, sum, smallest, visible := 0, int64(0), -1, 0
		for _, b := range group {
			c := count(b)
			switch {
			case !c.Known:
			case hidden[b]:
				secret++
				sum += c.Value
			default:
				visible++
				if smallest < 0 || c.Value < count(smallest).Value {
					smallest = b
				}
			}
		}
		safe := secret == 0 || secret > 1 && sum >= SmallCell
		if hidden[i] {
			// The total is hidden: it must not be the sum of what is seen.
			safe = secret > 0 || visible == 0
		}
		if !count(i).Known || safe {
			return did
		}
		if smallest >= 0 {
			set(smallest)
		} else {
			set(i)
		}
		did = true
	}
}
