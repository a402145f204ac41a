package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

// handover is what a log says of the logs before and after it.
type handover struct {
	opened   *exportlog.Opening // its first entry, if that names a predecessor
	closed   *exportlog.Closing // its last but for erasures, if that names a successor
	closedBy uint64             // index of closed

	source     tree.Source // of the log, for looking again; nil unless all of it was walked
	checkpoint exportlog.Checkpoint
}

// opening takes an entry that says which log this one follows.
func (l *ledger) opening(i uint64, o exportlog.Opening) {
	switch {
	case i != 0:
		l.findEntry(CodeHandover, i, "", "an opening entry, which only the first may be")
	case o.Origin == l.Origin:
		l.findEntry(CodeHandover, i, "", "the log names itself as its predecessor")
	default:
		l.opened = &o
		l.note("this log follows %s, which had %d entries at %s", o.Origin, o.Size, at(o.Time))
	}
}

// closing takes an entry that says which log follows this one.
func (l *ledger) closing(i uint64, c exportlog.Closing) {
	if c.Origin == l.Origin {
		l.findEntry(CodeHandover, i, "", "the log names itself as its successor")
	}
	if l.closed == nil {
		l.closed, l.closedBy = &c, i
		l.note("entry %d closes this log at %s: %s follows it, with the policy of SHA-256 %x", i, at(c.Time), c.Origin, c.Policy)
	}
}

// afterClosing allows erasures only once the log is closed.
func (l *ledger) afterClosing(i uint64, e exportlog.Entry) {
	if _, ok := e.(exportlog.Erasure); !ok && l.closed != nil {
		l.findEntry(CodeHandover, i, "", "the log was closed by entry %d: only erasures may follow", l.closedBy)
	}
}

// Handovers holds what several logs say of each other against what they are: an opening
// entry against the log that it names, a closing entry against its successor. Findings are
// added to the reports. policy is that of the audits. An error means that a tree could not
// be read again.
func Handovers(ctx context.Context, reports []*Report, policy *exportlog.Policy) error {
	logs := map[string]*Report{}
	for _, r := range reports {
		if r.source != nil && (logs[r.Origin] == nil || logs[r.Origin].Size < r.Size) {
			logs[r.Origin] = r // the newest of several copies
		}
	}
	for _, r := range reports {
		if r.opened != nil && logs[r.opened.Origin] != nil {
			if err := r.follows(ctx, logs[r.opened.Origin]); err != nil {
				return err
			}
		}
		if r.closed != nil && logs[r.closed.Origin] != nil {
			r.precedes(logs[r.closed.Origin], policy)
		}
		r.finish()
	}
	return nil
}

// follows checks the opening entry of r against the log that it names.
func (r *Report) follows(ctx context.Context, before *Report) error {
	o := r.opened
	if o.Size > before.Size {
		r.findEntry(CodeHandover, 0, "", "it names %d entries of %s, and %s has %d: look at a newer copy", o.Size, o.Origin, before.Source, before.Size)
		return nil
	}
	read := func(t exportlog.Tile) ([]byte, error) {
		return tree.ReadAll(ctx, before.source, t.Path(), exportlog.MaxTile)
	}
	root, err := exportlog.Root(o.Size, exportlog.TileHashes(before.checkpoint, read))
	if err != nil {
		return fmt.Errorf("%s: %w", before.Source, err)
	}
	switch c := before.closed; {
	case root != o.Root:
		r.findEntry(CodeHandover, 0, "", "it gives %s with %d entries the root %x, and that log has %x: one of the two is a fork", o.Origin, o.Size, o.Root, root)
	case c == nil:
		r.note("%s, which this log follows, is not closed yet", o.Origin)
	case c.Origin != r.Origin:
		r.findEntry(CodeHandover, 0, "", "it says that this log follows %s, whose closing entry names %s", o.Origin, c.Origin)
	}
	return nil
}

// precedes checks the closing entry of r against the log that it names.
func (r *Report) precedes(after *Report, policy *exportlog.Policy) {
	if o := after.opened; o == nil || o.Origin != r.Origin {
		r.findEntry(CodeHandover, r.closedBy, "", "it names %s as the log that follows, which does not say so itself", after.Origin)
	}
	keys, err := policy.Of(after.Origin).LogKeys()
	switch {
	case err != nil:
		r.note("the keys of %s that entry %d names were not compared: %v", after.Origin, r.closedBy, err)
	case !r.closed.Names(keys):
		r.findEntry(CodeHandover, r.closedBy, "", "it names other keys of %s than the policy pinned for it", after.Origin)
	}
}

// OpeningProof reads a .tlog-proof of a log's first entry, which must be an opening entry,
// out of its tree. The log must be that of the policy, whose text is as pinned and as
// served, and its checkpoint must meet the quorum.
func OpeningProof(ctx context.Context, source tree.Source, pinned []byte) ([]byte, error) {
	text := exportlog.PolicyText(pinned)
	policy, err := exportlog.ParsePolicy(text)
	if err != nil {
		return nil, err
	}
	served, err := tree.ReadAll(ctx, source, exportlog.PolicyPath, exportlog.MaxPolicy)
	if err == nil && !bytes.Equal(served, text) {
		err = errors.New("its policy is not the one that was pinned")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	signed, err := tree.ReadAll(ctx, source, exportlog.CheckpointPath, exportlog.MaxCheckpoint)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	opened, err := policy.Verify(signed)
	if err == nil && opened.Size == 0 {
		err = errors.New("its log is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	proof, err := proveFirst(ctx, source, opened.Checkpoint, signed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	proved, err := exportlog.VerifyProof(proof, policy)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	if _, ok := proved.Entry.(exportlog.Opening); !ok {
		return nil, fmt.Errorf("%s: its log does not begin with an opening entry: it was not started as a successor", source)
	}
	return proof, nil
}

// proveFirst makes the proof of entry 0.
func proveFirst(ctx context.Context, source tree.Source, c exportlog.Checkpoint, signed []byte) ([]byte, error) {
	w := &walker{source: source, checkpoint: c}
	chunk := w.fetch(ctx, 0)
	if chunk.err != nil {
		return nil, chunk.err
	}
	hashes, err := exportlog.ProveEntry(c.Size, 0, exportlog.TileHashes(c, func(t exportlog.Tile) ([]byte, error) {
		data, _, err := w.read(ctx, t, exportlog.MaxTile)
		return data, err
	}))
	if err != nil {
		return nil, err
	}
	return exportlog.FormatProof(exportlog.Proof{Hashes: hashes, Extra: chunk.entries[0], Checkpoint: signed}), nil
}
