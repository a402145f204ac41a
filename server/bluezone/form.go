package bluezone

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
)

// The parts of a case, as the app sends them in any order, with or without the file:
//
//	history         data_trace.txt, up to some megabytes     read past
//	TokenFirebase, PhoneNumber                               read past
//	InfoF           see record
//	OTP             six digits
//
// The request's header is of no help. With the file the app says application/octet-stream,
// and its library on iOS adds a second header with the truth; without the file it is right;
// an older native build uses a boundary that no header may hold. The body begins with its
// boundary in all of them, so that is where it is taken from.

const (
	// maxBody bounds a whole body. The app keeps 100,000 contacts of 70 bytes at most, by its
	// settings.
	maxBody = 32 << 20
	// maxParts bounds the parts; the app sends five.
	maxParts = 16
	// maxHead bounds the headers of a part, beyond what the reader has in its buffer of 4 KB.
	maxHead = 4 << 10
	// maxField bounds a part other than the file. Tokens are some hundred bytes.
	maxField = 4 << 10
	// maxInfo bounds InfoF, which has about 210 bytes, and maxCode the digits.
	maxInfo = 1 << 10
	maxCode = 16
	// maxBoundary is that of RFC 2046, section 5.1.1.
	maxBoundary = 70

	scratchLen = 4 << 10
)

var errForm = errors.New("not the form of a case")

// form is what a case needs of its request. All that a phone sent passes through its buffers
// and is overwritten by wipe, as far as it is ours: the buffers of HTTP and TLS are not.
type form struct {
	infoBuf  [maxInfo]byte
	codeBuf  [maxCode]byte
	scratch  [scratchLen]byte
	infoLen  int
	codeLen  int
	haveInfo bool
	haveCode bool
}

func (f *form) info() []byte { return f.infoBuf[:f.infoLen] }
func (f *form) code() []byte { return f.codeBuf[:f.codeLen] }

func (f *form) wipe() { *f = form{} }

// meter ends a body that brings more than the step that is being read may have.
type meter struct {
	r    io.Reader
	left int
}

func (m *meter) Read(p []byte) (int, error) {
	if m.left <= 0 {
		return 0, fmt.Errorf("%w: too long", errForm)
	}
	n, err := m.r.Read(p[:min(len(p), m.left)])
	m.left -= n
	return n, err
}

// read reads a body to its last boundary. It never holds more of it than a few KB. The error
// does not repeat what was sent.
func (f *form) read(body io.Reader) error {
	m := &meter{r: io.LimitReader(body, maxBody), left: maxHead}
	start := bufio.NewReaderSize(m, 256)
	boundary, err := sniff(start)
	if err != nil {
		return err
	}
	parts := multipart.NewReader(start, boundary)
	for range maxParts {
		m.left = maxHead
		part, err := parts.NextRawPart() // raw: no transfer encoding is undone
		if err == io.EOF {
			if !f.haveInfo || !f.haveCode {
				return fmt.Errorf("%w: a part is missing", errForm)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errForm, err)
		}
		if err := f.part(m, part); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: too many parts", errForm)
}

func (f *form) part(m *meter, p *multipart.Part) (err error) {
	switch p.FormName() {
	case "InfoF":
		m.left = maxField
		f.infoLen, err = only(&f.haveInfo, p, f.infoBuf[:])
	case "OTP":
		m.left = maxField
		f.codeLen, err = only(&f.haveCode, p, f.codeBuf[:])
	case "history":
		m.left = maxBody
		err = f.pass(p, maxBody)
	default:
		m.left = 2 * maxField
		err = f.pass(p, maxField)
	}
	return err
}

// only reads a part that comes once and fits.
func only(have *bool, p io.Reader, dst []byte) (n int, err error) {
	if *have {
		return 0, fmt.Errorf("%w: a part comes twice", errForm)
	}
	*have = true
	n, err = io.ReadFull(p, dst)
	switch err {
	case io.EOF: // empty
		return 0, nil
	case io.ErrUnexpectedEOF:
		// Either the part ended before dst was full, or the body ended within the part; in
		// the second case the next part is not found.
		return n, nil
	case nil:
		return 0, fmt.Errorf("%w: a part is too long", errForm)
	}
	return 0, fmt.Errorf("%w: %w", errForm, err)
}

// pass reads past a part.
func (f *form) pass(p io.Reader, limit int) error {
	for {
		n, err := p.Read(f.scratch[:])
		if limit -= n; limit < 0 {
			return fmt.Errorf("%w: a part is too long", errForm)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errForm, err)
		}
	}
}

// sniff takes the boundary from the first line of a body, which stays to be read.
func sniff(body *bufio.Reader) (string, error) {
	// An error means that the body is short; what is there may still be a line.
	head, _ := body.Peek(2 + maxBoundary + 2)
	line, _, whole := bytes.Cut(head, []byte("\r\n"))
	boundary, dashes := bytes.CutPrefix(line, []byte("--"))
	if !whole || !dashes || len(boundary) == 0 {
		return "", fmt.Errorf("%w: it does not begin with a boundary", errForm)
	}
	for _, c := range boundary {
		if c <= ' ' || c > '~' {
			return "", fmt.Errorf("%w: a boundary of odd characters", errForm)
		}
	}
	return string(boundary), nil
}
