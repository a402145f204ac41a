package console

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestKeepPapers writes every PDF in both languages into the folder that BLUEKEY_SHOTS
// names, for a person to look at.
func TestKeepPapers(t *testing.T) {
	dir := os.Getenv("BLUEKEY_SHOTS")
	if dir == "" {
		t.Skip("BLUEKEY_SHOTS names no folder")
	}
	s := newSite(t)
	b := s.admin()
	s.anDuong(b)
	for _, l := range []string{"vi", "en"} {
		b.post("/language", "lang", l, "back", "/")
		paths := []string{"/teams/tally.pdf", "/adoption/report.pdf"}
		for _, name := range posterNames {
			paths = append(paths, fmt.Sprintf("/outreach/%s.pdf?unit=312&lang=%s", name, l))
		}
		for _, path := range paths {
			res := b.do(httptest.NewRequest("GET", path, nil))
			name, _, _ := strings.Cut(filepath.Base(path), "?")
			f, err := os.Create(filepath.Join(dir, l+"-"+name))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.ReadFrom(res.Body); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
	}
}
