package mirror

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

// AuditOptions says what an audit relies on.
type AuditOptions struct {
	// Policy names the keys of the log and of its witnesses. Required.
	Policy *exportlog.Policy
	// State holds the checkpoints seen before, and takes the new one if the log continues
	// what was seen and its entries are those that the checkpoint signs. nil: none.
	State *State
	// Now is the time of the audit; nil means time.Now.
	Now func() time.Time
	// Progress, if not nil, is called from one goroutine at a time, now and then.
	Progress func(Progress)
}

// Progress says how far an audit is.
type Progress struct {
	Entries, Size uint64 // entries read, of how many
	Files, Listed int    // exports checked, of how many; known once all entries are read
}

// ReadPolicies reads the pinned policies of several logs, a file each, as one.
func ReadPolicies(paths []string) (*exportlog.Policy, error) {
	var policies []*exportlog.Policy
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		policy, err := exportlog.ParsePolicy(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		policies = append(policies, policy)
	}
	if len(policies) == 1 {
		return policies[0], nil
	}
	return exportlog.Union(policies...)
}

// AuditAll audits several trees, and then what their logs say of each other. With an error
// come the reports of what was done.
func AuditAll(ctx context.Context, sources []tree.Source, o AuditOptions) ([]*Report, error) {
	var reports []*Report
	for _, s := range sources {
		report, err := Audit(ctx, s, o)
		if report != nil {
			reports = append(reports, report)
		}
		if err != nil {
			return reports, err
		}
	}
	return reports, Handovers(ctx, reports, o.Policy)
}

// Audit holds everything that a log has ever said against everything that a tree serves.
// It reads the tree once, in bounded memory but for 64 bytes an entry and the manifests of
// the windows within retention, and follows no file that the log does not name.
//
// The report has a finding for every breach; a report without one is clean. An error means
// that the audit could not be finished: the report then holds what was found so far.
func Audit(ctx context.Context, source tree.Source, o AuditOptions) (*Report, error) {
	a := newAudit(source, o)
	err := a.run(ctx)
	a.report.finish()
	if err != nil {
		return a.report, fmt.Errorf("auditing %s: %w", source, err)
	}
	return a.report, nil
}

type audit struct {
	AuditOptions
	source   tree.Source
	report   *Report
	now      time.Time
	progress Progress

	index, gaenIndex []byte // as served; nil if missing
	signed           []byte // the checkpoint as served
	checkpoint       exportlog.Checkpoint
	ledger           *ledger
	walker           *walker
	whole            bool // the entries are those that the checkpoint signs
	exact            bool // the lists must be of this checkpoint: none may be behind
	unsettled        bool // the tree is moving on: what was read is not of one time
	kept             bool // State has the checkpoint
}

