package console

import (
	"embed"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// The handbook is plain text, a file for each chapter and language: "# " begins a heading,
// "1. " a step, "- " an item, "$ " a command; anything else is a paragraph.

//go:embed help/*.txt
var helpFiles embed.FS

var chapters = []string{"officer", "team", "district", "it"}

// block is one piece of a chapter.
type block struct {
	Kind  string // heading, steps, items, command, text
	Lines []string
}

func readChapter(name string, l lang) ([]block, error) {
	data, err := helpFiles.ReadFile(fmt.Sprintf("help/%s.%s.txt", name, l))
	if err != nil {
		return nil, err
	}
	var blocks []block
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		kind, text := "text", line
		for _, m := range []struct{ mark, kind string }{{"# ", "heading"}, {"1. ", "steps"}, {"- ", "items"}, {"$ ", "command"}} {
			if after, ok := strings.CutPrefix(line, m.mark); ok {
				kind, text = m.kind, after
			}
		}
		if text == "" {
			continue
		}
		if n := len(blocks); n > 0 && blocks[n-1].Kind == kind && (kind == "steps" || kind == "items" || kind == "command") {
			blocks[n-1].Lines = append(blocks[n-1].Lines, text)
		} else {
			blocks = append(blocks, block{kind, []string{text}})
		}
	}
	return blocks, nil
}

type helpData struct {
	Chapter  string
	Chapters []string
	Blocks   []block
}

func (c *Console) help(v *visit) error {
	d := helpData{Chapter: v.r.PathValue("chapter"), Chapters: chapters}
	if d.Chapter == "" {
		return v.show(http.StatusOK, "help", "help.title", d)
	}
	if !slices.Contains(chapters, d.Chapter) {
		return notFound
	}
	var err error
	if d.Blocks, err = readChapter(d.Chapter, v.lang); err != nil {
		return err
	}
	return v.show(http.StatusOK, "help", "help."+d.Chapter, d)
}
