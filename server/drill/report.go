package drill

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"bluekey/keystore/diagnosis"
)

// summary is what a report says beside its tables.
type summary struct {
	covers, traces   int
	public, promised time.Duration // after the uploads began
}

// report prints what came of the drill and gives ErrFailed if that is not what should have.
func report(out io.Writer, phones []*actor, s summary) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	missed, wrong := bySchemes(w, phones)
	fmt.Fprintln(w) // ends the columns
	byWays(w, phones)
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "every upload by the phone service sealed and under a permit; %d requests of cover beside them\n", s.covers)
	if s.traces > 0 {
		fmt.Fprintf(out, "no file of the service holds any of %d things that only doors were told: root and daily keys, codes, numbers\n", s.traces)
	}
	fmt.Fprintf(out, "keys public %.1f s after upload; promised within %.1f s\n", s.public.Seconds(), s.promised.Seconds())
	if missed > 0 || wrong > 0 {
		return fmt.Errorf("%w: %d contacts were not warned of every case, %d phones were warned of others", ErrFailed, missed, wrong)
	}
	fmt.Fprintln(out, "every contact of a case was warned, and nobody else")
	return nil
}

// bySchemes prints what became of the phones of each scheme.
func bySchemes(w io.Writer, phones []*actor) (missed, wrong int) {
	type row struct {
		phones, cases, contacts, warned, missed, wrong, abroad int
		slowest                                                time.Duration
	}
	rows := map[diagnosis.Scheme]*row{}
	for _, a := range phones {
		r := rows[a.scheme]
		if r == nil {
			r = &row{}
			rows[a.scheme] = r
		}
		r.phones++
		if a.isCase {
			r.cases++
		}
		if a.contact {
			r.contacts++
		}
		switch {
		case a.missedOne(phones):
			r.missed++
			missed++
		case a.contact:
			r.warned++
			if a.abroad {
				r.abroad++
			}
			r.slowest = max(r.slowest, a.warned)
		}
		if a.misled(phones) {
			r.wrong++
			wrong++
		}
	}
	fmt.Fprintln(w, "scheme\tphones\tcases\tcontacts\twarned\tacross borders\tmissed\twrongly warned\tslowest warning\t")
	for _, scheme := range diagnosis.Schemes {
		if r := rows[scheme]; r != nil {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f s\t\n", scheme, r.phones, r.cases, r.contacts, r.warned, r.abroad, r.missed, r.wrong, r.slowest.Seconds())
		}
	}
	return missed, wrong
}

// missedOne reports whether the phone met a case of which it was not warned: a contact of two
// cases is warned of both.
func (a *actor) missedOne(phones []*actor) bool {
	return slices.ContainsFunc(a.met, func(other int) bool { return phones[other].isCase && !a.found[other] })
}

// misled reports whether the phone was warned of anybody who is no case.
func (a *actor) misled(phones []*actor) bool {
	for other := range a.found {
		if other == stranger || !phones[other].isCase {
			return true
		}
	}
	return false
}

// byWays prints what became of the cases of each way and of the meetings with them.
func byWays(w io.Writer, phones []*actor) {
	var rows [len(ways)]struct{ cases, keys, meetings, warned int }
	for _, a := range phones {
		if a.isCase {
			rows[a.way].cases++
			rows[a.way].keys += len(a.keys)
		}
		for _, other := range a.met {
			b := phones[other]
			if !b.isCase {
				continue
			}
			rows[b.way].meetings++
			if a.found[other] {
				rows[b.way].warned++
			}
		}
	}
	fmt.Fprintln(w, "by way of\tcases\tkeys\tmeetings\twarned\t")
	for _, way := range ways {
		if r := rows[way]; r.cases > 0 {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t\n", way, r.cases, r.keys, r.meetings, r.warned)
		}
	}
}
