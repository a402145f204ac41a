package exportlog

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// FileKind is the kind of an export file, and its suffix.
type FileKind string

const (
	Archive FileKind = "zip"  // GAEN archive
	KeySet  FileKind = "keys" // compact key set
	IDSet   FileKind = "ids"  // prebuilt matching artifact
)

// fileKinds is the order of the kinds in a manifest.
var fileKinds = []FileKind{Archive, KeySet, IDSet}

// ExportPath is the path of an export file. It names the window and the first eight bytes
// of the digest, so that the bytes behind a path never change.
type ExportPath struct {
	Start, End int64    // Unix seconds
	SHA256     [32]byte // after ParseExportPath only the first eight bytes are known
	Kind       FileKind
}

// String is exports/<start>-<end>-<16 hex of SHA-256>.<kind>.
func (p ExportPath) String() string {
	b := append(make([]byte, 0, 64), "exports/"...)
	b = append(strconv.AppendInt(b, p.Start, 10), '-')
	b = append(strconv.AppendInt(b, p.End, 10), '-')
	b = append(hex.AppendEncode(b, p.SHA256[:8]), '.')
	return string(append(b, p.Kind...))
}

// ParseExportPath reads what String writes.
func ParseExportPath(path string) (ExportPath, error) {
	name, ok := strings.CutPrefix(path, "exports/")
	stem, kind, ok2 := strings.Cut(name, ".")
	start, rest, ok3 := strings.Cut(stem, "-")
	end, digest, ok4 := strings.Cut(rest, "-")
	p := ExportPath{Kind: FileKind(kind)}
	var err1, err2, err3 error
	if ok = ok && ok2 && ok3 && ok4 && len(digest) == 16 && slices.Contains(fileKinds, p.Kind); ok {
		p.Start, err1 = parseNumber(start)
		p.End, err2 = parseNumber(end)
		_, err3 = hex.Decode(p.SHA256[:], []byte(digest))
	}
	if !ok || err1 != nil || err2 != nil || err3 != nil || p.End <= p.Start || p.String() != path {
		return ExportPath{}, fmt.Errorf("%.80q is not the path of an export", path)
	}
	return p, nil
}

// Fixed paths of the public tree. No path starts with a slash.
const (
	CheckpointPath    = "checkpoint"
	IndexPath         = "index.json"
	PolicyPath        = "policy"
	PolicyEd25519Path = "policy-ed25519"
	KeyringPath       = "keyring"
	FeedsPath         = "feeds.json"
	GAENIndexPath     = "gaen/index.txt"

	// ProofSuffix follows the path of a file in the path of its proof.
	ProofSuffix = ".tlog-proof"
)

// Class says what a file of the public tree is. A copy is made in the order of the
// classes: what a file refers to is there before it.
type Class int

const (
	ClassExport     Class = iota // archives, key sets, ID sets; gone after retention
	ClassTile                    // tiles and entry bundles
	ClassSmall                   // files that the log records by SmallFile; replaced in their place
	ClassSigner                  // PEM files that the log records by SignerChange
	ClassPolicy                  // what to pin; judged by its digest alone
	ClassCheckpoint              // the signed root
	ClassProof                   // proofs, remade on a later checkpoint
	ClassIndex                   // lists of exports, last
)

// Row is what the public tree's table says of one path.
type Row struct {
	Class        Class
	ContentType  string
	CacheControl string
}

// Cache classes. A year is what caches take as for ever. Exports are immutable too, but
// stay in a cache for a day only, since a cache must not outlive their erasure by more.
const (
	cacheForever    = "public, max-age=31536000, immutable"
	cacheExport     = "public, max-age=86400, immutable"
	cacheCheckpoint = "public, max-age=5, stale-if-error=86400"
	cacheMinutes    = "public, max-age=300, stale-if-error=86400"

	typeText  = "text/plain; charset=utf-8"
	typeBytes = "application/octet-stream"
	typeJSON  = "application/json"
)

// fixedPaths are the rows of single paths.
var fixedPaths = map[string]Row{
	CheckpointPath:    {ClassCheckpoint, typeText, cacheCheckpoint},
	IndexPath:         {ClassIndex, typeJSON, cacheMinutes},
	GAENIndexPath:     {ClassIndex, typeText, cacheMinutes},
	PolicyPath:        {ClassPolicy, typeText, cacheMinutes},
	PolicyEd25519Path: {ClassPolicy, typeText, cacheMinutes},
	KeyringPath:       {ClassSmall, typeBytes, cacheMinutes},
	FeedsPath:         {ClassSmall, typeJSON, cacheMinutes},
}

// noticeTypes are the content types of notices, by suffix.
var noticeTypes = map[string]string{
	"json": typeJSON, "txt": typeText, "html": "text/html; charset=utf-8",
	"css": "text/css; charset=utf-8", "svg": "image/svg+xml", "png": "image/png", "webp": "image/webp", "pdf": "application/pdf",
}

// Lookup finds the row of a path, without its leading slash. Paths of no row are not part
// of the public tree: they are neither served nor mirrored.
func Lookup(path string) (Row, bool) {
	if row, ok := fixedPaths[path]; ok {
		return row, true
	}
	if file, ok := strings.CutSuffix(path, ProofSuffix); ok {
		row, ok := Lookup(file)
		return Row{ClassProof, typeText, cacheMinutes}, ok && (row.Class == ClassExport || row.Class == ClassSmall)
	}
	dir, name, _ := strings.Cut(path, "/")
	switch dir {
	case "tile":
		_, err := ParseTilePath(path)
		return Row{ClassTile, typeBytes, cacheForever}, err == nil
	case "exports":
		p, err := ParseExportPath(path)
		row := Row{ClassExport, typeBytes, cacheExport}
		if p.Kind == Archive {
			row.ContentType = "application/zip"
		}
		return row, err == nil
	case "gaen":
		signer, ok := strings.CutPrefix(name, "keys/")
		signer, ok2 := strings.CutSuffix(signer, ".pem")
		return Row{ClassSigner, "application/x-pem-file", cacheMinutes}, ok && ok2 && checkSigner(signer) == nil
	case "notice":
		suffix := name[strings.LastIndexByte(name, '.')+1:]
		kind, ok := noticeTypes[suffix]
		return Row{ClassSmall, kind, cacheMinutes}, ok && cleanPath(path)
	}
	return Row{}, false
}

// cleanPath takes segments of nameBytes that do not start with a dot, so that a path means
// the same file in a folder, in a bucket and in a URL.
func cleanPath(path string) bool {
	for s := range strings.SplitSeq(path, "/") {
		if s == "" || s[0] == '.' || strings.Trim(s, nameBytes) != "" {
			return false
		}
	}
	return len(path) <= 200
}
