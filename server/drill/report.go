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
		phones, cases, contacts, passed, warned, missed, wrong, abroad int
		slowest                                                        time.Duration
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
		} else if a.passedCase(phones) {
			r.passed++
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
			r.slowest = max(r.slowest, a.after)
		}
		if a.misled(phones) {
			r.wrong++
			wrong++
		}
	}
	fmt.Fprintln(w, "scheme\tphones\tcases\tcontacts\ttoo short\twarned\tacross borders\tmissed\twrongly warned\tslowest warning\t")
	for _, scheme := range diagnosis.Schemes {
		if r := rows[scheme]; r != nil {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f s\t\n", scheme, r.phones, r.cases, r.contacts, r.passed, r.warned, r.abroad, r.missed, r.wrong, r.slowest.Seconds())
		}
	}
	return missed, wrong
}

// missedOne reports whether the phone was near a case and not warned, or could not tell one
// case of several.
func (a *actor) missedOne(phones []*actor) bool {
	return a.contact && !a.warned || slices.ContainsFunc(a.met, func(other int) bool { return phones[other].isCase && !a.found[other] })
}

// misled reports whether the phone was warned of what was too short, or took anybody for a
// case who is none.
func (a *actor) misled(phones []*actor) bool {
	for other := range a.found {
		if other == stranger || !phones[other].isCase {
			return true
		}
	}
	return a.warned && !a.contact
}

// passedCase reports whether a case passed by.
func (a *actor) passedCase(phones []*actor) bool {
	return slices.ContainsFunc(a.passed, func(other int) bool { return phones[other].isCase })
}

// byWays prints what became of the cases of each way and of the meetings with them.
func byWays(w io.Writer, phones []*actor) {
	var rows [len(ways)]struct{ cases, keys, meetings, found int }
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
				rows[b.way].found++
			}
		}
	}
	fmt.Fprintln(w, "by way of\tcases\tkeys\tmeetings\tfound\t")
	for _, way := range ways {
		if r := rows[way]; r.cases > 0 {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t\n", way, r.cases, r.keys, r.meetings, r.found)
		}
	}
}
