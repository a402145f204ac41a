package exportlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Index lists what the public tree holds, for clients that poll one file. It is not
// signed: every file it names has its proof.
type Index struct {
	Origin  string       `json:"origin"`
	Region  string       `json:"region"`
	Size    uint64       `json:"size"` // entries in the log
	Exports []IndexEntry `json:"exports"`
}

// IndexEntry is one window.
type IndexEntry struct {
	Entry    uint64 `json:"entry"`    // index in the log, ascending
	Manifest string `json:"manifest"` // the entry, a Manifest
}

// Format gives the one text of the index.
func (x Index) Format() ([]byte, error) {
	if err := x.check(); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	text, err := x.render()
	if err == nil {
		err = limit(text, MaxIndex)
	}
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	return text, nil
}

func (x Index) render() ([]byte, error) {
	if x.Exports == nil {
		x.Exports = []IndexEntry{}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err := e.Encode(x)
	return b.Bytes(), err
}

// ParseIndex reads an index in the one form that Format writes.
func ParseIndex(data []byte) (Index, error) {
	if err := limit(data, MaxIndex); err != nil {
		return Index{}, fmt.Errorf("index: %w", err)
	}
	var x Index
	if err := json.Unmarshal(data, &x); err != nil {
		return Index{}, fmt.Errorf("index: %w", err)
	}
	// JSON has many spellings: unknown and repeated members, escapes, spaces. The one
	// that we write stands for all.
	again, err := x.render()
	if err == nil && !bytes.Equal(again, data) {
		err = errors.New("not in canonical form")
	}
	if err == nil {
		err = x.check()
	}
	if err != nil {
		return Index{}, fmt.Errorf("index: %w", err)
	}
	return x, nil
}

func (x Index) check() error {
	next := uint64(0)
	for _, line := range x.Exports {
		e, err := ParseEntry([]byte(line.Manifest))
		if err != nil {
			return fmt.Errorf("entry %d: %w", line.Entry, err)
		}
		m, ok := e.(Manifest)
		if !ok || m.Origin != x.Origin || m.Region != x.Region {
			return fmt.Errorf("entry %d is not a window of %s, region %s", line.Entry, x.Origin, x.Region)
		}
		if line.Entry < next || line.Entry >= x.Size {
			return fmt.Errorf("entry %d of a log of %d is out of order", line.Entry, x.Size)
		}
		next = line.Entry + 1
	}
	if x.Region == "" {
		return errors.New("no region")
	}
	return checkOrigin(x.Origin)
}
