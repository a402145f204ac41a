package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

// Ahead reports whether the log in one tree has grown beyond that in another, by their
// checkpoints alone. A tree without a checkpoint has an empty log.
func Ahead(ctx context.Context, a, b tree.Source, policy *exportlog.Policy) (bool, error) {
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
