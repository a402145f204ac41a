package mirror

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Finding is one breach of one rule.
type Finding struct {
	Code   Code    `json:"code"`
	Entry  *uint64 `json:"entry,omitempty"` // index in the log
	Path   string  `json:"path,omitempty"`  // file of the tree
	Detail string  `json:"detail"`
	// Evidence are signed checkpoints that prove a fork to anybody who has the policy.
	Evidence []string `json:"evidence,omitempty"`
}

func (f Finding) String() string { return fmt.Sprintf("[%s]%s", f.Code, f.place()) }

// place is where it is and what it is.
func (f Finding) place() string {
	where := ""
	if f.Entry != nil {
		where += fmt.Sprintf(" entry %d:", *f.Entry)
	}
	if f.Path != "" {
		where += " " + f.Path + ":"
	}
	return where + " " + f.Detail
}

// Report is what an audit found out. Its JSON form is what `audit --json` prints.
type Report struct {
	Source     string    `json:"source"`
	Origin     string    `json:"origin,omitempty"`
	Size       uint64    `json:"size"`           // entries under the checkpoint
	Root       string    `json:"root,omitempty"` // hex
	Time       time.Time `json:"time,omitzero"`  // that the checkpoint states
	Cosigners  []string  `json:"cosigners"`      // witnesses whose cosignatures hold
	Quorum     bool      `json:"quorum"`         // whether they are enough
	Since      uint64    `json:"since"`          // size of the checkpoint seen before, 0 if none
	Windows    int       `json:"windows"`        // closed, empty ones included
	Files      int       `json:"files"`          // exports opened
	Keys       int       `json:"keys"`           // in them, each window's once
	IDSets     int       `json:"id_sets"`        // of the files
	Keyless    int       `json:"keyless"`        // of those, of windows published without keys
	IDs        int64     `json:"ids"`            // that the ID sets were made of
	OneFalseIn float64   `json:"one_false_in"`   // questions that bring one wrong "yes", in the worst ID set; 0 if there is none
	// ServiceKeys are the keys of the service in the keyring.
	ServiceKeys int       `json:"service_keys"`
	Findings    []Finding `json:"findings"`
	Suppressed  int       `json:"suppressed"` // findings beyond the first thousand
	Notes       []string  `json:"notes"`      // what an operator said or changed
	Unseen      []string  `json:"unseen"`     // what no audit can see
	Clean       bool      `json:"clean"`      // no finding

	handover // what it says of other logs

	mu sync.Mutex // of Findings and what is counted while files are checked
}

// maxFindings bounds a report: a tree can be wrong in every entry.
const maxFindings = 1000

// maxNotes bounds what an operator can make an auditor read.
const maxNotes = 200

// unseen are the limits of every audit (design: what a log cannot show).
var unseen = []string{
	"keys that were accepted and never published",
	"which keys are padding",
	"copies outside the tree: caches, backups, other mirrors, phones",
	"files erased longer ago than a retention that are back on a web server: nothing lists them",
	"whether the erased keys are also gone from the server's own disk",
	"a log shown only to others: compare checkpoints with other auditors, or pin a policy with witnesses",
}

func (r *Report) add(f Finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.Findings) >= maxFindings {
		r.Suppressed++
		return
	}
	r.Findings = append(r.Findings, f)
}

func (r *Report) find(code Code, path, format string, args ...any) {
	r.add(Finding{Code: code, Path: path, Detail: fmt.Sprintf(format, args...)})
}

func (r *Report) findEntry(code Code, entry uint64, path, format string, args ...any) {
	r.add(Finding{Code: code, Entry: &entry, Path: path, Detail: fmt.Sprintf(format, args...)})
}

func (r *Report) note(format string, args ...any) {
	switch len(r.Notes) {
	case maxNotes:
		r.Notes = append(r.Notes, "further notes left out")
	case maxNotes + 1:
	default:
		r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
	}
}

// unsee adds to what the audit cannot see.
func (r *Report) unsee(what string) {
	if !slices.Contains(r.Unseen, what) {
		r.Unseen = append(slices.Clip(r.Unseen), what)
	}
}

// idSet counts an ID set that held; compared says that it was held against keys.
func (r *Report) idSet(s *idsFound, compared bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.IDSets++; !compared {
		r.Keyless++
	}
	r.IDs += s.ids
	if r.OneFalseIn == 0 || s.oneFalseIn < r.OneFalseIn {
		r.OneFalseIn = s.oneFalseIn
	}
}

// blocked reports whether something was found that a mirror must not copy.
func (r *Report) blocked() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Code.blocks() }) || r.Suppressed > 0
}

// finish puts the findings in an order that does not depend on who was faster.
func (r *Report) finish() {
	at := func(f Finding) uint64 {
		if f.Entry == nil {
			return 0
		}
		return *f.Entry + 1
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(at(a), at(b)), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Code, b.Code))
	})
	if r.Keyless > 0 {
		r.unsee("whether the ID sets of windows published without keys hold what they should")
	}
	r.Clean = len(r.Findings) == 0
}
