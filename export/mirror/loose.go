package mirror

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/signing/seal"
)

// loose checks one file that was named by itself: against its proof, if there is one
// beside it and a policy to read it by; else, for an archive, against a public key. A file
// for which there is neither fails: that it parses says nothing about where it is from.
func (v *verifier) loose(ctx context.Context, s tree.Source, name string) error {
	line := Line{Name: inside(s, name)}
	if err := line.fail(v.looseLine(ctx, s, name, &line)); err != nil {
		return err
	}
	v.report(line)
	return nil
}

func (v *verifier) looseLine(ctx context.Context, s tree.Source, name string, line *Line) error {
	limit := int64(maxFile)
	if path.Ext(name) == "."+string(exportlog.IDSet) {
		limit = maxIDSet
	}
	blob, err := s.Open(ctx, name, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return flawf(CodeFileMissing, "the file is missing")
	}
	if err != nil {
		return tooLarge(CodeFileBytes, err)
	}
	defer blob.Close()
	h, err := v.around(ctx, s)
	if err != nil {
		return err
	}
	proof, err := tree.ReadAll(ctx, s, name+exportlog.ProofSuffix, exportlog.MaxProof)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return tooLarge(CodeProof, err)
	}
	proofless := err != nil
	switch {
	case !proofless && h.policy != nil:
		return v.proved(ctx, h, blob, proof, line)
	case v.Policy != nil:
		return flawf(CodeProof, "%s is missing: nothing ties the file to the policy", name+exportlog.ProofSuffix)
	}
	return v.alone(ctx, blob, name, proofless, line)
}

// around is the tree that a loose file lies in, going by the name of its folder.
func (v *verifier) around(ctx context.Context, s tree.Source) (*home, error) {
	folder := strings.TrimRight(s.String(), "/")
	if path.Base(filepath.ToSlash(folder)) != "exports" {
		return &home{policy: v.Policy}, nil
	}
	root := folder[:len(folder)-len("exports")]
	if root == "" {
		root = "."
	}
	source, err := tree.NewSource(root)
	if err != nil {
		return nil, err
	}
	return v.openHome(ctx, source)
}

// proved checks a file that has a proof beside it.
func (v *verifier) proved(ctx context.Context, h *home, blob tree.Blob, proof []byte, line *Line) error {
	line.Notes = h.notes
	proved, err := exportlog.VerifyProof(proof, h.policy)
	if err != nil {
		return flawf(CodeProof, "%w", err)
	}
	line.proof(proved)
	digest, err := hashBlob(blob)
	if err != nil {
		return err
	}
	f, err := proved.File(blob.Size(), digest)
	if err != nil {
		return flawf(CodeFileBytes, "%w", err)
	}
	if _, ok := proved.Entry.(exportlog.SmallFile); ok {
		return provedSmall(ctx, blob, f.Path, proved, line)
	}
	m, ok := proved.Entry.(exportlog.Manifest)
	if !ok {
		return flawf(CodeProof, "entry %d names no export and no small file", proved.Index)
	}
	list, err := files(&m)
	if err != nil {
		return err
	}
	l := list[slices.IndexFunc(list, func(l listed) bool { return l.file == f })]
	c, err := l.checkContents(ctx, blob, v.sum, v.key(ctx, h))
	if err != nil {
		return err
	}
	v.contents(line, h, l, c)
	if c.ids != nil {
		line.Notes = append(slices.Clone(line.Notes), "not compared with the keys of its window, which may lie beside it in its tree")
	}
	return nil
}

// provedSmall checks a small file that is the one of a path in the log.
func provedSmall(ctx context.Context, blob tree.Blob, logged string, proved exportlog.Proved, line *Line) error {
	line.held("digest")
	if base := path.Base(filepath.ToSlash(line.Name)); isSmall(base) && base != logged {
		return flawf(CodeProof, "it is called %s, and the log names it %s", base, logged)
	}
	line.Notes = append(slices.Clone(line.Notes), "whether a newer one has replaced it only its tree tells")
	if logged != exportlog.KeyringPath {
		line.held("%s as the log names it", logged)
		return nil
	}
	text, err := tree.ReadBlob(blob, seal.MaxKeyring)
	if err != nil {
		return tooLarge(CodeKeyring, err)
	}
	r, err := seal.ParseKeyring(text)
	if err != nil {
		return flawf(CodeKeyring, "%w", err)
	}
	if r.Origin != proved.Origin {
		return flawf(CodeKeyring, "it is of %s, in the log of %s", r.Origin, proved.Origin)
	}
	line.held("%d permit keys and %d sealing keys of %s", len(r.Permits), len(r.Seals), r.Region)
	return ctx.Err()
}

// isSmall reports whether the tree has a small file of this name.
func isSmall(name string) bool {
	row, ok := exportlog.Lookup(name)
	return ok && row.Class == exportlog.ClassSmall
}

// alone checks a file that no proof speaks for.
func (v *verifier) alone(ctx context.Context, blob tree.Blob, name string, proofless bool, line *Line) error {
	why := "no policy was given to read its proof by"
	if proofless {
		why = "there is no proof beside it"
	}
	switch ext := path.Ext(name); {
	case ext == "."+string(exportlog.IDSet):
		return flawf(CodeProof, "%s: nothing in an ID set says where it is from", why)
	case isSmall(name):
		return flawf(CodeProof, "%s: nothing in the file says where it is from", why)
	}
	c, err := readContents(ctx, blob, v.sum)
	if err != nil {
		return err
	}
	line.held("%d %s keys", c.sum.keys, c.Scheme)
	switch {
	case c.Archive == nil:
		return flawf(CodeProof, "%s: nothing in a key set says where it is from", why)
	case v.PublicKey == nil:
		return flawf(CodeSignature, "%s and no key was given (--key): its signature was not checked", why)
	}
	if err := c.Archive.Verify(v.PublicKey); err != nil {
		return flawf(CodeSignature, "%w", err)
	}
	line.held("export.sig by the key given")
	line.Notes = []string{why + ": not checked against a log"}
	return nil
}
