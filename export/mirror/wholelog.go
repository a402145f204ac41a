package mirror

import (
	"context"
	"fmt"
	"strings"
	"time"

	"bluekey/export/exportlog"
)

// A tree that moves on while it is read is read again, a few times and a little later.
// Between its checkpoint and its last list a publisher needs some ten milliseconds.
const (
	rereads = 4
	// restless is how long after its checkpoint was signed a tree may still be changing.
	restless = time.Minute
)

// rereadAfter is the time between two readings; tests of what stays wrong shorten it.
var rereadAfter = 250 * time.Millisecond

// maxProblems bounds how many flaws of a tree are told in its line.
const maxProblems = 8

// wholeLog reads all entries of the log, which are small, and holds against them what else
// a tree serves: tiles, lists, policies, the keys of signers and small files. Without that
// a tree could hide exports by leaving them out of its index. It gives the index that was
// held against the log.
//
// What an operator did and when is the business of audits, which have a memory and a clock:
// a tree kept on a shelf for a year still verifies.
func (v *verifier) wholeLog(ctx context.Context, h *home, x *exportlog.Index, line *Line) (*exportlog.Index, error) {
	for try := 1; ; try++ {
		a := newAudit(h.source, AuditOptions{Policy: h.policy})
		a.exact = true
		if err := a.log(ctx); err != nil {
			return x, err
		}
		found := a.problems()
		if found == "" {
			now, err := exportlog.ParseIndex(a.index)
			if err != nil {
				return x, err // it was found good
			}
			h.log = a
			line.held("all entries, tiles and lists")
			return &now, nil
		}
		if try == rereads || a.now.Sub(a.report.Time).Abs() > restless {
			return x, flawf(CodeIndex, "%s", found)
		}
		select {
		case <-ctx.Done():
			return x, ctx.Err()
		case <-time.After(rereadAfter):
		}
	}
}

// problems are the findings that make a tree other than its log says, in words.
func (a *audit) problems() string {
	a.report.finish()
	var list []string
	for _, f := range a.report.Findings {
		if !f.Code.blocks() {
			continue
		}
		if len(list) == maxProblems {
			list = append(list, "and more")
			break
		}
		list = append(list, strings.TrimSpace(f.place()))
	}
	if a.report.Suppressed > 0 {
		list = append(list, fmt.Sprintf("and %d findings more", a.report.Suppressed))
	}
	return strings.Join(list, "; ")
}
