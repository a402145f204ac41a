package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/signing"
)

// ErrNotCompared means that a copy outside cannot be read, so that nobody knows whether it
// is ahead.
var ErrNotCompared = errors.New("the place outside cannot be compared with")

// CatchUp brings a log's own tree, a folder of the disk, to where a copy outside is, if that
// is ahead: the log's store can then follow its tree instead of forking the log. Only a copy
// that passes the audit under the log's keys is followed.
func CatchUp(ctx context.Context, outside tree.Source, root string, keys [2]*signing.VKey) error {
	text, _, err := exportlog.FormatPolicies(exportlog.PolicyTerms{Log: keys})
	if err != nil {
		return err
	}
	policy, err := exportlog.ParsePolicy(text)
	if err != nil {
		return err
	}
	more, err := isAhead(ctx, outside, tree.FolderSource(root), policy)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotCompared, err)
	}
	if !more {
		return nil
	}
	copied, err := Mirror(ctx, outside, Place{Disk: tree.Disk{}, Root: root}, AuditOptions{Policy: policy})
	if err == nil && !copied.Moved {
		err = fmt.Errorf("%s has a newer log, but it does not pass the audit:\n%s", outside, copied)
	}
	return err
}

// isAhead reports whether the log in one tree has grown beyond that in another, by their
// checkpoints alone. A tree without a checkpoint has an empty log.
func isAhead(ctx context.Context, a, b tree.Source, policy *exportlog.Policy) (bool, error) {
	var size [2]uint64
	for i, source := range []tree.Source{a, b} {
		signed, err := tree.ReadAll(ctx, source, exportlog.CheckpointPath, exportlog.MaxCheckpoint)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return false, fmt.Errorf("%s: %w", source, err)
		}
		opened, err := policy.Open(signed)
		if err != nil {
			return false, fmt.Errorf("%s: %w", source, err)
		}
		size[i] = opened.Size
	}
	return size[0] > size[1], nil
}
