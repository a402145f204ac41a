// Package mirror is the reading side of what others publish: it verifies single files,
// audits a whole log, and keeps copies that can be served and audited in turn.
//
//	Verify    one file, a folder of files, or a tree as its log says it is now
//	Audit     everything a log has ever said, against everything its tree serves
//	Mirror    an audit whose findings decide whether a copy moves on
//	Prebuild  what publishers did not make of their keys, for whoever serves their exports
//
// All of them read a tree.Source, a folder or a web server, and trust it with nothing. What
// they trust is a policy: the keys of a log and of its witnesses. A policy that comes from
// the tree it judges proves only that the tree agrees with itself, and whoever uses one is
// told so.
//
// The package holds keys only while it counts and compares them. It neither keeps nor
// prints one.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"bluekey/export/tree"
)

// maxFile bounds an export file in bytes, since a web source holds it in memory. An archive
// of export.MaxKeys keys has 9 MB, a key set of four million 58 MB.
const maxFile = 64 << 20

// slack is how many bytes too many are still told apart from a file without end.
const slack = 64 << 10

// flaw is a check that failed. Every other error means that a check could not be made.
type flaw struct {
	code Code
	error
}

func (f *flaw) Unwrap() error { return f.error }

func flawf(code Code, format string, args ...any) error {
	return &flaw{code, fmt.Errorf(format, args...)}
}

// flawOf separates a failed check from an error.
func flawOf(err error) (*flaw, error) {
	var f *flaw
	if errors.As(err, &f) {
		return f, nil
	}
	return nil, err
}

// read reads a small file of a tree. A missing or endless one is a flaw of this code.
func read(ctx context.Context, s tree.Source, path string, limit int64, missing Code) ([]byte, error) {
	data, err := tree.ReadAll(ctx, s, path, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, flawf(missing, "%s is missing", path)
	}
	return data, tooLarge(missing, err)
}

// tooLarge makes a flaw of this code of a file over its limit. Whoever serves one must not
// keep an audit from being finished.
func tooLarge(code Code, err error) error {
	if errors.Is(err, tree.ErrTooLarge) {
		return flawf(code, "%w", err)
	}
	return err
}

// absent separates a file that is missing or too large from a tree that cannot be read.
func absent(err error) (missing, other error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("the file is missing"), nil
	case errors.Is(err, tree.ErrTooLarge):
		return err, nil
	}
	return nil, err
}
