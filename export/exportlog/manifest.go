package exportlog

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

// Metadata classes of a Manifest.
const (
	Coarse = "coarse"
	Exact  = "exact"
)

// maxSigners bounds the signatures of one archive (GAEN export format).
const maxSigners = 10

// Manifest records the publication of one window of one scheme, also of an empty one: a
// chain of windows without a gap makes silence visible. It never holds a key.
type Manifest struct {
	Origin   string // of the log it stands in
	Region   string
	Scheme   diagnosis.Scheme
	Start    int64    // Unix seconds, the end of the window before
	End      int64    // Unix seconds
	Period   int64    // seconds: how often a window is sealed
	Hold     int64    // seconds: how long a due key may wait for a crowd
	Retain   int64    // seconds after End for which the files are kept
	Keys     int      // keys published, padding included
	Metadata string   // Coarse or Exact
	Encoder  string   // version of the encoder that made the files, byte for byte
	Signers  []string // of the archives, KEYID-VERSION, newest first; none without archives
	Files    []File   // archives in the order of their batch numbers, then key sets, then ID sets
}

// File is one file of a window.
type File struct {
	Path   string // exports/<start>-<end>-<16 hex of SHA-256>.<kind>
	Size   int64  // bytes
	SHA256 [32]byte
	Keys   int // keys in it
}

// NewFile describes the bytes of one file of the window from start to end. The digest is
// that of the bytes.
func NewFile(start, end int64, kind FileKind, size int64, digest [32]byte, keys int) File {
	return File{Path: ExportPath{start, end, digest, kind}.String(), Size: size, SHA256: digest, Keys: keys}
}

// Matches reports whether data are the bytes of the file.
func (f File) Matches(data []byte) bool {
	return int64(len(data)) == f.Size && sha256.Sum256(data) == f.SHA256
}

// Format: see Entry.
func (m Manifest) Format() ([]byte, error) { return format("window", m) }

func (m Manifest) append(b []byte) []byte {
	b = fmt.Appendf(b, "origin %s\nregion %s\nscheme %s\nstart %d\nend %d\nperiod %d\nhold %d\nretain %d\nkeys %d\nmetadata %s\nencoder %s\n",
		m.Origin, m.Region, m.Scheme, m.Start, m.End, m.Period, m.Hold, m.Retain, m.Keys, m.Metadata, m.Encoder)
	for _, s := range m.Signers {
		b = fmt.Appendf(b, "signer %s\n", s)
	}
	for _, f := range m.Files {
		b = fmt.Appendf(b, "file %s %d %x %d\n", f.Path, f.Size, f.SHA256, f.Keys)
	}
	return b
}

func parseManifest(l *lines) Entry {
	m := Manifest{
		Origin: l.next("origin "), Region: l.next("region "), Scheme: parseScheme(l),
		Start: l.number("start "), End: l.number("end "),
		Period: l.number("period "), Hold: l.number("hold "), Retain: l.number("retain "),
		Keys: int(l.number("keys ")), Metadata: l.next("metadata "), Encoder: l.next("encoder "),
	}
	for l.peek("signer ") {
		m.Signers = append(m.Signers, l.next("signer "))
	}
	for l.peek("file ") {
		m.Files = append(m.Files, parseFile(l))
	}
	return m
}

func parseFile(l *lines) File {
	parts := strings.Split(l.next("file "), " ")
	if len(parts) != 4 {
		l.fail("file: want path, size, SHA-256 and keys")
		return File{}
	}
	f := File{Path: parts[0]}
	var errs [3]error
	var keys int64
	f.Size, errs[0] = parseNumber(parts[1])
	f.SHA256, errs[1] = parseHex(parts[2])
	keys, errs[2] = parseNumber(parts[3])
	f.Keys = int(keys)
	if err := errors.Join(errs[:]...); err != nil {
		l.fail("file %q: %w", f.Path, err)
	}
	return f
}

func (m Manifest) check() error {
	if err := signing.CheckName(m.Origin); err != nil {
		return fmt.Errorf("origin: %w", err)
	}
	if !isWord(m.Region) || !isWord(m.Encoder) {
		return fmt.Errorf("region %q, encoder %q: want 1 to 64 letters, digits, '.', '_' or '-'", m.Region, m.Encoder)
	}
	switch {
	case !m.Scheme.Valid():
		return errors.New("unknown scheme")
	case m.Start < 0 || m.End <= m.Start:
		return fmt.Errorf("the window from %d to %d is empty", m.Start, m.End)
	case m.Period < 1 || m.Hold < 0 || m.Retain < 1:
		return fmt.Errorf("period %d, hold %d, retain %d: want at least 1, 0 and 1 seconds", m.Period, m.Hold, m.Retain)
	case m.Metadata != Coarse && m.Metadata != Exact:
		return fmt.Errorf("metadata %q: want %s or %s", m.Metadata, Coarse, Exact)
	case len(m.Signers) > maxSigners:
		return fmt.Errorf("%d signers, more than %d", len(m.Signers), maxSigners)
	}
	for i, s := range m.Signers {
		if err := checkSigner(s); err != nil {
			return err
		}
		if slices.Contains(m.Signers[:i], s) {
			return fmt.Errorf("signer %s twice", s)
		}
	}
	return m.checkFiles()
}

// checkFiles demands that each kind of file present holds every key of the window.
func (m Manifest) checkFiles() error {
	held := make([]int, len(fileKinds)) // keys by kind
	seen := make([]bool, len(fileKinds))
	paths := make(map[string]bool, len(m.Files))
	last := 0
	for _, f := range m.Files {
		p, err := ParseExportPath(f.Path)
		if err != nil {
			return err
		}
		if want := (ExportPath{m.Start, m.End, f.SHA256, p.Kind}); f.Path != want.String() {
			return fmt.Errorf("file %q is not named %q after window and digest", f.Path, want)
		}
		kind := slices.Index(fileKinds, p.Kind)
		if kind < last || paths[f.Path] {
			return fmt.Errorf("file %q is out of order or repeated", f.Path)
		}
		if f.Size < 1 || f.Keys < 1 || f.Keys > m.Keys-held[kind] {
			return fmt.Errorf("file %q: size %d, keys %d", f.Path, f.Size, f.Keys)
		}
		last, paths[f.Path], seen[kind], held[kind] = kind, true, true, held[kind]+f.Keys
	}
	for kind, name := range fileKinds {
		if seen[kind] && held[kind] != m.Keys {
			return fmt.Errorf("the .%s files hold %d keys of %d", name, held[kind], m.Keys)
		}
	}
	archives := seen[slices.Index(fileKinds, Archive)]
	switch {
	case m.Keys < 0 || (m.Keys > 0) != (len(m.Files) > 0):
		return fmt.Errorf("%d keys in %d files", m.Keys, len(m.Files))
	case archives != (len(m.Signers) > 0):
		return errors.New("archives and signers come together")
	case archives && m.Scheme != diagnosis.GAEN:
		return errors.New("archives are for GAEN keys only")
	}
	return nil
}

// isWord takes regions and encoder versions.
func isWord(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, nameBytes) == ""
}
