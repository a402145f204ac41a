package mirror

import (
	"context"
	"fmt"
	"time"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

// settle is how long after its entry a small file may still be served as it was before, or
// with the proof of the one before: what replaces it is two files, which caches keep for five
// minutes, and clocks differ by as much.
const settle = 10 * time.Minute

// smallFile checks a small file and the proof beside it. A tree is asked again, a little
// later, before anything is found: it may be moving on. One that serves a mixture, for no longer than settle, is
// not at fault, but nothing that a mirror should copy.
func (a *audit) smallFile(ctx context.Context, path string) error {
	for try := 1; ; try++ {
		seen, err := a.readSmall(ctx, path)
		if err != nil {
			return err
		}
		of, mixed, found := a.judgeSmall(path, seen)
		if len(found) > 0 && try < rereads {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(rereadAfter):
			}
			continue
		}
		for _, f := range found {
			a.report.add(f)
		}
		if mixed && len(found) == 0 {
			a.unsettled = true
			a.report.note("%s is just being replaced: the file, its proof and the checkpoint are not of one time", path)
		}
		if path == exportlog.KeyringPath && of != nil {
			a.keyring(seen.data, *of)
		}
		return nil
	}
}

// smallSeen is what a tree serves as a small file.
type smallSeen struct {
	data, proof       []byte
	flawed, proofless error // why they are not there
}

func (a *audit) readSmall(ctx context.Context, path string) (s smallSeen, err error) {
	s.data, err = tree.ReadAll(ctx, a.source, path, exportlog.MaxSmall)
	if s.flawed, err = absent(err); err != nil {
		return s, err
	}
	s.proof, err = tree.ReadAll(ctx, a.source, path+exportlog.ProofSuffix, exportlog.MaxProof)
	s.proofless, err = absent(err)
	return s, err
}

// judgeSmall says of which entry the file is, nil if of none; whether it is in the middle of
// being replaced; and what is wrong with it.
func (a *audit) judgeSmall(path string, s smallSeen) (of *smallFile, mixed bool, found []Finding) {
	history := a.ledger.small[path]
	newest, before := history.newest, history.before
	fault := func(code Code, path, format string, args ...any) {
		found = append(found, Finding{Code: code, Entry: &newest.entry, Path: path, Detail: fmt.Sprintf(format, args...)})
	}
	recent := func(at int64) bool { return a.now.Sub(time.Unix(at, 0)).Abs() <= settle }
	young := recent(newest.Time)
	matches := func(f *smallFile) bool { return s.flawed == nil && exportlog.Files(f.SmallFile)[0].Matches(s.data) }

	proved, wrong := a.openProof(s.proof, s.proofless)
	var coming *smallFile
	if f, ok := proved.Entry.(exportlog.SmallFile); ok && wrong == nil && proved.Index >= a.checkpoint.Size && f.Path == path && recent(f.Time) {
		coming = &smallFile{f, proved.Index, max(a.ledger.floor, f.Time)}
	}

	switch {
	case matches(&newest):
		of = &newest
	case before != nil && young && matches(before):
		of, mixed = before, true
	case coming != nil && matches(coming):
		return coming, true, nil
	case s.flawed != nil:
		fault(CodeSmallFile, path, "%v, the log says %d bytes", s.flawed, newest.Size)
	default:
		fault(CodeSmallFile, path, "%d bytes with SHA-256 %x, the log says %d with %x", len(s.data), shaOf(s.data), newest.Size, newest.SHA256)
	}
	switch {
	case wrong != nil:
		wrong.Entry, wrong.Path = &newest.entry, path+exportlog.ProofSuffix
		found = append(found, *wrong)
	case proved.Index == newest.entry:
	case coming != nil, before != nil && young && proved.Index == before.entry:
		mixed = true
	default:
		fault(CodeProof, path+exportlog.ProofSuffix, "it proves entry %d", proved.Index)
	}
	return of, mixed, found
}
