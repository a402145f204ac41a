package console

import (
	"bytes"
	"fmt"
	"strings"

	"codeberg.org/go-pdf/fpdf"
	"rsc.io/qr"
)

// paper is a PDF being written, in millimetres, with the console's own font: the fonts
// that every PDF reader has know no Vietnamese.
type paper struct {
	*fpdf.Fpdf
	width, height float64
}

const fontName = "noto"

func newPaper(orientation, size string) *paper {
	f := fpdf.New(orientation, "mm", size, "")
	for style, file := range map[string]string{"": "assets/NotoSans-Regular.ttf", "B": "assets/NotoSans-Bold.ttf"} {
		data, err := assetFiles.ReadFile(file)
		if err != nil {
			panic(err) // it was there when this was compiled
		}
		f.AddUTF8FontFromBytes(fontName, style, data)
	}
	f.SetMargins(16, 16, 16)
	f.SetAutoPageBreak(true, 16)
	f.SetCreator("bluekey", true)
	f.AddPage()
	p := &paper{Fpdf: f}
	p.width, p.height = f.GetPageSize()
	p.regular(11)
	return p
}

func (p *paper) regular(size float64) { p.SetFont(fontName, "", size) }
func (p *paper) bold(size float64)    { p.SetFont(fontName, "B", size) }
func (p *paper) space(mm float64)     { p.Ln(mm) }

// lineHeight leaves room for two marks above a Vietnamese letter.
func (p *paper) lineHeight() float64 {
	_, unit := p.GetFontSize()
	return unit * 1.45
}

func (p *paper) paragraph(text, align string) {
	p.MultiCell(0, p.lineHeight(), text, "", align, false)
}

func (p *paper) heading(text string) { p.bold(16); p.paragraph(text, "L"); p.regular(11) }
func (p *paper) line(text string)    { p.regular(11); p.paragraph(text, "L") }

func (p *paper) soft(text string) {
	p.regular(9)
	p.SetTextColor(81, 96, 109)
	p.paragraph(text, "L")
	p.SetTextColor(0, 0, 0)
	p.regular(11)
}

// boxed is a paragraph with a frame, to be copied.
func (p *paper) boxed(text string) {
	p.regular(12)
	p.MultiCell(0, p.lineHeight(), text, "1", "L", false)
	p.regular(11)
}

type column struct {
	title string
	width float64
	right bool
}

// table writes rows, with the head again on every page; the last row is bold if it is a
// total. A row is at least so many lines high.
func (p *paper) table(columns []column, rows [][]string, lines int, total bool) {
	head := func() {
		p.bold(10)
		p.SetFillColor(238, 242, 246)
		p.cells(columns, titles(columns), 1, true)
		p.regular(10)
	}
	head()
	for i, row := range rows {
		if p.GetY() > p.height-28 {
			p.AddPage()
			head()
		}
		if total && i == len(rows)-1 {
			p.bold(10)
		}
		p.cells(columns, row, lines, false)
	}
	p.regular(11)
}

func titles(columns []column) (names []string) {
	for _, c := range columns {
		names = append(names, c.title)
	}
	return names
}

// cells writes one row as high as its highest cell, and at least high lines.
func (p *paper) cells(columns []column, texts []string, high int, fill bool) {
	wrapped := make([][]string, len(columns))
	for i, c := range columns {
		wrapped[i] = p.SplitText(texts[i], c.width-2)
		high = max(high, len(wrapped[i]))
	}
	line := p.lineHeight()
	x, y := p.GetXY()
	for i, c := range columns {
		style := "D"
		if fill {
			style = "FD"
		}
		p.Rect(x, y, c.width, line*float64(high)+1, style)
		align := "L"
		if c.right {
			align = "R"
		}
		for n, text := range wrapped[i] {
			p.SetXY(x, y+0.5+line*float64(n))
			p.CellFormat(c.width, line, text, "", 0, align, false, 0, "")
		}
		x += c.width
	}
	left, _, _, _ := p.GetMargins()
	p.SetXY(left, y+line*float64(high)+1)
}

// qr draws a QR code with its quiet zone into a square.
func (p *paper) qr(text string, x, y, side float64) error {
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		return fmt.Errorf("make a QR code: %w", err)
	}
	const quiet = 4
	dot := side / float64(code.Size+2*quiet)
	p.SetFillColor(255, 255, 255)
	p.Rect(x, y, side, side, "F")
	p.SetFillColor(0, 0, 0)
	for row := range code.Size {
		for col := 0; col < code.Size; col++ {
			from := col
			for col < code.Size && code.Black(col, row) {
				col++
			}
			if col > from {
				p.Rect(x+dot*float64(quiet+from), y+dot*float64(quiet+row), dot*float64(col-from), dot, "F")
			}
		}
	}
	return nil
}

// smallest is the size of letters, in points, below which nothing is set.
const smallest = 5

// fit writes text into a box, centred, as large as it fits but no larger than size.
func (p *paper) fit(text string, x, y, width, height, size float64, style string) {
	var lines []string
	for ; ; size-- {
		p.SetFont(fontName, style, size)
		lines = lines[:0]
		for part := range strings.SplitSeq(text, "\n") {
			lines = append(lines, p.SplitText(part, width)...)
		}
		if size <= smallest || float64(len(lines))*p.lineHeight() <= height {
			break
		}
	}
	for i, line := range lines {
		p.SetXY(x, y+float64(i)*p.lineHeight())
		p.CellFormat(width, p.lineHeight(), line, "", 0, "C", false, 0, "")
	}
}

// answer sends the PDF.
func (p *paper) answer(v *visit, name string) error {
	var b bytes.Buffer
	if err := p.Output(&b); err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	return v.file("application/pdf", name, b.Bytes(), true)
}
