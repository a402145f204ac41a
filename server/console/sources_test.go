package console

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// sources are the package's own files and pages.
func sources(t *testing.T) (texts []string) {
	t.Helper()
	for _, pattern := range []string{"*.go", "pages/*.html"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, string(data))
		}
	}
	return texts
}

// fontLetters reads which letters both embedded fonts have, from their cmap tables
// (OpenType, format 4).
var fontLetters = sync.OnceValue(func() map[rune]bool {
	have := map[rune]int{}
	for _, name := range []string{"assets/NotoSans-Regular.ttf", "assets/NotoSans-Bold.ttf"} {
		data, err := assetFiles.ReadFile(name)
		if err != nil {
			panic(err)
		}
		u16 := func(i int) int { return int(binary.BigEndian.Uint16(data[i:])) }
		u32 := func(i int) int { return int(binary.BigEndian.Uint32(data[i:])) }
		for i := range u16(4) {
			if string(data[12+16*i:][:4]) != "cmap" {
				continue
			}
			cmap := u32(12 + 16*i + 8)
			sub := cmap + u32(cmap+4+4)
			if u16(sub) != 4 {
				panic("want a cmap of format 4")
			}
			segments := u16(sub+6) / 2
			for s := range segments {
				end, start := u16(sub+14+2*s), u16(sub+16+2*segments+2*s)
				for c := start; c <= end && c < 0xffff; c++ {
					have[rune(c)]++
				}
			}
		}
	}
	both := map[rune]bool{}
	for r, n := range have {
		both[r] = n == 2
	}
	return both
})

func inFont(r rune) bool { return fontLetters()[r] }

// TestFont holds every Vietnamese letter, small and complete.
func TestFont(t *testing.T) {
	vowels := "aăâeêioôơuưy"
	marks := map[rune]string{
		'a': "àáảãạ", 'ă': "ằắẳẵặ", 'â': "ầấẩẫậ", 'e': "èéẻẽẹ", 'ê': "ềếểễệ", 'i': "ìíỉĩị",
		'o': "òóỏõọ", 'ô': "ồốổỗộ", 'ơ': "ờớởỡợ", 'u': "ùúủũụ", 'ư': "ừứửữự", 'y': "ỳýỷỹỵ",
	}
	letters := "đĐ₫“”–…"
	for _, v := range vowels {
		letters += string(v) + strings.ToUpper(string(v)) + marks[v] + strings.ToUpper(marks[v])
	}
	for _, r := range letters {
		if !inFont(r) {
			t.Errorf("the font has no %q", r)
		}
	}
	total := 0
	for _, name := range []string{"NotoSans-Regular.ttf", "NotoSans-Bold.ttf", "NotoSans-Regular.woff2", "NotoSans-Bold.woff2"} {
		data, err := assetFiles.ReadFile("assets/" + name)
		if err != nil {
			t.Fatal(err)
		}
		total += len(data)
	}
	if total > 150_000 {
		t.Errorf("the fonts take %d bytes", total)
	}
}
