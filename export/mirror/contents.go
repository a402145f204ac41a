package mirror

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/keystore/diagnosis"
)

// contents is what a file was found to hold.
type contents struct {
	export.File
	ids      *idsFound // of an ID set; nil for a file of keys
	blob     tree.Blob // open if the file is to be compared with others, else nil
	sum      keySum
	earliest diagnosis.Interval // at which a key ends
	latest   diagnosis.Interval
}

// hashBlob gives the SHA-256 of a file.
func hashBlob(blob tree.Blob) (digest [32]byte, err error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(blob, 0, blob.Size())); err != nil {
		return digest, err
	}
	h.Sum(digest[:0])
	return digest, nil
}

// readContents reads every key of an archive or key set. What its parsers refuse is a flaw.
func readContents(ctx context.Context, blob tree.Blob, sum summer) (*contents, error) {
	f, err := export.OpenFile(blob, blob.Size())
	if err != nil {
		return nil, flawf(CodeContents, "%w", err)
	}
	c := &contents{File: *f}
	for k, err := range f.Keys() {
		if err != nil {
			return nil, flawf(CodeContents, "%w", err)
		}
		if end := k.End(); c.sum.keys == 0 {
			c.earliest, c.latest = end, end
		} else {
			c.earliest, c.latest = min(c.earliest, end), max(c.latest, end)
		}
		c.sum.add(sum.hash(&k))
		if c.sum.keys%4096 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return c, nil
}

// listed is one file of a manifest.
type listed struct {
	manifest *exportlog.Manifest
	file     exportlog.File
	kind     exportlog.FileKind
	part     int // of parts, for archives, from 1
	parts    int
	keep     bool // leave it open after its check, to be compared with others
}

// files are the files of a manifest.
func files(m *exportlog.Manifest) ([]listed, error) {
	list := make([]listed, len(m.Files))
	parts, sets := 0, false
	for i, f := range m.Files {
		p, err := exportlog.ParseExportPath(f.Path)
		if err != nil {
			return nil, err // a manifest that was parsed has none
		}
		list[i] = listed{manifest: m, file: f, kind: p.Kind, part: i + 1}
		if p.Kind == exportlog.Archive {
			parts++
		}
		sets = sets || p.Kind == exportlog.IDSet
	}
	for i := range list {
		list[i].parts, list[i].keep = parts, sets
	}
	return list, nil
}

// signerKey gives the public key of a signer by its name in manifests, or a flaw.
type signerKey func(name string) (*ecdsa.PublicKey, error)

// check opens the file and holds it against its manifest: size and digest, then contents.
func (l listed) check(ctx context.Context, s tree.Source, sum summer, key signerKey) (*contents, error) {
	if l.file.Size > l.limit() {
		return nil, flawf(CodeContents, "%d bytes, more than any export has", l.file.Size)
	}
	blob, err := s.Open(ctx, l.file.Path, l.file.Size+slack)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, flawf(CodeFileMissing, "the file is missing")
	}
	if err != nil {
		return nil, tooLarge(CodeFileBytes, err)
	}
	c, err := l.checkBlob(ctx, blob, sum, key)
	if err != nil || !l.keep {
		return c, errors.Join(err, blob.Close())
	}
	c.blob = blob
	return c, nil
}

// limit is how large the file may be.
func (l listed) limit() int64 {
	if l.kind == exportlog.IDSet {
		return maxIDSet
	}
	return maxFile
}

func (l listed) checkBlob(ctx context.Context, blob tree.Blob, sum summer, key signerKey) (*contents, error) {
	if blob.Size() != l.file.Size {
		return nil, flawf(CodeFileBytes, "%d bytes, the log says %d", blob.Size(), l.file.Size)
	}
	digest, err := hashBlob(blob)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", l.file.Path, err)
	}
	if digest != l.file.SHA256 {
		return nil, flawf(CodeFileBytes, "SHA-256 is %x, the log says %x", digest, l.file.SHA256)
	}
	return l.checkContents(ctx, blob, sum, key)
}

// checkContents holds what the right bytes contain against their manifest. An archive must
// be signed by every signer that the manifest names, unless key is nil.
func (l listed) checkContents(ctx context.Context, blob tree.Blob, sum summer, key signerKey) (*contents, error) {
	if l.kind == exportlog.IDSet {
		return l.checkIDs(blob)
	}
	c, err := readContents(ctx, blob, sum)
	if err != nil {
		return nil, err
	}
	if err := l.checkHeader(c); err != nil {
		return nil, err
	}
	if c.Archive == nil || key == nil {
		return c, nil
	}
	for i, name := range l.manifest.Signers {
		if info := c.Archive.Infos[i]; info.KeyID+"-"+info.Version != name {
			return nil, flawf(CodeSignature, "signature %d is announced as by %s-%s, the manifest says %s", i+1, info.KeyID, info.Version, name)
		}
		pub, err := key(name)
		if err != nil {
			return nil, err
		}
		if err := c.Archive.Verify(pub); err != nil {
			return nil, flawf(CodeSignature, "export.sig is not by %s: %w", name, err)
		}
	}
	return c, nil
}

// checkHeader compares what a file says of itself, and how many keys it holds, with its
// manifest.
func (l listed) checkHeader(c *contents) error {
	m := l.manifest
	end := m.End
	kind := exportlog.KeySet
	if a := c.Archive; a != nil {
		kind = exportlog.Archive
		end = export.PartEnd(m.End, l.part, l.parts)
		if c.Region != m.Region || a.BatchNum != 1 || a.BatchSize != 1 || len(a.Infos) != len(m.Signers) {
			return flawf(CodeContents, "region %s, batch %d of %d, %d signatures; the manifest says region %s, batch 1 of 1, %d signatures",
				c.Region, a.BatchNum, a.BatchSize, len(a.Infos), m.Region, len(m.Signers))
		}
	}
	switch {
	case kind != l.kind:
		return flawf(CodeContents, "it is a .%s file", kind)
	case c.Scheme != m.Scheme || c.Start != m.Start || c.End != end:
		return flawf(CodeContents, "its header says %s from %d to %d, the manifest %s from %d to %d",
			c.Scheme, c.Start, c.End, m.Scheme, m.Start, end)
	case c.sum.keys != l.file.Keys:
		return flawf(CodeContents, "%d keys, the manifest says %d", c.sum.keys, l.file.Keys)
	}
	return nil
}

func isKeySet(l listed) bool { return l.kind == exportlog.KeySet }

// sums adds up what the files of one window hold, by kind.
type sums map[exportlog.FileKind]keySum

func (s sums) add(l listed, c *contents) {
	if c != nil {
		total := s[l.kind]
		total.add(c.sum)
		s[l.kind] = total
	}
}

// compare demands that archives and key set hold the same keys. It is for windows of which
// every file passed its own check.
func (s sums) compare() error {
	archives, ok := s[exportlog.Archive]
	keySet, ok2 := s[exportlog.KeySet]
	if ok && ok2 && archives != keySet {
		return flawf(CodeDisagree, "archive and key set hold different keys")
	}
	return nil
}
