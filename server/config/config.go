// Package config reads the appliance's config file: strict YAML, one option a line.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Parse reads the options in a file by the names of their flags, of which known tells the
// real ones. "min_keys: 150" is the flag min-keys; lists become values with commas. What is
// not known, stands there twice or has another form is refused, with the line.
func Parse(data []byte, known func(flag string) bool) (map[string]string, error) {
	var doc, more yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); err != nil && err != io.EOF {
		return nil, err
	}
	if err := dec.Decode(&more); err != io.EOF {
		return nil, fmt.Errorf("line %d: a second document", more.Line)
	}
	values := map[string]string{}
	if doc.Kind == 0 {
		return values, nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: want lines of the form \"min_keys: 150\"", root.Line)
	}
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		name := strings.ReplaceAll(key.Value, "_", "-")
		if !known(name) || strings.Contains(key.Value, "-") {
			return nil, fmt.Errorf("line %d: unknown option %q", key.Line, key.Value)
		}
		if _, twice := values[name]; twice {
			return nil, fmt.Errorf("line %d: %s stands here a second time", key.Line, key.Value)
		}
		text, err := parseValue(value)
		if err != nil {
			return nil, fmt.Errorf("line %d: %s %w", value.Line, key.Value, err)
		}
		values[name] = text
	}
	return values, nil
}

func parseValue(value *yaml.Node) (string, error) {
	switch value.Kind {
	case yaml.ScalarNode:
		return value.Value, nil
	case yaml.SequenceNode:
		var items []string
		for _, item := range value.Content {
			if item.Kind != yaml.ScalarNode {
				return "", errors.New("is a list of something else than values")
			}
			items = append(items, item.Value)
		}
		return strings.Join(items, ","), nil
	}
	return "", errors.New("is neither a value nor a list")
}