func newAudit(source tree.Source, o AuditOptions) *audit {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.State == nil {
		o.State = new(State)
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	r := &Report{Source: source.String(), Cosigners: []string{}, Findings: []Finding{}, Notes: []string{}, Unseen: unseen}
	return &audit{AuditOptions: o, source: source, report: r, now: o.Now()}
}

func (a *audit) run(ctx context.Context) error {
	if err := a.log(ctx); err != nil || !a.whole {
		return err
	}
	return a.exports(ctx)
}

// log checks everything but the exports.
func (a *audit) log(ctx context.Context) error {
	// A tree may move on while it is read. What is written last is read first, so that
	// nothing read is ahead of the checkpoint.
	var err error
	if a.gaenIndex, err = a.readMutable(ctx, exportlog.GAENIndexPath, exportlog.MaxIndex, CodeIndex); err != nil {
		return err
	}
	if a.index, err = a.readMutable(ctx, exportlog.IndexPath, exportlog.MaxIndex, CodeIndex); err != nil {
		return err
	}
	if a.signed, err = a.readMutable(ctx, exportlog.CheckpointPath, exportlog.MaxCheckpoint, CodeCheckpoint); err != nil {
		return err
	}
	if a.signed == nil || !a.openCheckpoint() {
		return nil
	}
	if err := a.walk(ctx); err != nil || !a.whole {
		return err
	}
	return a.served(ctx)
}

// readMutable reads a file of a fixed path. One that is missing or too large is a finding,
// and nil.
func (a *audit) readMutable(ctx context.Context, path string, limit int64, missing Code) ([]byte, error) {
	data, err := tree.ReadAll(ctx, a.source, path, limit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		a.report.find(missing, path, "the file is missing")
		return nil, nil
	case errors.Is(err, tree.ErrTooLarge):
		a.report.find(missing, path, "%v", err)
		return nil, nil
	}
	if err == nil && data == nil {
		data = []byte{}
	}
	return data, err
}

// openCheckpoint judges the checkpoint and compares it with what was seen before. It
// reports whether there is a log to walk.
func (a *audit) openCheckpoint() bool {
	opened, err := a.Policy.Open(a.signed)
	if err != nil {
		a.report.find(CodeCheckpoint, exportlog.CheckpointPath, "%v", err)
		return false
	}
	r := a.report
	a.checkpoint = opened.Checkpoint
	r.Origin, r.Size, r.Root, r.Time, r.Quorum = opened.Origin, opened.Size, hex.EncodeToString(opened.Root[:]), opened.Time, opened.Quorum
	for _, c := range opened.Cosigners {
		r.Cosigners = append(r.Cosigners, c.Name)
	}
	if !opened.Quorum {
		r.find(CodeQuorum, exportlog.CheckpointPath, "%v", exportlog.ErrQuorum)
	}
	if opened.Time.After(a.now.Add(skew)) {
		r.find(CodeFuture, exportlog.CheckpointPath, "signed at %s, which has not come yet", opened.Time.Format(time.RFC3339))
	}
	if !opened.Both {
		r.note("the policy names one key of the log: its other signature was not checked")
	}
	before := a.State.logs[opened.Origin]
	r.Since = before.Size
	switch {
	case opened.Size < before.Size:
		r.find(CodeRollback, exportlog.CheckpointPath, "%d entries, %d were seen before", opened.Size, before.Size)
	case opened.Size == before.Size && before.signed != nil && opened.Root != before.Root:
		a.fork(before, opened.Root)
	}
	return true
}

// fork reports that this log and one seen before are not the same.
func (a *audit) fork(before seen, root [32]byte) {
	a.report.add(Finding{
		Code: CodeFork, Path: exportlog.CheckpointPath,
		Detail: fmt.Sprintf("for the first %d entries a checkpoint seen before signs root %x, this one %x: the log tells different stories to different people",
			before.Size, before.Root, root),
		Evidence: []string{string(before.signed), string(a.signed)},
	})
}

// walk reads the log, and ends with whether all of it is what the checkpoint signs.
func (a *audit) walk(ctx context.Context) error {
	r, before := a.report, a.State.logs[a.checkpoint.Origin]
	a.ledger = newLedger(r, a.now)
	a.ledger.remember(before.Size, a.seenTime(before), a.State.keyrings[a.checkpoint.Origin])
	a.walker = &walker{Report: r, source: a.source, checkpoint: a.checkpoint, ledger: a.ledger, seenSize: before.Size, progress: func(done uint64) {
		a.progress.Entries, a.progress.Size = done, a.checkpoint.Size
		a.Progress(a.progress)
	}}
	switch err := a.walker.walk(ctx); {
	case errors.Is(err, errStop):
		return nil
	case err != nil:
		return err
	}
	if a.walker.broken {
		return nil
	}
	a.ledger.end()
	if root := a.walker.log.Root(); root != a.checkpoint.Root {
		r.find(CodeRoot, exportlog.CheckpointPath, "the entries give root %x, the checkpoint signs %x", root, a.checkpoint.Root)
		return nil
	}
	a.whole = true
	r.source, r.checkpoint = a.source, a.checkpoint
	switch {
	case a.checkpoint.Size < before.Size:
	case before.Size > 0 && a.walker.seenRoot != before.Root:
		if a.checkpoint.Size > before.Size {
			a.fork(before, a.walker.seenRoot)
		}
	default:
		a.kept = true
		return a.State.see(a.signed)
	}
	return nil
}

// seenTime is when the checkpoint that was seen before was signed; zero if that is not known.
func (a *audit) seenTime(before seen) time.Time {
	if opened, err := a.Policy.Open(before.signed); err == nil {
		return opened.Time
	}
	return time.Time{}
}

// served checks what the tree serves besides tiles and exports.
func (a *audit) served(ctx context.Context) error {
	if err := a.policies(ctx); err != nil {
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(a.ledger.small)) {
		if err := a.smallFile(ctx, path); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.ledger.signers)) {
		if err := a.signerFile(ctx, a.ledger.signers[name]); err != nil {
			return err
		}
	}
	a.checkIndex()
	return nil
}

// policies demands that the tree's own policies accept its checkpoint, and that the second
// follows from the first. Whether that is the one that people pinned is seen from its
// digest, by them.
func (a *audit) policies(ctx context.Context) error {
	var texts [][]byte
	for _, path := range []string{exportlog.PolicyPath, exportlog.PolicyEd25519Path} {
		text, err := a.readMutable(ctx, path, exportlog.MaxPolicy, CodePolicy)
		if err != nil {
			return err
		}
		if text == nil {
			continue
		}
		p, err := exportlog.ParsePolicy(text)
		if err == nil {
			_, err = p.Open(a.signed)
		}
		if err != nil {
			a.report.find(CodePolicy, path, "%v", err)
			continue
		}
		texts = append(texts, text)
	}
	if len(texts) < 2 {
		return nil
	}
	if err := exportlog.CheckPolicies(texts[0], texts[1]); err != nil {
		a.report.find(CodePolicy, exportlog.PolicyEd25519Path, "%v", err)
	}
	return nil
}

// expired reports whether no file of a window may be served any more, whatever the log
// says of it.
func (a *audit) expired(m *exportlog.Manifest) bool { return a.now.Unix() > goneBy(m) }

// signerFile holds the PEM file of a signer against the log. The file of one that has
// retired may go with the last archive it signed.
func (a *audit) signerFile(ctx context.Context, s *signer) error {
	f := exportlog.Files(s.SignerChange)[0]
	data, err := tree.ReadAll(ctx, a.source, f.Path, f.Size+slack)
	gone := errors.Is(err, fs.ErrNotExist) && s.retired
	missing, err := absent(err)
	switch {
	case err != nil:
		return err
	case gone:
	case missing != nil:
		a.report.findEntry(CodeSignerKey, s.entry, f.Path, "%v, the log says %d bytes", missing, f.Size)
	case !f.Matches(data):
		a.report.findEntry(CodeSignerKey, s.entry, f.Path, "%d bytes with SHA-256 %x, the log says %d with %x", len(data), shaOf(data), f.Size, f.SHA256)
	}
	return nil
}
