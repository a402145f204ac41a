package desk

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// The journal says who did what and when: how many codes of which kind were issued, who
// was invited, whose account ended. It never holds a code, a figure's subject or a person
// outside the staff. Each line is bound to all before it:
//
//	hash(0) = 32 zero bytes
//	hash(n) = SHA-256("bluekey journal v1\n" ‖ hash(n-1) ‖ line n without its hash ‖ "\n")
//
// A line is number, time (RFC 3339, UTC), account, act and detail, separated by tabs; a
// written journal has the hash in hex as its last column. Whoever keeps the last hash (it
// is on the page, to be copied or printed) will notice any line changed, dropped or put in
// before it.

const journalLabel = "bluekey journal v1\n"

// Line is one line of the journal.
type Line struct {
	Number uint64    `json:"n"` // from 1
	At     time.Time `json:"at"`
	Who    string    `json:"who"` // account, or Local
	Act    string    `json:"act"`
	Detail string    `json:"detail"`
	Hash   [32]byte  `json:"hash"`
}

// Local stands for whoever owns the data folder and works through its socket.
const Local = "local"

// Head is the end of a journal. The zero Head is that of an empty one.
type Head struct {
	Number uint64
	Hash   [32]byte
}

// String is the form in which a head is written down: number, colon, hash in hex.
func (h Head) String() string { return fmt.Sprintf("%d:%x", h.Number, h.Hash) }

// ParseHead is the inverse of String.
func ParseHead(s string) (h Head, err error) {
	number, hash, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(number, 10, 64)
	raw, err2 := hex.DecodeString(hash)
	if !ok || err != nil || err2 != nil || len(raw) != 32 {
		return Head{}, errors.New("not the head of a journal: want number, colon and 64 hex digits")
	}
	h = Head{Number: n, Hash: [32]byte(raw)}
	if h.String() != s {
		return Head{}, errors.New("not the head of a journal: two spellings of one number")
	}
	return h, nil
}

func (l Line) text() string {
	return fmt.Sprintf("%d\t%s\t%s\t%s\t%s", l.Number, l.At.UTC().Format(time.RFC3339), l.Who, l.Act, l.Detail)
}

func (l Line) chained(before [32]byte) [32]byte {
	h := sha256.New()
	io.WriteString(h, journalLabel)
	h.Write(before[:])
	io.WriteString(h, l.text()+"\n")
	return [32]byte(h.Sum(nil))
}

// note adds a line to b. o.mu is held.
func (o *Office) note(b *pebble.Batch, who, act, detail string) error {
	l := Line{Number: o.journal.Number + 1, At: o.Now(), Who: who, Act: act, Detail: oneLine(detail)}
	l.Hash = l.chained(o.journal.Hash)
	if err := put(b, journalPaper, numbered(l.Number), l); err != nil {
		return err
	}
	o.journal = Head{Number: l.Number, Hash: l.Hash}
	return nil
}

// oneLine keeps a detail from looking like two columns or lines.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, s)
}

// Issue makes codes as the desk does and writes who did it into the journal before it
// gives them away: if that fails, they are revoked.
func (o *Office) Issue(ctx context.Context, r Request) ([]string, error) {
	codes, err := o.desk.Issue(ctx, r)
	if err != nil {
		return nil, err
	}
	kind := "short"
	if r.Long {
		kind = "long"
	}
	err = o.write(func(b *pebble.Batch) error {
		return o.note(b, r.Officer, "issue", fmt.Sprintf("%d %s %s", len(codes), kind, r.Report))
	}, nil)
	if err != nil {
		for _, code := range codes {
			_, undo := o.desk.Revoke(context.WithoutCancel(ctx), code)
			err = errors.Join(err, undo)
		}
		return nil, err
	}
	return codes, nil
}

// Revoke ends a code as the desk does and writes that into the journal.
func (o *Office) Revoke(ctx context.Context, who, typed string) (bool, error) {
	revoked, err := o.desk.Revoke(ctx, typed)
	if err != nil || !revoked {
		return revoked, err
	}
	return true, o.write(func(b *pebble.Batch) error { return o.note(b, who, "revoke", "1") }, nil)
}

// CodeStatus is what staff may know about all codes together.
func (o *Office) CodeStatus() Status { return o.desk.Status() }

// IssuedToday is how many codes an officer issued this UTC day, and how many there may be.
func (o *Office) IssuedToday(officer string) (used, limit int, err error) {
	key := officerRowKey(uint32(o.desk.Now().Unix()/day), o.desk.mac("officer", officer)[:8])
	v, closer, err := o.desk.DB.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, o.desk.Cap, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read the officer's count: %w", err)
	}
	defer closer.Close()
	if len(v) != 4 {
		return 0, 0, errRow
	}
	return int(binary.BigEndian.Uint32(v)), o.desk.Cap, nil
}

// JournalHead is the end of the journal.
func (o *Office) JournalHead() Head {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.journal
}

// Journal is up to limit lines before a number (0: the end), newest first.
func (o *Office) Journal(before uint64, limit int) (lines []Line, err error) {
	upper := []byte{paperRow, journalPaper + 1}
	if before > 0 {
		upper = paperKey(journalPaper, numbered(before))
	}
	it, err := o.desk.DB.NewIter(&pebble.IterOptions{LowerBound: []byte{paperRow, journalPaper}, UpperBound: upper})
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	defer it.Close()
	for it.Last(); it.Valid() && len(lines) < limit; it.Prev() {
		l, err := parseRow[Line](it.Value())
		if err != nil {
			return nil, err
		}
		lines = append(lines, l)
	}
	return lines, it.Error()
}

// WriteJournal writes all lines with their hashes, for VerifyJournal.
func (o *Office) WriteJournal(w io.Writer) error {
	for l, err := range scan[Line](o.desk.DB, journalPaper) {
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s\t%x\n", l.text(), l.Hash); err != nil {
			return fmt.Errorf("write the journal: %w", err)
		}
	}
	return nil
}

// maxLine bounds a line of a written journal, in bytes.
const maxLine = 64 << 10

// ErrJournal means that a written journal is not as it was written; its text names the line.
var ErrJournal = errors.New("the journal does not hold")

// VerifyJournal reads a written journal and checks its chain. The error is ErrJournal, or
// one of reading.
// It returns the head, to be compared with one noted down earlier, and reports whether it
// met that one on the way: a journal that grew since then still goes through it.
func VerifyJournal(r io.Reader, noted Head) (head Head, met bool, err error) {
	met = noted == Head{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		text, hash, ok := cutLast(lines.Text(), "\t")
		columns := strings.Split(text, "\t")
		number := head.Number + 1
		if !ok || len(columns) != 5 {
			return head, met, fmt.Errorf("%w: line %d: want 6 columns", ErrJournal, number)
		}
		l := Line{Number: number, Who: columns[2], Act: columns[3], Detail: columns[4]}
		if l.At, err = time.Parse(time.RFC3339, columns[1]); err != nil {
			return head, met, fmt.Errorf("%w: line %d: damaged time", ErrJournal, number)
		}
		l.Hash = l.chained(head.Hash)
		if l.text() != text || hex.EncodeToString(l.Hash[:]) != hash {
			return head, met, fmt.Errorf("%w: line %d, or one before it, is not as it was written", ErrJournal, number)
		}
		head = Head{Number: number, Hash: l.Hash}
		met = met || head == noted
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return head, met, fmt.Errorf("%w: line %d is too long", ErrJournal, head.Number+1)
	case err != nil:
		return head, met, fmt.Errorf("read the journal: %w", err)
	}
	return head, met, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
