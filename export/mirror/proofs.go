package mirror

import (
	"errors"
	"fmt"

	"bluekey/export/exportlog"
)

// openProof checks a proof of the log that was walked, which may stand on an older or a newer
// checkpoint than the tree's and need not meet the quorum yet. Every checkpoint that the log
// has signed must be of this log: one in a proof is a promise to whoever holds the file, and
// where two contradict each other that is a fork, here as anywhere. missing is why there is
// no proof. A finding has neither entry nor path yet.
func (a *audit) openProof(data []byte, missing error) (exportlog.Proved, *Finding) {
	if missing != nil {
		return exportlog.Proved{}, &Finding{Code: CodeProof, Detail: missing.Error()}
	}
	proved, err := exportlog.VerifyProof(data, a.Policy)
	if err != nil && !errors.Is(err, exportlog.ErrQuorum) {
		return proved, &Finding{Code: CodeProof, Detail: err.Error()}
	}
	if f := a.agrees(proved, data); f != nil {
		return proved, f
	}
	return proved, nil
}

// agrees holds what a proof says against the log that was walked.
func (a *audit) agrees(proved exportlog.Proved, proof []byte) *Finding {
	if proved.Origin != a.checkpoint.Origin {
		return &Finding{Code: CodeProof, Detail: fmt.Sprintf("it is of another log, %s", proved.Origin)}
	}
	same, err := true, error(nil)
	if proved.Size <= a.checkpoint.Size {
		var root [32]byte
		root, err = exportlog.Root(proved.Size, &a.walker.log)
		same = root == proved.Root
	} else if proved.Index < a.checkpoint.Size {
		same, err = a.has(proved)
	}
	if err != nil {
		return &Finding{Code: CodeProof, Detail: err.Error()} // the log in memory lacks nothing
	}
	if same {
		return nil
	}
	return &Finding{
		Code: CodeFork,
		Detail: fmt.Sprintf("its checkpoint of %d entries, signed by the log, contradicts the tree's of %d: the log tells different stories to different people",
			proved.Size, a.checkpoint.Size),
		Evidence: []string{string(proof), string(a.signed)},
	}
}

// has reports whether the walked log has the entry that is proved for a later one.
func (a *audit) has(proved exportlog.Proved) (bool, error) {
	text, err := proved.Entry.Format()
	if err != nil {
		return false, err
	}
	leaf, err := a.walker.log.ReadHashes([]int64{int64(exportlog.StoredHashCount(proved.Index))})
	return err == nil && leaf[0] == exportlog.LeafHash(text), err
}
