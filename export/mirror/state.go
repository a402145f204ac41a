package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

// State remembers the last checkpoint seen of each log. A log that later shows another
// past is caught by it, and since checkpoints are kept as they were signed, the two
// together prove the fork to others. It remembers the keys of the service that were seen in
// keyrings, too, by their digests. The zero State has seen nothing.
type State struct {
	logs     map[string]seen         // by origin
	keyrings map[string]*keyringSeen // by origin
}

type seen struct {
	exportlog.Checkpoint
	signed []byte
}

// stateFile is the JSON form of a State:
//
//	{
//	 "version": 1,
//	 "checkpoints": [
//	  "<signed checkpoint, verbatim>"
//	 ],
//	 "keyrings": [
//	  {
//	   "origin": "<origin>",
//	   "entry": 12,
//	   "keys": [
//	    "permit <UTC day since 1970-01-01> <SHA-256, hex>",
//	    "seal <day> <SHA-256, hex>"
//	   ]
//	  }
//	 ]
//	}
//
// with checkpoints and keyrings in the order of their origins, one of each, no member
// "keyrings" if there is none, one space of indent and a line end after the last brace. No
// other spelling is read.
type stateFile struct {
	Version     int           `json:"version"`
	Checkpoints []string      `json:"checkpoints"`
	Keyrings    []keyringFile `json:"keyrings,omitempty"`
}

const stateVersion = 1

// maxState bounds a state file in bytes: several hundred logs.
const maxState = 8 << 20

// ParseState reads what Format writes. Signatures are not checked again: the file is the
// auditor's own.
func ParseState(data []byte) (*State, error) {
	if len(data) > maxState {
		return nil, fmt.Errorf("state: %d bytes, more than the %d allowed", len(data), maxState)
	}
	var f stateFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	if f.Version != stateVersion {
		return nil, fmt.Errorf("state: version %d: this program knows version %d", f.Version, stateVersion)
	}
	s := new(State)
	for _, text := range f.Checkpoints {
		if err := s.see([]byte(text)); err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
	}
	for _, text := range f.Keyrings {
		k, err := text.parse()
		if err != nil {
			return nil, fmt.Errorf("state: keyring of %.80q: %w", text.Origin, err)
		}
		if s.keyrings == nil {
			s.keyrings = map[string]*keyringSeen{}
		}
		s.keyrings[text.Origin] = k
	}
	if !bytes.Equal(s.Format(), data) {
		return nil, errors.New("state: not in canonical form")
	}
	return s, nil
}

// Format gives the one text of the state.
func (s *State) Format() []byte {
	f := stateFile{Version: stateVersion, Checkpoints: []string{}}
	for _, origin := range slices.Sorted(maps.Keys(s.logs)) {
		f.Checkpoints = append(f.Checkpoints, string(s.logs[origin].signed))
	}
	for _, origin := range slices.Sorted(maps.Keys(s.keyrings)) {
		f.Keyrings = append(f.Keyrings, s.keyrings[origin].format(origin))
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(f); err != nil {
		panic(err) // strings and a number
	}
	return b.Bytes()
}

// see replaces the checkpoint of a log.
func (s *State) see(signed []byte) error {
	split := bytes.LastIndex(signed, []byte("\n\n"))
	if split < 0 {
		return errors.New("checkpoint: no signatures")
	}
	c, err := exportlog.ParseCheckpoint(signed[:split+1])
	if err != nil {
		return err
	}
	if s.logs == nil {
		s.logs = map[string]seen{}
	}
	s.logs[c.Origin] = seen{c, bytes.Clone(signed)}
	return nil
}

// LoadState reads a state file. A missing one is a State that has seen nothing.
func LoadState(name string) (*State, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return new(State), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the state: %w", err)
	}
	s, err := ParseState(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// Save writes a state file, whole and durable or not at all.
func (s *State) Save(name string) error {
	folder, err := tree.NewFolder(tree.Disk{}, filepath.Dir(name))
	if err == nil {
		err = folder.Put(filepath.Base(name), s.Format())
	}
	if err != nil {
		return fmt.Errorf("saving the state: %w", err)
	}
	return nil
}
