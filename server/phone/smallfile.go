package phone

import (
	"context"
	"crypto/sha256"
	"errors"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

// smallFile is a small file of a tree, and the entry of the log that names these bytes.
type smallFile struct {
	data   []byte
	entry  exportlog.SmallFile
	index  uint64 // of the entry
	origin string // of the log
}

// readSmall reads a small file and demands of the proof beside it that the log holds these
// very bytes under this path, with the quorum of the pinned policy. If policy is nil it is
// the tree's own, and its quorum is overlooked, as for exports: whoever could forge the tree
// wrote the policy. A missing file is fs.ErrNotExist, a missing proof is not.
func readSmall(ctx context.Context, source tree.Source, policy *exportlog.Policy, path string, most int64) (f smallFile, err error) {
	pinned := policy != nil
	if !pinned {
		if policy, err = ownPolicy(ctx, source); err != nil {
			return f, err
		}
	}
	if f.data, err = tree.ReadAll(ctx, source, path, most); err != nil {
		return f, err
	}
	proved, err := readProof(ctx, source, path, policy)
	if err != nil && (pinned || !errors.Is(err, exportlog.ErrQuorum)) {
		return f, err
	}
	if !proved.Both {
		return f, errors.New("its proof is signed by one key of the log only: the policy must name both, Ed25519 and ML-DSA-44")
	}
	entry, ok := proved.Entry.(exportlog.SmallFile)
	if !ok || entry.Path != path {
		return f, errors.New("its proof is of another file")
	}
	if entry.Size != int64(len(f.data)) || entry.SHA256 != sha256.Sum256(f.data) {
		return f, errors.New("it is not the file of its entry: both may just be replaced; try again in five minutes")
	}
	f.entry, f.index, f.origin = entry, proved.Index, proved.Origin
	return f, nil
}
