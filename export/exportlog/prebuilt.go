package exportlog

import (
	"fmt"
	"strings"
)

// PrebuiltPath is the path of the list of prebuilt files, which somebody other than the
// publisher made from a log's exports.
const PrebuiltPath = "prebuilt.txt"

const prebuiltHeader = "bluekey prebuilt v1"

// FormatPrebuilt renders the list of prebuilt files. Paths are those of exports, strictly
// ascending.
func FormatPrebuilt(paths []string) ([]byte, error) {
	text := []byte(strings.Join(append([]string{prebuiltHeader}, paths...), "\n") + "\n")
	if _, err := ParsePrebuilt(text); err != nil {
		return nil, err
	}
	return text, nil
}

// ParsePrebuilt reads what FormatPrebuilt writes. Nothing in it is signed: the proof beside
// each file tells what it was made from, and to check a file is to make it again.
func ParsePrebuilt(data []byte) ([]string, error) {
	if err := limit(data, MaxIndex); err != nil {
		return nil, fmt.Errorf("list of prebuilt files: %w", err)
	}
	l := &lines{rest: string(data)}
	if l.next(prebuiltHeader) != "" {
		l.fail("want a first line %q", prebuiltHeader)
	}
	var paths []string
	for last := ""; l.err == nil && l.rest != ""; {
		path := l.next("")
		if _, err := ParseExportPath(path); err != nil {
			l.fail("%w", err)
		} else if path <= last {
			l.fail("the paths do not ascend")
		}
		paths, last = append(paths, path), path
	}
	if err := l.end(); err != nil {
		return nil, fmt.Errorf("list of prebuilt files: %w", err)
	}
	return paths, nil
}
