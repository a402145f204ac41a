package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Place is what a target of a command names.
type Place struct {
	Source Source
	Files  []string // paths in Source; nil means the whole tree, which has an index
}

// IndexName is the file whose presence makes a folder a tree.
const IndexName = "index.json"

// Locate reads a target: a file or its URL, the root of a tree (folder or URL), or a
// folder of loose files, which is every file in it whose name ends in one of suffixes.
func Locate(target string, suffixes ...string) (Place, error) {
	isFile := func(name string) bool {
		return slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) })
	}
	if IsURL(target) {
		base, name := path.Split(target)
		if !isFile(name) {
			base, name = target, ""
		}
		source, err := NewSource(base)
		if err != nil || name == "" {
			return Place{Source: source}, err
		}
		return Place{source, []string{name}}, CheckPath(name)
	}
	info, err := os.Stat(target)
	if err != nil {
		return Place{}, err
	}
	if !info.IsDir() {
		return Place{FolderSource(filepath.Dir(target)), []string{filepath.Base(target)}}, nil
	}
	switch _, err := os.Stat(filepath.Join(target, IndexName)); {
	case err == nil:
		return Place{Source: FolderSource(target)}, nil
	case !errors.Is(err, fs.ErrNotExist):
		return Place{}, err
	}
	entries, err := os.ReadDir(target)
	if err != nil {
		return Place{}, err
	}
	place := Place{Source: FolderSource(target)}
	for _, e := range entries {
		if e.Type().IsRegular() && isFile(e.Name()) {
			place.Files = append(place.Files, e.Name())
		}
	}
	if len(place.Files) == 0 {
		return Place{}, fmt.Errorf("%s: neither a tree (no %s) nor a folder with files ending in %s", target, IndexName, strings.Join(suffixes, ", "))
	}
	return place, nil
}
