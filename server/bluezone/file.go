package bluezone

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// ParseSettings reads Settings from YAML: one document with the names of the fields in lower
// case, nothing unknown in it.
func ParseSettings(text []byte) (Settings, error) {
	var s Settings
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		return Settings{}, fmt.Errorf("read settings: %w", err)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return Settings{}, errors.New("read settings: more than one document")
	}
	_, err := s.render()
	return s, err
}
