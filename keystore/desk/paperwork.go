package desk

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Files of rows come from spreadsheets. They are read whole or not at all: the first thing
// wrong is named by row and column, counted as a spreadsheet does, and nothing is entered.

const (
	// MaxFile bounds a file, in bytes, and MaxRows its rows.
	MaxFile = 2 << 20
	MaxRows = 20_000
)

// Headers of the files.
var (
	UnitHeader   = []string{"code", "parent", "level", "name", "closed"}
	FigureHeader = []string{"unit", "kind", "of", "value", "as_of", "source", "basis"}
)

// ReadUnits reads units from CSV.
func ReadUnits(r io.Reader) (units []Unit, err error) {
	return units, rows(r, UnitHeader, func(row int, c []string) error {
		units = append(units, Unit{Code: c[0], Parent: c[1], Level: Level(c[2]), Name: c[3], Closed: c[4]})
		return nil
	})
}

// ReadFigures reads figures from CSV. A value is digits only: points and commas mean
// different things to different people. Two rows that would be the same figure are refused.
func ReadFigures(r io.Reader) (figures []Figure, err error) {
	type slot struct{ unit, kind, of, day string }
	seen := map[slot]bool{}
	return figures, rows(r, FigureHeader, func(row int, c []string) error {
		v, err := ParseCount(c[3])
		if err != nil {
			return &FieldError{Field: "value", Problem: "number", Row: row}
		}
		s := slot{c[0], c[1], c[2], c[4]}
		if seen[s] {
			return &FieldError{Field: "unit", Problem: "same", Row: row}
		}
		seen[s] = true
		figures = append(figures, Figure{Unit: c[0], Kind: c[1], Of: c[2], Value: v, AsOf: c[4], Source: c[5], Basis: c[6]})
		return nil
	})
}

// ParseCount reads a count: digits, no sign, no second spelling.
func ParseCount(s string) (int64, error) {
	v, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(v, 10) != s {
		return 0, fmt.Errorf("%.20q is not a count", s)
	}
	return int64(v), nil
}

func rows(r io.Reader, header []string, row func(int, []string) error) error {
	data, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	if err != nil {
		return fmt.Errorf("read the file: %w", err)
	}
	if len(data) > MaxFile {
		return &FieldError{Field: "file", Problem: "long"}
	}
	text := strings.TrimPrefix(string(data), "\ufeff") // spreadsheets write it
	in := csv.NewReader(strings.NewReader(text))
	in.FieldsPerRecord = -1
	if first, _, _ := strings.Cut(text, "\n"); !strings.Contains(first, ",") && strings.Contains(first, ";") {
		in.Comma = ';' // spreadsheets in Vietnamese write that
	}
	// column names that of the cell which begins last in a part of a line.
	column := func(part string) string {
		return header[min(strings.Count(part, string(in.Comma)), len(header)-1)]
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if !utf8.ValidString(line) {
			sound := strings.ToValidUTF8(line, "\ufffd")
			return &FieldError{Field: column(sound[:strings.Index(sound, "\ufffd")]), Problem: "encoding", Row: i + 1}
		}
	}
	next, read := 1, 0 // line after the last row, and bytes up to it
	for n := 1; ; n++ {
		record, err := in.Read()
		if err == io.EOF {
			if n == 1 {
				return &FieldError{Field: header[0], Problem: "required", Row: 1}
			}
			return nil
		}
		var broken *csv.ParseError
		if errors.As(err, &broken) {
			line := lines[broken.StartLine-1]
			return &FieldError{Field: column(line[:max(0, strings.LastIndex(line, `"`))]), Problem: "quote", Row: n}
		}
		if err != nil {
			return fmt.Errorf("read the file: %w", err)
		}
		// The reader skips blank lines, which a spreadsheet counts; at the end they are nothing.
		line, _ := in.FieldPos(0)
		if line > next {
			return &FieldError{Field: header[0], Problem: "required", Row: n}
		}
		end := int(in.InputOffset())
		next, read = next+strings.Count(text[read:end], "\n"), end
		for i := range record {
			record[i] = strings.TrimSpace(record[i])
		}
		switch {
		case n == 1:
			if !slices.Equal(record, header) {
				return headerError(record, header)
			}
			continue
		case n > MaxRows:
			return &FieldError{Field: "file", Problem: "long", Row: n}
		case len(record) < len(header):
			return &FieldError{Field: header[len(record)], Problem: "required", Row: n}
		case len(record) > len(header):
			return &FieldError{Field: fmt.Sprint(len(header) + 1), Problem: "unknown", Row: n}
		}
		if err := row(n, record); err != nil {
			return err
		}
	}
}

func headerError(got, want []string) error {
	for i, name := range want {
		if i >= len(got) || got[i] != name {
			return &FieldError{Field: name, Problem: "required", Row: 1}
		}
	}
	return &FieldError{Field: fmt.Sprint(len(want) + 1), Problem: "unknown", Row: 1}
}

// SpreadsheetSafe keeps a cell from being taken for a formula by the spreadsheet that
// opens the file.
func SpreadsheetSafe(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r|%", rune(s[0])) {
		return "'" + s
	}
	return s
}
