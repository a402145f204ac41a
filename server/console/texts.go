package console

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"golang.org/x/text/message/catalog"
)

// The catalogs are files of entries, both languages side by side so that a translator sees
// them together:
//
//	[key]
//	vi văn bản
//	en text
//
// A text may hold the verbs of package fmt; numbers come out as the language writes them.

//go:embed texts/*.txt
var textFiles embed.FS

// lang is one of the two languages of the pages.
type lang string

const (
	vietnamese lang = "vi"
	english    lang = "en"
)

func parseLang(s string) (lang, bool) {
	switch l := lang(s); l {
	case vietnamese, english:
		return l, true
	}
	return vietnamese, false
}

// entry is a text in both languages.
type entry map[lang]string

func loadTexts(files fs.FS) (map[string]entry, error) {
	names, err := fs.Glob(files, "texts/*.txt")
	if err != nil {
		return nil, err
	}
	texts := map[string]entry{}
	for _, name := range names {
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		if err := parseTexts(string(data), texts); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return texts, nil
}

func parseTexts(data string, into map[string]entry) error {
	var current entry
	key := ""
	n := 0
	for line := range strings.Lines(data) {
		n++
		line = strings.TrimRight(line, "\r\n")
		code, text, _ := strings.Cut(line, " ")
		l, isLang := parseLang(code)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			key = line[1 : len(line)-1]
			if into[key] != nil || key == "" {
				return fmt.Errorf("line %d: %q stands here a second time", n, key)
			}
			current = entry{}
			into[key] = current
		case isLang && current != nil && current[l] == "" && strings.TrimSpace(text) != "":
			current[l] = text
		default:
			return fmt.Errorf("line %d: want [key], vi or en", n)
		}
	}
	return nil
}

// printers makes one printer a language; each is safe for concurrent use.
func printers(texts map[string]entry) (map[lang]*message.Printer, error) {
	b := catalog.NewBuilder(catalog.Fallback(language.Vietnamese))
	tags := map[lang]language.Tag{vietnamese: language.Vietnamese, english: language.English}
	for key, e := range texts {
		for l, tag := range tags {
			if e[l] == "" {
				return nil, fmt.Errorf("text %q is missing in %s", key, l)
			}
			if err := b.SetString(tag, key, e[l]); err != nil {
				return nil, fmt.Errorf("text %q: %w", key, err)
			}
		}
	}
	made := map[lang]*message.Printer{}
	for l, tag := range tags {
		made[l] = message.NewPrinter(tag, message.Catalog(b))
	}
	return made, nil
}
