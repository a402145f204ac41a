package mirror

import (
	"fmt"
	"strings"
)

// String is the report for people: findings first, then what was seen, then what cannot be
// seen. It ends with the verdict and a line feed.
func (r *Report) String() string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "FINDING %s\n", f)
	}
	if r.Suppressed > 0 {
		fmt.Fprintf(&b, "and %d findings more\n", r.Suppressed)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note    %s\n", n)
	}
	fmt.Fprintf(&b, "seen    %s: log of %d entries", r.Source, r.Size)
	if !r.Time.IsZero() {
		fmt.Fprintf(&b, " at %s", r.Time.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	if r.Since > 0 {
		fmt.Fprintf(&b, ", continuing the %d seen before", r.Since)
	}
	fmt.Fprintf(&b, "; %d windows; %d files opened with %d keys\n", r.Windows, r.Files, r.Keys)
	if r.IDSets > 0 {
		fmt.Fprintf(&b, "seen    %d ID sets of %d IDs, %d of them published without keys; one false answer in %.0f\n", r.IDSets, r.IDs, r.Keyless, r.OneFalseIn)
	}
	if r.ServiceKeys > 0 {
		fmt.Fprintf(&b, "seen    a keyring of %d keys of the service\n", r.ServiceKeys)
	}
	if len(r.Cosigners) > 0 {
		fmt.Fprintf(&b, "seen    cosigned by %s\n", strings.Join(r.Cosigners, ", "))
	}
	for _, u := range r.Unseen {
		fmt.Fprintf(&b, "unseen  %s\n", u)
	}
	if r.Clean {
		fmt.Fprintf(&b, "clean   %s\n", r.Source)
	} else {
		fmt.Fprintf(&b, "NOT CLEAN %s: %d findings\n", r.Source, len(r.Findings)+r.Suppressed)
	}
	return b.String()
}

// String says for people what a pass of the mirror did, findings included.
func (c *Copied) String() string {
	verdict := fmt.Sprintf("copied  %d files (%d bytes), removed %d\n", c.Written, c.Bytes, c.Removed)
	if !c.Moved {
		verdict = "the copy stays as it was\n"
		if c.Unsettled {
			verdict = "the copy stays as it was until the tree is of one time: run the mirror again in a few minutes\n"
		}
	}
	return c.Report.String() + verdict
}

// String says for people what was made for one tree, problems first.
func (p *Prebuilt) String() string {
	var b strings.Builder
	for _, problem := range p.Problems {
		fmt.Fprintf(&b, "PROBLEM %s: %s\n", p.Source, problem)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "note    %s: %s\n", p.Source, n)
	}
	fmt.Fprintf(&b, "built   %s: %d windows; %d files made (%d bytes), %d kept, %d removed\n", p.Source, p.Windows, p.Made, p.Bytes, p.Kept, p.Removed)
	return b.String()
}
