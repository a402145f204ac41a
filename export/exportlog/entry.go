package exportlog

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"bluekey/keystore/diagnosis"
)

// Entry is one entry of the log: a Manifest, SmallFile, SignerChange, Erasure, Incident,
// Opening or Closing.
type Entry interface {
	// Format gives the one text of the entry. It refuses values that ParseEntry would
	// refuse, so that nothing unreadable is ever appended.
	Format() ([]byte, error)

	check() error
	append(b []byte) []byte
}

// format is the body of every Format.
func format(kind string, e Entry) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("%s entry: %w", kind, err)
	}
	text := e.append([]byte("bluekey " + kind + " v1\n"))
	if err := limit(text, MaxEntry); err != nil {
		return nil, fmt.Errorf("%s entry: %w", kind, err)
	}
	return text, nil
}

// ParseEntry reads an entry in the one form that Format writes.
func ParseEntry(text []byte) (Entry, error) {
	if err := limit(text, MaxEntry); err != nil {
		return nil, fmt.Errorf("log entry: %w", err)
	}
	first, rest, _ := strings.Cut(string(text), "\n")
	l := &lines{rest: rest}
	var e Entry
	switch first {
	case "bluekey window v1":
		e = parseManifest(l)
	case "bluekey file v1":
		e = SmallFile{Time: l.number("time "), Path: l.next("path "), Size: l.number("size "), SHA256: l.digest("sha256 ")}
	case "bluekey signer v1":
		e = parseSigner(l)
	case "bluekey erasure v1":
		e = Erasure{Time: l.number("time "), Scheme: parseScheme(l), Through: l.number("through ")}
	case "bluekey incident v1":
		e = Incident{Time: l.number("time "), Text: l.next("text ")}
	case "bluekey opening v1":
		e = parseOpening(l)
	case "bluekey closing v1":
		e = parseClosing(l)
	default:
		return nil, fmt.Errorf("log entry: unknown first line %.40q", first)
	}
	err := l.end()
	if err == nil {
		err = e.check()
	}
	if err != nil {
		return nil, fmt.Errorf("log entry %q: %w", first, err)
	}
	return e, nil
}

func parseScheme(l *lines) diagnosis.Scheme {
	name := l.next("scheme ")
	s, err := diagnosis.ParseScheme(name)
	if err != nil {
		l.fail("%w", err)
	}
	return s
}

// SmallFile records the bytes of a small file of the public tree: the keyring, a notice,
// the feeds. The latest entry of a path holds.
type SmallFile struct {
	Time   int64 // Unix seconds at which the entry was made
	Path   string
	Size   int64
	SHA256 [32]byte
}

// Format: see Entry.
func (f SmallFile) Format() ([]byte, error) { return format("file", f) }

func (f SmallFile) check() error {
	if row, ok := Lookup(f.Path); !ok || row.Class != ClassSmall {
		return fmt.Errorf("path %q is not that of a small file", f.Path)
	}
	if f.Size < 0 {
		return errors.New("negative size")
	}
	return checkTime(f.Time)
}

func (f SmallFile) append(b []byte) []byte {
	return fmt.Appendf(b, "time %d\npath %s\nsize %d\nsha256 %x\n", f.Time, f.Path, f.Size, f.SHA256)
}

// Erasure states that the files of every window of a scheme that ended at or before
// Through are gone, and their keys with them.
type Erasure struct {
	Time    int64 // Unix seconds at which the entry was made
	Scheme  diagnosis.Scheme
	Through int64 // Unix seconds
}

// Format: see Entry.
func (e Erasure) Format() ([]byte, error) { return format("erasure", e) }

func (e Erasure) check() error {
	if !e.Scheme.Valid() {
		return errors.New("unknown scheme")
	}
	if e.Through < 0 || e.Through > e.Time {
		return errors.New("windows that end after the statement was made cannot be erased")
	}
	return checkTime(e.Time)
}

func (e Erasure) append(b []byte) []byte {
	return fmt.Appendf(b, "time %d\nscheme %s\nthrough %d\n", e.Time, e.Scheme, e.Through)
}

// maxIncident bounds the text of an incident in bytes.
const maxIncident = 1000

// Incident is a sentence that the operator puts on record.
type Incident struct {
	Time int64  // Unix seconds at which the entry was made
	Text string // one line of printable UTF-8, 1 to 1,000 bytes, no space at either end
}

// Format: see Entry.
func (i Incident) Format() ([]byte, error) { return format("incident", i) }

func (i Incident) check() error {
	hidden := func(r rune) bool { return !unicode.IsPrint(r) }
	if i.Text == "" || len(i.Text) > maxIncident || !utf8.ValidString(i.Text) ||
		strings.ContainsFunc(i.Text, hidden) || strings.Trim(i.Text, " ") != i.Text {
		return fmt.Errorf("text: want one line of 1 to %d bytes of printable UTF-8 without space at its ends", maxIncident)
	}
	return checkTime(i.Time)
}

func (i Incident) append(b []byte) []byte {
	return fmt.Appendf(b, "time %d\ntext %s\n", i.Time, i.Text)
}

func checkTime(t int64) error {
	if t < 0 {
		return errors.New("negative time")
	}
	return nil
}

// Files are the files of the public tree that an entry names.
func Files(e Entry) []File {
	switch e := e.(type) {
	case Manifest:
		return e.Files
	case SmallFile:
		return []File{{Path: e.Path, Size: e.Size, SHA256: e.SHA256}}
	case SignerChange:
		pem := e.PEM()
		return []File{{Path: e.Path(), Size: int64(len(pem)), SHA256: sha256.Sum256(pem)}}
	}
	return nil
}
